"""Lists on the terminal: the first lines of each kind, and how many more there are."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from coreface.data import FaceSource

_LISTED = 10  # lines of each kind


def print_some(
    title: str, lines: Sequence[str], *, all_by: str = "--json lists all", file: TextIO | None = None
) -> None:
    """Print a title and the first lines below it; ``all_by`` says where the others are."""
    print(f"{title}:", file=file)
    for line in lines[:_LISTED]:
        print(f"  {line}", file=file)
    if len(lines) > _LISTED:
        print(f"  and {len(lines) - _LISTED} more: {all_by}", file=file)


def print_left_out(source: "FaceSource") -> None:
    """Name, on standard error, what of the storage is not in what was written."""
    for notice in source.storage_notices():
        listed = "coreface data check --json lists all"
        print_some(f"note: {notice.message}", notice.items, all_by=listed, file=sys.stderr)
