"""Feature augmentation: several embeddings of one image from independent dropout masks on its features.

Source: CoReFace, arXiv 2304.11668, "feature augmentation". The trunk runs once; only the embedding layer, less than one
percent of the arithmetic, runs once per view.
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

    In training mode each view drops each feature with probability ``rate``, with an independent mask. BatchNorm
    normalises each view as a separate batch (``separate``, as published: the running statistics are updated once per
    view) or all of them together (``joint``). In eval mode nothing is dropped, and all views are the same tensor.

    Args:
        backbone: the backbone whose embedding layer is applied.
        features: (batch, features), the output of its trunk.
        count: number of views.
        rate: dropout probability, 0 <= rate < 1.
        statistics: ``separate`` or ``joint`` BatchNorm statistics.
        masks: the key of the masks; None uses torch's generator.

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
    # Under autocast the products are bfloat16. BatchNorm's subtraction of the mean needs more digits.
    projected = at_least_float32(linear(dropped))
    if statistics == "joint":
        return list(rest(projected).chunk(count))
    return [rest(view) for view in projected.chunk(count)]
