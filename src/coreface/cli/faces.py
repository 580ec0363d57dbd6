"""`coreface faces`: what a detector finds in photographs."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coreface.cli.pipeline_options import add_detector_options
from coreface.cli.terminal import add_command
from coreface.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from coreface.recognition.detection import Face

_NO_FACE = 4


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "list the faces in photographs; exit with 4 if no face is found"
    faces = add_command(commands, "faces", _faces, text)
    faces.add_argument("images", nargs="+", metavar="IMAGE", help="a photograph")
    faces.add_argument("--draw", metavar="FILE", help="write the photograph with its faces marked; of one IMAGE")
    faces.add_argument("--json", action="store_true", help="print boxes, landmarks, scores and quality as JSON")
    add_detector_options(faces)


def _faces(options: argparse.Namespace) -> int:
    from coreface.errors import ImageError
    from coreface.images.load import load_image
    from coreface.recognition.detectors import open_detector
    from coreface.recognition.drawing import write_drawing

    if options.draw and len(options.images) > 1:
        raise InputError(f"--draw {options.draw} goes with one IMAGE, got {len(options.images)}")
    detector = open_detector(options.detector, max_side=options.max_side, rotations=options.rotations)
    found = []
    unreadable = None
    for path in options.images:
        try:
            image = load_image(path)
        except ImageError as error:
            unreadable = unreadable or error
            print(f"coreface: {error}", file=sys.stderr)
            continue
        faces = detector.detect(image)
        found.append({"image": path, "faces": [{**face.to_dict(), "quality": _quality(image, face)} for face in faces]})
        if not options.json:
            print(f"{path}: {len(faces)} face{'' if len(faces) == 1 else 's'}")
            for face in faces:
                left, top, right, bottom = face.box
                eyes = f", {face.eye_distance:.0f} pixels between the eyes" if face.eye_distance is not None else ""
                print(f"  {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}, score {face.score:.3f}{eyes}")
        if options.draw:
            write_drawing(image, faces, Path(options.draw))
    if options.json:
        print(json.dumps(found, indent=2))
    if unreadable is not None:
        return 2
    return 0 if any(entry["faces"] for entry in found) else _NO_FACE


def _quality(image: "NDArray[np.uint8]", face: "Face") -> dict[str, float | None] | None:
    """Return the measures of quality of a face; None where its landmarks are those of no face."""
    from coreface.errors import ImageError
    from coreface.recognition.quality import measure_quality

    try:
        return measure_quality(image, face).to_dict()
    except ImageError:
        return None
