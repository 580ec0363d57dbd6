"""Feature augmentation: several embeddings of one image from independent dropout masks on its features.

METHOD: CoReFace, arXiv 2304.11668, "feature augmentation". The trunk has run once; only the embedding layer, a fraction
of a percent of the arithmetic, runs once a view.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from coreface.errors import InputError
from coreface.models.backbone import Backbone
from coreface.numerics.precision import at_least_float32
from coreface.numerics.random_bits import random_bit_rows, random_bits

ViewStatistics = Literal["separate", "joint"]


class RowMasks(NamedTuple):
    """What decides which features are dropped: each mask is a hash of (seed, step, view, row, feature) alone.

    So the same images get the same masks however a batch is split over processes, and in whatever order it comes.

    Attributes:
        seed: any whole number.
        step: number of the training step; a scalar int64 tensor where only the device knows it.
        rows: (batch,), int64, on the device of the batch: the number of each image in the step's whole batch.
    """

    seed: int
    step: int | torch.Tensor
    rows: torch.Tensor

    def check(self, batch: torch.Tensor) -> None:
        """Compare with the batch that they are for.

        Raises:
            InputError: ``rows`` has another shape, type or device than said.
        """
        rows = self.rows
        if rows.shape != batch.shape[:1] or rows.dtype != torch.int64 or rows.device != batch.device:
            raise InputError(
                f"masks.rows is {rows.dtype} {tuple(rows.shape)} on {rows.device}, expected torch.int64 "
                f"({len(batch)},) on {batch.device}: the number of each image in the step's whole batch"
            )

    def dropped(self, features: torch.Tensor, rate: float, view: int) -> torch.Tensor:
        """Drop features of one view.

        Args:
            features: (batch, features).
            rate: dropout probability, 0 <= rate < 1, kept to 2**-32.
            view: number of the view.

        Returns:
            (batch, features): 0, or the feature divided by 1 - rate, in the type of the features.
        """
        if rate == 0:
            return features
        size = features.shape[1]
        keys = random_bits(self.seed, self.step, view, self.rows)
        bits = random_bit_rows(keys, (size + 1) // 2).view(torch.int32)[:, :size]
        # As signed integers the bits begin at -2**31: a share ``rate`` of the 2**32 values is below the bound.
        kept = bits >= int(rate * 2**32) - 2**31
        return features * kept.to(features.dtype).div_(1 - rate)


def dropout_views(
    backbone: Backbone,
    features: torch.Tensor,
    count: int,
    rate: float,
    statistics: ViewStatistics = "separate",
    *,
    masks: RowMasks | None = None,
) -> list[torch.Tensor]:
    """Embed ``count`` views of the same features.

    In training mode every view drops each feature with probability ``rate`` by a mask of its own, and BatchNorm
    normalises each view as a batch of its own (``separate``, as published: the running statistics move once a view) or
    all of them together (``joint``). In eval mode nothing is dropped, and the views are one and the same tensor.

    Args:
        backbone: its embedding layer is applied.
        features: (batch, features), what its trunk returned.
        count: number of views.
        rate: dropout probability, 0 <= rate < 1.
        statistics: whether BatchNorm sees the views apart or together.
        masks: what the masks are drawn from; None takes torch's generator.

    Returns:
        ``count`` tensors (batch, embedding_size), float32 or wider, not unit length.
    """
    linear, norm = backbone.embedding_linear, backbone.embedding_norm
    if not backbone.training:
        return [norm(at_least_float32(linear(features)))] * count
    # One product for all views: the weight, which is larger than the features, is read once.
    if masks is None:
        dropped = torch.cat([F.dropout(features, rate) for _ in range(count)])
    else:
        dropped = torch.cat([masks.dropped(features, rate, view) for view in range(count)])
    # Under autocast the products are bfloat16; widened before BatchNorm takes the mean away, which would cost digits.
    projected = at_least_float32(linear(dropped))
    if statistics == "joint":
        return list(norm(projected).chunk(count))
    return [norm(view) for view in projected.chunk(count)]
