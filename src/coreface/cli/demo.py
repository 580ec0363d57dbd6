"""`coreface demo`: train and measure on the ORL faces."""

import argparse
from pathlib import Path

from coreface.cli.terminal import add_command, progress_console


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        "train and evaluate on the ORL faces: raw pixels, the dropout-only baseline, CoReFace",
    )
    demo.add_argument(
        "--folds",
        type=int,
        default=4,
        choices=range(1, 5),
        metavar="N",
        help="groups of ten people to test on, 1 to 4 (default: %(default)s)",
    )
    demo.add_argument("--run", default="runs/demo", metavar="DIR", help="folder to write (default: %(default)s)")


def _demo(options: argparse.Namespace) -> None:
    from coreface.studies.demo import run_demo

    run_demo(Path(options.run), options.folds, progress_console())
