"""Matches paths: one rule for embeddings by name, labels of people, and people trained on.

A name matches an item if the item's path ends in the name, or if the name ends in the item's whole relative path, as
when the folders were elsewhere when it was written. The longest match counts; a name that matches two items equally
well is an error.
"""

import re
from collections.abc import Sequence

from coreface.errors import DataError

_NUMBER = re.compile(r"0|[1-9][0-9]*")

Parts = tuple[str, ...]
_SHOWN = 3


def parts_of(path: str) -> Parts:
    """Return the parts of a path, written with either slash; ``.`` and empty parts do not count."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def match_names(names: Sequence[str], places: Sequence[str], relative: Sequence[str], file: object) -> list[int | None]:
    """Return the name of each item.

    Args:
        names: the names as written.
        places: (n,) the paths of the items, as far as known.
        relative: (n,) the ends of these paths that identify the items, such as the path below the folder of a source.
        file: the file with the names, for messages.

    Returns:
        (n,) the index of a name, or None.

    Raises:
        DataError: a name occurs twice or matches several items equally well, or an item has several names.
    """
    split = [parts_of(name) for name in names]
    numbers: dict[Parts, int] = {}
    doubles = [number for number, parts in enumerate(split) if numbers.setdefault(parts, number) != number]
    if doubles:
        raise DataError(f"{file}: {_shown([names[number] for number in doubles])} stands twice; name everything once")
    tails: dict[int, dict[Parts, list[int]]] = {}
    found: list[int | None] = []
    fits: dict[int, list[int]] = {}  # name -> the items whose longer relative paths end in it
    for thing, (place, own) in enumerate(zip(places, relative, strict=True)):
        parts, length = parts_of(place), len(parts_of(own))
        ends = [numbers[end] for size in range(len(parts), 0, -1) if (end := parts[-size:]) in numbers]
        for number in ends:
            if len(split[number]) < length:
                fits.setdefault(number, []).append(thing)
        if length not in tails:
            tails[length] = _by_tail(split, length)
        longer = tails[length].get(parts[-length:], []) if length else []
        if ends and len(split[ends[0]]) >= length:
            found.append(ends[0])
        elif longer:
            common = [_common_end(split[number], parts) for number in longer]
            best = [number for number, size in zip(longer, common, strict=True) if size == max(common)]
            if len(best) > 1:
                alike = _shown([names[number] for number in best])
                raise DataError(f"{file}: {alike} fit {own} equally well; write names from the same folder on as it")
            found.append(best[0])
        else:
            found.append(ends[0] if ends else None)
    for number in {number for number in found if number is not None}:
        if len(things := fits.get(number, [])) > 1:
            meant = _shown([relative[thing] for thing in things])
            raise DataError(f"{file}: {names[number]} may be {meant}; write more of the path")
    return found


def _by_tail(split: list[Parts], length: int) -> dict[Parts, list[int]]:
    tails: dict[Parts, list[int]] = {}
    for number, parts in enumerate(split):
        if len(parts) >= length:
            tails.setdefault(parts[len(parts) - length :], []).append(number)
    return tails


def _common_end(one: Parts, other: Parts) -> int:
    size = 0
    while size < min(len(one), len(other)) and one[-1 - size] == other[-1 - size]:
        size += 1
    return size


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return " and ".join(names[:_SHOWN]) + more


def known_people(names: Sequence[str], others: Sequence[str]) -> int:
    """Count the names that may be people in ``others``, because one name is the end of the other.

    Plain numbers do not count, since RecordIO and shards number all identities from 0.
    """
    whole = {parts_of(name) for name in others if not _NUMBER.fullmatch(name)}
    ends = {parts[-size:] for parts in whole for size in range(1, len(parts) + 1)}

    def known(name: str) -> bool:
        parts = parts_of(name)
        return parts in ends or any(parts[-size:] in whole for size in range(1, len(parts)))

    return sum(known(name) for name in set(names) if not _NUMBER.fullmatch(name))
