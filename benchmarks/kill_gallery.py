"""A gallery whose writers are killed at random moments: nothing half there, nothing lost, nobody found again.

python benchmarks/kill_gallery.py PLACE [--kills 100]

PLACE is a file, or postgresql://..., in which a gallery is made. Two writers enrol (two images with crops each),
delete, import (three people each) and migrate between two encoders; each notes in a journal what it begins and what has
been reported done. Three readers search for people who were reported deleted before the search began. One of the
writers is killed (SIGKILL) after a random time, all that the journals say is compared with the gallery, and it starts
again.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
from made_up_people import made_up_pipeline, pictures

import coreface as cf
from coreface.errors import ContractError, GalleryError, StorageError

SIZE, IMAGES, IMPORTED, READERS = 64, 2, 3, 3
PIPELINES = [made_up_pipeline(SIZE, seed) for seed in (0, 1)]


def opened(place: str) -> cf.Gallery:
    """Open the gallery with the pipeline that it belongs to now."""
    while True:
        for pipeline in PIPELINES:
            try:
                return cf.Gallery.open(place, pipeline, create=False, timeout=60)
            except ContractError:
                continue


def number_of(person: str) -> int:
    return int(hashlib.sha256(person.encode()).hexdigest()[:8], 16)


def exported(pipeline: cf.FacePipeline, people: list[str], path: Path) -> Path:
    """Write people as `Gallery.export` does."""
    with tempfile.TemporaryDirectory() as folder, cf.Gallery.open(Path(folder) / "g.db", pipeline) as gallery:
        for person in people:
            gallery.enrol(person, pictures(number_of(person), IMAGES), keep_crops=True, allow_similar=True)
        gallery.export(path)
    return path


def write(place: str, journal: str, seed: int) -> None:
    """Change the gallery until killed."""
    rng = np.random.default_rng(seed)
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    folder = Path(journal).parent

    def note(word: str, action: str, people: list[str]) -> None:
        os.write(file, f"{json.dumps([word, action, people])}\n".encode())

    gallery = opened(place)
    mine: list[str] = []
    for step in range(10**9):
        action = rng.choice(["enrol", "delete", "import", "migrate"], p=[0.5, 0.3, 0.15, 0.05])
        people = [f"{seed}-{step}"] if action == "enrol" else [f"{seed}-{step}-{k}" for k in range(IMPORTED)]
        if action == "delete":
            people = [mine.pop(int(rng.integers(len(mine))))] if mine else []
        if action == "migrate" or not people:
            action, people = "migrate", []
        note("begin", action, people)
        while True:
            try:
                if action == "enrol":
                    images = pictures(number_of(people[0]), IMAGES)
                    gallery.enrol(people[0], images, keep_crops=True, allow_similar=True)
                elif action == "delete":
                    gallery.delete(people[0])
                elif action == "import":
                    gallery.import_(exported(gallery.pipeline, people, folder / f"{seed}.jsonl"))
                else:
                    gallery.migrate(PIPELINES[1 - PIPELINES.index(gallery.pipeline)])
                break
            except ContractError:  # the other writer has migrated it
                gallery.close()
                gallery = opened(place)
            except GalleryError as error:
                if action != "migrate":
                    raise
                if "faster" not in str(error):  # than the other writer enrols
                    raise
                break
        if action in ("enrol", "import"):
            mine += people
        note("done", action, people)


def entries(folder: Path) -> list[tuple[str, str, list[str]]]:
    found = []
    for path in sorted(folder.glob("*.journal")):
        found += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return found


def read(place: str, folder: str, seed: int, searches: "Synchronized[int]") -> None:
    """Search for people who were deleted; note whoever is found again."""
    rng = np.random.default_rng(seed)
    gallery = opened(place)
    while True:
        done = [people for word, action, people in entries(Path(folder)) if (word, action) == ("done", "delete")]
        deleted = {person for people in done for person in people}
        if not deleted:
            time.sleep(0.05)
            continue
        chosen = rng.choice(sorted(deleted), min(8, len(deleted)), replace=False)
        try:
            for person in chosen.tolist():
                (rows,) = gallery.search(gallery.pipeline.encoder.embed(pictures(number_of(person), 1)), top=5)
                with searches.get_lock():
                    searches.value += 1
                for candidate in rows:
                    if candidate.person in deleted:
                        (Path(folder) / f"found-{seed}").write_text(candidate.person)
        except ContractError:
            gallery.close()
            gallery = opened(place)
        except StorageError as error:
            (Path(folder) / f"reader-{seed}").write_text(str(error))


def violations(place: str, folder: Path) -> tuple[list[str], int]:
    """Compare the gallery with the journals; what a writer is doing at this moment may be there or not, but whole."""
    journal = entries(folder)
    done = {(action, tuple(people)) for word, action, people in journal if word == "done"}
    begun = [(action, tuple(people)) for word, action, people in journal if word == "begin"]
    with opened(place) as gallery:
        there = {person.id: person.templates for person in gallery.people()}
        wrong = [f"{person} has {count} images" for person, count in there.items() if count != IMAGES]
        wrong += gallery.check()
        with gallery.store.snapshot():
            encoder = next(p.encoder for p in PIPELINES if p.contract == gallery.store.record().contract)
            for _, stored in gallery.store.stored(None):
                again = encoder.embed([cf.load_image(stored.crop)])[0]
                if float(again @ stored.embedding) < 0.999:
                    wrong.append("an embedding of the other encoder")
    ended = {people for action, people in begun if action == "delete"}
    gone = {people for action, people in done if action == "delete"}
    # What the other writer has begun since the journals were read.
    changing = {person for entry in entries(folder) if entry not in journal for person in entry[2]}
    for action, people in begun:
        if action in ("enrol", "import"):
            held = [person in there for person in people]
            touched = [(person,) in ended or person in changing for person in people]
            if (action, people) in done:
                wrong += [f"{p} is lost" for p, h, t in zip(people, held, touched, strict=True) if not h and not t]
            elif len(set(held)) > 1 and not any(touched):
                wrong.append(f"half of an import: {people}")
    wrong += [f"{people[0]} is there again" for people in gone if people[0] in there]
    return wrong, len(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place")
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")  # a new writer begins at once
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cf.Gallery.open(options.place, PIPELINES[0]).close()

        def started(work: Callable[..., None], *arguments: object) -> BaseProcess:
            process = context.Process(target=work, args=(options.place, *arguments), daemon=True)
            process.start()
            return process

        def writer(number: int) -> BaseProcess:
            return started(write, f"{folder}/{number}.journal", number)

        writers = [writer(0), writer(1)]
        searches = context.Value("q", 0)
        readers = [started(read, name, seed, searches) for seed in range(READERS)]
        bad = 0
        for kill in range(1, options.kills + 1):
            time.sleep(float(rng.uniform(0.1, 1.5)))
            victim = int(rng.integers(2))
            alive = [process.is_alive() for process in (*writers, *readers)]
            writers[victim].kill()
            writers[victim].join()
            wrong, done = violations(options.place, folder)
            wrong += [] if all(alive) else [f"a process had ended by itself: {alive}"]
            wrong += [f"a reader found {path.read_text()}" for path in folder.glob("found-*")]
            bad += bool(wrong)
            print(f"{kill:4}  {done} changes done  {'; '.join(wrong[:3]) or 'as promised'}", flush=True)
            writers[victim] = writer(2 * kill + victim + 2)
        for process in (*writers, *readers):
            process.kill()
            process.join()
        print(f"{options.kills - bad} of {options.kills} as promised; {searches.value} searches for deleted people")


if __name__ == "__main__":
    main()
