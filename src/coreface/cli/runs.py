"""`coreface runs`: lists runs and their status."""

import argparse
import dataclasses
import json
from pathlib import Path

from coreface.cli.terminal import add_command


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    runs = add_command(commands, "runs", _runs, "list the runs: running, finished or interrupted, and their progress")
    runs.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="where to look (default: runs)")
    runs.add_argument("--json", action="store_true", help="print them as JSON")


def _runs(options: argparse.Namespace) -> None:
    from coreface.runs.status import LAUNCHERS, run_states

    states = run_states(Path(options.folder))
    if options.json:
        print(json.dumps([{**dataclasses.asdict(one), "folder": str(one.folder)} for one in states], indent=2))
        return
    if not states:
        print(f"there is no run in {options.folder}")
        return
    from coreface.reports.terminal_table import Column, print_table

    print_table(
        (Column("run", left=True), Column("state", left=True), "epoch", "step", "loss", "EER"),
        [
            [
                str(one.folder),
                one.state,
                str(one.epoch),
                str(one.step),
                "-" if one.loss is None else f"{one.loss:.3f}",
                "-" if one.eer is None else f"{100 * one.eer:.2f} %",
            ]
            for one in states
        ],
    )
    interrupted = [one.folder for one in states if one.state == "interrupted"]
    if interrupted:
        print("resume an interrupted run: coreface train --resume RUN")
    if any((folder / LAUNCHERS).exists() for folder in interrupted):
        print("if torchrun started it: torchrun --nproc-per-node N -m coreface train --resume RUN")
