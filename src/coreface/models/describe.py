"""What a model says of itself: a run, a saved encoder, an ONNX file or known weights. No network is run."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coreface.errors import CoreFaceError, ModelError
from coreface.files import user_path
from coreface.models import onnx_properties as properties
from coreface.models.known import KNOWN, locate, read
from coreface.models.onnx import described_preprocessing, file_content, own_digest
from coreface.models.onnx_file import read_onnx
from coreface.models.open import is_onnx, open_encoder

_JSON = (properties.SOURCE, properties.CHECK, properties.CALIBRATION)


def describe_model(model: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is known of a model, as plain values; what is not known is None or left out.

    Raises:
        ModelError: there is none, or it is damaged.
        MissingExtraError: the package that brings known weights is not installed.
    """
    if is_onnx(model):
        return _of_onnx(model)
    from coreface.models.encoder import FaceEncoder  # brings torch

    encoder = open_encoder(model)
    assert isinstance(encoder, FaceEncoder)  # all that is no ONNX model
    return {
        "model": os.fspath(model),
        "kind": "encoder",
        "backbone": encoder.backbone_name,
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "embedding_size": encoder.embedding_size,
        "digest": encoder.digest,
        "preprocessing": encoder.preprocessing.to_dict(),
    }


def _of_onnx(model: str | os.PathLike[str]) -> dict[str, Any]:
    name = os.fspath(model)
    known = KNOWN.get(name)
    path = locate(name) if known else user_path(model)
    content = read(name) if known else file_content(path)
    try:
        described, texts = read_onnx(content), properties.checked_properties(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    preprocessing, why = (known.preprocessing, None) if known else _preprocessing(path, texts)
    size = described.outputs[0].shape[-1] if described.outputs and described.outputs[0].shape else None
    own = None if preprocessing is None else own_digest(content, preprocessing)
    found: dict[str, Any] = {
        "model": name,
        "kind": f"known {known.kind}" if known else "ONNX model",
        "size": len(content),
        "file_digest": hashlib.sha256(content).hexdigest(),
        "digest": texts.get(properties.DIGEST) or own,
        "inputs": [str(tensor) for tensor in described.inputs],
        "outputs": [str(tensor) for tensor in described.outputs],
        "opset": described.opset,
        "custom_operators": list(described.domains),
        "other_files": list(described.external),
        "embedding_size": None if known and known.kind == "detector" else size,
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "preprocessing_missing": why,
    }
    if known:
        return {
            **found,
            "path": str(path),
            "licence": known.licence,
            "training_data": known.training_data,
            "note": known.note,
        }
    for key in (properties.FLIP, properties.OUTPUT, properties.QUANTIZATION, properties.LICENCE, *_JSON):
        if key in texts:
            found[key.removeprefix("coreface.")] = _value(path, key, texts)
    return found


def _preprocessing(path: Path, texts: Mapping[str, str]) -> tuple[Any, str | None]:
    try:
        return described_preprocessing(path, texts), None
    except CoreFaceError as error:
        return None, str(error)


def _value(path: Path, key: str, texts: Mapping[str, str]) -> Any:
    if key not in _JSON:
        return texts[key]
    try:
        return json.loads(texts[key])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its property {key} cannot be read ({error})") from error
