"""Runs of several processes that lose one of them to SIGKILL, and are resumed by another number of processes.

python benchmarks/kill_processes.py                       12 runs
python benchmarks/kill_processes.py --runs 2 --seed 2     a few

Three of four runs are trained by 1, then 2, then 4 processes, and by 1 to the end; every fourth by 2 all the time. Each
leg but the last ends with the death of a process: which one and when are drawn from the seed, every second time while a
checkpoint is being written. What is promised, and looked at:

As many processes as before: all tensors and rows are those of a run of 2 processes that nothing disturbed, to the last
bit. Another number: the rows have the steps, rates and epochs of an undisturbed run of one process, and as many pairs
of one identity masked out in each of its batches; and with synchronised BatchNorm and a contrastive term over all
processes the first loss after going on is, to 1e-5 of itself, that which the processes before had for the same step
after the same checkpoint (they often take it before they die). Every run ends whole and can be evaluated.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_runs import FIELDS, command_line, different, leftovers, outcome

from coreface.runs.evaluation import evaluate
from coreface.runs.status import is_finished, is_run
from coreface.studies.demo import find_recipe
from coreface.training.checkpoint import checkpoint_folders
from coreface.training.metrics_file import read_metrics

STAGES = (
    "[{from_epoch: 1, views: 1, dropout: 0.2}, "
    "{from_epoch: 2, views: 2, dropout: 0.4, contrastive: {weight: 0.05, ema: 0.5, gather: true}}]"
)
OWN_FIELDS = {
    **FIELDS,
    "stages": STAGES,
    "model.sync_batchnorm": "true",
    "optimizer.epochs": "3",
    "optimizer.batch_size": "24",
    "optimizer.lr": "0.01",
    "data.image_size": "16",
    "data.workers": "0",
    "evaluation.every": "3",
    "log_every": "1",
    "precision": "float32",
}
MIXED, SAME = (1, 2, 4, 1), (2, 2, 2, 2)
SAME_ROW = ("step", "epoch", "lr", "masked")
TOLERANCE = 1e-5
PATIENCE = 600  # seconds for a leg


@dataclass(frozen=True)
class Death:
    """Which process dies, and when: after the row of a step, or a part of a second into the next write after it."""

    rank: int
    step: int
    writing: bool
    later: float


def command(folder: Path, processes: int) -> list[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [*launch, "-m", "coreface", "train"]
    if is_run(folder):
        return [*words, "--resume", str(folder)]
    fields = [word for name, value in OWN_FIELDS.items() for word in (f"--{name}", value)]
    return [*words, str(find_recipe("orl_demo")), "--run-dir", str(folder), *fields]


def start(folder: Path, processes: int) -> "subprocess.Popen[bytes]":
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(
            command(folder, processes), stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def worker(launcher: int, rank: int) -> int | None:
    """Return the number of the process of a rank that a launcher has started; None where it has gone."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:  # it ended in the meantime
            continue
    return None


def step_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder) if row["kind"] == "step"] if folder.exists() else []


def wait_until(process: "subprocess.Popen[bytes]", met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not met():
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"nothing happened for {PATIENCE} seconds")
        time.sleep(0.005)


def die(folder: Path, processes: int, death: Death) -> str | None:
    """Train until the moment, kill, wait until all have ended; say what was met, None where the run ended before."""
    process = start(folder, processes)
    wait_until(process, lambda: any(row["step"] >= death.step for row in step_rows(folder)))
    if death.writing:
        wait_until(process, lambda: bool(leftovers(folder)))
    time.sleep(death.later)
    victim = process.pid if processes == 1 else worker(process.pid, death.rank)
    if victim is not None and process.poll() is None:
        os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    if process.wait(PATIENCE) == 0:
        return None
    waited = f", others gone {time.monotonic() - killed:.1f} s later" if processes > 1 else ""
    writing = f", writing {left[0].split('.')[1]}" if (left := leftovers(folder)) else ""
    return f"{death.rank}/{processes} after row {step_rows(folder)[-1]['step']}{writing}{waited}"


def run_legs(folder: Path, legs: tuple[int, ...], chance: random.Random, steps: int) -> tuple[list[str], list[float]]:
    """Train a run to its end; return what was met, and by what part the first losses of new processes differ."""
    met, gaps = [], []
    moments = sorted(chance.sample(range(1, steps), len(legs) - 1))
    before: dict[int, float] = {}
    for number, processes in enumerate(legs):
        resumed = newest_step(folder)
        if number < len(moments):
            writing = chance.random() < 0.5
            later = chance.uniform(0, 0.1)
            death = Death(chance.randrange(processes), moments[number], writing, later)
            text = die(folder, processes, death)
            met.append(text or f"-/{processes} ended before")
        elif start(folder, processes).wait(PATIENCE) != 0:
            raise RuntimeError((folder.parent / f"{folder.name}.log").read_text(encoding="utf-8"))
        losses = {row["step"]: row["loss"] for row in step_rows(folder)}
        first = None if resumed is None else resumed + 1
        if first in before and first in losses:
            gaps.append(abs(losses[first] - before[first]) / abs(before[first]))
        before = losses
    return met, gaps


def newest_step(folder: Path) -> int | None:
    newest = next(iter(checkpoint_folders(folder / "checkpoints")), None)
    return None if newest is None else int(newest.name.removeprefix("step_"))


def broken(folder: Path, legs: tuple[int, ...], whole: dict[int, Path], gaps: list[float]) -> list[str]:
    """List the promises that a run has not kept."""
    found = []
    if not is_finished(folder) or leftovers(folder):
        found.append("not whole")
    if evaluate(folder, replicates=0).verification.images != 100:
        found.append("not evaluable")
    if len(set(legs)) == 1:
        return found + different(outcome(whole[legs[0]]), outcome(folder))
    expected, got = ([[row.get(key) for key in SAME_ROW] for row in step_rows(one)] for one in (whole[1], folder))
    if expected != got:
        found.append("other batches")
    if any(gap > TOLERANCE for gap in gaps):
        found.append("another first loss")
    return found


def kill_all(folder: Path, runs: int, chance: random.Random) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {count: folder / f"undisturbed{count}" for count in (1, 2)}
    for count, one in whole.items():
        if start(one, count).wait(PATIENCE) != 0:
            print((folder / f"{one.name}.log").read_text(encoding="utf-8"))
            return 1
    steps = step_rows(whole[1])[-1]["step"]
    print(f"undisturbed: {steps} steps; runs end identical (2 processes) or with the same batches (1, 2, 4, 1)")
    failed, compared, largest = 0, 0, 0.0
    for number in range(1, runs + 1):
        run = folder / f"run{number:02d}"
        legs = MIXED if number % 4 else SAME
        met, gaps = run_legs(run, legs, chance, steps)
        wrong = broken(run, legs, whole, gaps)
        failed += bool(wrong)
        if legs == MIXED:
            compared, largest = compared + len(gaps), max([largest, *gaps])
        kept = "identical" if legs == SAME else f"same batches, first losses {', '.join(f'{g:.0e}' for g in gaps)}"
        verdict = f"BROKEN: {', '.join(wrong[:3])}" if wrong else kept
        print(f"{number:2}  {'-'.join(map(str, legs))}  {verdict}  | killed: {'; '.join(met)}", flush=True)
    print(
        f"{runs - failed} of {runs} as promised; {compared} first losses of another number of processes compared, "
        f"the largest relative difference {largest:.1e}"
    )
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 12, kill_all))
