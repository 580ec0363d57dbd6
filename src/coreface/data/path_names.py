"""Who and what is meant by a path: one rule for embeddings by name, labels of people, and people trained on.

A name is told by as many parts of its path as are there. It means a thing whose own path ends in it, and also where its
end is the whole relative path of the thing, as where the folders lay elsewhere when it was written. The longest part
decides; what fits two things equally well is refused rather than guessed.
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
    """Return which name each thing has.

    Args:
        names: as somebody has written them.
        places: (n,) the whole paths of the things, or as much of them as is known.
        relative: (n,) the ends of those that tell the things apart, such as the path below the folder of a source.
        file: where the names stand, for messages.

    Returns:
        (n,) the number of a name, None where there is none.

    Raises:
        DataError: a name stands twice, or fits several things equally well, or a thing has several names.
    """
    split = [parts_of(name) for name in names]
    numbers: dict[Parts, int] = {}
    doubles = [number for number, parts in enumerate(split) if numbers.setdefault(parts, number) != number]
    if doubles:
        raise DataError(f"{file}: {_shown([names[number] for number in doubles])} stands twice; name everything once")
    tails: dict[int, dict[Parts, list[int]]] = {}
    found: list[int | None] = []
    fits: dict[int, list[int]] = {}  # name -> the things that end in it, though it is shorter than their own paths
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
    """Count the names that may be those of people in ``others``: one is the end of the other.

    Plain numbers do not count: RecordIO and shards number everybody from 0.
    """
    whole = {parts_of(name) for name in others if not _NUMBER.fullmatch(name)}
    ends = {parts[-size:] for parts in whole for size in range(1, len(parts) + 1)}

    def known(name: str) -> bool:
        parts = parts_of(name)
        return parts in ends or any(parts[-size:] in whole for size in range(1, len(parts)))

    return sum(known(name) for name in set(names) if not _NUMBER.fullmatch(name))
