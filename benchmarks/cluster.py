"""What grouping costs and finds: time, peak memory, pairwise precision and recall, on made-up faces.

python benchmarks/cluster.py [--faces 10000 100000] [--size 512] [--fmr 1e-5] [--added 0.1]

Made-up people come in families, whose members resemble each other. Half of them have one photograph, the others 2 to
400, and photographs differ in how near they are to their person. The scores of pairs resemble those of sface. The
thresholds are those of a calibration on other people. `added` is the share of the faces that come in a second call.
"""

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.metrics.groupings import pairwise_agreement
from coreface.recognition.clustering import GroupingThresholds, group_faces

_FAMILY, _LIKENESS = 20, 0.5  # people of a family, and the cosine of one of them with what they have in common
_MOST = 400  # photographs of one person
_QUALITY = 0.55, 0.98  # of a photograph: its cosine with its person, before the noise of chance
_DIRECTIONS = 80  # with so many, an FMR of 1e-5 is at a cosine near 0.47, as with sface


def made_up_faces(count: int, size: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return unit vectors (count, size) in random order, and whose each is."""
    rng = np.random.default_rng(seed)
    photographs = np.where(rng.random(count) < 0.5, 1, np.minimum(2 + rng.pareto(1.0, count) * 3, _MOST).astype(int))
    people = rng.permutation(np.repeat(np.arange(count), photographs)[:count])
    number, directions = int(people.max()) + 1, min(size, _DIRECTIONS)
    basis = np.linalg.qr(rng.standard_normal((size, directions)))[0].T.astype(np.float32)
    families = _unit(rng.standard_normal((number // _FAMILY + 1, directions), np.float32))
    own = _unit(rng.standard_normal((number, directions), np.float32))
    centres = _unit(_LIKENESS * families[np.arange(number) // _FAMILY] + (1 - _LIKENESS**2) ** 0.5 * own)
    faces = np.empty((count, size), np.float32)
    for start in range(0, count, 10_000):
        some = people[start : start + 10_000]
        quality = rng.uniform(*_QUALITY, (len(some), 1)).astype(np.float32)
        noise = _unit(rng.standard_normal((len(some), directions), np.float32))
        faces[start : start + len(some)] = _unit(quality * centres[some] + (1 - quality**2) ** 0.5 * noise) @ basis
    return faces, people


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def calibrated(size: int, fmr: float) -> GroupingThresholds:
    """Return the thresholds by the pairs of other made-up people."""
    faces, people = made_up_faces(4000, size, seed=1)
    one, other = np.triu_indices(len(faces), 1)
    scores, same = (faces @ faces.T)[one, other], people[one] == people[other]
    return GroupingThresholds.calibrated(Calibrator.fit(scores[same], scores[~same]), fmr)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--fmr", type=float, default=1e-5)
    parser.add_argument("--added", type=float, default=0.1)
    options = parser.parse_args()
    thresholds = calibrated(options.size, options.fmr)
    print(f"FMR {options.fmr:g}: cosine {thresholds.single:.3f}")
    for count in options.faces:
        faces, people = made_up_faces(count, options.size, seed=0)
        start = time.perf_counter(), time.process_time()
        groups = group_faces(faces, thresholds)
        show(f"{count} faces x {options.size}", start, groups, people)
        before = count - int(options.added * count)
        groups = np.zeros(count, np.int64)
        groups[:before] = group_faces(faces[:before], thresholds)
        start = time.perf_counter(), time.process_time()
        groups = group_faces(faces, thresholds, groups=groups)
        show(f"  {count - before} of them added", start, groups, people)


def show(what: str, start: tuple[float, float], groups: NDArray[np.int64], people: NDArray[np.int64]) -> None:
    took, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    found = pairwise_agreement(groups, people)
    right = f"precision {100 * (found.precision or 0):.2f} %, recall {100 * (found.recall or 0):.2f} %"
    shared = int((np.bincount(people) > 1).sum())
    print(
        f"{what:24} {took:8.1f} s, {processor:.1f} s of the processor  {peak():.2f} GB at most  {right}  "
        f"{groups.max()} groups of {shared} people with several photographs, {np.sum(groups == 0)} faces alone",
        flush=True,
    )


if __name__ == "__main__":
    main()
