"""`coreface verify`: do two photographs show one person?"""

import argparse
import json

from coreface.cli.pipeline_options import (
    add_detector_options,
    add_face_options,
    add_model_options,
    add_quality_option,
    open_pipeline,
)
from coreface.cli.terminal import add_command, print_no_face
from coreface.errors import FaceError

_MATCH, _NO_MATCH, _UNDECIDED = 0, 3, 4


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = (
        "decide if two photographs show the same person; exit with 0 for a match, 3 for no match, 4 if there is no "
        "face or the calibration cannot decide"
    )
    verify = add_command(commands, "verify", _verify, text)
    verify.add_argument("a", metavar="A", help="a photograph")
    verify.add_argument("b", metavar="B", help="another")
    verify.add_argument(
        "--fmr", type=float, default=1e-3, metavar="X", help="requested false match rate (default: 1e-3)"
    )
    verify.add_argument(
        "--threshold", type=float, metavar="T", help="decide at this cosine instead of a calibrated threshold"
    )
    verify.add_argument("--calibration", metavar="FILE", help="of this model and detector (default: next to the model)")
    verify.add_argument("--json", action="store_true", help="print the decision as JSON")
    add_model_options(verify)
    add_face_options(verify, ("largest", "centre", "only"))
    add_quality_option(verify)
    add_detector_options(verify)


def _verify(options: argparse.Namespace) -> int:
    calibration = None if options.threshold is not None else options.calibration
    pipeline = open_pipeline(options, calibration=calibration, face=options.face, min_eyes=options.min_eyes)
    try:
        decision = pipeline.verify(
            options.a, options.b, options.fmr, threshold=options.threshold, quality=options.quality
        )
    except FaceError as error:
        print_no_face(error, options.json)
        return _UNDECIDED
    status = _UNDECIDED if decision.match is None else _MATCH if decision.match else _NO_MATCH
    if options.json:
        print(json.dumps(decision.to_dict(), indent=2, allow_nan=False))
        return status
    if decision.match is None:
        print(f"undecidable at a false match rate of {options.fmr:g}: fewer than 3 false matches of the calibration")
        print(f"cosine {decision.score:.4f}; ask for a higher rate, or calibrate on more people")
        return status
    print("match" if decision.match else "no match")
    print(f"cosine {decision.score:.4f}, threshold {decision.threshold:.4f}")
    if decision.standing == "given":
        print("the threshold was given: its false match rate is unknown")
        return status
    interval = "" if decision.fmr_low is None else f", 95 % interval {decision.fmr_low:.2g} to {decision.fmr_high:.2g}"
    print(f"false match rate {decision.fmr:.2g}{interval}")
    if decision.standing == "marked":
        print("note: it is based on fewer than 30 false matches of the calibration: treat it as rough")
    return status
