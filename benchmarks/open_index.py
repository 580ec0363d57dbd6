"""Opening a RecordIO of millions of records: seconds, and memory above the imports, each time in a fresh process.

    python benchmarks/open_index.py [--records 5800000]

The file is made for it, in the layout of the field's large sets: an index of identities, the images (here of 4 bytes),
a record for each identity. It is opened as records, as faces by its index of identities, and, without that index, as
faces by the headers of all records. Memory is the peak of the resident set.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from coreface.runs.folder import environment

IMAGES_EACH = 68  # images an identity, as in MS1MV2
OPEN = """
import sys, time
from pathlib import Path
import coreface.data
def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
before = memory("VmRSS")
start = time.perf_counter()
opened = getattr(coreface.data, sys.argv[1])(sys.argv[2])
taken = time.perf_counter() - start
print(len(opened), taken, memory("VmHWM") - before)
"""


def index_records(bounds: np.ndarray) -> np.ndarray:
    """Records of two labels and no image, (n, 10) words of 4 bytes."""
    words = np.zeros((len(bounds), 10), "<u4")
    words[:, :3] = 0xCED7230A, 32, 2
    words[:, 8:] = bounds.astype("<f4").view("<u4")
    return words


def write_set(folder: Path, records: int, *, described: bool) -> None:
    people = records // (IMAGES_EACH + 1)
    images = records - people - 1 if described else records
    labels = np.minimum(np.arange(images) // IMAGES_EACH, people - 1)
    words = np.zeros((images, 9), "<u4")
    words[:, :3] = 0xCED7230A, 28, 0
    words[:, 3] = labels.astype("<f4").view("<u4")
    words[:, 8] = 0xE0FFD8FF
    parts = [words]
    if described:
        first = 1 + np.flatnonzero(np.diff(labels, prepend=-1))
        bounds = np.stack([first, np.append(first[1:], images + 1)], 1)
        top = np.array([[images + 1, images + 1 + people]])
        parts = [index_records(top), words, index_records(bounds)]
    sizes = np.concatenate([np.full(len(part), 4 * part.shape[1]) for part in parts])
    offsets = np.cumsum(sizes) - sizes
    with (folder / "train.rec").open("wb") as file:
        for part in parts:
            part.tofile(file)
    with (folder / "train.idx").open("w") as file:
        file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets.tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=5_800_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sets = {name: Path(place) / name for name in ("described", "plain")}
        for name, folder in sets.items():
            folder.mkdir()
            write_set(folder, options.records, described=name == "described")
        cases = {
            "RecordReader": ("RecordReader", "described"),
            "RecordSource, by its index of identities": ("RecordSource", "described"),
            "RecordSource, by the headers of all records": ("RecordSource", "plain"),
        }
        print(f"{environment()['processor']}; {options.records} records, medians of {options.rounds}")
        for name, (kind, folder_name) in cases.items():
            runs = []
            for _ in range(options.rounds):
                words = [sys.executable, "-c", OPEN, kind, str(sets[folder_name])]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                runs.append([float(word) for word in done.stdout.split()])
            length, taken, memory = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{name:46} {taken:6.2f} s  {memory:+7.1f} MiB  ({length:.0f} long)")


if __name__ == "__main__":
    main()
