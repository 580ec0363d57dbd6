"""When a training evaluates, what it writes of it, and which encoder it keeps beside the last one."""

import json
import os
import signal

import pytest
import torch

from coreface.errors import EvaluationError, RecipeError, TrainingStopped
from coreface.models.encoder import FaceEncoder
from coreface.training.best_encoder import Best, keep_best, read_best
from coreface.training.checkpoint import open_checkpoint
from coreface.training.checkpoint_writer import newest_checkpoint
from coreface.training.recipe_data import EvaluationRecipe
from coreface.training.recipe_sections import CheckpointRecipe
from support.evaluated import Evaluated

TIMES = ("images_per_second", "waiting")


def constant(**figures):
    return lambda encoder: dict(figures)


@pytest.fixture
def six(tiny, change):
    """Six steps of six images an epoch, and one epoch with the contrastive term after it."""
    return change(tiny, optimizer__batch_size=6, optimizer__epochs=2)


def test_a_set_is_a_row_and_a_line(tiny, make_trainer, rows, screen):
    figures = {"accuracy": 0.875, "accuracy_error": 0.0125, "eer": 0.25, "tar_at_far_0.001": None, "genuine": 6}
    sets = [Evaluated(constant(eer=0.5)), Evaluated(constant(**figures), "lfw/pairs.txt", held_out=False)]
    make_trainer(tiny, evaluated=sets).train(until_epoch=1)
    assert rows("evaluation") == [{"kind": "evaluation", "step": 2, "epoch": 1, "eer": 0.5}]
    assert rows("set") == [{"kind": "set", "step": 2, "epoch": 1, "name": "lfw/pairs.txt", **figures}]
    assert "epoch 1: eer 0.5000\n" in screen.text
    assert "epoch 1: lfw/pairs.txt: accuracy 0.8750 ± 0.0125  eer 0.2500\n" in screen.text


def test_the_summary_has_the_time_of_all_evaluations(tiny, make_trainer, screen):
    make_trainer(tiny, evaluated=[Evaluated(constant(eer=0.5))]).train()
    assert "3 evaluations took " in screen.text


def test_a_set_that_fails_leaves_the_others(tiny, make_trainer, rows, screen):
    def fail(encoder):
        raise EvaluationError("all the same")

    make_trainer(tiny, evaluated=[Evaluated(constant(eer=0.5)), Evaluated(fail, "lfw")]).train(until_epoch=1)
    assert rows("set") == [{"kind": "set", "step": 2, "epoch": 1, "name": "lfw", "error": "all the same"}]
    assert len(rows("evaluation")) == 1
    assert "epoch 1: lfw: not measured: all the same" in screen.text


class Board:
    """What TensorBoard would show."""

    def __init__(self):
        self.curves = {}

    def add_scalar(self, tag, value, step):
        self.curves.setdefault(tag, []).append((step, value))

    def close(self):
        pass


def test_tensorboard_has_a_curve_a_set(tiny, make_trainer, monkeypatch):
    board = Board()
    monkeypatch.setattr("coreface.training.log._tensorboard", lambda folder, first_step: board)
    sets = [Evaluated(constant(eer=0.5)), Evaluated(constant(eer=0.25, accuracy=0.75), "lfw/pairs.txt")]
    make_trainer(tiny, evaluated=sets).train()
    assert board.curves["set/lfw/pairs.txt/accuracy"] == [(2, 0.75), (4, 0.75), (6, 0.75)]
    assert board.curves["set/lfw/pairs.txt/eer"] == [(2, 0.25), (4, 0.25), (6, 0.25)]
    assert board.curves["evaluation/eer"] == [(2, 0.5), (4, 0.5), (6, 0.5)]


# When


@pytest.mark.parametrize(
    ("every", "every_steps", "expected"),
    [(1, None, [6, 12]), (1, 4, [4, 6, 8, 12]), (9, 4, [4, 8, 12]), (9, 3, [3, 6, 9, 12]), (2, 7, [7, 12])],
)
def test_evaluations_come_at_steps_and_at_the_ends_of_epochs(
    six, change, make_trainer, rows, screen, every, every_steps, expected
):
    recipe = change(six, evaluation=EvaluationRecipe(every=every, every_steps=every_steps))
    make_trainer(recipe, evaluated=[Evaluated(constant(eer=0.5))]).train()
    assert [row["step"] for row in rows("evaluation")] == expected
    assert [row["epoch"] for row in rows("evaluation")] == [1 if step <= 6 else 2 for step in expected]
    assert (f"epoch 1, step {every_steps}: eer" in screen.text) == (every_steps in expected and every_steps < 7)


def test_evaluating_in_the_middle_of_an_epoch_changes_nothing(six, change, make_trainer, rows):
    def measure(encoder):
        encoder.eval()
        torch.rand(3)
        return {"eer": 0.5}

    trainers = {}
    for name, every_steps in (("seldom", None), ("often", 1)):
        recipe = change(six, evaluation=EvaluationRecipe(every_steps=every_steps))
        trainers[name] = make_trainer(recipe, name, evaluated=[Evaluated(measure)])
        trainers[name].train()
    one, other = (trainer.encoder.state_dict() for trainer in trainers.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [[{k: v for k, v in row.items() if k not in TIMES} for row in rows("step", name)] for name in trainers]
    assert steps[0] == steps[1]


class Signalled:
    """Figures of the weights; SIGTERM comes during one of the calls."""

    def __init__(self, call):
        self.left = call

    def __call__(self, encoder):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"eer": sum(p.detach().double().abs().sum().item() for p in encoder.parameters()) % 1}


@pytest.mark.parametrize("call", [1, 2, 4, 7])
def test_a_signal_in_any_set_of_any_evaluation_resumes_exactly(six, change, make_trainer, rows, tmp_path, call):
    """Four evaluations of two sets: in the middle and at the end of two epochs."""
    recipe = change(
        six,
        data__holdout=1,  # nobody is: these sets are functions
        evaluation=EvaluationRecipe(every_steps=4, keep_best="held_out"),
        checkpoint=CheckpointRecipe(every_steps=3, asynchronous=False),
    )

    def sets(signalled):
        return [Evaluated(signalled), Evaluated(signalled, "lfw", held_out=False)]

    whole = make_trainer(recipe, "whole", evaluated=sets(Signalled(99)))
    whole.train()
    with pytest.raises(TrainingStopped, match="stopped by SIGTERM after step"):
        make_trainer(recipe, evaluated=sets(Signalled(call))).train()
    assert len(rows("evaluation")) == len(rows("set")) == (call - 1) // 2
    resumed = make_trainer(recipe, evaluated=sets(Signalled(99)), checkpoint=newest_checkpoint(tmp_path / "run")[0])
    resumed.train()
    for kind in ("evaluation", "set"):
        assert rows(kind) == rows(kind, "whole")
        assert [row["step"] for row in rows(kind)] == [4, 6, 8, 12]
    one, other = whole.encoder.state_dict(), resumed.encoder.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_best(tmp_path / "run") == read_best(tmp_path / "whole")


def test_a_killed_training_evaluates_again_what_came_after_its_checkpoint(six, change, make_trainer, rows, tmp_path):
    """The checkpoint of step 4 is written before the evaluation of step 4."""
    recipe = change(
        six,
        evaluation=EvaluationRecipe(every_steps=4),
        checkpoint=CheckpointRecipe(every_steps=4, asynchronous=False),
    )

    class Killed(BaseException):
        pass

    def kill(encoder):
        raise Killed

    with pytest.raises(Killed):
        make_trainer(recipe, evaluated=[Evaluated(kill)]).train()
    checkpoint = newest_checkpoint(tmp_path / "run")[0]
    assert checkpoint.step == 4
    make_trainer(recipe, evaluated=[Evaluated(constant(eer=0.5))], checkpoint=checkpoint).train()
    assert [row["step"] for row in rows("evaluation")] == [4, 6, 8, 12]


# The best


@pytest.fixture
def keeping(tiny, change):
    return change(tiny, data__holdout=1, evaluation=EvaluationRecipe(keep_best="held_out"), optimizer__epochs=4)


class Scripted:
    """Equal error rates one after another; keeps the weights that each was asked about."""

    def __init__(self, *rates):
        self.rates, self.seen = iter(rates), []

    def __call__(self, encoder):
        self.seen.append({name: value.clone() for name, value in encoder.state_dict().items()})
        return {"eer": next(self.rates)}


def assert_weights(folder, expected):
    kept = FaceEncoder.from_pretrained(folder).state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("rates", "best"), [((0.4, 0.2, 0.3, 0.2), 2), ((0.4, 0.3, 0.2, 0.1), 4), ((0.1, 0.2, 0.3, 0.1), 1)]
)
def test_the_best_by_the_held_out_people_is_kept_beside_the_last(keeping, make_trainer, tmp_path, rates, best):
    people = Scripted(*rates)
    test_set = Evaluated(Scripted(*sorted(rates, reverse=True)), "lfw", held_out=False)  # has no say
    make_trainer(keeping, evaluated=[test_set, Evaluated(people)]).train()
    assert read_best(tmp_path / "run") == Best(2 * best, best, rates[best - 1])
    assert_weights(tmp_path / "run" / "encoder_best", people.seen[best - 1])
    assert_weights(tmp_path / "run" / "encoder", people.seen[-1])


def test_without_keep_best_there_is_none(tiny, make_trainer, tmp_path):
    make_trainer(tiny, evaluated=[Evaluated(constant(eer=0.5))]).train(until_epoch=1)
    assert not (tmp_path / "run" / "encoder_best").exists()


def test_an_evaluation_that_failed_is_never_the_best(keeping, make_trainer, tmp_path):
    def fail(encoder):
        raise EvaluationError("constant")

    make_trainer(keeping, evaluated=[Evaluated(fail)]).train(until_epoch=1)
    assert read_best(tmp_path / "run") is None


def test_a_best_of_steps_that_come_again_counts_for_nothing(keeping, change, make_trainer, tmp_path):
    """It may be of weights that no row knows: the second time they come out otherwise."""
    recipe = change(keeping, checkpoint=CheckpointRecipe(every_steps=4, keep_last=9, asynchronous=False))
    make_trainer(recipe, evaluated=[Evaluated(Scripted(0.4, 0.3, 0.1, 0.2))]).train()
    assert read_best(tmp_path / "run") == Best(6, 3, 0.1)
    (after_two,) = [one for one in (tmp_path / "run" / "checkpoints").iterdir() if one.name == "step_4"]
    again = Scripted(0.3, 0.35, 0.25)  # of the epochs 2, 3 and 4
    make_trainer(recipe, evaluated=[Evaluated(again)], checkpoint=open_checkpoint(after_two)).train()
    assert read_best(tmp_path / "run") == Best(8, 4, 0.25)
    assert_weights(tmp_path / "run" / "encoder_best", again.seen[-1])


def test_stopping_between_epochs_keeps_the_best(keeping, make_trainer, tmp_path):
    trainer = make_trainer(keeping, evaluated=[Evaluated(Scripted(0.1, 0.2, 0.3, 0.4))])
    trainer.train(until_epoch=1)
    trainer.train()
    assert read_best(tmp_path / "run") == Best(2, 1, 0.1)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("{"), lambda path: None])
def test_a_best_that_was_not_written_to_its_end_is_none(tmp_path, toy_backbone, spoil):
    keep_best(tmp_path, FaceEncoder(toy_backbone, 16, 16), Best(1, 1, 0.5))
    path = tmp_path / "encoder_best" / "best.json"
    assert json.loads(path.read_text()) == {"step": 1, "epoch": 1, "eer": 0.5}
    spoil(path)
    assert (read_best(tmp_path) is None) == (not path.exists() or path.read_text() == "{")


# The recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every_steps": 0}, r"evaluation\.every_steps is 0, expected at least 1, or null"),
        ({"pairs": ["a.bin", "a.bin"]}, r"evaluation\.pairs is .*, expected paths, each once"),
        ({"pairs": [""]}, r"evaluation\.pairs is \[''\]"),
    ],
)
def test_a_section_that_cannot_be(fields, message):
    with pytest.raises(RecipeError, match=message):
        EvaluationRecipe(**fields)


def test_the_best_takes_people_who_are_held_out(tiny, change):
    with pytest.raises(
        RecipeError, match=r"evaluation\.keep_best is 'held_out', expected null, because data\.holdout is 0"
    ):
        change(tiny, evaluation=EvaluationRecipe(keep_best="held_out"))
