"""A study that is killed at random moments and goes on, against an undisturbed one: the same numbers to the last bit.

python benchmarks/kill_study.py orl_small --kills 5                               minutes, twice
python benchmarks/kill_study.py orl_small --kills 5 --data.image_size 16          sooner; any field of the base recipe

The kills (SIGKILL, of the command alone: its runs end by themselves) come after a random number of rows of metrics. The
times of runs, and the digests of checkpoints, which hold times, are left out of the comparison.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from coreface.training.metrics_file import read_metrics

VARYING = ("times", "checkpoint_sha256")
LOOKS = 0.1  # seconds between two looks at the rows


def start(study: str, folder: Path, rest: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "coreface", "study", study, "--dir", str(folder), *rest]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(folder: Path) -> int:
    return sum(len(read_metrics(path.parent)) for path in folder.rglob("metrics.jsonl"))


def result(folder: Path) -> Any:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in VARYING}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return without(json.loads((folder / "study.json").read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="draws the moments")
    options, rest = parser.parse_known_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        if start(options.study, whole, rest).wait():
            print("the undisturbed study failed")
            return 1
        total = rows(whole)
        for number in range(options.kills):
            process = start(options.study, killed, rest)
            goal = rows(killed) + draw.randint(1, max(1, 2 * total // (options.kills + 1)))
            while rows(killed) < goal and process.poll() is None:
                time.sleep(LOOKS)
            finished = process.poll() is not None
            process.kill()
            process.wait()
            print(f"kill {number + 1}: after {rows(killed)} of {total} rows{', it had finished' if finished else ''}")
        if start(options.study, killed, rest).wait():
            print("the killed study failed in the end")
            return 1
        same = result(whole) == result(killed)
        print("the same result to the last bit" if same else "ANOTHER RESULT")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
