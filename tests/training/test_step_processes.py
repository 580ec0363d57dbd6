"""A step of several processes is that of one: losses, gradients, weights; and what is each process's own stays so."""

import dataclasses

import pytest
import torch

from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import (
    ClassifierRecipe,
    ContrastiveRecipe,
    MarginRecipe,
    ModelRecipe,
    OptimizerRecipe,
    StageRecipe,
)
from support import step_jobs as jobs

pytestmark = pytest.mark.usefixtures("toy_backbone")  # forgotten again after this module
BATCH = 24


def make_recipe(
    views=2,
    *,
    sync=True,
    gather=True,
    sample_rate=1.0,
    statistics="separate",
    contrast=None,
    margin=None,
    subcentres=1,
    **optimizer,
):
    term = ContrastiveRecipe(weight=0.5, scale=16.0, ema=0.6, gather=gather, **(contrast or {})) if views == 2 else None
    return Recipe(
        model=ModelRecipe("toy", jobs.EMBEDDING, statistics, sync_batchnorm=sync),
        classifier=ClassifierRecipe(margin or MarginRecipe(scale=16.0), sample_rate, subcentres),
        data=DataRecipe(image_size=jobs.SIZE),
        stages=[StageRecipe(1, views, 0.3, term)],
        optimizer=OptimizerRecipe(**{"lr": 0.05, "batch_size": BATCH, "clip_norm": 1.0, **optimizer}),
        seed=7,
    )


def difference(one, other):
    """Return the largest difference of two nested results."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((difference(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list | tuple):
        return max((difference(x, y) for x, y in zip(one, other, strict=True)), default=0.0)
    if one is None:
        assert other is None
        return 0.0
    one, other = (torch.as_tensor(x).detach().double() for x in (one, other))
    assert one.shape == other.shape
    return float((one - other).abs().max()) if one.numel() else 0.0


CASES = {  # name: identities, recipe
    "one way, sgd": (9, {"contrast": {"mask": "exclude", "protocol": "one_way"}}),
    "two ways, adamw, backbone, 2 parts": (
        9,
        {"contrast": {"mask": "zero", "protocol": "two_way"}, "name": "adamw", "clip": "backbone", "micro_batches": 2},
    ),
    "all, sampled, unclipped, 3 parts": (
        21,
        {"contrast": {"protocol": "all"}, "sample_rate": 0.3, "clip_norm": None, "micro_batches": 3},
    ),
    "half, sampled, adamw": (
        101,
        {"contrast": {"mask": "zero", "protocol": "half"}, "sample_rate": 0.3, "name": "adamw"},
    ),
    "one view, 3 parts": (9, {"views": 1, "micro_batches": 3, "clip": "backbone"}),
    "drawn margins, sorted, 2 parts": (
        9,
        {"margin": MarginRecipe("elasticface", 16.0, options={"deviation": 0.2, "plus": True}), "micro_batches": 2},
    ),
    "margins by size, 3 sub-centres, sampled": (
        21,
        {"margin": MarginRecipe("dynamic_margin", 16.0), "subcentres": 3, "sample_rate": 0.3},
    ),
    "annealed, 2 sub-centres": (
        9,
        {"margin": MarginRecipe("sphereface", options={"annealing": [9.0, 1.0, 0.5]}), "subcentres": 2},
    ),
    "joint statistics": (9, {"statistics": "joint", "contrast": {"protocol": "all", "mask": "zero"}}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_are_one(groups, count, case):
    identities, changes = CASES[case]
    recipe, joint = make_recipe(**changes), jobs.batches(3, BATCH, identities)
    alone = jobs.take(recipe, identities, joint)
    assert difference(alone[0][2], alone[1][2]) > 1e-4  # there is something to compare
    for own in groups[count](jobs.take, [(recipe, identities, joint)] * count):
        assert difference(own, alone) < 1e-9


def test_the_loss_is_scaled_alike_everywhere(groups):
    plain, joint = make_recipe(sample_rate=0.5, micro_batches=2), jobs.batches(3, BATCH, 9)
    scaled = dataclasses.replace(plain, precision="float16")
    alone = jobs.take(plain, 9, joint)
    for own in (jobs.take(scaled, 9, joint), *groups[2](jobs.take, [(scaled, 9, joint)] * 2)):
        assert difference(own, alone) < 1e-9


@pytest.mark.parametrize("checkpointing", [False, True])
def test_several_processes_leave_out_the_same_patches_and_branches(groups, checkpointing):
    recipe = make_recipe(micro_batches=2)
    model = ModelRecipe("toy_vit", jobs.EMBEDDING, sync_batchnorm=True, activation_checkpointing=checkpointing)
    recipe = dataclasses.replace(recipe, model=model, data=DataRecipe(image_size=32))
    joint = jobs.batches(2, BATCH, 9, size=32)
    plain = dataclasses.replace(recipe, model=dataclasses.replace(model, activation_checkpointing=False))
    alone = jobs.take(plain, 9, joint)
    for own in groups[2](jobs.take, [(recipe, 9, joint)] * 2):
        assert difference(own, alone) < 1e-9


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("sync", [True, False])
def test_two_processes_by_hand(groups, sync, gather, parts):
    recipe = make_recipe(sync=sync, gather=gather, micro_batches=parts)
    joint = jobs.batches(2, BATCH, 9)
    start = jobs.tensors(jobs.make(recipe, 9, jobs.Processes())[0])
    by_hand = jobs.train_by_hand(recipe, start, joint, 2)
    margins = groups[2](jobs.own_margin, [(recipe, 9, joint)] * 2)
    for rank, own in enumerate(groups[2](jobs.take, [(recipe, 9, joint)] * 2)):
        for step, (total, norm, gradients, tensors, of_each) in enumerate(by_hand):
            losses, clipped, found, after = own[step]
            assert abs(losses[0] - total) < 1e-9
            assert abs(float(clipped) - norm) < 1e-9
            assert difference({name: found[name] for name in gradients}, gradients) < 1e-9
            assert difference({name: after[name] for name in tensors}, tensors) < 1e-9
            assert abs(margins[rank][step][0] - of_each[rank]) < 1e-9
    assert gather or abs(margins[0][1][0] - margins[1][1][0]) > 1e-4


def test_buffers_are_equal_everywhere_after_every_step(groups):
    recipe = make_recipe(sync=False, gather=False)
    joint = jobs.batches(3, BATCH, 9)
    first, *others = groups[4](jobs.own_margin, [(recipe, 9, joint)] * 4)
    for other in others:
        for (_, buffers), (_, theirs) in zip(first, other, strict=True):
            assert all(torch.equal(value, theirs[name]) for name, value in buffers.items())


def test_parts_of_a_batch_send_the_gradients_once(groups):
    one = make_recipe()
    joint = jobs.batches(3, BATCH, 9)
    expected, size = groups[2](jobs.count_bytes, [(one, 9, joint)] * 2)[0]
    three = dataclasses.replace(one, optimizer=dataclasses.replace(one.optimizer, micro_batches=3))
    sent, _ = groups[2](jobs.count_bytes, [(three, 9, joint)] * 2)[0]
    once = [size + 4] * 3  # with one number that nobody uses
    assert [sum(step) for step in sent] == [sum(step) for step in expected] == once
