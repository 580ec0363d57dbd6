"""Trainings of several processes as users start them: torchrun, one command, real processes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import coreface as cf
from coreface.errors import CheckpointError
from coreface.models.pretrained import content_digest
from coreface.runs.run import resume
from coreface.runs.status import is_finished
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.metrics_file import read_metrics

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EVENTFUL = Path(__file__).parents[1] / "support" / "eventful.py"
TIMES = ("images_per_second", "waiting")


@pytest.fixture(scope="module")
def recipe(toy_folder, tmp_path_factory):
    """A recipe of a network that every process knows: 32 steps of 12 images, a checkpoint after every fourth."""
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(
        f"""
model: {{backbone: mobilefacenet, embedding_size: 16}}
data: {{train: {json.dumps(str(toy_folder))}, image_size: 16, workers: 0, holdout: 2}}
stages:
  - {{from_epoch: 1, views: 1, dropout: 0.1}}
  - {{from_epoch: 2, views: 2, dropout: 0.2, contrastive: {{weight: 0.05}}}}
optimizer: {{lr: 0.002, batch_size: 12, epochs: 16}}
evaluation: {{every: 16}}
checkpoint: {{every_steps: 4}}
precision: float32
device: cpu
log_every: 1
""",
        encoding="utf-8",
    )
    return path


def launch(folder, *words, options=(), event=None):
    """Run two processes by torchrun, with an (event, step) of `eventful.py`; return (exit code, output, errors)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    program = ["-m", "coreface"] if event is None else [EVENTFUL, *event]
    done = subprocess.run(
        [*map(str, [*command, *program, "train", *words])],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What was started in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return done.returncode, done.stdout, done.stderr


def said(err):
    return [line for line in err.splitlines() if line.startswith("coreface: ")]


def steps(folder):
    return [row["step"] for row in read_metrics(folder) if row["kind"] == "step"] if folder.exists() else []


def rows(folder):
    kept = [row for row in read_metrics(folder) if row["kind"] in ("step", "evaluation", "finished")]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in kept]


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A run of two processes that nothing disturbed, with what was printed. Read-only."""
    folder = tmp_path_factory.mktemp("whole")
    code, out, err = launch(folder, recipe, "--run-dir", "run")
    assert code == 0, err
    return folder / "run", out, err


def check_same(folder, finished):
    whole = finished[0]
    digests = [content_digest(cf.FaceEncoder.from_pretrained(one / "encoder")) for one in (folder, whole)]
    assert digests[0] == digests[1]
    assert rows(folder) == rows(whole)
    assert is_finished(folder)


@pytest.mark.slow
def test_two_processes_print_and_write_once(finished):
    folder, out, err = finished
    assert out.count("EER") == 1
    assert out.count("encoder: ") == 1
    assert (
        err.count(
            "training mobilefacenet on 4 identities, 24 images, 32 steps, each of 12 images, 6 for every one of 2"
        )
        == 1
    )
    assert err.count("step 32/32") == 1
    assert "Warning" not in err
    assert steps(folder) == list(range(1, 33))
    assert [row["kind"] for row in rows(folder)][-2:] == ["evaluation", "finished"]
    assert not (folder / "failures").exists()
    newest = open_checkpoint(checkpoint_folders(folder / "checkpoints")[0])
    assert newest.facts.world_size == 2
    assert {"__0_0.distcp", "__1_0.distcp"} <= {path.name for path in newest.folder.iterdir()}


def test_one_process_evaluates_what_two_have_trained(finished):
    evaluation = cf.evaluate(finished[0], replicates=0)
    last = next(row for row in rows(finished[0]) if row["kind"] == "evaluation")
    assert evaluation.verification.eer.eer == last["eer"]


def refused(folder, recipe, words, options=()):
    code, out, err = launch(folder, recipe, *words, options=options)
    assert code != 0
    assert out == ""
    ours, _, launchers = err.partition("torch/distributed/elastic")  # the launcher repeats what its processes kept
    assert "Traceback" not in ours
    assert "exitcode  : 2" in launchers
    return said(err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--optimizer.batch_size", "9"], "optimizer.batch_size is 9, expected a multiple of 2"),
        (["--optimizer.bach_size", "9"], "bach_size"),
        (["--data.train", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(recipe, tmp_path, words, text):
    (line,) = refused(tmp_path, recipe, ["--run-dir", "run", *words])
    assert text in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "photos"])
def test_a_folder_that_is_taken_stays_as_it_is_however_often_they_are_started(recipe, tmp_path, toy_folder, kind):
    """The launcher starts them once more: that must not go on with a run which somebody else has begun."""
    shutil.copytree(toy_folder, tmp_path / "run")
    if kind == "run":
        shutil.rmtree(tmp_path / "run")
        cf.train(cf.Recipe.load(recipe), tmp_path / "run", console=Console(file=io.StringIO()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    lines = refused(tmp_path, recipe, ["--run-dir", "run"], ["--max-restarts", "1"])
    assert len(lines) == 2
    assert all(("already contains a run" if kind == "run" else "is not a run") in line for line in lines)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_process_that_dies_is_started_anew_with_the_others(recipe, tmp_path, finished):
    options = ["--max-restarts", "2"]
    code, out, err = launch(tmp_path, recipe, "--run-dir", "run", options=options, event=("kill1", 6))
    assert code == 0, err
    (line,) = said(err)
    assert "process 0 has lost another of the 2, which died or was killed (" in line
    assert line.endswith("continue with: torchrun --nproc-per-node 2 -m coreface train --resume run")
    assert "gloo" in line  # what torch.distributed says of it: reset, closed, or a broken pipe
    assert err.count("resuming from run/checkpoints/step_4: 4 of 32 steps done") == 1
    assert out.count("EER") == 1
    kept = (tmp_path / "run" / "failures" / "rank_0.attempt_0.txt").read_text(encoding="utf-8")
    assert kept.startswith("process 0 of 2, attempt 1\nTraceback")
    check_same(tmp_path / "run", finished)


@pytest.mark.slow
def test_without_restarts_the_others_end_by_themselves(recipe, tmp_path):
    code, _, err = launch(tmp_path, recipe, "--run-dir", "run", event=("kill0", 6))
    assert code == 1
    assert ["process 1 has lost another of the 2" in line for line in said(err)] == [True]
    assert "forcefully" not in err  # of one that does not end within 30 s the launcher says "forcefully exiting via"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [("SIGTERM", "SIGTERM"), ("SIGINT", "Ctrl-C")])
def test_a_signal_to_the_launcher_writes_a_checkpoint(recipe, tmp_path, finished, number, name):
    words = ["--run-dir", "run", "--checkpoint.every_steps", "99"]
    _, _, err = launch(tmp_path, recipe, *words, event=(number, 2))
    (line,) = said(err)
    assert f"stopped by {name} after step 2 of 32" in line
    assert line.endswith("continue with: torchrun --nproc-per-node 2 -m coreface train --resume run")
    (newest,) = checkpoint_folders(tmp_path / "run" / "checkpoints")
    assert open_checkpoint(newest).step == 2
    code, _, err = launch(tmp_path, "--resume", "run")
    assert code == 0, err
    check_same(tmp_path / "run", finished)


# Checkpoints of two processes that are not whole. One process alone reads them, as any number does.


@pytest.fixture
def cut(finished, tmp_path):
    """The run of two processes as it was before its end."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    last = b'{"kind": "finished"'
    kept = (folder / "metrics.jsonl").read_bytes()
    assert last in kept
    (folder / "metrics.jsonl").write_bytes(kept[: kept.index(last)])
    return folder


def damage(path, how):
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(("how", "text"), [("missing", "cannot be read"), ("cut", "cut short")])
def test_a_shard_that_is_not_whole_is_named_and_the_checkpoint_before_it_taken(cut, finished, how, text):
    shard = cut / "checkpoints" / "step_32" / "__1_0.distcp"
    damage(shard, how)
    console = Console(file=io.StringIO(), width=400)
    resume(cut, console=console)
    shown = console.file.getvalue()
    assert f"warning: {shard}: {text}" in shown
    assert "set aside as step_32.damaged" in shown
    assert "step_28: 28 of 32 steps done" in shown
    assert "trained by 2 processes, now by 1 process" in shown
    assert [row["step"] for row in rows(cut) if row["kind"] == "step"] == list(range(1, 33))
    assert [row["lr"] for row in rows(cut)[:32]] == [row["lr"] for row in rows(finished[0])[:32]]


def test_where_no_checkpoint_is_whole_the_newest_is_named(cut):
    for folder in checkpoint_folders(cut / "checkpoints"):
        damage(folder / "__1_0.distcp", "missing")
    with pytest.raises(CheckpointError, match=r"every checkpoint of .* is damaged; the newest: .*step_32/__1_0.distcp"):
        resume(cut, console=Console(file=io.StringIO()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--optimizer.lr", "0.5"], "optimizer.lr was 0.002, is 0.5"),
        (["--optimizer.batch_size", "9"], "optimizer.batch_size"),
    ],
)
def test_another_recipe_is_refused_in_one_line(cut, words, text):
    code, out, err = launch(cut.parent, "--resume", "run", *words)
    (line,) = said(err)
    assert code != 0
    assert text in line
    assert out == ""
    assert "Traceback" not in err.partition("torch/distributed/elastic")[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_runs_of_changing_numbers_of_processes_end_as_promised():
    """`benchmarks/kill_processes.py` does twelve."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "kill_processes.py"), "--runs", "1", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 as promised" in done.stdout
