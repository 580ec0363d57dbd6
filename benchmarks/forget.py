"""Deletions through one service and searches through another: nobody is found, and no byte is left.

python benchmarks/forget.py PLACE [--tries 1000] [--files FOLDER]

PLACE is a file, or postgresql://..., in which a gallery is made; two processes of `coreface serve` have it open. Each
try enrols somebody through one of them, finds the person through the other, deletes through the first, and searches
through the other. Pieces of 16 bytes of what was stored (the embedding in single and half precision, name and
metadata) are looked for in all files: they must be there before the deletion and not after it. A file is searched
after each deletion; the files of a database, in FOLDER, are searched after every fiftieth, when `purge` has rewritten
the tables.
"""

import argparse
import secrets
import time
from pathlib import Path

import numpy as np
from service_process import photograph, serve

import coreface as cf
from coreface.data.orl import OrlSource

PEOPLE, IMAGES, EVERY, PIECE = 40, 10, 50, 16


def pieces(gallery: cf.Gallery, person: str, texts: list[str]) -> set[bytes]:
    """Return pieces of what is stored of a person with one image, without those that others may have."""
    number, _ = gallery.store.person(person) or (0, None)
    with gallery.store.snapshot():
        ((_, stored),) = gallery.store.stored(number)
    half = stored.embedding.astype("<f2").tobytes() if gallery.store.place.startswith("postgresql") else b""
    contents = [stored.embedding.astype("<f4").tobytes(), half, stored.digest, *(text.encode() for text in texts)]
    return {one[k : k + PIECE] for one in contents for k in range(0, len(one) - PIECE + 1, PIECE)}


def stored_in(place: Path, wanted: set[bytes]) -> set[bytes]:
    """Return the pieces that are in a file or those that SQLite puts beside it, or in any file of a folder."""
    files = place.rglob("*") if place.is_dir() else place.parent.glob(f"{place.name}*")
    content = b"".join(path.read_bytes() for path in files if path.is_file())
    return {piece for piece in wanted if piece in content}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", help="file or URL; anything there is kept")
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="of a database; only searches are made without it")
    options = parser.parse_args()
    database = options.place.startswith("postgres")
    files = options.files if database else Path(options.place)
    source = OrlSource()
    rng = np.random.default_rng(0)
    cf.Gallery.open(options.place, cf.FacePipeline.from_pretrained("sface")).close()
    gallery = cf.Gallery.open(options.place)
    services = [serve(options.place) for _ in range(2)]
    clients = [cf.Client(url) for _, url in services]
    found = missing = left = searched = 0
    gone: set[bytes] = set()
    begun = time.monotonic()
    try:
        for number in range(options.tries):
            one, other = clients if number % 2 else clients[::-1]
            who, image = int(rng.integers(PEOPLE)), int(rng.integers(IMAGES))
            texts = [secrets.token_hex(PIECE), secrets.token_hex(PIECE)]
            shown = photograph(source[IMAGES * who + image][0])
            one.enrol("somebody", [shown], name=texts[0], metadata={"room": texts[1]})
            missing += other.identify(shown).person != "somebody"
            own = pieces(gallery, "somebody", texts)
            last = number % EVERY == EVERY - 1 or number == options.tries - 1
            if files is not None and (last or not database):
                if database:
                    gallery.store.run("CHECKPOINT")
                missing += len(own - stored_in(files, own))
            one.delete("somebody")
            answer = other.identify(shown)
            found += answer.person is not None or answer.gallery_size != 0
            gone |= own
            if files is None or not (last or not database):
                continue
            while database and not gallery.purge().erased:  # a reader is in the way
                pass
            left, searched, gone = left + len(stored_in(files, gone)), searched + len(gone), set()
    finally:
        for process, _ in services:
            process.terminate()
        for process, _ in services:
            process.wait()
        gallery.close()
    print(f"{options.tries} deletions in {time.monotonic() - begun:.0f} s")
    print(f"found afterwards through the other service: {found}")
    print(f"pieces of 16 bytes left: {left} of {searched}; not there, or not found, before the deletion: {missing}")
    if found or left or missing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
