"""A study in real processes: killed at moments that nobody chose, it ends with the numbers of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coreface.studies.ownership import live_owner
from coreface.training.metrics_file import read_metrics
from support.study_text import BASE, STUDY

TESTS = str(Path(__file__).parents[1])
TOY = ("--import", "support.toy_network")
VARYING = ("times", "checkpoint_sha256")  # a checkpoint holds the times of its rows


@pytest.fixture
def start(tmp_path, study_faces):
    """Return a function (folder, options) that starts a study of the toy network as a user does."""
    base = BASE.format(backbone="toy", faces=study_faces) + "checkpoint: {every_steps: 2}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "study.yaml").write_text(STUDY)

    def begin(folder, *options):
        words = ["study", str(tmp_path / "study.yaml"), "--dir", str(folder), *options, *TOY]
        path = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "coreface", *words], stdout=said, stderr=said, env=environment
            )

    return begin


def result(folder):
    def without(value):
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in VARYING}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return without(json.loads((folder / "study.json").read_text()))


def rows_written(folder):
    return sum(len(read_metrics(path.parent)) for path in Path(folder).rglob("metrics.jsonl"))


def wait_until(true, process):
    while not true() and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_study_that_is_killed_and_goes_on_has_the_result_of_an_undisturbed_one(start, tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    draw = random.Random(7)
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path / "killed", "--jobs", "2")
        goal = rows_written(tmp_path / "killed") + draw.randint(1, 12)
        wait_until(lambda goal=goal: rows_written(tmp_path / "killed") >= goal, process)
        process.send_signal(kill)
        assert process.wait() in (-signal.SIGKILL, 128 + signal.SIGTERM, 0)
    assert start(tmp_path / "killed").wait() == 0, (tmp_path / "said.txt").read_text()
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


@pytest.mark.slow
def test_runs_end_with_a_study_that_is_killed_and_two_studies_share_the_work(start, tmp_path):
    folder = tmp_path / "shared"
    process = start(folder, "--seeds", "1")
    owner = folder / "owners" / "seed_1.shared.json"
    wait_until(lambda: live_owner(owner) is not None, process)
    process.kill()
    process.wait()
    while live_owner(owner) is not None:  # its run notices, and stops
        time.sleep(0.05)
    both = [start(folder), start(folder)]
    assert [one.wait() for one in both] == [0, 0], (tmp_path / "said.txt").read_text()
    assert json.loads((folder / "study.json").read_text())["finished"] == 6


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_its_last_words_and_the_rest_goes_on(start, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("[1, 2]", "[1]"))
    blocked = tmp_path / "out" / "runs" / "seed_1" / "plain"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("somebody's file")
    process = start(tmp_path / "out", "--only", "plain", "--only", "twin")
    assert process.wait() == 2
    said = (tmp_path / "said.txt").read_text()
    last = said.splitlines()[-1]
    assert last.startswith("coreface: 1 run failed, the same command tries again: seed 1, plain: ")
    assert f"{blocked} exists and is not a run" in last
    assert "Traceback" not in said
    assert json.loads((tmp_path / "out" / "study.json").read_text())["finished"] == 1


def test_a_missing_set_is_found_before_anything_trains(start, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("[held_out]", f"[held_out, {tmp_path}/missing]"))
    assert start(tmp_path / "out").wait() == 2
    assert f"{tmp_path}/missing" in (tmp_path / "said.txt").read_text().splitlines()[-1]
    assert not (tmp_path / "out").exists()
