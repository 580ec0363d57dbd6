"""Encoders in ONNX files, run by onnxruntime or by OpenCV: the same interface as `FaceEncoder`, without torch.

A file of unknown origin is first run in a child process, since native parsers may crash or hang on a damaged one.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError, ModelError
from coreface.images.load import as_photographs, fit_square
from coreface.images.preprocessing import Preprocessing
from coreface.models import known
from coreface.models.onnx_file import OnnxFile, Tensor, read_onnx
from coreface.models.onnx_properties import CALIBRATION, DIGEST, FLIP, OUTPUT, PREPROCESSING, SOURCE, checked_properties
from coreface.models.onnx_runtime import OnnxRuntime, chosen_runtime, first_line, open_network, probe


class OnnxEncoder:
    """An encoder in an ONNX file.

    The input is uint8 RGB (batch, size, size, 3), as in exports of coreface, or float (batch, 3, size, size) after
    ``preprocessing``. No other file is read, and no custom operator is loaded.

    Args:
        model: the file, or the name of known weights.
        preprocessing: of a model that coreface did not export; None reads it from the file or from ``<name>.json`` next
            to it.
        runtime: ``auto`` selects OpenCV for known weights and where onnxruntime is not installed.
        threads: number of threads; None uses the runtime's default. OpenCV has one setting for the whole process.

    Attributes:
        name: the file or the known weights, as given.
        path: the file.
        preprocessing: how photographs become its input.
        embedding_size: length of an embedding.
        digest: of file and preprocessing, or of the encoder that was exported.
        file_digest: SHA-256 of the file.
        runtime: ``onnxruntime`` or ``opencv``.
        flip_inside: whether the model itself adds the embedding of the mirrored image.
        calibration: the ``calibration.json`` that an export carries; None without one.
        foreign: whether it is neither an export of coreface nor known weights, so that its preprocessing is a claim.

    Raises:
        ModelError: the file is missing, damaged, or not a face encoder; or its preprocessing is unknown.
        InputError: ``preprocessing`` is given, but the file contains it.
        MissingExtraError: ``runtime="onnxruntime"`` without the package.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        preprocessing: Preprocessing | None = None,
        runtime: OnnxRuntime = "auto",
        threads: int | None = None,
    ) -> None:
        self.name = os.fspath(model)
        trusted = self.name in known.KNOWN
        if trusted:
            weights = known.KNOWN[self.name]
            if weights.preprocessing is None:
                raise ModelError(f"{self.name} is a {weights.kind}, expected an encoder")
            self.path, content = known.locate(self.name), known.read(self.name)
            preprocessing = preprocessing or weights.preprocessing
        else:
            self.path = Path(model)
            content = file_content(self.path)
        with _named(self.path):
            described = read_onnx(content)
            self._input = _checked_input(described)
            properties = checked_properties(content)
        if preprocessing is not None and PREPROCESSING in properties:
            raise InputError(f"preprocessing is given for {self.path}, which contains its own: leave it out")
        self.preprocessing = preprocessing or described_preprocessing(self.path, properties)
        self.flip_inside = properties.get(FLIP) == "inside"
        self.calibration = properties.get(CALIBRATION)
        self.foreign = not trusted and SOURCE not in properties
        self._has_norms = properties.get(OUTPUT) == "unit" and len(described.outputs) > 1
        self.file_digest = hashlib.sha256(content).hexdigest()
        self.digest = properties.get(DIGEST) or own_digest(content, self.preprocessing)
        self.runtime = chosen_runtime(runtime, trusted)
        if not trusted:
            probe(self.path, self.runtime, self.image_size)
        with _named(self.path):
            self._run, self._fixed_batch = open_network(
                content, described, self.runtime, threads, outputs=1 + self._has_norms
            )
        if trusted and self.runtime == "opencv":
            self._fixed_batch = 0  # sface declares 1; OpenCV accepts any number of images
        self.embedding_size = int(self.embed([np.zeros((8, 8, 3), np.uint8)], flip=self.flip_inside).shape[1])

    @property
    def image_size(self) -> int:
        """Side of its square input in pixels."""
        return self.preprocessing.image_size

    def embed(
        self,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        flip: bool = True,
        *,
        batch_size: int = 16,
        unit: bool = True,
    ) -> NDArray[np.float32]:
        """Embed photographs, as `FaceEncoder.embed` does.

        Args:
            images: uint8 RGB: one batch (n, height, width, 3), or a sequence of images of any sizes, or one image.
            flip: add the embedding of the mirrored image before normalising.
            batch_size: images per batch.
            unit: scale every row to unit length.

        Returns:
            (n, embedding_size) float32.

        Raises:
            InputError: the images are not uint8 RGB, ``batch_size`` is below 1, or ``flip=False`` for a model that adds
                the mirrored image itself.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        if self.flip_inside and not flip:
            raise InputError(
                f"{self.name} adds the mirrored image itself, so flip=False is not possible: export it without --flip"
            )
        photographs = as_photographs(images)
        parts = []
        for start in range(0, len(photographs), self._fixed_batch or batch_size):
            some = photographs[start : start + (self._fixed_batch or batch_size)]
            squares = np.stack([fit_square(image, self.image_size) for image in some])
            found = self._run_batch(squares)
            if flip and not self.flip_inside:
                found = found + self._run_batch(squares[:, :, ::-1])
            parts.append(found)
        rows = np.concatenate(parts) if parts else np.empty((0, self.embedding_size), np.float32)
        if unit:
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
        return rows

    def _run_batch(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._input.dtype == "uint8":
            ordered = squares[..., ::-1] if self.preprocessing.colour_order == "BGR" else squares
            prepared: NDArray[Any] = np.ascontiguousarray(ordered)
        else:
            prepared = to_float_input(squares, self.preprocessing)
        count = len(prepared)
        if self._fixed_batch and count < self._fixed_batch:
            prepared = np.concatenate([prepared, np.repeat(prepared[-1:], self._fixed_batch - count, axis=0)])
        try:
            outputs = self._run(prepared)
        except Exception as error:  # the exception's type depends on the runtime and on the model
            raise ModelError(f"{self.path}: {self.runtime} cannot run it ({first_line(error)})") from error
        found = np.asarray(outputs[0], np.float32)
        # (n, numbers), or a map of one pixel (n, numbers, 1, 1).
        if found.shape[0] != len(prepared) or not 0 < found.size == len(prepared) * max(found.shape[1:], default=0):
            raise ModelError(f"{self.path}: gives {found.shape} for {len(prepared)} images, expected (n, numbers)")
        rows = found.reshape(len(prepared), -1)
        if self._has_norms:
            rows = rows * outputs[1]
        return rows[:count]


def to_float_input(squares: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Turn uint8 RGB (n, size, size, 3) into float (n, 3, size, size), the input of an encoder."""
    ordered = squares[..., ::-1] if preprocessing.colour_order == "BGR" else squares
    mean, scale = (np.asarray(value, np.float32) for value in (preprocessing.mean, preprocessing.scale))
    values = (ordered.astype(np.float32) - mean) / scale
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def own_digest(content: bytes, preprocessing: Preprocessing) -> str:
    """Return the digest of an ONNX file together with its preprocessing."""
    decisive = json.dumps(preprocessing.decisive(), sort_keys=True)
    return hashlib.sha256(f"{hashlib.sha256(content).hexdigest()} {decisive}".encode()).hexdigest()


def file_content(path: Path) -> bytes:
    """Return the bytes of an ONNX file. Raises `ModelError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}), expected an ONNX file") from error


def _checked_input(described: OnnxFile) -> Tensor:
    if described.external:
        raise ModelError(f"its weights are in another file ({described.external[0]}): save it as one file")
    if described.domains:
        raise ModelError(f"it needs custom operators ({', '.join(described.domains)}), which are never loaded")
    if len(described.inputs) != 1 or not described.outputs:
        names = ", ".join(map(str, described.inputs)) or "none"
        raise ModelError(f"its inputs are {names}, expected a single one for images: this is not a face encoder")
    found = described.inputs[0]
    channels = {"uint8": 3, "float32": 1}.get(found.dtype)
    if channels is None or len(found.shape) != 4 or found.shape[channels] not in (3, None):
        raise ModelError(
            f"its input is {found}, expected float32 (batch, 3, size, size) or uint8 (batch, size, size, 3)"
        )
    return found


def described_preprocessing(path: Path, properties: Mapping[str, str]) -> Preprocessing:
    """Return the preprocessing of an ONNX file, from its properties or from ``<name>.json`` next to it.

    Raises:
        ModelError: neither contains it, or it cannot be read.
    """
    if PREPROCESSING in properties:
        return _parsed(properties[PREPROCESSING], str(path))
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ModelError(
            f"{path} does not contain its preprocessing: give a file with --preprocessing, or write {beside.name} "
            f"beside it, for example {json.dumps(Preprocessing().to_dict())}"
        )
    return read_preprocessing(beside)


def read_preprocessing(path: Path) -> Preprocessing:
    """Read a file with the schema of ``preprocess.json``.

    Raises:
        ModelError: it cannot be read, or has another schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}), expected JSON such as preprocess.json") from error
    return _parsed(text, str(path))


def _parsed(text: str, where: str) -> Preprocessing:
    try:
        return Preprocessing.from_dict(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        example = json.dumps(Preprocessing().to_dict())
        raise ModelError(
            f"{where}: the preprocessing cannot be read ({error}), expected for example {example}"
        ) from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
