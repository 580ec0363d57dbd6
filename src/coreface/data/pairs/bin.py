"""Verification sets in `.bin`: a pickle of (encoded images, answers), read without running anything it names.

Image 2i and image 2i + 1 are pair i. The files come from Python 2 and 3, with images as bytes or as NumPy arrays of
bytes. A pickle is a program; this one is read twice. The first pass goes over its instructions without following them
and refuses all but those that make lists, tuples, bytes, text, numbers and arrays, as well as lengths and places in its
memory that the file does not justify. The second pass lets the standard unpickler follow them, with stand-ins of our
own for the few names allowed, so that nothing of NumPy's, or of anybody's, is ever called by the file.
"""

import hashlib
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from coreface.data.pairs.pair_set import PairSet, require_no_contradiction
from coreface.data.source import Notice
from coreface.errors import DataError
from coreface.files import Replacement

_ALLOWED = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "EMPTY_LIST",
        "LIST",
        "APPEND",
        "APPENDS",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
    ]
)
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_WHAT = "expected only lists, tuples, bytes, text, numbers and arrays of bytes, as in a set of pairs; nothing was run"


class BinPairs(PairSet):
    """The pairs of a `.bin` file. The images stay encoded, each kept once however many pairs it is in.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, is no such pickle, or asks for anything else.
    """

    def __init__(self, path: Path) -> None:
        images, answers = _parts(_unpickled(path), path)
        numbers: dict[bytes, int] = {}
        places: list[int] = []
        kept: list[bytes] = []
        of = []
        seen: dict[int, int] = {}  # a small file may name one large image very often
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
        raise DataError(f"{path}: holds what is {_kind(value)}, expected (list of images, list of bool)")
    images: Any
    answers: Any
    images, answers = (part.values() or part if isinstance(part, _Array) else part for part in value)
    for name, part in (("images", images), ("answers", answers)):
        if not isinstance(part, list | tuple):
            raise DataError(f"{path}: the {name} are {_kind(part)}, expected a list")
    if len(images) != 2 * len(answers):
        raise DataError(f"{path}: {len(images)} images for {len(answers)} answers, expected two a pair")
    encoded = []
    copies: dict[int, bytes] = {}  # one of each bytearray, however often it is named
    for place, image in enumerate(images):
        image = image.content() or image if isinstance(image, _Array) else image
        if not isinstance(image, bytes | bytearray):
            raise DataError(f"{path}: image {place} is {_kind(image)}, expected bytes or an array of bytes")
        encoded.append(image if isinstance(image, bytes) else _copied(image, copies))
    return encoded, [_answer(answer, place, path) for place, answer in enumerate(answers)]


def _copied(image: bytearray, copies: dict[int, bytes]) -> bytes:
    if id(image) not in copies:
        copies[id(image)] = bytes(image)
    return copies[id(image)]


def _answer(answer: Any, place: int, path: Path) -> bool:
    answer = answer.value if isinstance(answer, _Scalar) else answer
    if answer not in (0, 1) or not isinstance(answer, int):
        raise DataError(f"{path}: answer {place} is {_kind(answer)}, expected True or False")
    return bool(answer)


def _kind(value: Any) -> str:
    if value is None or (isinstance(value, int) and abs(value) < 2**32):
        return repr(value)
    return "another array" if isinstance(value, _Array) else f"of type {type(value).__name__.strip('_').lower()}"


def _unpickled(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    _check_instructions(data, path)
    try:
        return _Unpickler(data).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # what a damaged pickle trips over can be anything
        raise DataError(f"{path}: damaged: {' '.join(str(error).split())[:200]}; get a new copy") from error


def _check_instructions(data: bytes, path: Path) -> None:
    allowed = {instruction.code: instruction for instruction in pickletools.opcodes if instruction.name in _ALLOWED}
    stream = io.BytesIO(data)
    count = 0
    name = ""
    while name != "STOP":
        position = stream.tell()
        code = stream.read(1).decode("latin-1")
        if code not in allowed:
            what = f"the instruction {code!r}" if code else "the end of the file"
            raise DataError(f"{path}, byte {position}: {what}, {_WHAT}")
        name, kind = allowed[code].name, allowed[code].arg
        count += 1
        argument: Any = None
        try:
            if name == "STRING":  # up to the end of the line; the reader of pickletools wants ASCII within
                stream.readline()
            elif kind is not None:
                argument = kind.reader(stream)
        except Exception as error:  # several kinds, where an argument is cut off or makes no sense
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}, byte {position}: {name}, damaged or cut off ({reason}); {_WHAT}") from error
        # The memory of the unpickler grows to the highest place named, whatever lies below.
        if name.endswith("PUT") and not 0 <= int(argument) <= count:
            raise DataError(f"{path}, byte {position}: place {argument} in the memory, expected at most {count}")


class _Dtype:
    """Stands in for ``numpy.dtype``: bytes or bool, nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        name = code.decode("latin-1") if isinstance(code, bytes) else code
        if name not in ("u1", "|u1", "b1", "|b1"):
            raise DataError(f"an array of {name!r}, {_WHAT}")
        self.is_bool = "b" in name

    def __setstate__(self, _: Any) -> None:
        """Byte order, fields and alignment: a type of one byte has none."""


class _Array:
    """Stands in for an array of ``numpy``: of one dimension, in bytes or bool."""

    def __init__(self, *_: Any) -> None:
        self._bytes: bytes | None = None
        self._is_bool = False

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, content = state
        self._fill(shape, dtype, content)

    def _fill(self, shape: Any, dtype: Any, content: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise DataError(f"an array of {_kind(dtype)}, {_WHAT}")
        if shape != (len(content),):
            raise DataError(f"an array of shape {str(shape)[:80]} in {len(content)} bytes, expected one row of bytes")
        self._bytes, self._is_bool = bytes(content), dtype.is_bool

    def content(self) -> bytes | None:
        """Return an encoded image, None if this is none."""
        return None if self._is_bool else self._bytes

    def values(self) -> list[bool] | None:
        """Return the answers, None if these are none."""
        return [bool(value) for value in self._bytes] if self._bytes is not None and self._is_bool else None


class _Scalar:
    """Stands in for ``numpy.bool_``."""

    def __init__(self, dtype: Any, content: Any) -> None:
        if not isinstance(dtype, _Dtype) or not dtype.is_bool or content not in (b"\0", b"\1"):
            raise DataError(f"a number of NumPy's other than a bool, {_WHAT}")
        self.value = content == b"\1"


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise DataError(f"an array made of {_kind(kind)}, {_WHAT}")
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, _: Any) -> _Array:
    array = _Array()
    array._fill(shape, dtype, content)
    return array


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(module, "_reconstruct"): _reconstruct for module in _ARRAY_MODULES},
    **{(module, "scalar"): _Scalar for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _BUFFER_MODULES},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._left = len(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        found = _STAND_INS.get((module, name))
        if found is None:
            raise DataError(f"asks for {module}.{name}, {_WHAT}")
        return found

    def _encode(self, text: Any, codec: Any) -> bytes:
        """Python 3 writes bytes so for Python 2."""
        if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
            raise DataError(f"text in another encoding than latin1, {_WHAT}")
        # Each text stands in the file once; one that is named again and again would fill any memory.
        self._left -= len(text)
        if self._left < 0:
            raise DataError(f"more bytes than the file holds, {_WHAT}")
        return text.encode("latin-1")
