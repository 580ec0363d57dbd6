"""Maps the labels in a storage to identities 0, 1, 2, ..., and keeps the labels as names."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError
from coreface.files import write_atomically

IDENTITIES = "identities.json"  #: names of the identities 0, 1, 2, ..., next to converted data and in a run
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")  #: how a whole number is written; int() takes 1_0 and other digits as well
_BLOCK = 2**18  # labels at a time, to keep the intermediate arrays small


def identities_of(labels: NDArray[Any], locate: Callable[[int], str]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Number the labels from 0 in the order of their values.

    Args:
        labels: (n,), integers or floats that are whole numbers.
        locate: returns the place of a label, for the message.

    Returns:
        identities (n,) int64, and the label of each identity in rising order.

    Raises:
        DataError: a label is not a whole number.
    """
    blocks = range(0, len(labels), _BLOCK)
    if labels.dtype.kind == "f":
        for at in blocks:
            some = labels[at : at + _BLOCK]
            whole = np.isfinite(some) & (np.floor(some) == some) & (np.abs(some) < 2**62)
            if not whole.all():
                bad = at + int((~whole).argmax())
                raise DataError(
                    f"{locate(bad)}: the label is {labels[bad]}, expected a whole number; the record is damaged, or "
                    "its label is no identity"
                )
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    identities = np.empty(len(labels), dtype=np.int64)
    if high - low > 4 * len(labels) + 1024:
        values, identities[:] = np.unique(labels.astype(np.int64), return_inverse=True)
        return identities, tuple(values.tolist())
    present = np.zeros(high - low + 1, dtype=np.bool_)
    for at in blocks:
        present[labels[at : at + _BLOCK].astype(np.int64) - low] = True
    number = np.cumsum(present) - 1
    for at in blocks:
        identities[at : at + _BLOCK] = number[labels[at : at + _BLOCK].astype(np.int64) - low]
    return identities, tuple((np.flatnonzero(present) + low).tolist())


class LabelTable:
    """Labels as written, of any length, numbered in the order of their first occurrence.

    Two spellings of a number, ``7`` and ``007``, are an error, because they may or may not be one person.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._spelling: dict[int, str] = {}  # of the whole numbers among the labels

    def number(self, label: str) -> int:
        """Return the number of a label, a new one for a new label.

        Raises:
            DataError: the label is a whole number that was spelt differently before.
        """
        known = self._numbers.get(label)
        if known is not None:
            return known
        if WHOLE_NUMBER.fullmatch(label):
            earlier = self._spelling.setdefault(int(label), label)
            if earlier != label:
                raise DataError(
                    f"the label is {label!r}, but {earlier!r} in an earlier one: write each number in one way"
                )
        return self._numbers.setdefault(label, len(self._numbers))

    def in_order(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return the identities of labels that `number` has numbered, and the label of each identity in rising order.

        Labels are sorted by value if all of them are whole numbers, and as text otherwise.
        """
        labels = list(self._numbers)
        if len(self._spelling) == len(labels):
            labels.sort(key=int)
        else:
            labels.sort()
        place = np.empty(len(labels), np.int64)
        for identity, label in enumerate(labels):
            place[self._numbers[label]] = identity
        return place[numbers], tuple(labels)


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the identities in order, so that labels can be traced back."""
    write_atomically(folder / IDENTITIES, (json.dumps(list(names), ensure_ascii=True, indent=0) + "\n").encode())


def read_names(folder: Path, labels: Sequence[int] | Sequence[str]) -> list[str]:
    """Return names for labels: from the file that `write_names` left there, else the labels themselves.

    Raises:
        DataError: the file is damaged or has no name for a label.
    """
    path = folder / IDENTITIES
    try:
        names = json.loads(path.read_bytes())
    except FileNotFoundError:
        return [str(label) for label in labels]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); remove it to have the labels as names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: expected a list of names; remove it to have the labels as names")
    outside = [label for label in labels if not 0 <= int(label) < len(names)]
    if outside:
        raise DataError(
            f"{path}: {len(names)} names, none for label {outside[0]}; it belongs to other faces: remove it"
        )
    return [names[int(label)] for label in labels]
