"""`coreface evaluate`: error rates of an encoder."""

import argparse
import json
import sys
from pathlib import Path

from coreface.cli.terminal import add_command, print_evaluation, progress_console
from coreface.errors import RecipeError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    evaluate = add_command(
        commands, "evaluate", _evaluate, "measure an encoder on people: every image against every other"
    )
    evaluate.add_argument("model", metavar="MODEL", help="a run folder, or the folder of a saved encoder")
    evaluate.add_argument("--faces", metavar="PATH", help="a folder <identity>/<image>; default: whom the run held out")
    evaluate.add_argument("--no-flip", action="store_true", help="do not add the mirrored image's embedding")
    evaluate.add_argument("--replicates", type=int, metavar="N", help="of the bootstrap; 0 for no intervals")
    evaluate.add_argument("--json", action="store_true", help="print all numbers as JSON")
    evaluate.add_argument("--report", metavar="FILE", help="write a page with plots and the worst mistakes")


def _evaluate(options: argparse.Namespace) -> None:
    from coreface.evaluation.report import write_report
    from coreface.measure import evaluate, run_page

    if options.replicates is not None and options.replicates < 0:
        raise RecipeError(f"--replicates is {options.replicates}, expected 0 or more")
    evaluation = evaluate(
        options.model,
        options.faces,
        flip=not options.no_flip,
        replicates=options.replicates,
        console=progress_console(),
    )
    for message in evaluation.embedded.unreadable.values():
        print(f"coreface: left out: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps(evaluation.to_dict(), indent=2, allow_nan=False))
    else:
        print_evaluation(evaluation)
    if options.report:
        write_report(run_page(Path(options.model), evaluation), Path(options.report))
        print(f"report: {options.report}", file=sys.stderr if options.json else sys.stdout)
