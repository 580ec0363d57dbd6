"""Loss scaling for float16: the scale, what its overflows leave behind, and bad batches beside them.

Steps run in float16 on the processor. Overflows are made by a stand-in: a gradient that is infinite above some scale.
"""

import copy
import random

import pytest
import torch

from coreface.errors import RecipeError
from coreface.training import loss_scale
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.loss_scale import LossScale
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe

CPU = torch.device("cpu")
INFINITE = float("inf")


@pytest.fixture
def half(tiny, change, monkeypatch):
    """The toy recipe in float16, with a first scale that its true gradients keep to."""
    monkeypatch.setattr(loss_scale, "_START", 2.0**8)
    return change(tiny, precision="float16", stages=[StageRecipe(1, 2, 0.3, ContrastiveRecipe(weight=0.5, ema=0.5))])


def weights(trainer):
    tensors = {**trainer.encoder.state_dict(), **trainer.objective.state_dict()}
    for index, entry in trainer.stepper.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in entry.items()}
    return copy.deepcopy(tensors)


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def overflow_above(trainer, limit):
    scale = trainer.stepper.scale
    parameter = trainer.encoder.backbone.embedding_linear.weight
    parameter.register_hook(lambda gradient: gradient * INFINITE if scale.value > limit else gradient)


@pytest.mark.parametrize("seed", range(5))
def test_the_scale_derived_again(monkeypatch, seed):
    monkeypatch.setattr(loss_scale, "_PATIENCE", 3)
    scale, rng = LossScale(CPU), random.Random(seed)
    value, finite, overflows = 65536.0, 0, 0
    for _ in range(200):
        loss = rng.choice([1.0, 1.0, 1.0, float("nan")])
        norm = rng.choice([2.0, 2.0, INFINITE, float("nan")])
        blamed = scale.update(torch.tensor(loss), torch.tensor(norm))
        overflow = loss == 1.0 and norm != 2.0 and value > 1
        assert bool(blamed) is overflow
        if overflow:
            value, finite, overflows = value / 2, 0, overflows + 1
        elif norm == 2.0:
            finite += 1
            if finite == 3:
                value, finite = value * 2, 0
        assert (scale.value.item(), scale.finite.item(), scale.overflows.item()) == (value, finite, overflows)


def test_a_step_in_float16_is_nearly_one_in_float32(half, change, make_trainer):
    steps = {}
    for precision in ("float16", "float32"):
        trainer = make_trainer(change(half, precision=precision), precision)
        trainer.encoder.train()
        images, identities = next(trainer.loader.epoch(1))
        losses, norm = trainer.train_step(0, 0.05, images, identities)
        steps[precision] = losses.total.item(), norm.item(), trainer.objective.classifier.weight.detach().clone()
    assert steps["float16"][0] == pytest.approx(steps["float32"][0], rel=0.02)
    assert steps["float16"][1] == pytest.approx(steps["float32"][1], rel=0.05)
    assert not torch.equal(steps["float16"][2], steps["float32"][2])
    torch.testing.assert_close(steps["float16"][2], steps["float32"][2], rtol=0.05, atol=0.002)


def test_a_run_with_overflows_is_one_without_them(half, make_trainer):
    """Weights, momentum, statistics and running margin; the dropout masks, too, are those of the first steps."""
    spoilt, without = make_trainer(half, "spoilt"), make_trainer(half, "without")
    batches = [batch for epoch in (1, 2) for batch in spoilt.loader.epoch(epoch)]
    overflow_above(spoilt, 2.0**6)
    without.stepper.scale.value = torch.tensor(2.0**6)
    for trainer, some in ((spoilt, batches), (without, batches[2:])):
        trainer.encoder.train()
        for images, identities in some:
            trainer.train_step(0, 0.05, images, identities)
    assert_same(weights(spoilt), weights(without))
    guard, scale = spoilt.stepper.guard, spoilt.stepper.scale
    assert (int(scale.overflows), float(scale.value), int(guard.skipped), int(guard.in_a_row)) == (2, 2.0**6, 0, 0)


def test_a_bad_batch_is_no_overflow(half, make_trainer):
    trainer = make_trainer(half)
    trainer.encoder.train()
    images, identities = next(trainer.loader.epoch(1))
    before = weights(trainer)
    trainer.train_step(0, 0.05, images * float("nan"), identities)
    assert_same(weights(trainer), before)
    guard, scale = trainer.stepper.guard, trainer.stepper.scale
    assert (int(guard.skipped), int(guard.in_a_row), int(scale.overflows), float(scale.value)) == (1, 1, 0, 2.0**8)
    overflow_above(trainer, 2.0**7)
    trainer.train_step(0, 0.05, images, identities)  # an overflow neither continues a row of bad batches nor ends it
    assert (int(guard.skipped), int(guard.in_a_row), int(scale.overflows)) == (1, 1, 1)
    trainer.train_step(0, 0.05, images, identities)
    assert (int(guard.skipped), int(guard.in_a_row), int(scale.overflows)) == (1, 0, 1)


def test_at_the_least_scale_the_batch_is_to_blame(half, make_trainer):
    trainer = make_trainer(half)
    trainer.encoder.train()
    overflow_above(trainer, 0)
    images, identities = next(trainer.loader.epoch(1))
    for _ in range(10):
        trainer.train_step(0, 0.05, images, identities)
    assert int(trainer.stepper.scale.overflows) == 8
    assert float(trainer.stepper.scale.value) == 1
    assert int(trainer.stepper.guard.skipped) == int(trainer.stepper.guard.in_a_row) == 2


def test_the_scale_is_in_the_checkpoint_and_in_the_rows(half, change, make_trainer, rows, tmp_path):
    recipe = change(half, checkpoint__every_steps=1, checkpoint__keep_last=9)
    whole = make_trainer(recipe, "whole")
    overflow_above(whole, 2.0**7)
    whole.train()
    assert [(row["loss_scale"], row["overflows"], row["skipped"]) for row in rows("step", "whole")] == [
        (2.0**7, 1, 0)
    ] * 6
    second = checkpoint_folders(tmp_path / "whole" / "checkpoints")[-2]
    resumed = make_trainer(recipe, "resumed", checkpoint=open_checkpoint(second))
    assert (resumed.step, float(resumed.stepper.scale.value), int(resumed.stepper.scale.overflows)) == (2, 2.0**7, 1)
    resumed.train()
    assert_same(weights(resumed), weights(whole))


def test_other_precisions_have_no_scale(tiny, make_trainer, rows):
    trainer = make_trainer(tiny)
    trainer.train(until_epoch=1)
    assert trainer.stepper.scale is None
    assert not any("loss_scale" in row for row in rows("step"))


def test_matmul_by_the_recipe(tiny, change, make_trainer, monkeypatch):
    with pytest.raises(RecipeError, match="matmul is 'tf32'"):
        make_trainer(change(tiny, matmul="tf32"), "refused")
    monkeypatch.setattr("coreface.distributed.device.has_tf32_units", lambda device: True)
    for name, allowed in (("float32", False), ("tf32", True)):
        trainer, seen = make_trainer(change(tiny, matmul=name, optimizer__epochs=1), name), []
        take = trainer.stepper.take

        def watched(*arguments, take=take, seen=seen):
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return take(*arguments)

        monkeypatch.setattr(trainer.stepper, "take", watched)
        trainer.train()
        assert seen == [(allowed, allowed)] * 2
