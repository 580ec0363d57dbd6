"""A memory-mapped file that can be pickled and forked, and that detects truncation while it is in use."""

import mmap
import os
import weakref
from pathlib import Path

from coreface.errors import DataError

_files: "weakref.WeakSet[MappedFile]" = weakref.WeakSet()


class MappedFile:
    """A file for random access, mapped on first use in every process.

    No handle is shared with another process: a copy made by pickling or forking maps the file again.

    Args:
        path: the file. It is not opened here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        self._size = 0
        _files.add(self)

    def __reduce__(self) -> tuple[type["MappedFile"], tuple[Path]]:
        return MappedFile, (self.path,)

    def view(self) -> memoryview:
        """Return the whole content. Do not keep the view after a record has been processed.

        Raises:
            DataError: the file is missing, empty, cannot be read, or has become shorter since it was mapped.
        """
        return memoryview(self.mapping())

    def mapping(self) -> mmap.mmap:
        """Return the map, whose slices are copies. Errors: see `view`."""
        if self._map is None:
            self._map = self._open()
            self._size = len(self._map)
        try:
            size = self._map.size()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        if size < self._size:  # accessing the missing part would end the process
            raise DataError(f"{self.path}: cut off from {self._size} to {size} bytes while in use; get a new copy")
        return self._map

    def mapping_in_use(self) -> mmap.mmap | None:
        """Return the map if it is open and unchanged; None if `mapping` must be called."""
        opened = self._map
        try:
            return opened if opened is not None and opened.size() >= self._size else None
        except OSError:
            return None

    def release(self) -> None:
        """Release the memory of the pages read so far; they are read from the file again when needed."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the map; the next use opens the file again."""
        self._map = None

    def _open(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise DataError(f"{self.path}: empty; get a new copy")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file; check the path") from error
        except (OSError, ValueError) as error:  # ValueError: the file shrank to nothing in between
            raise DataError(f"{self.path}: cannot be read ({error})") from error


def _close_all() -> None:
    for file in list(_files):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
