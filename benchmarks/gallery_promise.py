"""FPIR promised and achieved in galleries of several sizes, from embeddings that `calibrate_sface.py` has kept.

python benchmarks/gallery_promise.py KEPT [--splits 20]

In every split strangers and people of the photos are divided without overlap: 1 000 strangers and 40 people calibrate,
others fill the gallery with one photograph each, 900 strangers are unknown and searched for. The constant 0.363, which
users of SFace take, stands beside the calibrated thresholds.
"""

import argparse
from pathlib import Path

import numpy as np
from calibrate_sface import Embedded, fit, genuine_scores

ASKED, SIZES, UNKNOWN = (0.1, 0.05, 0.01), (15, 30, 300, 1030), 900
CONSTANT = 0.363


def read(path: Path) -> Embedded:
    with np.load(path) as arrays:
        return Embedded(arrays["names"], arrays["embeddings"], {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    photos, strangers = read(options.kept / "yunet_photos.npz"), read(options.kept / "yunet_strangers.npz")
    people = np.unique(photos.people)
    achieved: dict[tuple[int, float], list[float]] = {}
    held: dict[tuple[int, float], list[bool]] = {}
    for split in range(options.splits):
        rng = np.random.default_rng(split)
        order, persons = rng.permutation(len(strangers.names)), rng.permutation(people)
        known = strangers.embeddings[order[:1000]]
        unknown = strangers.embeddings[order[1000 : 1000 + UNKNOWN]]
        fitting = np.isin(photos.people, persons[:40])
        calibrator = fit(genuine_scores(photos.embeddings[fitting], photos.people[fitting]), known)
        entries = [rng.choice(np.flatnonzero(photos.people == person)) for person in persons[40:]]
        gallery = np.concatenate([photos.embeddings[entries], strangers.embeddings[order[1000 + UNKNOWN :]]])
        for size in SIZES:
            chosen = gallery[rng.permutation(len(gallery))[:size]]
            best = (unknown @ chosen.T).max(axis=1)
            achieved.setdefault((size, CONSTANT), []).append(float((best >= CONSTANT).mean()))
            for asked in ASKED:
                at = calibrator.gallery_threshold(size, asked)
                if at.threshold is None:
                    continue
                seen = float((best >= at.threshold).mean())
                achieved.setdefault((size, asked), []).append(seen)
                if (interval := at.fpir_of(UNKNOWN)) is not None:
                    held.setdefault((size, asked), []).append(interval[0] <= seen <= interval[1])
    print(f"{'gallery':>8} {'asked':>8} {'mean':>8} {'spread':>8} {'lowest':>8} {'highest':>8}  in 95 % interval")
    for (size, asked), rates in sorted(achieved.items()):
        name = f"T={CONSTANT}" if asked == CONSTANT else f"{100 * asked:g} %"
        inside = held.get((size, asked))
        numbers = " ".join(f"{100 * n:7.2f}%" for n in (np.mean(rates), np.std(rates), min(rates), max(rates)))
        print(f"{size:8} {name:>8} {numbers}  {'' if inside is None else f'{sum(inside)} of {len(inside)}'}")


if __name__ == "__main__":
    main()
