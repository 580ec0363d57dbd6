"""What a large gallery costs: enrol, open, identify one and many, delete, memory; beside the bare product of NumPy.

python benchmarks/gallery.py PLACE [--people 100000] [--size 512] [--index hnsw]

PLACE is a file, or postgresql://..., in which a gallery of made-up, clustered people with one image each is made, or
the one that an earlier call has made. Everything after the filling happens in a process of its own, whose memory is
counted above what it has before it opens the gallery. `right` is the share of searches, of slightly different images of
200 people, that find the right person first.
"""

import argparse
import multiprocessing
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from made_up_people import clustered, made_up_pipeline

import coreface as cf
from coreface.recognition.gallery_enrolment import new_person
from coreface.recognition.gallery_faces import Sample
from coreface.recognition.gallery_records import Template
from coreface.recognition.gallery_sql import new_id
from coreface.recognition.gallery_store import StoredTemplate, now

_TOGETHER, _MANY = 10_000, 200  # people stored in one transaction; probes of one search


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident() -> float:
    """Return the memory of this process in GB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9


def fill(gallery: cf.Gallery, rows: np.ndarray) -> None:
    """Store people without the search for somebody who resembles them, which `enrol` makes."""
    for start in range(0, len(rows), _TOGETHER):
        with gallery.store.transaction():
            for number, row in enumerate(rows[start : start + _TOGETHER], start):
                person = gallery.store.add_person(new_person(f"p{number:07}", None, None, None))
                template = Template(new_id(), now(), False, False)
                digest = Sample(0, row, None, None).digest
                gallery.store.add_templates(person, [StoredTemplate(template, digest, row, None)])


def measure(options: argparse.Namespace) -> None:
    """Open the gallery, and print what it costs; in a process of its own."""
    rng = np.random.default_rng(1)
    chosen = rng.integers(options.people, size=_MANY)
    noise = 0.3 / options.size**0.5 * rng.standard_normal((_MANY, options.size), np.float32)
    probes = rows_of(options, chosen) + noise
    pipeline = made_up_pipeline(options.size)
    before = resident()
    start = time.perf_counter()
    gallery = cf.Gallery.open(options.place, pipeline, create=False, timeout=60)
    gallery.identify(probes[0])
    print(f"open, and the first search   {time.perf_counter() - start:9.3f} s")
    answers = []
    many = seconds(lambda: answers.extend(gallery.identify_many(probes)))
    right = np.mean([answer.candidates[0].person == f"p{k:07}" for answer, k in zip(answers, chosen, strict=True)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"memory above the process     {resident() - before:9.3f} GB, {peak - before:.3f} GB at most")
    rows = clustered(options.people, options.size)
    pairs = [
        (seconds(lambda k=k: rows @ probes[k]), seconds(lambda k=k: gallery.identify(probes[k])))
        for k in range(options.rounds)
    ]  # one after the other, so that other work on the machine slows both
    bare, one = (median(column) for column in zip(*pairs, strict=True))
    print(f"identify one                 {1000 * one:9.3f} ms, {beside(one, bare)}")
    bare = seconds(lambda: rows @ probes.T)
    each = f"{1000 * many / _MANY:9.3f} ms each"
    print(f"identify {_MANY} at once         {each}, {beside(many, bare)}, right {100 * right:.1f} %")
    new = {f"new{k}": row for k, row in enumerate(clustered(options.rounds, options.size, seed=2))}
    enrol = median(seconds(lambda p=p: gallery.enrol(p, new[p], allow_similar=True)) for p in new)
    print(f"enrol one                    {1000 * enrol:9.3f} ms")
    delete = median(seconds(lambda p=p: gallery.delete(p)) for p in new)
    print(f"delete one                   {1000 * delete:9.3f} ms")
    gallery.close()


def rows_of(options: argparse.Namespace, people: np.ndarray) -> np.ndarray:
    """Return the embeddings of some people, from a process whose memory does not count here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_rows_of, options.people, options.size, people).result()


def _rows_of(count: int, size: int, people: np.ndarray) -> np.ndarray:
    return clustered(count, size)[people]


def beside(took: float, bare: float) -> str:
    return f"{took / bare:.2f} of the bare product, {1000 * bare:.3f} ms"


def faiss_beside(options: argparse.Namespace) -> None:
    try:
        import faiss
    except ImportError:
        print("faiss is not installed")
        return
    rows = clustered(options.people, options.size)
    index = faiss.IndexFlatIP(options.size)
    index.add(rows)
    one = median(seconds(lambda: index.search(rows[:1], 5)) for _ in range(options.rounds))
    print(f"faiss IndexFlatIP, one       {1000 * one:9.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--index", choices=("exact", "hnsw"))
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options)
        return
    print(f"{options.people} people x {options.size} numbers, clustered", flush=True)
    with cf.Gallery.open(options.place, made_up_pipeline(options.size), index=options.index, timeout=60) as gallery:
        if gallery.info().people == 0:
            rows = clustered(options.people, options.size)
            took = seconds(lambda: fill(gallery, rows))
            print(f"store all of them            {took:9.1f} s, {1e6 * took / options.people:.0f} us each", flush=True)
            del rows
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--measure"], check=True)
    faiss_beside(options)


if __name__ == "__main__":
    main()
