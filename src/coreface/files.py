"""Writing files so that nobody ever reads half of one."""

import os
import threading
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name always holds the whole old content or the whole new one, power cuts included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Replacement:
    """A file that is written under another name beside its own, and takes its name when it is whole.

    Args:
        path: the name it will have. What lies there stays until `place`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        self._file = self._temporary.open("wb")
        self.write, self.seek = self._file.write, self._file.seek

    def place(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written; does nothing once the file has its name."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def force_to_disk(path: Path) -> None:
    """Force a file that was written, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
