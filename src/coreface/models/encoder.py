"""The face encoder, which is trained, saved, loaded and used to embed photographs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coreface.errors import InputError, ModelError
from coreface.images.alignment import UNKNOWN, Alignment
from coreface.images.load import as_photographs, fit_square
from coreface.images.preprocessing import Preprocessing, to_network_input
from coreface.models import pretrained as weights
from coreface.models.backbone import Backbone, ModuleBackbone
from coreface.models.registry import build_backbone
from coreface.models.row_masks import RowMasks
from coreface.models.views import ViewStatistics, dropout_views

EmbeddingPrecision: TypeAlias = Literal["float32", "bf16"]


class FaceEncoder(nn.Module):
    """A backbone with dropout views, and everything needed to use it on photographs.

    Args:
        backbone: a name from `coreface.backbones`; or any module that maps images to features, which is wrapped in
            `coreface.ModuleBackbone`; or a `coreface.Backbone` of these sizes.
        embedding_size: D, numbers in an embedding.
        image_size: side of the square input, a multiple of 16 pixels.
        dropout: rate of the masks on the features in training mode, 0 <= dropout < 1.
        features: how many features the module returns per image; only if ``backbone`` is a module.

    Attributes:
        alignment: how the training crops were aligned; its template is ``unknown`` until it is set.

    Raises:
        ModelError: an unknown backbone or a size out of range.
        InputError: ``dropout`` is out of range, or ``features`` is missing or not applicable.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "iresnet50",
        embedding_size: int = 512,
        image_size: int = 112,
        dropout: float = 0.4,
        *,
        features: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone_name, self.backbone = _backbone(backbone, embedding_size, image_size, features)
        self.dropout = _checked_rate(dropout)
        self.alignment = Alignment(UNKNOWN)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photograph is turned into the network's input."""
        return Preprocessing(self.image_size, alignment=self.alignment)

    @property
    def runtime(self) -> str:
        """What runs it."""
        return "torch"

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration, the preprocessing and all weights; recomputed on each access."""
        return weights.content_digest(self)

    @property
    def embedding_size(self) -> int:
        return self.backbone.embedding_size

    @property
    def image_size(self) -> int:
        return self.backbone.image_size

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Embed a batch.

        Args:
            batch: (batch, 3, image_size, image_size), normalised float as
                `coreface.images.preprocessing.to_network_input` makes it.

        Returns:
            (batch, embedding_size), not unit length.
        """
        return self.views(batch, 1)[0]

    def views(
        self,
        batch: torch.Tensor,
        count: int = 2,
        dropout: float | None = None,
        *,
        statistics: ViewStatistics = "separate",
        masks: RowMasks | None = None,
    ) -> list[torch.Tensor]:
        """Embed a batch ``count`` times with independent dropout masks; the trunk runs once.

        Args:
            batch: (batch, 3, image_size, image_size), normalised float.
            count: number of views, at least 1.
            dropout: rate of the masks; None uses the encoder's rate. Eval mode drops nothing.
            statistics: ``separate``: BatchNorm sees each view as its own batch, as published; ``joint``: all as one.
            masks: derive the dropout masks, and all other random numbers of the trunk, from a seed, the step and the
                number of each image, so that they do not depend on how a batch is split over processes; None uses
                torch's generator.

        Returns:
            ``count`` tensors (batch, embedding_size), not unit length.

        Raises:
            InputError: the batch has the wrong shape or dtype, or an argument is out of range.
        """
        expected = (3, self.image_size, self.image_size)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected or not batch.is_floating_point():
            raise InputError(
                f"got a batch of {batch.dtype} {tuple(batch.shape)}, expected floats (batch, *{expected}): "
                "uint8 photographs go through embed()"
            )
        if count < 1:
            raise InputError(f"views is {count}, expected at least 1")
        if statistics not in ("separate", "joint"):
            raise InputError(f"statistics is {statistics!r}, expected 'separate' or 'joint'")
        if masks is not None:
            masks.check(batch)
        rate = self.dropout if dropout is None else _checked_rate(dropout)
        features = self.backbone.drawn_trunk(batch, masks)
        return dropout_views(self.backbone, features, count, rate, statistics, masks=masks)

    def embed(
        self,
        images: NDArray[np.uint8] | torch.Tensor | Sequence[NDArray[np.uint8]],
        flip: bool = True,
        *,
        batch_size: int = 64,
        unit: bool = True,
        precision: EmbeddingPrecision = "float32",
    ) -> NDArray[np.float32]:
        """Embed photographs for comparison, in eval mode. The cosine similarity of unit embeddings is their inner
        product.

        Args:
            images: uint8 RGB: one batch (n, height, width, 3), or a sequence of images (height, width, 3) of any sizes,
                or a single image. Images of another size than the encoder's are padded to a square and resized.
            flip: add the embedding of the mirrored image before normalising, as is usual in evaluations.
            batch_size: images at a time.
            unit: scale every row to unit length; False keeps the norms, which pooling may use as weights.
            precision: ``bf16`` rounds the factors of the trunk's products: nearly twice as fast where the processor
                has units for it (`has_bf16_units`), far slower elsewhere, and a cosine to float32 of about 0.999.

        Returns:
            (n, embedding_size) float32, of unit length unless ``unit`` is False. The encoder stays in the mode it was
            in.

        Raises:
            InputError: the images are not uint8 RGB, ``batch_size`` is below 1, or there is no such precision.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        if precision not in ("float32", "bf16"):
            raise InputError(f"precision is {precision!r}, expected float32 or bf16")
        if isinstance(images, torch.Tensor):
            if images.dtype != torch.uint8:
                raise InputError(f"got a tensor of {images.dtype}, expected torch.uint8 RGB (n, height, width, 3)")
            images = images.cpu().numpy()
        photographs = as_photographs(images)
        out = np.empty((len(photographs), self.embedding_size), dtype=np.float32)
        device = next(self.parameters()).device
        rounded = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with _evaluating(self), torch.inference_mode(), rounded:
            for start in range(0, len(photographs), batch_size):
                stack = np.stack(
                    [fit_square(image, self.image_size) for image in photographs[start : start + batch_size]]
                )
                batch = to_network_input(torch.from_numpy(stack).to(device))
                embedding = self(batch)
                if flip:
                    embedding = embedding + self(batch.flip(3))
                if unit:  # float32 in any case: the embedding layer widens
                    embedding = nn.functional.normalize(embedding)
                out[start : start + batch_size] = embedding.cpu().numpy()
        return out

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save to a folder: config.json, preprocess.json, README.md and model.safetensors.

        Every file is replaced atomically, the weights last. A concurrent reader gets the old encoder or the new one.

        Raises:
            ModelError: a file is in the way of the folder, or the weights are not float32.
        """
        weights.save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, backbone: nn.Module | None = None) -> "FaceEncoder":
        """Load an encoder that `save_pretrained` wrote. Nothing in the files is executed or imported.

        Args:
            folder: the folder of a saved encoder.
            backbone: for an encoder made of a bare module, a new instance of that module. Its weights are replaced by
                the saved ones.

        Raises:
            ModelError: a file is missing or damaged, the weights do not fit, the content digest differs, or the
                backbone is not registered; the message names the module that registered it.
        """
        return weights.load(cls, folder, backbone).eval()

    @classmethod
    def from_insightface(cls, path: str | os.PathLike[str], backbone: str) -> "FaceEncoder":
        """Load weights from another project, such as InsightFace's ``backbone.pth``. Nothing in the file is executed.

        The prefixes and classifiers listed in `coreface.models.weights_file` are removed; the remaining names and
        shapes must match exactly.

        Args:
            path: the file.
            backbone: its name, such as ``iresnet50``. Embedding and image size follow from the shapes.

        Raises:
            ModelError: the file has no state_dict, its names or shapes belong to another network, or a weight is not
                finite.
        """
        return weights.load_insightface(cls, path, backbone).eval()


def _backbone(
    backbone: str | nn.Module, embedding_size: int, image_size: int, features: int | None
) -> tuple[str, Backbone]:
    """Return the backbone and the name that a saved encoder uses for it, name first."""
    bare = isinstance(backbone, nn.Module) and not isinstance(backbone, Backbone)
    if bare and features is None:
        raise InputError("features is missing: give the number of features that the module returns for an image")
    if not bare and features is not None:
        raise InputError(f"features is {features}, expected none: it applies to a module that is not a Backbone")
    if not isinstance(backbone, nn.Module):
        return backbone, build_backbone(backbone, embedding_size, image_size)
    name = f"{weights.MODULE}{type(backbone).__name__}"
    if not isinstance(backbone, Backbone):
        assert features is not None  # checked above
        return name, ModuleBackbone(backbone, features, embedding_size, image_size)
    if (backbone.embedding_size, backbone.image_size) != (embedding_size, image_size):
        raise ModelError(
            f"the backbone has {backbone.embedding_size} numbers of {backbone.image_size} pixels, the encoder "
            f"{embedding_size} of {image_size}: give both the same"
        )
    return name, backbone


def _checked_rate(rate: float) -> float:
    if not 0 <= rate < 1:
        raise InputError(f"dropout is {rate}, expected 0 <= dropout < 1")
    return rate


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch every submodule to eval mode, and restore the mode of each at the end: some may be frozen on purpose."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
