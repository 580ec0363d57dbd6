"""`coreface study`: arms x seeds of a study file, with intervals for what they differ in."""

import argparse
import re
from pathlib import Path

from coreface.cli.terminal import add_command, progress_console
from coreface.errors import RecipeError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    study = add_command(
        commands,
        "study",
        _study,
        "train variants (arms) of a recipe with several seeds, and compare them",
    )
    study.add_argument("study", metavar="STUDY", help="a study file, or the name of one that comes with coreface")
    study.add_argument("--dir", metavar="DIR", help="the folder of the study (default: studies/NAME below runs)")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once, each with its share of threads")
    study.add_argument("--only", action="append", default=[], metavar="ARM", help="this arm; may be given again")
    study.add_argument("--seeds", metavar="LIST", help="some of the seeds, such as 1-3 or 1,4")
    study.add_argument("--dry-run", action="store_true", help="print the runs and the time they take; train nothing")
    study.set_defaults(takes_more=True)
    study.epilog = "Any field of the base recipe can be given as well: --data.train PATH."


def _study(options: argparse.Namespace) -> None:
    from coreface.studies.study import run_study
    from coreface.studies.study_file import read_study

    study = read_study(options.study, options.rest)
    folder = Path(options.dir) if options.dir else Path("runs") / "studies" / study.name
    run_study(
        study,
        folder,
        jobs=options.jobs,
        only=options.only,
        seeds=_numbers(options.seeds) if options.seeds else (),
        dry_run=options.dry_run,
        imports=options.imports,
        console=progress_console(),
    )


def _numbers(text: str) -> list[int]:
    """Return the numbers of a list such as 1-3,5."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise RecipeError(f"--seeds is {text!r}, expected numbers and ranges, such as 1-3,5")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
