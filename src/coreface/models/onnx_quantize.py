"""Smaller or faster, less exact ONNX models: int8 products, uint8 weights, or weights in half precision."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError, ModelError
from coreface.models.onnx_runtime import first_line

Quantization: TypeAlias = Literal["static", "float16", "dynamic"]
QUANTIZATIONS: Final = ("static", "float16", "dynamic")
_BATCH = 16
_SMALL = 1024  # numbers of a weight that is not worth a node of its own


def quantized(content: bytes, kind: Quantization, faces: NDArray[Any] | None = None) -> bytes:
    """Return a quantised ONNX model.

    ``static``: products of 8-bit integers, with one scale per channel of the weights and scales of the activations
    measured on faces. ``dynamic``: weights of 8 bits, with scales of the activations computed for each batch.
    ``float16``: weights stored in half the bytes and widened when the model is loaded; arithmetic stays float32.

    Args:
        content: a model of `onnx_model`.
        kind: ``static``, ``dynamic`` or ``float16``.
        faces: (n, ...) inputs of the model, on which the scales of ``static`` are measured.

    Raises:
        InputError: there is no such kind, or ``faces`` is missing.
        ModelError: the quantiser fails, or a weight exceeds the range of half precision.
    """
    if kind not in QUANTIZATIONS:
        raise InputError(f"quantize is {kind!r}, expected {', '.join(QUANTIZATIONS)}")
    if kind == "float16":
        return _with_half_weights(content)
    if kind == "static" and faces is None:
        raise InputError("static quantisation measures its scales on faces, and there are none")
    try:
        return _by_onnxruntime(content, faces if kind == "static" else None)
    except Exception as error:  # the exception's type depends on the model
        raise ModelError(f"the model cannot be quantised ({first_line(error)})") from error


def _by_onnxruntime(content: bytes, faces: NDArray[Any] | None) -> bytes:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "result"))
        given.write_bytes(content)
        # It folds BatchNorm into convolutions. Symbolic shapes would need another package and change nothing here.
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        if faces is None:
            # Signed weights would be three times slower in onnxruntime's convolutions.
            quantize_dynamic(prepared, result, weight_type=QuantType.QUInt8)
        else:
            quantize_static(
                prepared,
                result,
                _Faces(faces),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        return result.read_bytes()


class _Faces:
    """Batches for the quantiser, one after the other."""

    def __init__(self, faces: NDArray[Any]) -> None:
        self._batches = iter([faces[start : start + _BATCH] for start in range(0, len(faces), _BATCH)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _with_half_weights(content: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < _SMALL:
            continue
        values = onnx.numpy_helper.to_array(weight)
        largest = float(np.abs(values).max())
        if not largest <= float(np.finfo(np.float16).max):
            raise ModelError(f"{weight.name} reaches {largest:g}, outside the range of half precision")
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    smaller: bytes = model.SerializeToString()
    return smaller


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's progress messages, and its advice on steps already taken."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
