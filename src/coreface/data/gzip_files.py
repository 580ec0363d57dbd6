"""Unpacks gzip files once into temporary files, because random access is not possible in a compressed stream."""

import atexit
import contextlib
import gzip
import os
import shutil
import tempfile
import zlib
from pathlib import Path

from coreface.errors import DataError

_CHUNK = 2**20
_LEFT_FREE = 2**30  # bytes of disk space that unpacking leaves free


def unpacked(path: Path) -> Path:
    """Unpack a file into a temporary one, which is removed when this program ends.

    Raises:
        DataError: it cannot be read, is damaged or cut off, or the disk has no room for what it holds.
    """
    handle, name = tempfile.mkstemp(prefix="coreface-", suffix=".tar")
    atexit.register(_remove, name, os.getpid())
    try:
        with gzip.open(path, "rb") as packed, os.fdopen(handle, "wb") as target:
            while chunk := packed.read(_CHUNK):
                if shutil.disk_usage(Path(name).parent).free < _LEFT_FREE:
                    raise DataError(
                        f"{path}: unpacking it fills the disk of {Path(name).parent}; unpack it elsewhere by hand, or "
                        "set TMPDIR to a folder with more room"
                    )
                target.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); get a complete copy") from error
    return Path(name)


def _remove(name: str, process: int) -> None:
    if os.getpid() == process:  # a forked worker has the same exit handlers
        with contextlib.suppress(OSError):
            Path(name).unlink()
