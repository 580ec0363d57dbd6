"""Tables for a terminal. Every table of the command line is printed here, and no cell of one ever wraps.

A table that is wider than the terminal is printed without its detail columns. If that is still too wide, it is printed
as records: the first cell of each row on a line of its own, and below it a line for each of the other cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_GAP = "   "  # between two cells


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: what its cells are.
        left: whether its cells are aligned to the left; numbers go to the right.
        detail: whether the column is left out where the terminal is too narrow for all of them.
    """

    heading: str
    left: bool = False
    detail: bool = False


def print_table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print a table, or records where the terminal is too narrow for it, and an empty line.

    Args:
        columns: the first one names the rows. A heading alone is a column of numbers.
        rows: a cell for each column. A row of no cells is an empty line.
        title: a sentence above the table, broken between words where it is too long.
        notes: sentences below it, likewise.
        console: where to print; None prints on standard output.
    """
    console = console or Console()
    plan = [Column(column) if isinstance(column, str) else column for column in columns]
    plan = [replace(column, heading=_one_line(column.heading)) for column in plan]
    cells = [[_one_line(cell) for cell in row] for row in rows]
    if title:
        console.print(Text(title))
    brief = [number for number, column in enumerate(plan) if not column.detail]
    for chosen in (list(range(len(plan))), brief):
        widths = [_width(plan[number], number, cells) for number in chosen]
        if sum(widths) + len(_GAP) * (len(widths) - 1) <= console.width:
            _print_grid([plan[n] for n in chosen], [[row[n] for n in chosen] if row else [] for row in cells], console)
            break
    else:
        _print_records(plan, cells, console)
    for note in notes:
        console.print(Text(note))
    console.print()


def print_line(text: str, console: Console, style: str = "") -> None:
    """Print a line of text as it is. The terminal breaks one that is too long, so that a path can be copied."""
    console.print(Text(text, style), soft_wrap=True)


def _print_grid(columns: Sequence[Column], rows: Sequence[Sequence[str]], console: Console) -> None:
    widths = [_width(column, number, rows) for number, column in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for column, width, cell in zip(columns, widths, cells, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column.left else space + cell)
        return _GAP.join(padded).rstrip()

    print_line(line([column.heading for column in columns]), console, "bold")
    print_line(line(["-" * width for width in widths]), console)
    for row in rows:
        print_line(line(row) if row else "", console)


def _print_records(columns: Sequence[Column], rows: Sequence[Sequence[str]], console: Console) -> None:
    widest = max(cell_len(column.heading) for column in columns[1:])
    for name, *cells in filter(None, rows):
        print_line(name, console, "bold")
        for column, cell in zip(columns[1:], cells, strict=True):
            if cell:
                print_line(f"  {column.heading}{' ' * (widest - cell_len(column.heading))}  {cell}", console)


def _width(column: Column, number: int, rows: Sequence[Sequence[str]]) -> int:
    return max(cell_len(text) for text in (column.heading, *(row[number] for row in rows if row)))


def _one_line(text: str) -> str:
    """Replace line breaks and other control characters, which a name from a file may have."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
