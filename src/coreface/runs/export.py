"""Export of an encoder to an ONNX file: converted, quantised on request, checked against torch, then written."""

import importlib.metadata
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coreface._version import __version__
from coreface.data.open import open_faces
from coreface.data.source import FaceSource
from coreface.errors import CoreFaceError, DataError, InputError, ModelError, RunError
from coreface.evaluation.calibration import CALIBRATION as CALIBRATION_FILE
from coreface.evaluation.export_check import ExportCheck, check_export, readable
from coreface.files import user_path, write_atomically
from coreface.images.load import fit_square
from coreface.models import onnx_properties as properties
from coreface.models.encoder import FaceEncoder
from coreface.models.onnx import own_digest, to_float_input
from coreface.models.onnx_export import onnx_model, require_export_extra
from coreface.models.onnx_quantize import Quantization, quantized
from coreface.models.open import encoder_folder, is_onnx, open_encoder
from coreface.runs.evaluation import held_out
from coreface.runs.folder import open_recipe_faces
from coreface.runs.status import RECIPE
from coreface.training.recipe import Recipe

CHECK_IMAGES = 500  #: faces on which a quantised export is compared with its source
_CALIBRATION_IMAGES = 128
_IMAGES_A_PERSON = 8  # pairs of too few people would be too similar to each other
_NO_LICENCE = "not stated; the weights are under the terms of those who trained them and of their training data"


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written.

    Attributes:
        path: the file.
        size: bytes.
        digest: of the encoder in the file: that of the source for a float32 export, otherwise a new one.
        check: the result of the comparison with the source.
    """

    path: Path
    size: int
    digest: str
    check: ExportCheck


def export_onnx(
    model: FaceEncoder | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    flip: bool = False,
    raw: bool = False,
    quantize: Quantization | None = None,
    calibration_faces: FaceSource | str | os.PathLike[str] | None = None,
    faces: FaceSource | str | os.PathLike[str] | None = None,
    check_images: int = CHECK_IMAGES,
    licence: str = _NO_LICENCE,
    backbone: str | None = None,
) -> Export:
    """Write an encoder as an ONNX file, provided that it agrees with torch on faces.

    The model turns uint8 RGB (batch, size, size, 3) into embeddings of unit length; see `onnx_model`. The file contains
    its preprocessing, the alignment, the result of the check and, for a float32 export, the calibration found next to
    the encoder. A float32 export keeps the digest of its source, so that calibrations and galleries stay valid. A
    quantised one has a new digest and needs a new calibration.

    Args:
        model: the encoder, the folder of a saved one or of a run, or a weight file with ``backbone``.
        path: the ``.onnx`` to write; an old one is replaced.
        flip: add the embedding of the mirrored image inside the model.
        raw: the network alone: float (batch, 3, size, size) in, embeddings of any length out.
        quantize: ``static`` (int8 products, scales measured on faces), ``float16`` (weights in half the bytes) or
            ``dynamic`` (uint8 weights, scales at run time).
        calibration_faces: faces on which the scales of ``static`` are measured; None uses training images of the run.
        faces: faces on which the export is checked; None uses those that the run is evaluated on, or the ORL faces.
        check_images: for a quantised export, the largest number of faces.
        licence: a note on the terms of the weights.
        backbone: the network of a weight file written by torch.save.

    Raises:
        ModelError: there is no encoder, or the export fails, cannot be run, or differs from torch by more than 1e-4.
        DataError: there are no faces for the check or the scales.
        InputError: an argument is out of range, or two exclude each other.
        MissingExtraError: the extra ``export`` is not installed.
        OSError: the file cannot be written.
    """
    target = user_path(path)
    if target.suffix.lower() != ".onnx":
        raise InputError(f"the output is {target}, expected a name that ends in .onnx")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.absolute().parent} is not a folder, expected an existing one for {target.name}")
    if calibration_faces is not None and quantize != "static":
        raise InputError("calibration faces are for static quantisation only: quantize='static' (--quantize static)")
    if check_images < 1:
        raise InputError(f"check_images is {check_images}, expected at least 1")
    require_export_extra()
    encoder = _encoder(model, backbone)
    checked_on, described = _faces_to_check(model, faces)
    content = onnx_model(encoder, flip=flip, raw=raw)
    if quantize is not None:
        scales_from = _calibration_batch(encoder, model, calibration_faces, raw) if quantize == "static" else None
        content = quantized(content, quantize, scales_from)
    texts = {
        properties.PREPROCESSING: json.dumps(encoder.preprocessing.to_dict()),
        properties.FLIP: "inside" if flip else "outside",
        properties.OUTPUT: "raw" if raw else "unit",
        properties.QUANTIZATION: quantize or "none",
        properties.SOURCE: json.dumps(_described(encoder)),
        properties.LICENCE: licence,
    }
    exact = quantize is None
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / target.name
        trial.write_bytes(properties.with_properties(content, texts))
        sample = checked_on if exact else _whole_people(checked_on, check_images)
        check = check_export(encoder, str(trial), sample, described, flip=flip, exact=exact)
    texts[properties.CHECK] = json.dumps(check.to_dict())
    if exact:
        texts[properties.DIGEST] = encoder.digest
        texts.update(_calibration(model, encoder))
    whole = properties.with_properties(content, texts)
    write_atomically(target, whole)
    return Export(target, len(whole), encoder.digest if exact else own_digest(whole, encoder.preprocessing), check)


def _encoder(model: FaceEncoder | str | os.PathLike[str], backbone: str | None) -> FaceEncoder:
    if isinstance(model, FaceEncoder):
        return model
    if is_onnx(model):
        raise ModelError(f"{model} is an ONNX model already, expected a run or a saved encoder")
    encoder = open_encoder(model, backbone=backbone)
    assert isinstance(encoder, FaceEncoder)  # everything but an ONNX model
    return encoder


def _faces_to_check(
    model: FaceEncoder | str | os.PathLike[str], faces: FaceSource | str | os.PathLike[str] | None
) -> tuple[FaceSource, str]:
    """Return the faces of the check and their description, which has no path because the file is given to others."""
    if isinstance(faces, FaceSource):
        return faces, "given faces"
    if faces is not None:
        return open_faces(os.fspath(faces)), "given faces"
    try:
        return held_out(model), "faces that the run is evaluated on"
    except RunError:  # not a run, or one without held-out people
        pass
    except CoreFaceError as error:  # for example a disk that is not mounted
        raise DataError(f"the faces that {model} is evaluated on cannot be opened: {error}; or --faces PATH") from error
    try:
        return open_faces("orl"), "the ORL faces"
    except CoreFaceError as error:
        raise DataError(f"there are no faces to check the export on: give some with --faces PATH ({error})") from error


def _calibration_batch(
    encoder: FaceEncoder,
    model: FaceEncoder | str | os.PathLike[str],
    faces: FaceSource | str | os.PathLike[str] | None,
    raw: bool,
) -> NDArray[Any]:
    """Return inputs of the exported model, taken evenly from a source."""
    if faces is None:
        if isinstance(model, FaceEncoder) or not (user_path(model) / RECIPE).is_file():
            raise DataError(
                "static quantisation measures its scales on faces, and this encoder is not a run with training faces: "
                "give a hundred faces or more with --calibration-faces PATH"
            )
        source, _ = open_recipe_faces(Recipe.load(user_path(model) / RECIPE))
    else:
        source = faces if isinstance(faces, FaceSource) else open_faces(os.fspath(faces))
    wanted = np.unique(np.linspace(0, len(source) - 1, _CALIBRATION_IMAGES, dtype=np.int64))
    squares = np.stack([fit_square(image, encoder.image_size) for image in readable(source, wanted)[1]])
    return to_float_input(squares, encoder.preprocessing) if raw else squares


def _whole_people(faces: FaceSource, limit: int) -> FaceSource:
    """Return at most so many faces, of people with two or more: only these make genuine pairs."""
    counts = np.bincount(faces.identities, minlength=faces.num_identities)
    people = np.random.default_rng(0).permutation(np.flatnonzero(counts > 1))
    chosen: list[int] = []
    for person in people.tolist():
        theirs = np.flatnonzero(faces.identities == person)[:_IMAGES_A_PERSON]
        if len(chosen) + len(theirs) > limit:
            break
        chosen += theirs.tolist()
    return faces.select(np.array(sorted(chosen) or range(min(limit, len(faces))), np.int64))


def _described(encoder: FaceEncoder) -> dict[str, Any]:
    return {
        "digest": encoder.digest,
        "backbone": encoder.backbone_name,
        "embedding_size": encoder.embedding_size,
        "image_size": encoder.image_size,
        "coreface": __version__,
        "torch": torch.__version__,
        "onnx": importlib.metadata.version("onnx"),
    }


def _calibration(model: FaceEncoder | str | os.PathLike[str], encoder: FaceEncoder) -> dict[str, str]:
    """Return as a property the calibration next to an encoder, if there is one and it belongs to it."""
    if isinstance(model, FaceEncoder) or not user_path(model).is_dir():
        return {}
    try:
        text = (encoder_folder(user_path(model)) / CALIBRATION_FILE).read_text(encoding="utf-8")
        content = json.loads(text)
        contract = content["about"].get("contract", {})
        owner = contract.get("encoder", content["encoder"])  # a pipeline's calibration names its encoder there
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {properties.CALIBRATION: text} if owner == encoder.digest else {}
