"""Opening an encoder of any kind: a run, a saved encoder, an ONNX file, or known weights."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError, ModelError
from coreface.files import user_path
from coreface.images.preprocessing import Preprocessing
from coreface.models import onnx_properties as properties
from coreface.models.known import KNOWN
from coreface.models.onnx import OnnxEncoder

if TYPE_CHECKING:
    from coreface.models.encoder import FaceEncoder

Runtime: TypeAlias = Literal["auto", "torch", "onnxruntime", "opencv"]
_SAME = 1e-4  # largest difference to torch, in a component of an embedding, of an encoder run by another runtime
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

    @property
    def runtime(self) -> str:
        """The runtime: ``torch``, ``onnxruntime`` or ``opencv``."""

    def embed(
        self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], flip: bool = True, *, unit: bool = True
    ) -> NDArray[np.float32]:
        """Return (n, embedding_size) for uint8 RGB images (height, width, 3); see `FaceEncoder.embed`."""


def is_onnx(model: str | os.PathLike[str]) -> bool:
    """Whether ``model`` is the name of known weights or an ONNX file, rather than a folder."""
    return os.fspath(model) in KNOWN or (Path(model).suffix.lower() == ".onnx" and not Path(model).is_dir())


def is_weights(model: str | os.PathLike[str]) -> bool:
    """Whether ``model`` is a weight file written by torch.save, which does not name its network."""
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
        runtime: ``auto`` selects torch for a run or a saved encoder, OpenCV for known weights, and onnxruntime, if
            installed, for an ONNX file; the encoder's ``runtime`` names the selected one. For another runtime a saved
            encoder is exported in memory, which takes seconds, and compared with torch.
        threads: number of threads; None uses the runtime's default. torch and OpenCV have one setting for the whole
            process.
        backbone: the network of a weight file written by torch.save, such as ``iresnet50``.

    Raises:
        ModelError: there is no encoder, or it is damaged, or ``backbone`` is missing or goes with something else.
        InputError: ``preprocessing`` or ``runtime`` does not go with the model, or ``threads`` is below 1.
        MissingExtraError: the package that contains the weights is not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}, expected at least 1")
    if is_onnx(model) and backbone is None:
        if runtime == "torch":
            raise InputError(f"the runtime is torch, expected auto, onnxruntime or opencv for {model}")
        return OnnxEncoder(model, preprocessing=preprocessing, runtime=runtime, threads=threads)
    if preprocessing is not None:
        raise InputError(f"preprocessing is given for {model}, expected only for an ONNX file that does not contain it")
    if runtime not in get_args(Runtime):
        raise InputError(f"runtime is {runtime!r}, expected {', '.join(get_args(Runtime))}")
    encoder = _open_torch(model, backbone)
    if runtime in ("onnxruntime", "opencv"):
        return _run_by(encoder, os.fspath(model), runtime, threads)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return encoder


def _open_torch(model: str | os.PathLike[str], backbone: str | None) -> "FaceEncoder":
    path = user_path(model)
    if backbone is not None:
        if not path.is_file() or is_onnx(model):
            raise ModelError(f"the backbone {backbone} was given for {path}, expected one only for a weight file")
        from coreface.models.encoder import FaceEncoder

        return FaceEncoder.from_insightface(path, backbone)
    if is_weights(model):
        raise ModelError(f"{path} is a weight file: give its network, for example --backbone iresnet50")
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


def _run_by(
    encoder: "FaceEncoder", name: str, runtime: Literal["onnxruntime", "opencv"], threads: int | None
) -> OnnxEncoder:
    """Export an encoder to another runtime than torch; its digest stays the same."""
    from coreface.models.onnx_export import onnx_model

    texts = {
        properties.PREPROCESSING: json.dumps(encoder.preprocessing.to_dict()),
        properties.FLIP: "outside",
        properties.OUTPUT: "unit",
        properties.SOURCE: "{}",
        properties.DIGEST: encoder.digest,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        path.write_bytes(properties.with_properties(onnx_model(encoder), texts))
        other = OnnxEncoder(path, runtime=runtime, threads=threads)
    other.name, other.path = name, Path(name)
    size = encoder.image_size
    noise = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    difference = float(np.abs(other.embed(noise) - encoder.embed(noise)).max())
    if not difference <= _SAME:
        raise ModelError(f"{name}: {runtime} differs from torch by {difference:.1e}, expected at most {_SAME:g}")
    return other
