"""The recipe as data: its defaults, its checks, its schedule."""

import math

import pytest

from coreface.errors import CoreFaceError, RecipeError
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe, EvaluationRecipe
from coreface.training.recipe_sections import ContrastiveRecipe, MarginRecipe, ModelRecipe, OptimizerRecipe, StageRecipe

DEFAULTS = {
    "model": {
        "backbone": "iresnet50",
        "embedding_size": 512,
        "view_statistics": "separate",
        "sync_batchnorm": False,
        "activation_checkpointing": False,
    },
    "classifier": {"margin": {"name": "arcface", "scale": None, "margin": None}, "sample_rate": 1.0, "subcentres": 1},
    "data": {
        "train": "",
        "label": None,
        "identity_level": None,
        "image_size": 112,
        "workers": 2,
        "flip": True,
        "augment": {
            "scale": [1.0, 1.0],
            "rotate": 0.0,
            "shift": 0.0,
            "crop": 0.0,
            "photometric": 0.0,
            "low_resolution": 0.0,
            "erase": 0.0,
        },
        "holdout": 0,
        "holdout_seed": 0,
        "holdout_fold": 0,
        "max_unreadable": 0.1,
        "alignment": None,
    },
    "stages": [{"from_epoch": 1, "views": 1, "dropout": 0.4, "contrastive": None}],
    "optimizer": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 128,
        "epochs": 20,
        "schedule": "step",
        "lr_drops": [],
        "power": 2.0,
        "warmup_epochs": 0.0,
        "clip_norm": 5.0,
        "clip": "all",
        "micro_batches": 1,
        "max_skips": 10,
    },
    "evaluation": {
        "faces": None,
        "label": None,
        "identity_level": None,
        "every": 1,
        "every_steps": None,
        "pairs": [],
        "keep_best": None,
    },
    "checkpoint": {"every_minutes": 10.0, "every_steps": None, "keep_last": 2, "asynchronous": True},
    "init_from": None,
    "seed": 1,
    "precision": "auto",
    "matmul": "float32",
    "compile": False,
    "device": "auto",
    "threads": None,
    "log_every": 20,
}


def test_defaults():
    assert Recipe().to_dict() == DEFAULTS


def test_defaults_of_the_contrastive_term_exclude_the_same_identity():
    assert ContrastiveRecipe() == ContrastiveRecipe(
        weight=0.05, scale=64.0, margin="adaptive", ema=0.99, mask="exclude", protocol="one_way", gather=False
    )


def test_two_recipes_share_no_list():
    one, other = Recipe(), Recipe()
    one.stages.append(StageRecipe(from_epoch=2))
    one.optimizer.lr_drops.append(5)
    assert len(other.stages) == 1
    assert other.optimizer.lr_drops == []


NAN, INF = math.nan, math.inf
OUT_OF_RANGE = [
    (ModelRecipe, "embedding_size", 0),
    (MarginRecipe, "scale", 0.0),
    (MarginRecipe, "scale", -64.0),
    (MarginRecipe, "scale", NAN),
    (MarginRecipe, "scale", INF),
    (MarginRecipe, "margin", NAN),
    (MarginRecipe, "margin", INF),
    (ContrastiveRecipe, "weight", 0.0),
    (ContrastiveRecipe, "weight", -0.05),
    (ContrastiveRecipe, "weight", INF),
    (ContrastiveRecipe, "scale", 0.0),
    (ContrastiveRecipe, "scale", INF),
    (ContrastiveRecipe, "margin", NAN),
    (ContrastiveRecipe, "margin", -INF),
    (ContrastiveRecipe, "ema", -0.01),
    (ContrastiveRecipe, "ema", 1.01),
    (ContrastiveRecipe, "ema", NAN),
    (StageRecipe, "from_epoch", 0),
    (StageRecipe, "views", 0),
    (StageRecipe, "dropout", -0.1),
    (StageRecipe, "dropout", 1.0),
    (StageRecipe, "dropout", NAN),
    (OptimizerRecipe, "lr", 0.0),
    (OptimizerRecipe, "lr", -0.1),
    (OptimizerRecipe, "lr", NAN),
    (OptimizerRecipe, "lr", INF),
    (OptimizerRecipe, "momentum", 1.0),
    (OptimizerRecipe, "momentum", -0.1),
    (OptimizerRecipe, "weight_decay", -1e-9),
    (OptimizerRecipe, "weight_decay", INF),
    (OptimizerRecipe, "batch_size", 1),
    (OptimizerRecipe, "epochs", 0),
    (OptimizerRecipe, "power", 0.0),
    (OptimizerRecipe, "power", INF),
    (OptimizerRecipe, "warmup_epochs", -1.0),
    (OptimizerRecipe, "warmup_epochs", 20.0),
    (OptimizerRecipe, "clip_norm", 0.0),
    (OptimizerRecipe, "clip_norm", NAN),
    (OptimizerRecipe, "lr_drops", [1]),
    (OptimizerRecipe, "lr_drops", [8, 8]),
    (OptimizerRecipe, "lr_drops", [14, 8]),
    (DataRecipe, "image_size", 0),
    (DataRecipe, "image_size", -16),
    (DataRecipe, "image_size", 100),
    (DataRecipe, "workers", -1),
    (DataRecipe, "holdout", -1),
    (DataRecipe, "holdout", 1.5),
    (DataRecipe, "holdout", NAN),
    (DataRecipe, "holdout_seed", -1),
    (DataRecipe, "holdout_fold", -1),
    (DataRecipe, "max_unreadable", 1.1),
    (EvaluationRecipe, "every", 0),
    (DataRecipe, "identity_level", 0),
    (EvaluationRecipe, "identity_level", 0),
    (Recipe, "seed", -1),
    (Recipe, "seed", 2**64),
    (Recipe, "log_every", 0),
]


@pytest.mark.parametrize(("section", "field", "value"), OUT_OF_RANGE)
def test_out_of_range(section, field, value):
    with pytest.raises(RecipeError) as raised:
        section(**{field: value})
    message = str(raised.value)
    assert field in message
    assert repr(value) in message
    assert "expected" in message
    assert "\n" not in message


EDGES = [
    (ModelRecipe, "embedding_size", 1),
    (ContrastiveRecipe, "ema", 0.0),
    (ContrastiveRecipe, "ema", 1.0),
    (ContrastiveRecipe, "margin", -0.2),
    (StageRecipe, "dropout", 0.0),
    (OptimizerRecipe, "momentum", 0.0),
    (OptimizerRecipe, "weight_decay", 0.0),
    (OptimizerRecipe, "batch_size", 2),
    (OptimizerRecipe, "warmup_epochs", 19.5),
    (OptimizerRecipe, "clip_norm", None),
    (OptimizerRecipe, "lr_drops", [2, 3]),
    (DataRecipe, "image_size", 16),
    (DataRecipe, "holdout", 0.25),
    (DataRecipe, "holdout_seed", None),
    (Recipe, "seed", 0),
]


@pytest.mark.parametrize(("section", "field", "value"), EDGES)
def test_the_edge_of_a_range_is_accepted(section, field, value):
    assert getattr(section(**{field: value}), field) == value


@pytest.mark.parametrize("views", [1, 3])
def test_a_contrastive_term_takes_two_views(views):
    with pytest.raises(RecipeError, match="2 where a stage has a contrastive term"):
        StageRecipe(views=views, contrastive=ContrastiveRecipe())


@pytest.mark.parametrize("starts", [[], [2], [1, 1], [1, 5, 3]])
def test_stages_start_with_epoch_1_and_rise(starts):
    with pytest.raises(RecipeError, match="stages"):
        Recipe(stages=[StageRecipe(from_epoch=start) for start in starts])


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_drops_belong_to_the_step_schedule(schedule):
    with pytest.raises(RecipeError, match="lr_drops"):
        OptimizerRecipe(schedule=schedule, lr_drops=[8])


def test_every_check_is_a_coreface_error():
    with pytest.raises(CoreFaceError):
        Recipe(log_every=-1)


def test_stage_at():
    recipe = Recipe(stages=[StageRecipe(from_epoch=start) for start in (1, 3, 4)])
    assert [recipe.stage_at(epoch) for epoch in range(1, 8)] == [0, 0, 1, 2, 2, 2, 2]


def rates(optimizer: OptimizerRecipe, *epochs: float) -> list[float]:
    recipe = Recipe(optimizer=optimizer)
    return [recipe.learning_rate(epoch) for epoch in epochs]


def test_steps_drop_at_the_start_of_the_epoch():
    optimizer = OptimizerRecipe(lr=0.1, epochs=24, lr_drops=[8, 14, 20])
    table = {1: 0.1, 7: 0.1, 7.999: 0.1, 8: 0.01, 13.999: 0.01, 14: 0.001, 19.999: 0.001, 20: 0.0001, 24.999: 0.0001}
    assert rates(optimizer, *table) == pytest.approx(list(table.values()), rel=1e-12)


def test_warmup_rises_from_zero_and_ends_on_the_rate():
    optimizer = OptimizerRecipe(lr=0.4, epochs=10, warmup_epochs=2)
    assert rates(optimizer, 1, 1.5, 2, 2.75, 3, 9) == pytest.approx([0, 0.1, 0.2, 0.35, 0.4, 0.4])


def test_warmup_of_a_part_of_an_epoch():
    assert rates(OptimizerRecipe(lr=0.4, warmup_epochs=0.5), 1, 1.25, 1.5, 2) == pytest.approx([0, 0.2, 0.4, 0.4])


def test_no_warmup_starts_with_the_full_rate():
    assert rates(OptimizerRecipe(lr=0.3), 1) == [0.3]


@pytest.mark.parametrize("warmup", [0, 1])
def test_cosine_falls_from_the_rate_over_half_of_it_to_zero(warmup):
    optimizer = OptimizerRecipe(lr=0.2, epochs=8 + warmup, schedule="cosine", warmup_epochs=warmup)
    start, middle, end = 1 + warmup, 5 + warmup, 9 + warmup
    assert rates(optimizer, start, middle, end) == pytest.approx([0.2, 0.1, 0.0], abs=1e-15)
    quarter = 0.2 * (1 + math.sqrt(0.5)) / 2
    assert rates(optimizer, 3 + warmup) == pytest.approx([quarter])


@pytest.mark.parametrize(("power", "middle"), [(1.0, 0.1), (2.0, 0.05), (3.0, 0.025), (0.5, 0.2 * math.sqrt(0.5))])
def test_polynomial_ends_at_zero(power, middle):
    optimizer = OptimizerRecipe(lr=0.2, epochs=4, schedule="polynomial", power=power)
    assert rates(optimizer, 1, 3, 5) == pytest.approx([0.2, middle, 0.0])


def test_polynomial_counts_from_the_end_of_the_warmup():
    optimizer = OptimizerRecipe(lr=0.2, epochs=5, schedule="polynomial", power=1, warmup_epochs=1)
    assert rates(optimizer, 1.5, 2, 4, 6) == pytest.approx([0.1, 0.2, 0.1, 0.0])


@pytest.mark.parametrize("schedule", ["step", "cosine", "polynomial"])
def test_no_rate_rises_after_the_warmup_or_falls_below_zero(schedule):
    optimizer = OptimizerRecipe(epochs=7, schedule=schedule, warmup_epochs=1.5)
    all_rates = rates(optimizer, *(1 + step / 10 for step in range(70)))
    after = all_rates[15:]
    assert after == sorted(after, reverse=True)
    assert min(all_rates) >= 0
    assert max(all_rates) == pytest.approx(0.1)


def test_magface_takes_no_margin_of_its_own():
    assert MarginRecipe("magface").margin is None
    with pytest.raises(RecipeError, match=r"classifier.margin.margin is 0.5, expected null for magface"):
        MarginRecipe("magface", 64.0, 0.5)


@pytest.mark.parametrize(
    ("size", "micro_batches", "world_size", "each"), [(7, 1, 1, 7), (12, 1, 4, 3), (24, 3, 4, 6), (8, 1, 4, 2)]
)
def test_images_of_each_process(size, micro_batches, world_size, each):
    assert OptimizerRecipe(batch_size=size, micro_batches=micro_batches).images_per_process(world_size) == each


@pytest.mark.parametrize(
    ("size", "micro_batches", "world_size", "words"),
    [
        (10, 1, 4, "batch_size is 10, expected a multiple of 4 that is at least 8: it is divided among 4 processes,"),
        (4, 1, 4, "batch_size is 4, expected a multiple of 4 that is at least 8"),  # one image each
        (16, 3, 4, "a multiple of 12 that is at least 24: it is divided among 4 processes in 3 micro-batches"),
        (12, 3, 4, "expected a multiple of 12 that"),
    ],
)
def test_a_batch_that_cannot_be_divided(size, micro_batches, world_size, words):
    with pytest.raises(RecipeError) as caught:
        OptimizerRecipe(batch_size=size, micro_batches=micro_batches).images_per_process(world_size)
    assert words in str(caught.value)
