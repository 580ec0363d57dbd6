"""`coreface report`: the report of a run, written again, during training or afterwards."""

import argparse
from pathlib import Path

from coreface.cli.terminal import add_command, progress_console


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "write the report of a run again: curves during training, error rates of its encoder afterwards"
    report = add_command(commands, "report", _report, text)
    report.add_argument("run", metavar="RUN", help="a run folder")


def _report(options: argparse.Namespace) -> None:
    from coreface.runs.report import redraw_report

    print(f"report: {redraw_report(Path(options.run), progress_console())}")
