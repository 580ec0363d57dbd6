"""Export of a `FaceEncoder` to an ONNX model that any runtime accepts: pixels in, embeddings out."""

import copy
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from coreface.errors import InputError, MissingExtraError, ModelError
from coreface.images.preprocessing import to_network_input
from coreface.models.encoder import FaceEncoder

OPSET: Final = 18  #: version of the standard operators
_EPSILON = 1e-12  # as in torch.nn.functional.normalize


def onnx_model(encoder: FaceEncoder, *, flip: bool = False, raw: bool = False) -> bytes:
    """Return an encoder as an ONNX model without properties, for any batch size.

    Input ``images``, uint8 RGB (batch, size, size, 3). Outputs ``embeddings`` (batch, embedding_size), float32 of unit
    length, and ``norms`` (batch, 1), their lengths before normalising, which are needed to add the embedding of the
    mirrored image or to pool embeddings.

    Args:
        encoder: it is copied; its mode and device do not matter.
        flip: add the embedding of the mirrored image inside the model, before normalising.
        raw: export the network alone: float (batch, 3, size, size), after ``encoder.preprocessing``, to embeddings of
            any length.

    Raises:
        InputError: both ``flip`` and ``raw``.
        ModelError: torch cannot trace the backbone.
        MissingExtraError: the packages of the extra ``export`` are not installed.
    """
    if flip and raw:
        raise InputError("flip and raw exclude each other: the network alone does not add the mirrored image")
    require_export_extra()
    network = copy.deepcopy(encoder).cpu().float().eval()
    size = encoder.image_size
    module: nn.Module = network if raw else _FromPixels(network, flip)
    # Two images: torch would treat a batch of one as a constant.
    example = torch.zeros(2, 3, size, size) if raw else torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["embeddings"] if raw else ["embeddings", "norms"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # the exception's type depends on the operator that the exporter does not support
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"the backbone {encoder.backbone_name} cannot be exported to ONNX ({reason})") from error
    assert program is not None  # it is, with dynamo
    return _without_traces(program.model_proto)


def require_export_extra() -> None:
    """Raise `MissingExtraError` if a package of the extra ``export`` is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"not installed: {', '.join(missing)}; pip install 'coreface[export]'")


class _FromPixels(nn.Module):
    """The encoder with its preprocessing before it and the normalisation after it."""

    def __init__(self, encoder: FaceEncoder, flip: bool) -> None:
        super().__init__()
        self.encoder, self.flip = encoder, flip

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = to_network_input(images)
        if self.flip:
            both = self.encoder(torch.cat([batch, batch.flip(3)]))
            embeddings = both.reshape(2, -1, both.shape[1]).sum(0)
        else:
            embeddings = self.encoder(batch)
        norms = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
        return embeddings / norms.clamp_min(_EPSILON), norms


def _without_traces(model: Any) -> bytes:
    """Return the bytes of a model without torch's notes at each node: stack traces with paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from warning about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
