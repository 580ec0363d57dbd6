"""The contrastive regularisation of CoReFace: images compared with images, as evaluation does.

Source: "CoReFace: Sample-Guided Contrastive Regularization for Deep Face Recognition", arXiv 2304.11668. Formulas and
symbols as in docs/method.md: z, z' unit-length views, c_ij = z_i . z'_j, s the scale, m the margin.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import nn

from coreface.distributed.collectives import RowLayout, summed, world_size
from coreface.errors import InputError
from coreface.numerics.precision import at_least_float32, inner_products
from coreface.numerics.unit_length import unit_rows

Mask = Literal["exclude", "zero"]
Protocol = Literal["one_way", "two_way", "all", "half"]


class ContrastStatistics(NamedTuple):
    """Statistics of the last call, as scalar tensors on its device. Only reading one synchronises.

    Attributes:
        positive: mean cosine of the positives.
        hardest_negative: mean, over the anchors that have a negative, of their largest negative cosine (in "zero" mode
            a masked entry is a negative of cosine 0); nan where no anchor has one.
        margin: the margin that was subtracted.
        masked: number of (anchor, candidate) entries masked because they show the same identity.
    """

    positive: torch.Tensor
    hardest_negative: torch.Tensor
    margin: torch.Tensor
    masked: torch.Tensor


class CoReFaceLoss(nn.Module):
    """L_con = -mean_i log [ e^{s (c_ii - m)} / (e^{s (c_ii - m)} + sum over negatives j of e^{s c_ij}) ].

    The loss stays nearly constant by construction, because m follows the gap it would measure: watch `last` instead.

    Args:
        scale: s.
        margin: ``"adaptive"``: the running mean of (positive cosine - hardest negative cosine); or a fixed number.
        ema: a, the weight of the NEW value in m <- a m_batch + (1 - a) m. The published 0.99
            smooths almost nothing.
        mask: what to do with other images of the anchor's identity: ``"exclude"`` removes them from the softmax,
            ``"zero"`` replaces their cosines by the constant 0, as the authors' release does.
        protocol: the pair coupling, that is, which cosines between the views are used: ``"one_way"`` (N anchors, as
            published), ``"two_way"`` (both directions), ``"all"`` (2N anchors against all other views, as SimCLR),
            ``"half"`` (each unordered pair of images once).
        gather: compare with the images of all processes of torch.distributed, whose batches may differ in length or be
            empty. Value, margin, `last` and the gradients of this process's views equal those of a single process with
            the joined batch, in the order of the ranks. False, as published: each process uses its own images only.

    Raises:
        InputError: an argument is out of range.

    Attributes:
        running_margin: m if it is adaptive, a buffer: float32, float64 once float64 views were given. Updated in
            training mode only, before it is used.
        last: `ContrastStatistics` of the last call; None before the first.
    """

    running_margin: torch.Tensor

    def __init__(
        self,
        scale: float = 64.0,
        margin: Literal["adaptive"] | float = "adaptive",
        ema: float = 0.99,
        mask: Mask = "exclude",
        protocol: Protocol = "one_way",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"scale is {scale}, expected a positive number such as 64")
        if margin != "adaptive" and not isinstance(margin, int | float):
            raise InputError(f"margin is {margin!r}, expected 'adaptive' or a number")
        if not 0 <= ema <= 1:
            raise InputError(f"ema is {ema}, expected the weight of the new value, 0 to 1")
        if mask not in get_args(Mask):
            raise InputError(f"mask is {mask!r}, expected one of {get_args(Mask)}")
        if protocol not in get_args(Protocol):
            raise InputError(f"protocol is {protocol!r}, expected one of {get_args(Protocol)}")
        self.scale = scale
        self.margin = margin
        self.ema = ema
        self.mask = mask
        self.protocol = protocol
        self.gather = gather
        self.register_buffer("running_margin", torch.zeros(()))
        self.last: ContrastStatistics | None = None

    def extra_repr(self) -> str:
        named = ("scale", "margin", "ema", "mask", "protocol", "gather")
        return ", ".join(f"{name}={getattr(self, name)}" for name in named)

    def forward(self, view1: torch.Tensor, view2: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Compare two views of a batch.

        Args:
            view1: (batch, embedding_size), any float dtype, not necessarily unit length.
            view2: the same images' other view, same shape.
            identities: (batch,), integers.

        Returns:
            The loss, a scalar in float32 (float64 for float64 views), also under autocast.

        Raises:
            InputError: shapes or dtypes do not match.
        """
        gather = self.gather and world_size() > 1
        _check(view1, view2, identities, least=0 if gather else 1)
        layout = RowLayout(len(identities), identities.device) if gather else None
        with torch.autocast(view1.device.type, enabled=False):
            z1, z2 = unit_rows(at_least_float32(view1)), unit_rows(at_least_float32(view2))
            return self._equation(z1, z2, identities, layout)

    def _equation(
        self, z1: torch.Tensor, z2: torch.Tensor, identities: torch.Tensor, layout: RowLayout | None
    ) -> torch.Tensor:
        """Return the loss of unit-length views, step by step; the numbers are those of docs/method.md."""

        def gathered(rows: torch.Tensor) -> torch.Tensor:
            return rows if layout is None else layout.gather(rows)

        # (5a) The cosines c_ij, times s, of the anchors (rows, views of this process's images) with the candidates
        # (columns, views of all images). `anchor` and `candidate` number the images they show; the positive is c_ii.
        all_identities = gathered(identities)
        candidate = torch.arange(len(all_identities), device=z1.device)
        anchor = candidate if layout is None else layout.local(candidate)
        positive = self.scale * (z1 * z2).sum(dim=1)
        if self.protocol == "all":
            logits = inner_products(torch.cat([z1, z2]), torch.cat([gathered(z1), gathered(z2)]), self.scale)
            anchor, candidate, positive = anchor.repeat(2), candidate.repeat(2), positive.repeat(2)
        elif self.protocol == "two_way":
            logits = torch.cat(
                [inner_products(z1, gathered(z2), self.scale), inner_products(z2, gathered(z1), self.scale)]
            )
            anchor, positive = anchor.repeat(2), positive.repeat(2)
        else:
            logits = inner_products(z1, gathered(z2), self.scale)

        # (5b) The mask: the negatives of an anchor show another image, of another identity.
        # To leave same-identity pairs in the softmax, drop "& ~same_identity".
        anchor = anchor.unsqueeze(1)
        same_identity = all_identities[anchor] == all_identities[candidate]
        other_image = (
            candidate > anchor if self.protocol == "half" else candidate != anchor
        )  # "half": later images only
        if self.mask == "exclude":
            negative = other_image & ~same_identity
        else:  # "zero": they stay in the softmax, as constants
            negative = other_image
            logits = logits.masked_fill_(same_identity, 0.0)
        logits = logits.masked_fill_(~negative, -torch.inf)

        # (6) The margin m, a constant.
        masked = (same_identity & other_image).sum()
        margin = self._updated_margin(positive.detach(), logits.detach().amax(dim=1), masked, layout)

        # (5) The softmax, as log[e^a / (e^a + e^b)] = log sigmoid(a - b), which keeps its digits where it is near 0.
        losses = -F.logsigmoid(positive - self.scale * margin - logits.logsumexp(dim=1))
        anchors = len(all_identities) * (2 if self.protocol in ("two_way", "all") else 1)
        loss = losses.sum() / anchors
        if layout is None:
            return loss
        # The value is the sum over all processes; the gradient is that of this process's anchors, since `gather`
        # already sums the gradients of the candidates.
        return loss + (summed(loss.detach().clone()) - loss.detach())

    def _updated_margin(
        self, positive: torch.Tensor, hardest: torch.Tensor, masked: torch.Tensor, layout: RowLayout | None
    ) -> torch.Tensor:
        """Return m after this batch, and set `last`.

        Args:
            positive: (anchors,), logits of the positives.
            hardest: (anchors,), the largest logit of each anchor's negatives, -inf if it has none.
            masked: scalar, number of masked entries.
            layout: how the batch is split over processes; None for one process.
        """
        has_negative = hardest != -torch.inf  # also True for nan, which makes the gap nan and leaves m unchanged
        if self.mask == "zero":
            hardest = hardest.clamp(min=0.0)  # the published maximum includes a zero in place of the positive
        ones = torch.ones_like(positive)
        compared = torch.where(has_negative, torch.stack([positive, hardest, ones]), 0.0)
        sums = torch.cat([compared, torch.stack([positive, ones])]).sum(dim=1)
        if layout is not None:
            sums, masked = summed(sums), summed(masked)
        compared_positive, compared_hardest, compared_anchors, all_positive, all_anchors = sums.unbind()
        mean_hardest = compared_hardest / (compared_anchors * self.scale)
        gap = compared_positive / (compared_anchors * self.scale) - mean_hardest
        if self.margin != "adaptive":
            margin = torch.full_like(gap, self.margin)
        else:
            if gap.dtype == torch.float64 and self.running_margin.dtype != torch.float64:
                self.running_margin = self.running_margin.double()
            if self.training:
                gap = gap.to(self.running_margin.dtype)
                # (6) m <- a gap + (1 - a) m, or m if the gap is not finite
                self.running_margin.lerp_(torch.where(gap.isfinite(), gap, self.running_margin), self.ema)
            margin = self.running_margin.to(positive.dtype, copy=True)
        self.last = ContrastStatistics(all_positive / (all_anchors * self.scale), mean_hardest, margin, masked)
        return margin


def _check(view1: torch.Tensor, view2: torch.Tensor, identities: torch.Tensor, least: int) -> None:
    if view1.ndim != 2 or view1.shape != view2.shape or len(view1) < least:
        raise InputError(
            f"got views {tuple(view1.shape)} and {tuple(view2.shape)}, expected the same (batch, embedding_size) twice"
        )
    if not view1.is_floating_point() or view1.dtype != view2.dtype:
        raise InputError(f"got views of {view1.dtype} and {view2.dtype}, expected one float dtype")
    if identities.shape != view1.shape[:1] or identities.is_floating_point():
        raise InputError(f"got identities {identities.dtype} {tuple(identities.shape)}, expected one integer per image")
