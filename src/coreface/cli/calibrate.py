"""`coreface calibrate`: thresholds of an encoder for wanted error rates, kept beside it."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.cli.embedding_options import (
    add_embedding_options,
    open_embeddings,
    open_faces_or_held_out,
    require_taker,
    warn_of_foreign,
    warn_of_trained,
)
from coreface.cli.pipeline_options import add_detector_options, add_face_options, open_pipeline
from coreface.cli.reader_options import add_reader_options, reader_options
from coreface.cli.terminal import add_command, progress_console, show_progress
from coreface.errors import DataError, ModelError, RecipeError
from coreface.files import user_path

if TYPE_CHECKING:
    from coreface.data.folder import FolderSource
    from coreface.evaluation.calibration import Calibrator

_FPIRS = (1e-1, 1e-2)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    calibrate = add_command(
        commands, "calibrate", _calibrate, "estimate an encoder's thresholds from people, and save them next to it"
    )
    calibrate.add_argument("model", metavar="MODEL", help="a run, a saved encoder, an .onnx file, or sface")
    calibrate.add_argument(
        "--faces", metavar="PATH", help="a folder <identity>/<image> (default: people held out by the run)"
    )
    text = "photographs <identity>/<image> instead: calibrate detector, alignment and encoder together, for verify"
    calibrate.add_argument("--photos", metavar="PATH", help=text)
    text = "the file to write (default: calibration.json next to the encoder)"
    calibrate.add_argument("--out", metavar="FILE", help=text)
    calibrate.add_argument("--show", action="store_true", help="print the existing calibration; estimate nothing")
    calibrate.add_argument(
        "--gallery",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="also thresholds for a gallery of N people",
    )
    add_reader_options(calibrate)
    add_embedding_options(calibrate)
    text = "for an encoder that does not record its alignment: arcface"
    calibrate.add_argument("--alignment", metavar="NAME", help=text)
    add_face_options(calibrate, ("largest", "centre", "only"))
    add_detector_options(calibrate)
    calibrate.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _calibrate(options: argparse.Namespace) -> None:
    from coreface.evaluation.effective_pairs import FMRS
    from coreface.models.known import KNOWN
    from coreface.models.open import is_onnx
    from coreface.reports.tables import print_thresholds

    if any(size < 1 for size in options.gallery):
        raise RecipeError(f"--gallery is {options.gallery}, expected 1 or more people")
    if options.photos and options.faces:
        raise RecipeError("--photos and --faces exclude each other: photographs get aligned, faces are already crops")
    require_taker(options, options.model)
    # A threshold for an ONNX file is wanted for photographs, unless crops are given.
    onnx = is_onnx(options.model) and not options.faces and (not options.show or options.model in KNOWN)
    whole = options.photos or onnx
    calibrator, digest, path = _of_pipeline(options) if whole else _of_encoder(options)
    verification = [calibrator.threshold(fmr) for fmr in FMRS]
    galleries = {size: [calibrator.gallery_threshold(size, fpir) for fpir in _FPIRS] for size in options.gallery}
    if options.json:
        plain: dict[str, Any] = {
            "encoder": digest,
            "verification": [at.to_dict() for at in verification],
            "galleries": {str(size): [at.to_dict() for at in found] for size, found in galleries.items()},
        }
        print(json.dumps(plain, indent=2, allow_nan=False))
        return
    print_thresholds(verification, calibrator)
    for size, found in galleries.items():
        print_thresholds(found, calibrator, gallery=size)
    if not options.show:
        print(f"calibration: {path}")


def _of_encoder(options: argparse.Namespace) -> "tuple[Calibrator, str, Path]":
    """Return the calibration of an encoder on crops, its digest, and its path."""
    from coreface.evaluation.calibrate import calibrate
    from coreface.evaluation.calibration import CALIBRATION, Calibrator
    from coreface.models.open import encoder_folder, is_onnx
    from coreface.recognition.calibration_files import calibration_place

    if Path(options.model).suffix == ".npz":
        raise RecipeError(
            f"{options.model} is a file of embeddings, expected an encoder: thresholds are kept beside it"
        )
    if options.backbone is not None:
        raise RecipeError("--backbone does not go with calibrate: thresholds are kept beside an encoder; save it first")
    if options.out:
        path = Path(options.out)
    elif is_onnx(options.model):
        path = calibration_place(options.model)
    else:
        path = encoder_folder(user_path(options.model)) / CALIBRATION
    source = open_embeddings(options.model, options)
    digest = str(source.provenance.digest)
    if not options.show:
        reader = reader_options(options)
        faces = open_faces_or_held_out(options.faces, options.model, **reader)
        warn_of_foreign(source, faces, options.faces or "held out")
        calibrator = calibrate(source, faces, progress_console())
        return calibrator, digest, calibrator.save(path, digest)
    carried = getattr(source.encoder, "calibration", None)
    try:
        if carried is not None and not path.is_file():
            return Calibrator.from_text(carried, digest, options.model), digest, Path(options.model)
        return Calibrator.load(path, digest), digest, path
    except ModelError as error:
        try:
            return _of_pipeline(options)  # the one that is there may be that of a pipeline
        except ModelError:
            raise error from None


def _of_pipeline(options: argparse.Namespace) -> "tuple[Calibrator, str, Path]":
    """Return the calibration of detector, alignment and encoder on photographs, its digest, and its path."""
    from collections import Counter

    import numpy as np

    from coreface.data.folder import FolderSource
    from coreface.data.source import require_identities
    from coreface.evaluation.calibrate import calibrate_embeddings
    from coreface.recognition.calibration_files import calibration_place

    given = {"--runtime": options.runtime, "--threads": options.threads, "--batch-size": options.batch_size}
    if options.precision != "float32":
        given["--precision"] = options.precision
    if astray := [name for name, value in given.items() if value is not None]:
        raise RecipeError(
            f"{astray[0]} does not go with photographs, whose pipeline chooses itself; it goes with crops"
        )
    chosen = {"face": options.face, "min_eyes": options.min_eyes, "flip": not options.no_flip}
    pipeline = open_pipeline(options, calibration=options.out if options.show else None, **chosen)
    if options.show:
        if pipeline.calibration is None:
            raise ModelError(f"no calibration for this pipeline ({pipeline.no_calibration})")
        return pipeline.calibration, pipeline.contract_digest, Path(options.model)
    if not options.photos:
        raise RecipeError(f"{options.model} is calibrated on photographs, --photos FOLDER, or crops, --faces PATH")
    path = Path(options.out) if options.out else calibration_place(options.model)
    people = FolderSource(options.photos)
    require_identities(people, 2, "calibration")
    warn_of_trained(people.identity_names, options.photos, options.model)
    with show_progress("embedding", len(people)) as progress:
        found = pipeline.embed(_counted(people, progress), on_error="record")
    for error in found.failures.values():
        print(f"coreface: left out: {error}", file=sys.stderr)
    identities = people.identities[found.indices]
    if len(np.unique(identities)) < 2:
        raise DataError(f"{options.photos}: faces of fewer than two people were found; calibration needs many")
    calibrator = calibrate_embeddings(found.embeddings, identities)
    reasons = Counter(getattr(error, "reason", "unreadable") for error in found.failures.values())
    about = {
        "contract": pipeline.contract,
        "people": len(np.unique(identities)),
        "photographs": len(identities),
        "left_out": dict(reasons),
    }
    return calibrator, pipeline.contract_digest, calibrator.save(path, pipeline.contract_digest, about)


def _counted(people: "FolderSource", progress: Callable[[int], None]) -> Iterator[str]:
    for index in range(len(people)):
        progress(index)
        yield people.locate(index)
