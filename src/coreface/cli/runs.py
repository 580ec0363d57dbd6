"""`coreface runs`: which runs there are, and how they stand."""

import argparse
import dataclasses
import json
from pathlib import Path

from coreface.cli.terminal import add_command


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    runs = add_command(commands, "runs", _runs, "list the runs: running, finished or interrupted, and how far")
    runs.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="where to look (default: runs)")
    runs.add_argument("--json", action="store_true", help="print them as JSON")


def _runs(options: argparse.Namespace) -> None:
    from coreface.runs.status import run_states

    states = run_states(Path(options.folder))
    if options.json:
        print(json.dumps([{**dataclasses.asdict(one), "folder": str(one.folder)} for one in states], indent=2))
        return
    if not states:
        print(f"there is no run in {options.folder}")
        return
    width = max(len(str(one.folder)) for one in states)
    print(f"{'run':{width}}  {'state':11}  {'epoch':>5}  {'step':>8}  {'loss':>8}  {'EER':>8}")
    for one in states:
        loss = "-" if one.loss is None else f"{one.loss:.3f}"
        eer = "-" if one.eer is None else f"{100 * one.eer:.2f} %"
        print(f"{one.folder!s:{width}}  {one.state:11}  {one.epoch:5}  {one.step:8}  {loss:>8}  {eer:>8}")
    if any(one.state == "interrupted" for one in states):
        print("go on with an interrupted one: coreface train --resume RUN")
