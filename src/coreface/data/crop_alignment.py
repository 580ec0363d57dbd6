"""Reads and writes `alignment.json`, which records next to crops how they were made and is copied with them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from coreface.errors import DataError, InputError
from coreface.files import write_atomically
from coreface.images.alignment import UNKNOWN, Alignment

ALIGNMENT: Final = "alignment.json"
REJECTS, SAMPLES = "rejects.csv", "samples.png"  #: what `coreface align` writes beside it
_FORMAT = 1


def read_alignment(folder: Path) -> Alignment:
    """Return how the crops in a folder were made; ``unknown`` if it is not recorded.

    Raises:
        DataError: the file is damaged, or of a newer format.
    """
    path = folder / ALIGNMENT
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise InputError(f"format {content['format']}, expected {_FORMAT}")
        return Alignment(content["template"], content["border"])
    except (FileNotFoundError, NotADirectoryError):
        return Alignment(UNKNOWN)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); remove it if the crops were made otherwise") from error


def write_alignment(folder: Path, alignment: Alignment, about: Mapping[str, Any] | None = None) -> None:
    """Write how the crops in a folder were made.

    Args:
        folder: of the crops.
        alignment: how they were made.
        about: more to know, as plain values: the detector, which faces were taken.
    """
    content = {"format": _FORMAT, **alignment.to_dict(), **dict(about or {})}
    write_atomically(folder / ALIGNMENT, (json.dumps(content, indent=2) + "\n").encode())
