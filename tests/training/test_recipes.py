"""The recipes that come with coreface; the published one number by number (METHOD, section 4)."""

from pathlib import Path

import pytest

from coreface.models.registry import backbones
from coreface.training.recipe import Recipe
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_promised_recipes_are_there():
    promised = {"orl_demo", "casia_r50", "ms1mv2_r100", "ms1mv2_r100_arcface", "fiw_small"}
    assert promised <= {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*")), ids=lambda path: path.name)
def test_every_recipe_loads(path):
    recipe = Recipe.load(path)
    assert recipe.model.backbone in backbones()
    assert recipe.data.train
    assert recipe.stages[-1].from_epoch <= recipe.optimizer.epochs


@pytest.fixture(scope="module")
def published():
    return Recipe.load(RECIPES / "ms1mv2_r100.yaml")


def test_published_model_and_margin(published):
    assert published.model.backbone == "iresnet100"
    assert published.model.embedding_size == 512
    assert published.model.view_statistics == "separate"
    margin = published.classifier.margin
    assert (margin.name, margin.scale, margin.margin) == ("arcface", 64, 0.5)


def test_published_data(published):
    assert published.data.image_size == 112
    assert published.data.flip is True
    assert published.data.holdout == 0


def test_published_stages(published):
    term = ContrastiveRecipe(weight=0.05, scale=64, margin="adaptive", ema=0.99, mask="zero", protocol="one_way")
    assert published.stages == [StageRecipe(1, 1, 0.4, None), StageRecipe(8, 2, 0.6, term)]


def test_published_optimizer(published):
    optimizer = published.optimizer
    assert optimizer.name == "sgd"
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.1, 0.9, 5e-4)
    assert (optimizer.batch_size, optimizer.epochs) == (4 * 128, 24)
    assert (optimizer.schedule, optimizer.lr_drops, optimizer.warmup_epochs) == ("step", [8, 14, 20], 0)
    assert (optimizer.clip_norm, optimizer.clip) == (5, "backbone")
    assert published.precision == "float32"


def test_published_rates_by_epoch(published):
    by_epoch = [published.learning_rate(epoch) for epoch in range(1, 25)]
    assert by_epoch == pytest.approx([0.1] * 7 + [0.01] * 6 + [0.001] * 6 + [0.0001] * 5)


@pytest.mark.parametrize("field", ["mask", "protocol", "ema", "margin", "scale"])
def test_the_published_term_is_spelt_out(field):
    text = (RECIPES / "ms1mv2_r100.yaml").read_text()
    assert f"{field}:" in text


def test_the_twin_lacks_the_method_and_nothing_else(published):
    twin = Recipe.load(RECIPES / "ms1mv2_r100_arcface.yaml")
    assert twin.stages == [StageRecipe(1, 1, 0.4, None)]
    with_method, without = published.to_dict(), twin.to_dict()
    assert {name for name in with_method if with_method[name] != without[name]} == {"stages"}


def test_casia_as_the_authors_trained_it():
    casia = Recipe.load(RECIPES / "casia_r50.yaml")
    assert casia.model.backbone == "iresnet50"
    assert (casia.optimizer.epochs, casia.optimizer.lr_drops) == (40, [22, 30])
    assert [(stage.from_epoch, stage.views, stage.dropout) for stage in casia.stages] == [(1, 1, 0.4), (22, 2, 0.6)]
    assert casia.stages[1].contrastive == ContrastiveRecipe()  # our own mask
    assert casia.optimizer.clip == "all"  # and our own clipping


def test_the_demo_trains_on_thirty_people_and_tests_ten():
    demo = Recipe.load(RECIPES / "orl_demo.yaml")
    assert (demo.data.train, demo.data.holdout, demo.data.holdout_seed) == ("orl", 10, None)
    assert demo.stages[0].contrastive is None
    assert demo.stages[-1].contrastive is not None
    assert demo.evaluation.faces is None
