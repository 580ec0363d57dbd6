"""Reads pickles without executing anything in them.

A pickle is a program. The first pass decodes its instructions without executing them. It accepts only instructions that
create lists, tuples, bytes, text, numbers and arrays, and rejects lengths and memo indices that exceed the file. In the
second pass the standard unpickler executes them, with stand-ins for the few allowed names, so that the file never calls
a function of NumPy or of any other module.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from coreface.errors import DataError

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


def kind_of(value: Any) -> str:
    """Describe a value for an error message."""
    if value is None or (isinstance(value, int) and abs(value) < 2**32):
        return repr(value)
    return "another array" if isinstance(value, ByteArray) else f"of type {type(value).__name__.strip('_').lower()}"


def read_pickle(path: Path) -> Any:
    """Read a pickle of lists, tuples, bytes, text, numbers, bool and arrays of bytes. Nothing in it is executed.

    Returns:
        Its value; arrays and bool of NumPy are `ByteArray` and `Bool`.

    Raises:
        DataError: it cannot be read, is damaged, or asks for anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    _check_instructions(data, path)
    try:
        return _Unpickler(data).load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise any error
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
            if name == "STRING":  # to the end of the line; the reader of pickletools accepts ASCII only
                stream.readline()
            elif kind is not None:
                argument = kind.reader(stream)
        except Exception as error:  # several kinds, if an argument is cut off or invalid
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}, byte {position}: {name}, damaged or cut off ({reason}); {_WHAT}") from error
        # The memo of the unpickler grows to the highest index, even if all below are unused.
        if name.endswith("PUT") and not 0 <= int(argument) <= count:
            raise DataError(f"{path}, byte {position}: index {argument} of the memo, expected at most {count}")


class _Dtype:
    """Stands in for ``numpy.dtype``: uint8 or bool, nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        name = code.decode("latin-1") if isinstance(code, bytes) else code
        if name not in ("u1", "|u1", "b1", "|b1"):
            raise DataError(f"an array of {name!r}, {_WHAT}")
        self.is_bool = "b" in name

    def __setstate__(self, _: Any) -> None:
        """Ignore byte order, fields and alignment: a type of one byte has none."""


class ByteArray:
    """Stands in for a NumPy array: of one dimension, of uint8 or bool."""

    def __init__(self, *_: Any) -> None:
        self._bytes: bytes | None = None
        self._is_bool = False

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, content = state
        self._fill(shape, dtype, content)

    def _fill(self, shape: Any, dtype: Any, content: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise DataError(f"an array of {kind_of(dtype)}, {_WHAT}")
        if shape != (len(content),):
            raise DataError(f"an array of shape {str(shape)[:80]} in {len(content)} bytes, expected one row of bytes")
        self._bytes, self._is_bool = bytes(content), dtype.is_bool

    def content(self) -> bytes | None:
        """Return the bytes of an array of uint8; None for one of bool."""
        return None if self._is_bool else self._bytes

    def values(self) -> list[bool] | None:
        """Return the values of an array of bool; None for one of uint8."""
        return [bool(value) for value in self._bytes] if self._bytes is not None and self._is_bool else None


class Bool:
    """Stands in for ``numpy.bool_``; its ``value`` is a bool."""

    def __init__(self, dtype: Any, content: Any) -> None:
        if not isinstance(dtype, _Dtype) or not dtype.is_bool or content not in (b"\0", b"\1"):
            raise DataError(f"a number of NumPy's other than a bool, {_WHAT}")
        self.value = content == b"\1"


def _reconstruct(kind: Any, *_: Any) -> ByteArray:
    if kind is not ByteArray:
        raise DataError(f"an array made of {kind_of(kind)}, {_WHAT}")
    return ByteArray()


def _from_buffer(content: Any, dtype: Any, shape: Any, _: Any) -> ByteArray:
    array = ByteArray()
    array._fill(shape, dtype, content)
    return array


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): _Dtype,
    **{(module, "_reconstruct"): _reconstruct for module in _ARRAY_MODULES},
    **{(module, "scalar"): Bool for module in _ARRAY_MODULES},
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
        """Stands in for ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
        if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
            raise DataError(f"text in another encoding than latin1, {_WHAT}")
        # The file contains each text once; encoding one repeatedly could exhaust the memory.
        self._left -= len(text)
        if self._left < 0:
            raise DataError(f"more bytes than the file holds, {_WHAT}")
        return text.encode("latin-1")
