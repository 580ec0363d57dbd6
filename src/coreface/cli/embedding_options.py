"""What `evaluate`, `calibrate` and `compare` have in common: on whom they work, and where embeddings are kept."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.errors import CoreFaceError, RecipeError

if TYPE_CHECKING:
    from coreface.data.pairs.pair_set import PairSet
    from coreface.data.source import FaceSource
    from coreface.evaluation.embedding_sources import EmbeddingSource
    from coreface.images.alignment import Alignment
    from coreface.images.preprocessing import Preprocessing

PREPROCESSING_HELP = (
    "preprocessing of an .onnx file that does not contain it, in the schema of preprocess.json (default: the .json "
    "of the same name next to it)"
)


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add how embeddings are made and kept."""
    text = "the network of a MODEL that is a weight file (.pth), such as iresnet50"
    parser.add_argument("--backbone", metavar="NAME", help=text)
    parser.add_argument("--preprocessing", metavar="FILE", help=PREPROCESSING_HELP)
    text = "runtime of the encoder; for another one than torch a run is exported first (default: auto)"
    parser.add_argument("--runtime", choices=("auto", "torch", "onnxruntime", "opencv"), help=text)
    text = "precision of a run's products; auto: bf16 if the processor has units for it (default: float32)"
    parser.add_argument("--precision", choices=("float32", "bf16", "auto"), default="float32", help=text)
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads (default: the runtime's)")
    text = "images per batch, at most 64 (default: 64; 16 for an .onnx file)"
    parser.add_argument("--batch-size", type=int, metavar="N", help=text)
    parser.add_argument("--no-flip", action="store_true", help="do not add the mirrored image's embedding")
    parser.add_argument(
        "--cache", metavar="DIR", help="folder for caching embeddings (default: the user's cache folder)"
    )
    parser.add_argument("--no-cache", action="store_true", help="do not cache embeddings")


def cache_folder(options: argparse.Namespace) -> Path | None:
    """Return where embeddings are kept; None where they are not."""
    from coreface.evaluation.embedding_cache import default_folder

    if options.no_cache:
        return None
    return Path(options.cache) if options.cache else default_folder()


def open_embeddings(model: "EmbeddingSource | str", options: argparse.Namespace) -> "EmbeddingSource":
    """Open a run, a saved encoder, an ONNX file, known weights such as sface, or a ``.npz`` of embeddings.

    What ``auto`` chose goes to standard error. A source of embeddings stays as it is.
    """
    from coreface.models.open import is_onnx, is_weights
    from coreface.runs.evaluation import open_source

    opening: dict[str, Any] = {"threads": options.threads}
    # Of two models that are compared, one may need no network, and one no preprocessing.
    if isinstance(model, str) and is_weights(model):
        opening["backbone"] = options.backbone
    if isinstance(model, str) and is_onnx(model):
        opening["preprocessing"] = given_preprocessing(options)
    if options.runtime:
        opening["runtime"] = options.runtime
    embedding: dict[str, Any] = {}
    if options.batch_size is not None:
        embedding["batch_size"] = options.batch_size
    if options.precision != "float32":
        embedding["precision"] = _precision(options)
    source = open_source(
        model, flip=not options.no_flip, cache=cache_folder(options), opening=opening, embedding=embedding
    )
    if options.runtime == "auto" and source.encoder is not None:
        print(f"coreface: note: {model} is run by {source.encoder.runtime}", file=sys.stderr)
    return source


def given_preprocessing(options: argparse.Namespace) -> "Preprocessing | None":
    """Return what ``--preprocessing`` says; None where it was not given."""
    from coreface.models.onnx import read_preprocessing

    return None if options.preprocessing is None else read_preprocessing(Path(options.preprocessing))


def require_taker(options: argparse.Namespace, *models: str | None) -> None:
    """Raise `RecipeError` where options were given that none of the models takes."""
    from coreface.models.open import is_onnx

    onnx = [model is not None and is_onnx(model) for model in models]
    if options.preprocessing and not any(onnx):
        raise RecipeError(f"--preprocessing is {options.preprocessing}, expected only with an .onnx file")
    encoders = [model for model in models if model is not None and Path(model).suffix != ".npz"]
    given = {"--runtime": options.runtime, "--threads": options.threads, "--batch-size": options.batch_size}
    if not encoders and (astray := [name for name, value in given.items() if value is not None]):
        raise RecipeError(f"{astray[0]} is given for embeddings made elsewhere, expected only with an encoder")
    ours = [model for model in encoders if not is_onnx(model)]
    if options.precision != "float32" and (not ours or options.runtime in ("onnxruntime", "opencv")):
        raise RecipeError(f"--precision is {options.precision}, expected float32 for what torch does not run")


def _precision(options: argparse.Namespace) -> str:
    """Return the precision; what ``auto`` chose goes to standard error."""
    if options.precision != "auto":
        return str(options.precision)
    import torch

    from coreface.distributed.device import choose_device, choose_precision

    bf16 = choose_precision("auto", choose_device("cpu")) == torch.bfloat16
    print(f"coreface: note: precision auto is {'bf16' if bf16 else 'float32'} here", file=sys.stderr)
    return "bf16" if bf16 else "float32"


def warn_of_foreign(source: "EmbeddingSource", faces: "FaceSource | PairSet", place: str) -> None:
    """Say on standard error what some faces say of an ONNX file of unknown origin, and what is probably wrong."""
    from coreface.evaluation.encoder_probe import probe_encoder
    from coreface.models.onnx import OnnxEncoder

    encoder = source.encoder
    if not isinstance(encoder, OnnxEncoder) or not encoder.foreign:
        return
    probe = probe_encoder(encoder, faces)
    if probe is None:
        return
    print(
        f"coreface: note: {encoder.name}: {encoder.embedding_size} numbers, run by {encoder.runtime}; on {place}: "
        f"{probe.finding}",
        file=sys.stderr,
    )
    for warning in probe.warnings:
        print(f"coreface: warning: {encoder.name}: {warning}", file=sys.stderr)


def open_faces_or_held_out(path: str | None, model: str, **reader: Any) -> "FaceSource":
    """Open the faces at ``path`` (``reader`` says how), or those that the run ``model`` held out."""
    from coreface.data.open import open_faces
    from coreface.runs.evaluation import held_out

    if path is None:
        return held_out(model)
    faces = open_faces(path, **reader)
    warn_of_trained(faces.identity_names, path, model)
    return faces


def warn_of_trained(names: Sequence[str], place: str, model: str | None) -> None:
    """Say on standard error where people in ``place`` bear the names of those that a run was trained on.

    ``model`` is the folder of the run or that of its encoder; None or a file of embeddings was trained on nobody known.
    """
    from coreface.data.labels import IDENTITIES
    from coreface.data.path_names import known_people
    from coreface.training.initial_weights import ENCODER

    if model is None:
        return
    folder = Path(model).absolute()
    try:
        text = ((folder.parent if folder.name == ENCODER else folder) / IDENTITIES).read_text(encoding="utf-8")
        trained = json.loads(text)
    except (OSError, ValueError):  # no run, or one of an earlier version
        return
    known = known_people(names, trained) if isinstance(trained, list) else 0
    if known:
        print(
            f"coreface: warning: {known} of the {len(set(names))} people in {place} have the names of people that "
            f"{model} was trained on: rates on them are far too good, and thresholds too low",
            file=sys.stderr,
        )


def warn_of_crops(crops: "FaceSource | PairSet", place: str, alignment: "Alignment") -> None:
    """Say on standard error where crops do not look like the alignment that they are said to have, or should have.

    Nothing is said where the alignment is unknown, or no detector is installed.
    """
    from coreface.recognition.crop_check import check_crops
    from coreface.recognition.detectors import open_detector

    if not alignment.known:
        return
    try:
        detector = open_detector("yunet")
    except CoreFaceError:
        return
    message = check_crops(crops, alignment.template, detector).message
    if message:
        print(f"coreface: warning: {place}: {message}", file=sys.stderr)
