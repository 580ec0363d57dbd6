"""What the commands share: their place in the parser and the console they report progress to."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coreface.errors import FaceError

if TYPE_CHECKING:
    from rich.console import Console


_PLAIN_EVERY = 15.0  # seconds between two lines where there is no terminal


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    text: str,
) -> argparse.ArgumentParser:
    """Add a command that calls ``run`` with its options; what it returns is the exit status, None for 0."""
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run_command=run, takes_more=False)
    add_import_option(added)
    return added


def add_import_option(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add ``--import``: the command line alone may name a module to import, a file never."""
    text = "import a module first, for the backbones, margins, readers and protocols that it registers; may be repeated"
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE", help=text)


def progress_console() -> "Console":
    """Return the console for progress: standard error, so that standard output stays for results."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def show_progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, or a line now and then where standard error is no terminal."""
    from rich.progress import Progress

    console = progress_console()
    if not console.is_terminal:
        last = time.monotonic()

        def line(done: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY:
                last = time.monotonic()
                print(f"{text}: {done} of {total} images", file=sys.stderr)

        yield line
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.update(task, completed=done)


def print_no_face(error: FaceError, as_json: bool) -> None:
    """Print why two faces could not be compared: on standard error, and with ``--json`` as a decision without match."""
    if as_json:
        print(json.dumps({"match": None, "reason": error.reason, "message": str(error)}, indent=2))
    print(f"coreface: {error}", file=sys.stderr)
