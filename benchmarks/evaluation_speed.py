"""What the protocols cost, against the straightforward NumPy versions.

python benchmarks/evaluation_speed.py             all, at the sizes of LFW and IJB-C
python benchmarks/evaluation_speed.py --small     a hundredth of it

The straightforward ways: a grid of 400 thresholds a fold; a sort of all scores; a mask a template; the whole score
matrix and an argsort a row. A mask a template is timed on a part of the templates, with all images there, and
multiplied.
"""

import argparse
import statistics
import tracemalloc
from collections.abc import Callable

import numpy as np
from timing import alternate, machine, ratio, seconds

from coreface.evaluation.identification import search_embeddings
from coreface.evaluation.metrics import kfold_accuracy, tar_at_far
from coreface.evaluation.templates import pool_templates

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def report(title: str, times: dict[str, list[float]], goal: str, scale: float = 1.0) -> None:
    print(f"\n{title}")
    for name, taken in times.items():
        factor = scale if name == "straightforward" else 1.0
        print(f"  {name:16} {factor * statistics.median(taken):9.4f} s")
    names = list(times)
    scaled = {name: [t * (scale if name == "straightforward" else 1) for t in taken] for name, taken in times.items()}
    print(f"  {names[1]} / {names[0]}   {ratio(scaled, names[1], names[0])}   goal {goal}", flush=True)


def peak(run: Callable[[], object]) -> str:
    """Most memory that a run takes besides what is there, as NumPy reports it."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{most / 2**20:.0f} MiB"


def folds(rounds: int) -> None:
    generator = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 300), 10)
    scores = (generator.normal(0.1, 0.15, 6000) + 0.4 * same).astype(np.float32)

    def grid() -> None:
        fold = np.repeat(np.arange(10), 600)
        for index in range(10):
            train = fold != index
            right = [np.mean((scores[train] >= t) == same[train]) for t in np.linspace(-1, 1, 400)]
            best = np.linspace(-1, 1, 400)[np.argmax(right)]
            np.mean((scores[~train] >= best) == same[~train])

    times = alternate({"ours": lambda: kfold_accuracy(scores, same), "straightforward": grid}, rounds)
    report("10 folds of 6 000 pairs", times, "none")


def rates(count: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    genuine = generator.normal(0.5, 0.15, max(count // 800, 10)).astype(np.float32)
    impostor = generator.normal(0, 0.1, count).astype(np.float32)

    def ours() -> None:
        for far in FARS:
            tar_at_far(genuine, impostor, far)

    def sort() -> None:
        labels = np.r_[np.ones(len(genuine), bool), np.zeros(len(impostor), bool)]
        order = np.argsort(-np.r_[genuine, impostor])
        false, true = np.cumsum(~labels[order]), np.cumsum(labels[order])
        for far in FARS:
            true[max(np.searchsorted(false / len(impostor), far, side="right") - 1, 0)] / len(genuine)

    report(
        f"TAR at {len(FARS)} FARs of {count} scores", alternate({"ours": ours, "straightforward": sort}, rounds), "none"
    )
    print(f"  memory besides the {impostor.nbytes / 2**20:.0f} MiB of scores: {peak(ours)}; goal of ours: < 5 s")


def pooling(images: int, templates: int, part: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.standard_normal((images, 512), dtype=np.float32)
    template = np.r_[np.arange(templates), generator.integers(0, templates, images - templates)]
    media = generator.integers(0, images // 3, images)

    def masks() -> None:
        for wanted in range(part):
            mine = template == wanted
            rows, of = embeddings[mine], media[mine]
            total = sum(rows[of == medium].mean(axis=0) for medium in np.unique(of))
            total / np.linalg.norm(total)

    def ours() -> None:
        pool_templates(embeddings, template, media)

    times = alternate({"ours": ours, "straightforward": masks}, rounds)
    report(f"{images} images into {templates} templates ({part} of them by masks)", times, ">= 10", templates / part)
    print(f"  memory besides the {embeddings.nbytes / 2**20:.0f} MiB of embeddings: {peak(ours)}")


def search(probes: int, gallery: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    enrolled = generator.standard_normal((gallery, 512), dtype=np.float32)
    who = generator.integers(0, 2 * gallery, probes)  # half of the probes are strangers
    probe = enrolled[who % gallery] * (who < gallery)[:, None] + 0.7 * generator.standard_normal(
        (probes, 512), np.float32
    )
    enrolled /= np.linalg.norm(enrolled, axis=1, keepdims=True)
    probe /= np.linalg.norm(probe, axis=1, keepdims=True)
    identities = np.arange(gallery)

    def ours() -> None:
        search_embeddings(probe, enrolled, who, identities).open_set(1e-2)

    def argsort() -> None:
        scores = probe @ enrolled.T
        best = np.argsort(-scores, axis=1)
        np.argmax(best == who[:, None], axis=1)

    times = alternate({"bare product": lambda: probe @ enrolled.T, "ours": ours}, rounds)
    report(f"open-set search of {probes} probes in {gallery} entries", times, "<= 1.3")
    print(f"  straightforward, once: {seconds(argsort):.3f} s; memory of ours: {peak(ours)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a hundredth of the sizes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    small = 100 if options.small else 1
    folds(options.rounds)
    rates(15_700_000 // small, options.rounds)
    pooling(470_000 // small, 23_000 // small, 200 // (4 if options.small else 1), options.rounds)
    search(19_593 // small, 3_531 // small, options.rounds)
