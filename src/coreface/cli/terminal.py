"""What the commands share: their place in the parser, the console they report progress to, the table they print."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from coreface.runs.evaluation import Evaluation


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    text: str,
) -> argparse.ArgumentParser:
    """Add a command that calls ``run`` with its options; what it returns is the exit status, None for 0."""
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run_command=run, takes_more=False)
    return added


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print the error rates of an encoder."""
    from coreface.reports.tables import print_verification

    print_verification(evaluation.verification)


def progress_console() -> "Console":
    """Return the console for progress: standard error, so that standard output stays for results."""
    from rich.console import Console

    return Console(stderr=True)
