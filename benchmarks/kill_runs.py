"""Runs of the demo's network that are killed with SIGKILL, resumed, and compared to the last bit with one that was not.

python benchmarks/kill_runs.py                       30 runs
python benchmarks/kill_runs.py --runs 4 --seed 2     a few

Two loader workers, a change of stage in the middle, a checkpoint every three steps. Moments are drawn from the seed, as
processor seconds of the process: the same ones every time and on a busy machine, though what they meet is not. Two of
three runs are meant to be killed while a checkpoint is being written: the program waits for the write, then for a part
of its usual time. Every third run is killed twice.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from coreface.models.encoder import FaceEncoder
from coreface.models.pretrained import content_digest
from coreface.runs.status import is_finished, is_run
from coreface.studies.demo import find_recipe
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.metrics_file import read_metrics

STAGES = (
    "[{from_epoch: 1, views: 1, dropout: 0.2}, "
    "{from_epoch: 2, views: 2, dropout: 0.4, contrastive: {weight: 0.05, ema: 0.5}}]"
)
FIELDS = {
    "stages": STAGES,
    "optimizer.epochs": "2",
    "optimizer.batch_size": "15",
    "evaluation.every": "1",
    "data.workers": "2",
    "data.image_size": "32",
    "checkpoint.every_steps": "3",
    "log_every": "4",
}
TIMES = {"images_per_second", "waiting"}


@dataclass(frozen=True)
class Kill:
    """A moment: processor seconds after the start; or, in a write, which one and what part of its usual time."""

    after: float
    write: int | None = None


def command(folder: Path) -> list[str]:
    """Begin, or go on where there is something to go on with."""
    words = [sys.executable, "-m", "coreface", "train"]
    if is_run(folder):
        return [*words, "--resume", str(folder)]
    fields = [word for name, value in FIELDS.items() for word in (f"--{name}", value)]
    return [*words, str(find_recipe("orl_demo")), "--run", str(folder), *fields]


def start(folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command(folder), stdout=log, stderr=log, env=environment)


def processor_seconds(pid: int) -> float:
    """What a running process has used so far, without its children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it ended in the meantime
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob(".step_*"))


def kill(folder: Path, moment: Kill, write_seconds: float) -> str | None:
    """Run until the moment, kill, and say what was met; None where the run was at its end before."""
    process = start(folder)
    seen: set[str] = set()
    present: set[str] = set()
    while process.poll() is None:
        if moment.write is None:
            if processor_seconds(process.pid) >= moment.after:
                break
        else:
            now = set(leftovers(folder))
            seen |= now - present
            present = now
            if len(seen) > moment.write:
                time.sleep(moment.after * write_seconds)
                break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    if not is_run(folder):
        return "before the run folder was whole"
    steps = [row["step"] for row in read_metrics(folder) if row["kind"] == "step"]
    newest = next(iter(checkpoint_folders(folder / "checkpoints")), None)
    where = f"after row {steps[-1] if steps else 0}, newest {newest.name if newest else 'none'}"
    writing = leftovers(folder)
    return f"{where}, writing {writing[0].split('.')[1]}" if writing else where


def outcome(folder: Path) -> dict[str, object]:
    """All that must be the same: every tensor of the last checkpoint, the encoder's file, the rows without times."""
    checkpoint = open_checkpoint(checkpoint_folders(folder / "checkpoints")[0])
    rows = [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(folder)
        if row["kind"] in ("step", "evaluation")
    ]
    return {
        "tensors": checkpoint.read(checkpoint.layout),
        "step": checkpoint.step,
        "encoder": content_digest(FaceEncoder.from_pretrained(folder / "encoder")),
        "rows": json.dumps(rows),
    }


def different(one: dict[str, object], other: dict[str, object]) -> list[str]:
    tensors, others = one["tensors"], other["tensors"]
    assert isinstance(tensors, dict)
    assert isinstance(others, dict)
    names = [name for name in tensors.keys() & others.keys() if not torch.equal(tensors[name], others[name])]
    return sorted(
        names
        + list(tensors.keys() ^ others.keys())
        + [key for key in ("step", "encoder", "rows") if one[key] != other[key]]
    )


def command_line(description: str | None, runs: int, kill_all: Callable[[Path, int, random.Random], int]) -> int:
    """Kill as many runs as asked for, from the seed, where the folder says."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where the runs go; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return kill_all(Path(options.folder or temporary), options.runs, random.Random(options.seed))


def kill_all(folder: Path, runs: int, chance: random.Random) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    whole = start(folder / "undisturbed")
    usual = 0.0
    while whole.poll() is None:
        usual = max(usual, processor_seconds(whole.pid))
        time.sleep(0.01)
    if whole.returncode != 0:
        print((folder / "undisturbed.log").read_text(encoding="utf-8"))
        return 1
    writes = [row["writing"] for row in read_metrics(folder / "undisturbed") if row["kind"] == "checkpoint"]
    expected = outcome(folder / "undisturbed")
    print(
        f"undisturbed: {usual:.1f} processor seconds, {expected['step']} steps, {len(writes)} checkpoints", flush=True
    )
    failed = during_writes = twice = 0
    for number in range(1, runs + 1):
        moments = [Kill(chance.uniform(0, usual)) for _ in range(1 + (number % 3 == 0))]
        if number % 3 != 1:
            moments[0] = Kill(chance.random(), write=chance.randrange(max(1, len(writes) - 1)))
        run = folder / f"run{number:02d}"
        met = [text for moment in moments if (text := kill(run, moment, min(writes))) is not None]
        while not is_run(run) or not is_finished(run):
            if start(run).wait() != 0:
                print((folder / f"{run.name}.log").read_text(encoding="utf-8"))
                return 1
        wrong = different(expected, outcome(run))
        failed += bool(wrong)
        during_writes += sum("writing" in text for text in met)
        twice += len(met) > 1
        verdict = f"DIFFERENT in {', '.join(wrong[:3])}" if wrong else "identical"
        print(f"{number:2}  {verdict:9}  {'; then '.join(met) or 'finished before it was killed'}", flush=True)
    print(f"{runs - failed} of {runs} identical; {during_writes} kills during a write; {twice} runs killed twice")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(command_line(__doc__, 30, kill_all))
