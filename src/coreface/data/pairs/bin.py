"""Verification sets in `.bin`: a pickle of (encoded images, answers), read without running anything it names.

Images 2i and 2i + 1 are pair i. The files come from Python 2 and 3, with images as bytes or as NumPy arrays of bytes.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from coreface.data.pairs.pair_set import PairSet, require_no_contradiction
from coreface.data.pairs.safe_pickle import Bool, ByteArray, kind_of, read_pickle
from coreface.data.source import Notice
from coreface.errors import DataError
from coreface.files import Replacement


class BinPairs(PairSet):
    """The pairs of a `.bin` file. The images stay encoded; each distinct image is kept once.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or is not such a pickle.
    """

    def __init__(self, path: Path) -> None:
        images, answers = _parts(read_pickle(path), path)
        numbers: dict[bytes, int] = {}
        places: list[int] = []
        kept: list[bytes] = []
        of = []
        seen: dict[int, int] = {}  # a small file may refer to one large image many times
        for place, image in enumerate(images):
            number = seen.get(id(image))
            if number is None:
                number = numbers.setdefault(hashlib.blake2b(image, digest_size=16).digest(), len(kept))
                seen[id(image)] = number
            if number == len(kept):
                kept.append(image)
                places.append(place)
            of.append(number)
        indices = np.array(of, dtype=np.int64)
        super().__init__(indices[::2], indices[1::2], answers, len(kept))
        self._path, self._images, self._places = path, kept, places
        self._notices = require_no_contradiction(self, lambda pair: f"{path}, pair {pair}")

    def notices(self) -> list[Notice]:
        return self._notices

    def encoded(self, index: int) -> bytes:
        return self._images[index]

    def locate(self, index: int) -> str:
        return f"{self._path}, image {self._places[index]} (of pair {self._places[index] // 2})"


def write_bin(pairs: PairSet, path: Path) -> None:
    """Write a set of pairs as `.bin`: pairs in their order, images as they are stored.

    Raises:
        ImageError: an image cannot be read.
        OSError: the file cannot be written.
    """
    order = np.stack([pairs.left, pairs.right], axis=1).ravel()
    images = [pairs.encoded(int(index)) for index in order]
    file = Replacement(path)
    try:
        pickle.dump((images, pairs.same.tolist()), file, protocol=4)
        file.place()
    finally:
        file.discard()


def _parts(value: Any, path: Path) -> tuple[list[bytes], list[bool]]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise DataError(f"{path}: the content is {kind_of(value)}, expected (list of images, list of bool)")
    images: Any
    answers: Any
    images, answers = (part.values() or part if isinstance(part, ByteArray) else part for part in value)
    for name, part in (("images", images), ("answers", answers)):
        if not isinstance(part, list | tuple):
            raise DataError(f"{path}: the {name} are {kind_of(part)}, expected a list")
    if len(images) != 2 * len(answers):
        raise DataError(f"{path}: {len(images)} images for {len(answers)} answers, expected two a pair")
    encoded = []
    copies: dict[int, bytes] = {}  # one copy of each bytearray, however often it is referred to
    for place, image in enumerate(images):
        image = image.content() or image if isinstance(image, ByteArray) else image
        if not isinstance(image, bytes | bytearray):
            raise DataError(f"{path}: image {place} is {kind_of(image)}, expected bytes or an array of bytes")
        encoded.append(image if isinstance(image, bytes) else _copied(image, copies))
    return encoded, [_answer(answer, place, path) for place, answer in enumerate(answers)]


def _copied(image: bytearray, copies: dict[int, bytes]) -> bytes:
    if id(image) not in copies:
        copies[id(image)] = bytes(image)
    return copies[id(image)]


def _answer(answer: Any, place: int, path: Path) -> bool:
    answer = answer.value if isinstance(answer, Bool) else answer
    if answer not in (0, 1) or not isinstance(answer, int):
        raise DataError(f"{path}: answer {place} is {kind_of(answer)}, expected True or False")
    return bool(answer)
