"""Feature augmentation: several embeddings of one image from independent dropout masks on its features.

METHOD: CoReFace, arXiv 2304.11668, "feature augmentation". The trunk has run once; only the embedding layer, a fraction
of a percent of the arithmetic, runs once a view.
"""

from typing import Literal

import torch
import torch.nn.functional as F

from coreface.models.backbone import Backbone
from coreface.precision import at_least_float32

ViewStatistics = Literal["separate", "joint"]


def dropout_views(
    backbone: Backbone, features: torch.Tensor, count: int, rate: float, statistics: ViewStatistics = "separate"
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

    Returns:
        ``count`` tensors (batch, embedding_size), float32 or wider, not unit length.
    """
    linear, norm = backbone.embedding_linear, backbone.embedding_norm
    if not backbone.training:
        return [norm(at_least_float32(linear(features)))] * count
    # One product for all views: the weight, which is larger than the features, is read once.
    dropped = torch.cat([F.dropout(features, rate) for _ in range(count)])
    # Under autocast the products are bfloat16; widened before BatchNorm takes the mean away, which would cost digits.
    projected = at_least_float32(linear(dropped))
    if statistics == "joint":
        return list(norm(projected).chunk(count))
    return [norm(view) for view in projected.chunk(count)]
