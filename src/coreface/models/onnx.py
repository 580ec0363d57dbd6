"""Encoders in ONNX files, run by onnxruntime or by OpenCV: the same interface as `FaceEncoder`, without torch.

A file of unknown origin is first run in a child process, since native parsers may crash or hang on a damaged one.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import CoreFaceError, InputError, MissingExtraError, ModelError
from coreface.images.load import as_photographs, fit_square, silent_opencv
from coreface.images.preprocessing import Preprocessing
from coreface.models import known
from coreface.models.onnx_file import OnnxFile, Tensor, read_onnx, without_weights_as_inputs

Runtime: TypeAlias = Literal["auto", "onnxruntime", "opencv"]
Run: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]

#: Properties that an export writes into the file: a ``preprocess.json``, whether the mirror image is added inside, and
#: the digest of the encoder that was exported, where the check found the two equal.
PREPROCESSING, FLIP, DIGEST = "coreface.preprocessing", "coreface.flip", "coreface.digest"
_PROBE_SECONDS = 120


class OnnxEncoder:
    """An encoder in an ONNX file.

    The input is uint8 RGB (batch, size, size, 3), as our own exports take it, or float (batch, 3, size, size), whose
    pixels are prepared as ``preprocessing`` says. Nothing outside of the file is read, and no custom operator.

    Args:
        model: the file, or the name of known weights.
        preprocessing: of a foreign model; None takes what is in the file, or in ``<name>.json`` beside it.
        runtime: ``auto`` takes OpenCV for known weights and where onnxruntime is not installed.
        threads: of onnxruntime; None lets it choose.

    Attributes:
        name: what it is called.
        path: the file.
        preprocessing: how its input is made.
        embedding_size: numbers in an embedding.
        digest: of file and preprocessing, or of the encoder that was exported.
        file_digest: SHA-256 of the file.
        runtime: what runs it.
        flip_inside: whether the file adds the mirror image itself.

    Raises:
        ModelError: the file is missing, damaged, or no encoder of faces; or how its input is made is not known.
        MissingExtraError: ``runtime="onnxruntime"`` without the package.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        preprocessing: Preprocessing | None = None,
        runtime: Runtime = "auto",
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
            content = _content(self.path)
        with _named(self.path):
            described = read_onnx(content)
            self._input = _checked_input(described)
        self.preprocessing = preprocessing or _described_preprocessing(self.path, described)
        self.flip_inside = described.metadata.get(FLIP) == "inside"
        self.file_digest = hashlib.sha256(content).hexdigest()
        decisive = json.dumps(self.preprocessing.decisive(), sort_keys=True)
        own = hashlib.sha256(f"{self.file_digest} {decisive}".encode()).hexdigest()
        self.digest = described.metadata.get(DIGEST) or own
        self.runtime = _chosen(runtime, trusted)
        if not trusted:
            _probe(self.path, self.runtime, self.image_size)
        with _named(self.path):
            self._run, self._fixed_batch = open_network(content, described, self.runtime, threads)
        if trusted and self.runtime == "opencv":
            self._fixed_batch = 0  # sface says 1; OpenCV runs any number of images through it
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
            flip: add the embedding of the mirrored image before the length is taken out.
            batch_size: images at a time.
            unit: make every row of unit length.

        Returns:
            (n, embedding_size) float32.

        Raises:
            InputError: the images are not uint8 RGB, ``batch_size`` is below 1, or ``flip=False`` for a file that adds
                the mirror image itself.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        if self.flip_inside and not flip:
            raise InputError(f"{self.name} adds the mirror image itself, flip=False is not possible: export it without")
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
            prepared: NDArray[Any] = np.ascontiguousarray(squares)
        else:
            prepared = to_float_input(squares, self.preprocessing)
        count = len(prepared)
        if self._fixed_batch and count < self._fixed_batch:
            prepared = np.concatenate([prepared, np.repeat(prepared[-1:], self._fixed_batch - count, axis=0)])
        try:
            found = np.asarray(self._run(prepared), np.float32)
        except Exception as error:  # what a runtime raises depends on the runtime and on the model
            raise ModelError(f"{self.path}: {self.runtime} cannot run it ({_first_line(error)})") from error
        # (n, numbers), or a map of one pixel (n, numbers, 1, 1).
        if found.shape[0] != len(prepared) or not 0 < found.size == len(prepared) * max(found.shape[1:], default=0):
            raise ModelError(f"{self.path}: gives {found.shape} for {len(prepared)} images, expected (n, numbers)")
        return found.reshape(len(prepared), -1)[:count]


def to_float_input(squares: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Turn uint8 RGB (n, size, size, 3) into float (n, 3, size, size) as an encoder takes it."""
    ordered = squares[..., ::-1] if preprocessing.colour_order == "BGR" else squares
    mean, scale = (np.asarray(value, np.float32) for value in (preprocessing.mean, preprocessing.scale))
    values = (ordered.astype(np.float32) - mean) / scale
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def open_network(content: bytes, described: OnnxFile, runtime: str, threads: int | None = None) -> tuple[Run, int]:
    """Load a model; return what runs it, and the only batch size it takes (0 for any).

    Raises:
        ModelError: the runtime cannot load it.
    """
    name, fixed = described.inputs[0].name, described.inputs[0].shape[0] or 0
    try:
        if runtime == "opencv":
            with silent_opencv():
                net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
            lock = threading.Lock()  # a network holds its input between the two calls

            def run_opencv(batch: NDArray[Any]) -> NDArray[np.float32]:
                with lock:
                    net.setInput(batch, name)
                    return np.asarray(net.forward(described.outputs[0].name))

            return run_opencv, fixed
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(
            without_weights_as_inputs(content), options, providers=["CPUExecutionProvider"]
        )
        outputs = [described.outputs[0].name]
        return lambda batch: np.asarray(session.run(outputs, {name: batch})[0]), fixed
    except CoreFaceError:
        raise
    except Exception as error:  # what a runtime raises depends on the runtime and on the model
        raise ModelError(f"{runtime} cannot load it ({_first_line(error)})") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}), expected an ONNX file") from error


def _checked_input(described: OnnxFile) -> Tensor:
    if described.external:
        raise ModelError(f"its weights lie in another file ({described.external[0]}): save it as one file")
    if described.domains:
        raise ModelError(f"it needs custom operators ({', '.join(described.domains)}), which are never loaded")
    if len(described.inputs) != 1 or not described.outputs:
        names = ", ".join(map(str, described.inputs)) or "none"
        raise ModelError(f"its inputs are {names}, expected one, of images: this is no encoder of faces")
    found = described.inputs[0]
    channels = {"uint8": 3, "float32": 1}.get(found.dtype)
    if channels is None or len(found.shape) != 4 or found.shape[channels] not in (3, None):
        raise ModelError(
            f"its input is {found}, expected float32 (batch, 3, size, size) or uint8 (batch, size, size, 3)"
        )
    return found


def _described_preprocessing(path: Path, described: OnnxFile) -> Preprocessing:
    beside = path.with_suffix(".json")
    text, where = described.metadata.get(PREPROCESSING), str(path)
    if text is None:
        try:
            text, where = beside.read_text(encoding="utf-8"), str(beside)
        except (OSError, ValueError):
            raise ModelError(
                f"{path} does not describe its preprocessing: write {beside.name} beside it, for example "
                f"{json.dumps(Preprocessing().to_dict())}"
            ) from None
    try:
        return Preprocessing.from_dict(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{where}: the preprocessing cannot be read ({error})") from error


def _chosen(runtime: str, trusted: bool) -> str:
    installed = importlib.util.find_spec("onnxruntime") is not None
    if runtime == "auto":
        return "onnxruntime" if installed and not trusted else "opencv"
    if runtime not in ("onnxruntime", "opencv"):
        raise InputError(f"runtime is {runtime!r}, expected auto, onnxruntime or opencv")
    if runtime == "onnxruntime" and not installed:
        raise MissingExtraError("onnxruntime is not installed: pip install 'coreface[export]', or take runtime opencv")
    return runtime


def _probe(path: Path, runtime: str, image_size: int) -> None:
    command = [sys.executable, "-m", "coreface.models.onnx_probe", str(path), runtime, str(image_size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path}: {runtime} hung on it for {_PROBE_SECONDS} s: damaged, or no encoder") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"crashed (signal {-done.returncode})" if done.returncode < 0 else f"failed: {said[:200]}"
        raise ModelError(f"{path}: {runtime} {how}; the file is damaged, or no encoder of faces")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
