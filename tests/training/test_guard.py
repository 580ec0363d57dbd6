"""Numbers that are not finite: the steps they spoil leave nothing behind, and are counted."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from coreface.errors import DataError, DivergedError
from coreface.training.guard import NonFiniteGuard
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe
from coreface.training.watch import Watch, mean_cosine

TERM = StageRecipe(1, 2, 0.3, ContrastiveRecipe(weight=0.5, ema=0.5))
BAD_STEPS = {0, 3, 4}


def state(trainer):
    """All that a step may change, as copies."""
    found = {f"encoder.{name}": value.clone() for name, value in trainer.encoder.state_dict().items()}
    found |= {f"objective.{name}": value.clone() for name, value in trainer.objective.state_dict().items()}
    for index, entry in trainer.stepper.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": torch.as_tensor(value).clone() for name, value in entry.items()}
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def spoil_input(trainer, images, bad):
    if bad:
        images = images.clone()
        images[1, 0, 3, 3] = float("nan")
    return images


class SpoiltLoss(torch.nn.Module):
    """The objective, with a loss that can be made infinite."""

    def __init__(self, objective):
        super().__init__()
        self.inner = objective
        self.bad = False

    def forward(self, *arguments):
        losses = self.inner(*arguments)
        return losses._replace(total=losses.total * float("inf")) if self.bad else losses


def take_steps(trainer, batches, where, bad_steps, *, leave_out):
    """Take the steps; a bad one is spoilt at its input, loss or gradient, or is left out altogether."""
    trainer.encoder.train()
    trainer.objective.train()
    parameter = trainer.encoder.backbone.embedding_linear.weight
    spoilt = SpoiltLoss(trainer.objective)
    if where == "loss":
        trainer.stepper._objective = spoilt
    for number, (images, identities) in enumerate(batches):
        bad = number in bad_steps
        if bad and leave_out:
            continue
        if where == "input":
            images = spoil_input(trainer, images, bad)
        if where == "loss":
            spoilt.bad = bad
        hook = None
        if where == "gradient" and bad:
            hook = parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([2]), float("inf")))
        trainer.train_step(0, 0.05, images, identities)
        if hook is not None:
            hook.remove()
    if where == "loss":
        trainer.stepper._objective = trainer.objective


@pytest.mark.parametrize("clip", ["all", "backbone", None])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("where", ["input", "loss", "gradient"])
def test_a_run_with_bad_batches_is_one_without_them(tiny, change, make_trainer, where, optimizer, clip):
    """Weights, momentum, BatchNorm's statistics, running margin and AdamW's count, to the last bit."""
    recipe = change(tiny, stages=[TERM], optimizer__name=optimizer, optimizer__clip=clip or "all")
    if clip is None:
        recipe = change(recipe, optimizer__clip_norm=None)
    spoilt, without = make_trainer(recipe, "spoilt"), make_trainer(recipe, "without")
    batches = [batch for epoch in (1, 2, 3) for batch in spoilt.loader.epoch(epoch)]
    take_steps(spoilt, batches, where, BAD_STEPS, leave_out=False)
    take_steps(without, batches, where, BAD_STEPS, leave_out=True)
    after = state(spoilt)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert_same(after, state(without))
    assert spoilt.objective.contrasts["0"].running_margin != 0
    assert int(spoilt.stepper.guard.skipped) == 3
    assert int(spoilt.stepper.guard.in_a_row) == 0
    assert spoilt.step == 6


def test_a_bad_step_changes_nothing_at_all(tiny, change, make_trainer):
    trainer = make_trainer(change(tiny, stages=[TERM]))
    batches = list(trainer.loader.epoch(1))
    take_steps(trainer, batches, "input", set(), leave_out=False)
    before = state(trainer)
    take_steps(trainer, batches, "input", {0, 1}, leave_out=False)
    assert_same(state(trainer), before)
    take_steps(trainer, batches, "input", set(), leave_out=False)
    assert int(trainer.stepper.guard.skipped) == 2


def test_where_no_kernel_can_skip_the_step_is_not_taken(tiny, make_trainer):
    """As on a device without fused optimizers."""
    trainer = make_trainer(tiny)
    trainer.stepper.optimizer = torch.optim.SGD(trainer.encoder.parameters(), lr=0.1, momentum=0.9)
    batches = list(trainer.loader.epoch(1))
    take_steps(trainer, batches, "input", set(), leave_out=False)
    before = state(trainer)
    take_steps(trainer, batches, "input", {0, 1}, leave_out=False)
    assert_same(state(trainer), before)


def test_a_buffer_that_becomes_wider_on_the_way_keeps_its_digits():
    """The running margin becomes float64 with float64 views."""
    module = torch.nn.Module()
    module.register_buffer("margin", torch.tensor(0.1))
    parameter = torch.nn.Parameter(torch.zeros(1))
    guard = NonFiniteGuard([module], torch.device("cpu"))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    guard.before()
    module.margin = torch.tensor(1 / 3, dtype=torch.float64)
    parameter.grad = torch.ones(1)
    guard.finish(optimizer, torch.tensor(1.0), torch.tensor(1.0))
    assert module.margin == torch.tensor(1 / 3, dtype=torch.float64)
    guard.before()
    module.margin.fill_(9)
    guard.finish(optimizer, torch.tensor(float("nan")), torch.tensor(1.0))
    assert module.margin == torch.tensor(1 / 3, dtype=torch.float64)
    assert parameter == -1


# What is shown


def poison(trainer, bad_steps):
    """Spoil batches as the loader hands them out."""
    epoch = trainer.loader.epoch

    def spoilt(number, start=0):
        for images, identities in epoch(number, start):
            bad = trainer.step in bad_steps
            yield spoil_input(trainer, images, bad), identities

    trainer.loader.epoch = spoilt


def test_skips_are_counted_and_enter_no_mean(tiny, change, make_trainer, rows, screen):
    trainer = make_trainer(change(tiny, log_every=2, data__workers=0))
    poison(trainer, {1, 2, 3})
    trainer.train()
    assert [row["skipped"] for row in rows("step")] == [1, 3, 3]
    assert rows("step")[0]["loss"] > 0  # the mean over the good one
    assert rows("step")[1]["loss"] is None
    assert rows("finished") == [{"kind": "finished", "step": 6, "epoch": 3, "skipped": 3}]
    assert "3 steps skipped" in screen.text


def test_a_run_without_a_single_good_step_fails(tiny, make_trainer, rows):
    trainer = make_trainer(tiny)
    poison(trainer, set(range(trainer.total_steps)))
    with pytest.raises(DivergedError, match="none of 6 steps had a finite loss"):
        trainer.train()
    assert not rows("finished")


def test_too_many_in_a_row_end_the_training_with_advice(tiny, change, make_trainer, tmp_path):
    trainer = make_trainer(change(tiny, optimizer__max_skips=3, checkpoint__every_steps=1, optimizer__epochs=9))
    poison(trainer, {1, 3, 4, 5, 6})
    with pytest.raises(DivergedError) as raised:
        trainer.train()
    message = str(raised.value)
    assert "3 steps in a row" in message
    assert "step 6" in message
    assert "--resume" in message
    assert "--optimizer.lr 0.005" in message
    batch = load_file(tmp_path / "run" / "bad_batch.safetensors")
    assert batch["images"].shape == (18, 3, 16, 16)
    assert torch.isnan(batch["images"]).sum() == 1
    assert batch["identities"].shape == (18,)
    assert (tmp_path / "run" / "bad_batch.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_labels_out_of_range_are_found_before_the_training(tiny, make_trainer, faces):
    wrong = copy.copy(faces)
    wrong.identities = faces.identities.copy()
    wrong.identities[5] = 6
    with pytest.raises(DataError, match=r"1 labels are out of range, such as 6 of .*person00.*5.png: expected 0 to 5"):
        make_trainer(tiny, source=wrong)


def test_constant_embeddings_are_named_once(tiny, change, make_trainer, rows, screen):
    trainer = make_trainer(change(tiny, optimizer__lr=1e-9))
    with torch.no_grad():
        trainer.encoder.backbone.embedding_norm.weight.zero_()
        trainer.encoder.backbone.embedding_norm.bias.fill_(1.0)
    trainer.train()
    assert [row["name"] for row in rows("warning")].count("constant embeddings") == 1
    assert "constant embeddings" in screen.text


def test_a_loss_at_chance_is_named_after_the_warm_up_only():
    said = []
    watch = Watch(100)
    view = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        said += watch.look(4.6052, view, warming_up=True)
    for loss in (4.6, 4.5, 4.61, 4.61):
        said += watch.look(loss, view, warming_up=False)
    assert said == []
    said += watch.look(4.6, view, warming_up=False)
    said += watch.look(4.6, view, warming_up=False)
    assert [name for name, _ in said] == ["frozen loss"]


def test_a_training_that_goes_well_is_not_warned_about(tiny, make_trainer, rows):
    make_trainer(tiny).train()
    assert rows("warning") == []


def test_what_is_never_reached_is_said(tiny, change, make_trainer, rows):
    recipe = change(tiny, optimizer__epochs=1, optimizer__lr_drops=[2, 3])
    make_trainer(recipe).train()
    assert len(rows("warning")) == 3
    assert "the stage from epoch 2 is never reached" in rows("warning")[0]["message"]


def test_the_mean_cosine_equals_a_loop():
    view = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    cosines = [
        float(torch.nn.functional.cosine_similarity(view[i], view[j], dim=0))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert mean_cosine(view) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
