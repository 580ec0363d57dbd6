"""Opening an encoder of any kind: a run, a saved encoder, an ONNX file, or known weights."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coreface.errors import ModelError
from coreface.files import user_path
from coreface.images.preprocessing import Preprocessing
from coreface.models.known import KNOWN
from coreface.models.onnx import OnnxEncoder, Runtime

_CONFIG, _ENCODER = "config.json", "encoder"
_WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".tar")  # usual suffixes of files written by torch.save


class Encoder(Protocol):
    """The interface of all encoders, whichever runtime they use."""

    @property
    def embedding_size(self) -> int:
        """Numbers in an embedding."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the embeddings."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photograph is turned into the network's input, including the alignment of crops."""

    def embed(
        self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], flip: bool = True, *, unit: bool = True
    ) -> NDArray[np.float32]:
        """Return (n, embedding_size) for uint8 RGB images (height, width, 3); see `FaceEncoder.embed`."""


def is_onnx(model: str | os.PathLike[str]) -> bool:
    """Whether ``model`` is the name of known weights or an ONNX file, rather than a folder."""
    return os.fspath(model) in KNOWN or (Path(model).suffix.lower() == ".onnx" and not Path(model).is_dir())


def is_weights(model: str | os.PathLike[str]) -> bool:
    """Whether ``model`` is a file of weights that torch.save wrote, which does not say its network."""
    path = user_path(model)
    return path.is_file() and path.suffix.lower() in _WEIGHTS


def open_encoder(
    model: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    runtime: Runtime = "auto",
    threads: int | None = None,
    backbone: str | None = None,
) -> Encoder:
    """Open an encoder.

    Args:
        model: the folder of a run or of a saved encoder, an ONNX file, or the name of known weights such as ``sface``.
        preprocessing: of an ONNX file that does not contain it.
        runtime: which library runs an ONNX file.
        threads: for onnxruntime.
        backbone: the network of a file of weights that torch.save wrote, such as ``iresnet50``.

    Raises:
        ModelError: there is no encoder, it is damaged, or ``backbone`` is missing or not applicable.
        MissingExtraError: the package that contains it is not installed.
    """
    path = user_path(model)
    if backbone is not None:
        if not path.is_file() or is_onnx(model):
            raise ModelError(f"the backbone {backbone} was given for {path}, expected one only for a file of weights")
        from coreface.models.encoder import FaceEncoder

        return FaceEncoder.from_insightface(path, backbone)
    if is_onnx(model):
        return OnnxEncoder(model, preprocessing=preprocessing, runtime=runtime, threads=threads)
    if is_weights(model):
        raise ModelError(f"{path} is a file of weights: give its network, for example --backbone iresnet50")
    folder = encoder_folder(path)
    from coreface.models.encoder import FaceEncoder  # imports torch, which an ONNX file does not need

    return FaceEncoder.from_pretrained(folder)


def encoder_folder(path: Path) -> Path:
    """Return the folder of a saved encoder: ``path`` itself, or the encoder of the run in ``path``.

    Raises:
        ModelError: there is none.
    """
    for folder in (path, path / _ENCODER):
        if (folder / _CONFIG).is_file():
            return folder
    state = "contains no encoder" if path.is_dir() else "is not an encoder" if path.exists() else "does not exist"
    names = ", ".join(name for name, weights in KNOWN.items() if weights.kind == "encoder")
    raise ModelError(
        f"{path} {state}: expected a run folder, a folder that save_pretrained wrote, an .onnx file, or known weights "
        f"({names}; coreface models lists them)"
    )
