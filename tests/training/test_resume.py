"""Going on from a checkpoint: the same weights, rows and randomness as if nothing had happened."""

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch

import coreface as cf
from coreface.data import open_faces
from coreface.distributed.launch import ignore_termination
from coreface.errors import CheckpointError, StorageError, TrainingStopped
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.checkpoint_facts import CheckpointFacts
from coreface.training.checkpoint_writer import CheckpointWriter, newest_checkpoint
from coreface.training.metrics_file import read_metrics
from coreface.training.random_state import RandomState, get_randomness, kept_randomness, set_randomness
from coreface.training.recipe_data import AugmentRecipe
from coreface.training.recipe_sections import CheckpointRecipe
from coreface.training.signals import StopSignals
from support.evaluated import Evaluated

TIMES = ("images_per_second", "waiting")


@pytest.fixture(autouse=True)
def heed_ctrl_c():
    """A program that was started in the background ignores Ctrl-C, these tests too: not while they run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def result(trainer, folder):
    """Everything that must be the same: all tensors of the last checkpoint, and the rows without times.

    The sums towards the next row may be left over or not, where the last checkpoint came before the last row.
    """
    (newest, *_) = checkpoint_folders(folder / "checkpoints")
    checkpoint = open_checkpoint(newest)
    rows = [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(folder)
        if row["kind"] != "checkpoint"
    ]
    names = [name for name in checkpoint.layout if not name.startswith("meter.")]
    return checkpoint.step, checkpoint.read(names), rows


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert [name for name in one[1] if not torch.equal(one[1][name], other[1][name])] == []
    assert one[2] == other[2]


def stop_at(trainer, step, number=signal.SIGTERM):
    """Send this process a signal in the middle of a step, as an operator would."""
    pass_ = trainer.stepper._forward_backward

    sent = []

    def interrupted(*arguments):
        if trainer.step == step - 1 and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return pass_(*arguments)

    trainer.stepper._forward_backward = interrupted


VARIANTS = {
    "sgd": {},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 1e-3},
    "workers": {"data__workers": 2},
    "rows of four": {"log_every": 4},
    "parts": {"optimizer__micro_batches": 3},
    "synchronous": {"checkpoint__asynchronous": False, "checkpoint__every_steps": 1},
    "warm-up": {"optimizer__warmup_epochs": 1.5},
    "augmented": {"data__augment": AugmentRecipe([0.8, 1.2], 20.0, 0.1, 0.5, 0.5, 0.5, 0.5)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stop_at_any_step_changes_nothing(tiny, change, make_trainer, tmp_path, variant):
    recipe = change(tiny, **VARIANTS[variant])
    whole = make_trainer(recipe, "whole")
    whole.train()
    expected = result(whole, tmp_path / "whole")
    steps = range(1, 7) if variant in ("sgd", "rows of four") else (1, 3)
    for step in steps:
        name = f"stopped{step}"
        first = make_trainer(recipe, name)
        stop_at(first, step)
        with pytest.raises(TrainingStopped) as raised:
            first.train()
        assert raised.value.signal == signal.SIGTERM
        assert f"after step {step} of 6" in str(raised.value)
        checkpoint = newest_checkpoint(tmp_path / name)[0]
        assert checkpoint.step == step
        kept = checkpoint.facts.metrics_bytes
        assert kept == (tmp_path / name / "metrics.jsonl").stat().st_size
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002 (what the program does beside it)
        second = make_trainer(recipe, name, checkpoint=checkpoint)
        second.train()
        assert_same(result(second, tmp_path / name), expected)


def test_twice_stopped_in_the_same_run(tiny, change, make_trainer, tmp_path):
    recipe = change(tiny, optimizer__epochs=5)
    make_trainer(recipe, "whole").train()
    checkpoint = None
    for step in (2, 3, 7):
        trainer = make_trainer(recipe, "run", checkpoint=checkpoint)
        stop_at(trainer, step, signal.SIGINT)
        with pytest.raises(TrainingStopped, match=r"Ctrl-C"):
            trainer.train()
        checkpoint = newest_checkpoint(tmp_path / "run")[0]
    last = make_trainer(recipe, "run", checkpoint=checkpoint)
    last.train()
    assert_same(result(last, tmp_path / "run"), result(last, tmp_path / "whole"))


def test_a_batch_that_is_passed_over_is_not_taken_twice(tiny, change, make_trainer, paint_faces, tmp_path):
    """The second batch of every epoch holds fewer than two readable images: batches and steps fall out of step."""
    recipe = change(tiny, optimizer__batch_size=4, optimizer__epochs=4, data__max_unreadable=1.0)
    folder = paint_faces(tmp_path / "faces", identities=4, images=4)
    source = open_faces(folder)
    for image in [*folder.glob("person00/*"), *folder.glob("person01/*"), *folder.glob("person02/[01].png")]:
        image.write_bytes(b"spoilt")
    make_trainer(recipe, "whole", source=source).train()
    total = max(row["step"] for row in read_metrics(tmp_path / "whole") if row["kind"] == "step")
    assert total < 16
    for step in range(1, total):
        name = f"stopped{step}"
        first = make_trainer(recipe, name, source=source)
        stop_at(first, step)
        with pytest.raises(TrainingStopped):
            first.train()
        checkpoint = newest_checkpoint(tmp_path / name)[0]
        second = make_trainer(recipe, name, source=source, checkpoint=checkpoint)
        second.train()
        assert_same(result(second, tmp_path / name), result(second, tmp_path / "whole"))
        listed = [(tmp_path / one / "unreadable.txt").read_text() for one in (name, "whole")]
        assert listed[0] == listed[1]


def test_a_stop_while_the_model_is_measured_stops_at_once(tiny, make_trainer, tmp_path, rows):
    """What was measured by then is measured again; nothing else is done twice."""

    def measure(encoder):
        torch.rand(5), np.random.rand(5)  # noqa: NPY002 (an evaluator may draw: training does not notice)
        measure.calls += 1
        if measure.calls == measure.stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal should have ended this")
        return {"eer": 0.5}

    measure.calls, measure.stopped_at = 0, None
    whole = make_trainer(tiny, "whole", evaluated=[Evaluated(measure)])
    whole.train()
    for stopped_at in (1, 3):
        measure.calls, measure.stopped_at = 0, stopped_at
        name = f"run{stopped_at}"
        first = make_trainer(tiny, name, evaluated=[Evaluated(measure)])
        with pytest.raises(TrainingStopped):
            first.train()
        assert len(rows("evaluation", name)) == stopped_at - 1
        checkpoint = newest_checkpoint(tmp_path / name)[0]
        assert (checkpoint.facts.epoch, checkpoint.facts.batch) == (stopped_at - 1, 2)
        second = make_trainer(tiny, name, evaluated=[Evaluated(measure)], checkpoint=checkpoint)
        second.train()
        assert_same(result(second, tmp_path / name), result(second, tmp_path / "whole"))


def test_a_checkpoint_of_another_network_is_refused(tiny, change, make_trainer, tmp_path):
    make_trainer(tiny).train(until_epoch=None)
    checkpoint = newest_checkpoint(tmp_path / "run")[0]
    with pytest.raises(CheckpointError, match=r"expected torch.float32 \(8, 64\)"):
        make_trainer(change(tiny, model__embedding_size=8), "other", checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=r"holds objective.contrasts.1.running_margin, which this recipe"):
        make_trainer(change(tiny, stages=tiny.stages[:1]), "other", checkpoint=checkpoint)


def test_a_margin_with_a_running_state_is_carried_along(tiny, make_trainer, tmp_path):
    """Whatever a loss keeps in buffers: nothing here knows its name."""

    class Drifting(cf.Margin):
        def __init__(self, inner):
            super().__init__(inner.scale)
            self.inner = inner
            self.register_buffer("mean_norm", torch.zeros(()))

        def target(self, cosines, norms):
            self.mean_norm.lerp_(norms.detach().mean(), 0.1)
            return self.inner.target(cosines, norms) - 1e-3 * self.mean_norm

        def others(self, cosines, target):
            return self.inner.others(cosines, target)

        def penalty(self, norms):
            return None

    def make(folder, checkpoint=None):
        from coreface.training import objective

        build = objective.build_margin
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective, "build_margin", lambda recipe: Drifting(build(recipe)))
            return make_trainer(tiny, folder, checkpoint=checkpoint)

    make("whole").train()
    first = make("run")
    stop_at(first, 3)
    with pytest.raises(TrainingStopped):
        first.train()
    second = make("run", newest_checkpoint(tmp_path / "run")[0])
    second.train()
    expected = result(second, tmp_path / "whole")
    assert expected[1]["objective.classifier.margin.mean_norm"] > 0
    assert_same(result(second, tmp_path / "run"), expected)


# Checkpoints as training goes on


def test_checkpoints_come_every_so_many_steps_and_the_newest_are_kept(
    tiny, change, make_trainer, tmp_path, rows, screen
):
    recipe = change(tiny, optimizer__epochs=4, checkpoint__every_steps=3, checkpoint__keep_last=2)
    make_trainer(recipe).train()
    assert [path.name for path in checkpoint_folders(tmp_path / "run" / "checkpoints")] == ["step_8", "step_6"]
    written = rows("checkpoint")
    assert [row["step"] for row in written] == [3, 6, 8]
    for row in written:
        assert 0 <= row["waited"] <= row["writing"]
        assert row["bytes"] > 1000
    assert "3 checkpoints: training waited" in screen.text


def test_checkpoints_come_every_so_many_minutes(tiny, change, make_trainer, rows):
    make_trainer(change(tiny, checkpoint__every_minutes=1e-9)).train()
    assert [row["step"] for row in rows("checkpoint")] == [1, 2, 3, 4, 5, 6]


def test_a_part_of_a_training_ends_with_a_checkpoint(tiny, make_trainer, tmp_path):
    make_trainer(tiny).train(until_epoch=1)
    assert [path.name for path in checkpoint_folders(tmp_path / "run" / "checkpoints")] == ["step_2"]


def test_checkpoints_and_their_number_change_nothing(tiny, change, make_trainer, tmp_path):
    make_trainer(tiny, "few").train()
    make_trainer(change(tiny, checkpoint__every_steps=1), "many").train()
    few, many = (open_checkpoint(tmp_path / name / "checkpoints" / "step_6") for name in ("few", "many"))
    one, other = few.read(few.layout), many.read(many.layout)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path, monkeypatch):
    """The training goes on while the thread writes."""
    from coreface.training import checkpoint_writer as checkpoints

    go_on = threading.Event()
    write = checkpoints.write_checkpoint
    monkeypatch.setattr(checkpoints, "write_checkpoint", lambda *a: (go_on.wait(10), write(*a))[1])
    weight = torch.zeros(4)
    with CheckpointWriter(tmp_path, CheckpointRecipe()) as writer:
        writer.save(1, {"weight": weight}, CheckpointFacts(), wait=False)
        weight += 5
        assert checkpoint_folders(tmp_path / "checkpoints") == []
        go_on.set()
    checkpoint = newest_checkpoint(tmp_path)[0]
    assert checkpoint.read(["weight"])["weight"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_ends_the_training_and_names_the_last_good_checkpoint(
    tiny, change, make_trainer, tmp_path, monkeypatch, asynchronous
):
    from coreface.training import checkpoint_writer as checkpoints

    write = checkpoints.write_checkpoint

    def full(root, step, *rest):
        if step >= 4:
            raise OSError(28, "No space left on device")
        return write(root, step, *rest)

    monkeypatch.setattr(checkpoints, "write_checkpoint", full)
    recipe = change(tiny, checkpoint__every_steps=2, checkpoint__asynchronous=asynchronous)
    with pytest.raises(StorageError, match=r"No space left on device.*last good checkpoint is .*step_2.*--resume"):
        make_trainer(recipe).train()
    assert newest_checkpoint(tmp_path / "run")[0].step == 2


def test_a_program_error_in_the_thread_is_not_swallowed(tmp_path):
    with pytest.raises(TypeError), CheckpointWriter(tmp_path, CheckpointRecipe()) as writer:
        writer.save(1, {"a": torch.zeros(1)}, CheckpointFacts(recipe={"no JSON": object()}), wait=False)


# Signals and randomness


def test_the_second_signal_acts_as_before(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def default_sigterm():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def launched_by_somebody(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.usefixtures("default_sigterm")
def test_a_process_of_several_that_fails_outlives_the_launchers_signal(monkeypatch):
    launched_by_somebody(monkeypatch)
    with pytest.raises(ValueError, match="failed"), StopSignals():
        raise ValueError("failed")
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_sigterm")
@pytest.mark.parametrize("several", [True, False])
def test_a_process_that_succeeds_or_is_alone_has_its_signals_back(monkeypatch, several):
    if several:
        launched_by_somebody(monkeypatch)
        with StopSignals():
            pass
    else:
        with pytest.raises(ValueError, match="failed"), StopSignals():
            raise ValueError("failed")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_programs_own_stays(monkeypatch):
    launched_by_somebody(monkeypatch)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(ValueError, match="failed"), StopSignals():
            raise ValueError("failed")
        ignore_termination()
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def draw():
    numpy = [float(np.random.rand()), float(np.random.randn())]  # noqa: NPY002
    return [random.random(), random.gauss(0, 1), *numpy, *torch.rand(3).tolist()]


def test_all_generators_come_back():
    device = torch.device("cpu")
    random.seed(3), np.random.seed(4), torch.manual_seed(5)  # noqa: NPY002
    draw()
    with kept_randomness(device):
        state = get_randomness(device)
        again = RandomState(**{name: value.clone() for name, value in state.tensors().items()})
        first = draw()
        set_randomness(again, device)
        assert draw() == first
    assert draw() == first
