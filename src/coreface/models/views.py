"""Feature augmentation: several embeddings of one image from independent dropout masks on its features.

METHOD: CoReFace, arXiv 2304.11668, "feature augmentation". The trunk has run once; only the embedding layer, a fraction
of a percent of the arithmetic, runs once a view.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from coreface.models.backbone import Backbone
from coreface.models.row_masks import RowMasks
from coreface.numerics.precision import at_least_float32

ViewStatistics = Literal["separate", "joint"]


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
    linear, rest = backbone.embedding_linear, backbone.after_linear
    if not backbone.training:
        return [rest(at_least_float32(linear(features)))] * count
    # One product for all views: the weight, which is larger than the features, is read once.
    if masks is None:
        dropped = torch.cat([F.dropout(features, rate) for _ in range(count)])
    else:
        dropped = torch.cat([masks.dropped(features, rate, view) for view in range(count)])
    # Under autocast the products are bfloat16; widened before BatchNorm takes the mean away, which would cost digits.
    projected = at_least_float32(linear(dropped))
    if statistics == "joint":
        return list(rest(projected).chunk(count))
    return [rest(view) for view in projected.chunk(count)]
