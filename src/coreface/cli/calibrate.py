"""`coreface calibrate`: thresholds of an encoder for wanted error rates, kept beside it."""

import argparse
import json
from pathlib import Path
from typing import Any

from coreface.cli.embedding_options import add_embedding_options, open_faces_or_held_out, open_subject
from coreface.cli.terminal import add_command, progress_console
from coreface.errors import RecipeError

_FPIRS = (1e-1, 1e-2)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    calibrate = add_command(
        commands, "calibrate", _calibrate, "learn an encoder's thresholds from people, and keep them beside it"
    )
    calibrate.add_argument("model", metavar="MODEL", help="a run folder, or the folder of a saved encoder")
    calibrate.add_argument(
        "--faces", metavar="PATH", help="a folder <identity>/<image>; default: whom the run held out"
    )
    calibrate.add_argument("--show", action="store_true", help="print the calibration that is there; learn nothing")
    calibrate.add_argument(
        "--gallery", type=int, action="append", default=[], metavar="N", help="thresholds for a gallery of N people too"
    )
    add_embedding_options(calibrate)
    calibrate.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _calibrate(options: argparse.Namespace) -> None:
    from coreface.evaluation.calibration import FMRS, Calibrator
    from coreface.evaluation.protocols.people import calibrate
    from coreface.reports.tables import print_thresholds
    from coreface.runs.evaluation import encoder_folder

    folder = encoder_folder(Path(options.model))
    subject = open_subject(options.model, options)
    if subject.digest is None or any(size < 1 for size in options.gallery):
        raise RecipeError(f"--gallery is {options.gallery}, expected 1 or more people")
    if options.show:
        calibrator = Calibrator.load(folder, subject.digest)
    else:
        calibrator = calibrate(subject, open_faces_or_held_out(options.faces, options.model), progress_console())
        calibrator.save(folder, subject.digest)
    verification = [calibrator.threshold(fmr) for fmr in FMRS]
    galleries = {size: [calibrator.gallery_threshold(size, fpir) for fpir in _FPIRS] for size in options.gallery}
    if options.json:
        plain: dict[str, Any] = {
            "encoder": subject.digest,
            "verification": [at.to_dict() for at in verification],
            "galleries": {str(size): [at.to_dict() for at in found] for size, found in galleries.items()},
        }
        print(json.dumps(plain, indent=2, allow_nan=False))
        return
    print_thresholds(verification, calibrator)
    for size, found in galleries.items():
        print_thresholds(found, calibrator, gallery=size)
    if not options.show:
        print(f"calibration: {folder / 'calibration.json'}")
