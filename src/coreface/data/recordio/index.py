"""The offsets of the records of a RecordIO file, from the `.idx` next to it, or from a scan if there is none.

A line of the index is ``key<tab>offset``. Millions of lines are read in blocks, so that no more than one block of text
is ever in memory.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError

_BLOCK = 2**20  # bytes of text read at a time; the tables of its numbers take six times as much
_LONGEST_LINE = 64  # bytes: two whole numbers of 20 digits fit well
_TAB, _NEWLINE, _ZERO, _NINE = b"\t\n09"


def read_index(path: Path) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Read an `.idx` file.

    Returns:
        (keys, offsets), int64, in the order of the lines. The keys are None if they are 0, 1, 2 and so on.

    Raises:
        DataError: a line is not two whole numbers, a key comes twice, or there is no line; the message has the line.
    """
    try:
        with path.open("rb") as file:
            count = sum(block.count(b"\n") for block in _blocks(file, path))
            if not count:
                raise DataError(f"{path}: empty, expected lines 'key<tab>offset'; remove it to have it rebuilt")
            file.seek(0)
            return _read_lines(file, path, count)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def index_text(keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> bytes:
    """Return the `.idx` lines of some records."""
    text = io.StringIO()
    for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True):
        text.write(f"{key}\t{offset}\n")
    return text.getvalue().encode()


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the file in pieces that end with a line."""
    rest = b""
    while block := file.read(_BLOCK):
        block = rest + block
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if len(rest) > _LONGEST_LINE:
            raise DataError(
                f"{path}: not an index: {len(rest)} bytes without the end of a line; remove it to rebuild it"
            )
        if end:
            yield block[:end]
    if rest:
        yield rest + b"\n"


def _read_lines(file: BinaryIO, path: Path, count: int) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    offsets = np.empty(count, dtype=np.int64)
    keys: NDArray[np.int64] | None = None
    done = 0
    for block in _blocks(file, path):
        pairs = _numbers(block)
        if pairs is None:
            pairs = _numbers_line_by_line(block, path, done)
        end = done + len(pairs)
        if keys is None and not np.array_equal(pairs[:, 0], np.arange(done, end)):
            keys = np.arange(count)
        if keys is not None:
            keys[done:end] = pairs[:, 0]
        offsets[done:end] = pairs[:, 1]
        done = end
    if keys is not None:
        _check_unique(keys, path)
    return keys, offsets


def _numbers(block: bytes) -> NDArray[np.int64] | None:
    """Read lines of exactly ``digits<tab>digits``, (lines, 2); None where a line is anything else."""
    characters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((characters < _ZERO) | (characters > _NINE))
    separators = characters[ends]
    lengths = np.diff(ends, prepend=-1)
    regular = (separators[::2] == _TAB).all() and (separators[1::2] == _NEWLINE).all() and len(ends) % 2 == 0
    if not regular or lengths.min() < 2 or lengths.max() > 19:  # any 18 digits fit into 63 bits
        return None
    return np.fromstring(block, dtype=np.int64, sep=" ").reshape(-1, 2)


def _numbers_line_by_line(block: bytes, path: Path, before: int) -> NDArray[np.int64]:
    """Read numbers separated by blanks; slow, and used only for irregular files."""
    pairs = []
    for number, line in enumerate(block.split(b"\n")[:-1], before + 1):
        words = line.split()
        if len(words) != 2 or not all(word.isdigit() and len(word) < 19 for word in words):
            shown = line[:40].decode("utf-8", "replace")
            raise DataError(
                f"{path}, line {number}: {shown!r}, expected 'key<tab>offset'; "
                "it is not an index or is damaged: remove it to have it rebuilt from the .rec"
            )
        pairs.append([int(words[0]), int(words[1])])
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _check_unique(keys: NDArray[np.int64], path: Path) -> None:
    if (np.diff(keys) > 0).all():
        return
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(again):
        line = int(again.min())
        raise DataError(f"{path}, line {line + 1}: key {keys[line]} comes a second time; remove it to have it rebuilt")
