"""What has been done with photographs, in a file that survives a kill: a line with the settings, then one for each."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coreface.errors import DataError
from coreface.files import write_atomically


class Journal:
    """Entries of finished photographs by name, each a JSON object with its ``name`` and ``state``.

    Args:
        path: the file, in the folder that it speaks of.
        made: the settings that everything in it was made with.
        claim: whether the file claims the folder, which may then contain nothing else.

    Raises:
        DataError: the folder contains other files, or what was made with other settings.
    """

    def __init__(self, path: Path, made: Mapping[str, Any], *, claim: bool = True) -> None:
        self._path, folder = path, path.parent
        self._head = json.dumps(dict(made), sort_keys=True)
        self.entries: dict[str, dict[str, Any]] = {}
        lines = self._lines()
        if lines is None:
            if claim and folder.is_dir() and any(folder.iterdir()):
                raise DataError(f"{folder} exists already and was not made by coreface align: choose another name")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self._head.encode() + b"\n")
        elif lines[0] != self._head:
            raise DataError(
                f"{folder} contains crops that were made with other settings ({lines[0][:300]}; now {self._head[:300]}"
                "): choose another name, or remove it"
            )
        else:
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                    self.entries[entry["name"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a process that was killed
        self._file = path.open("a", encoding="ascii")
        self._file.write("\n")  # after a partial line of a process that was killed

    def _lines(self) -> list[str] | None:
        try:
            return [line for line in self._path.read_text(encoding="ascii", errors="replace").split("\n") if line]
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise DataError(
                f"{self._path.parent}: a file is in the way, expected a folder, or no file of that name"
            ) from error

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry, which replaces that of the same name."""
        self.entries[entry["name"]] = entry
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def finish(self, names: Iterable[str]) -> None:
        """Rewrite the entries of these names in their order; the others are left out."""
        self._file.close()
        self.entries = {name: self.entries[name] for name in names}
        lines = [self._head, *(json.dumps(entry) for entry in self.entries.values())]
        write_atomically(self._path, "".join(line + "\n" for line in lines).encode("ascii"))


def state_of(path: str) -> list[int]:
    """Return size and time of modification of a file; an empty list if they cannot be read."""
    try:
        status = Path(path).stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
