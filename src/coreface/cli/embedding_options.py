"""What `evaluate`, `calibrate` and `compare` have in common: on whom they work, and where embeddings are kept."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.errors import CoreFaceError

if TYPE_CHECKING:
    from coreface.data.pairs.pair_set import PairSet
    from coreface.data.source import FaceSource
    from coreface.evaluation.embedding_sources import EmbeddingSource
    from coreface.images.alignment import Alignment


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add how embeddings are made and kept."""
    text = "of a MODEL that is a file of weights (.pth): its network, such as iresnet50"
    parser.add_argument("--backbone", metavar="NAME", help=text)
    parser.add_argument("--no-flip", action="store_true", help="do not add the mirrored image's embedding")
    parser.add_argument("--cache", metavar="DIR", help="where embeddings are kept (default: the user's cache folder)")
    parser.add_argument("--no-cache", action="store_true", help="keep no embeddings")


def cache_folder(options: argparse.Namespace) -> Path | None:
    """Return where embeddings are kept; None where they are not."""
    from coreface.evaluation.embedding_cache import default_folder

    if options.no_cache:
        return None
    return Path(options.cache) if options.cache else default_folder()


def open_embeddings(model: "EmbeddingSource | str", options: argparse.Namespace) -> "EmbeddingSource":
    """Open a run, a saved encoder, an ONNX file, known weights such as sface, or a ``.npz`` of embeddings.

    A source of embeddings stays as it is.
    """
    from coreface.models.open import is_weights
    from coreface.runs.evaluation import open_source

    # Of two models that are compared, one may need no network.
    backbone = options.backbone if isinstance(model, str) and is_weights(model) else None
    return open_source(model, flip=not options.no_flip, cache=cache_folder(options), backbone=backbone)


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
