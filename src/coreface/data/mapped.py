"""A file mapped into memory that survives pickling and forking, and notices when it has been cut off meanwhile."""

import mmap
import os
from pathlib import Path

from coreface.errors import DataError


class MappedFile:
    """A file to read at any place, mapped on first use in every process.

    No handle is shared with another process: a copy made by pickling or forking maps the file anew.

    Args:
        path: the file. It is not opened here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        self._process = self._size = 0

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_map": None, "_process": 0, "_size": 0}

    def view(self) -> memoryview:
        """Return the whole content. Keep it no longer than the work on a record takes.

        Raises:
            DataError: the file is missing, empty, cannot be read, or has become shorter since it was mapped.
        """
        return memoryview(self.mapping())

    def mapping(self) -> mmap.mmap:
        """Return the map itself, of which a slice is a copy. Errors: see `view`."""
        if self._map is None or self._process != os.getpid():
            self._open()
        assert self._map is not None
        try:
            size = self._map.size()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        if size < self._size:  # to touch what is gone would end the process
            raise DataError(f"{self.path}: cut off from {self._size} to {size} bytes while in use; get a new copy")
        return self._map

    def release(self) -> None:
        """Let go of the memory that holds what was read; it is read from the file again when asked for."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _open(self) -> None:
        try:
            with self.path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise DataError(f"{self.path}: empty; get a new copy")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file; check the path") from error
        except (OSError, ValueError) as error:  # ValueError: the file shrank to nothing in between
            raise DataError(f"{self.path}: cannot be read ({error})") from error
        self._process, self._size = os.getpid(), len(self._map)
