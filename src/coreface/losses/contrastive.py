"""The contrastive regularisation of CoReFace: images compared with images, as evaluation does.

Source: "CoReFace: Sample-Guided Contrastive Regularization for Deep Face Recognition", arXiv 2304.11668. Formulas and
symbols as in docs/method.md: z, z' unit-length views, c_ij = z_i . z'_j, s the scale, m the margin.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from coreface.distributed.collectives import RowLayout, summed, world_size
from coreface.errors import InputError
from coreface.numerics.precision import at_least_float32
from coreface.numerics.unit_length import split_length, through_unit_

Mask = Literal["exclude", "zero"]
Protocol = Literal["one_way", "two_way", "all", "half"]
# The comparisons a protocol makes: views whose images are the anchors, views whose images are the candidates.
_COMPARISONS: dict[str, list[tuple[list[int], list[int]]]] = {
    "one_way": [([0], [1])],
    "two_way": [([0], [1]), ([1], [0])],
    "all": [([0, 1], [0, 1])],
    "half": [([0], [1])],
}
_ENTRIES = {"one_way": 1, "two_way": 2, "all": 4, "half": 0.5}  # for every (image, image) of the batch


class _Views(NamedTuple):
    """Unit-length views of this process's images and of everyone's, and how the latter are spread (None: alone)."""

    own: list[torch.Tensor]
    everyone: list[torch.Tensor]
    spread: RowLayout | None


_Compare = Callable[[_Views, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class ContrastStatistics(NamedTuple):
    """What the last call saw, as scalar tensors on its device; reading one is the only synchronisation.

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
        mask: what becomes of other images of the anchor's identity: ``"exclude"`` takes them out of the softmax,
            ``"zero"`` leaves them in with a cosine of 0, as the authors' release does.
        protocol: which of the cosines between the views enter: ``"one_way"`` (N anchors, as published), ``"two_way"``
            (both directions), ``"all"`` (2N anchors against all other views, as SimCLR), ``"half"`` (each unordered
            pair of images once).
        gather: compare with the images of all processes of torch.distributed, whose batches may differ in length, or
            be empty: value, margin and `last` are those of one process with the joined batch, in the order of the
            ranks, and so are the gradients of this process's views. False, as published: every process for itself.

    Raises:
        InputError: an argument is out of range.

    Attributes:
        running_margin: m where it is adaptive, a buffer: float32, float64 once float64 views were given. Updated in
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
            The loss, a scalar in float32 (float64 for float64 views), whatever autocast says.

        Raises:
            InputError: shapes or types do not fit.
        """
        together = self.gather and world_size() > 1
        _check(view1, view2, identities, least=0 if together else 1)
        spread = RowLayout(len(view1), view1.device) if together else None
        with torch.autocast(view1.device.type, enabled=False):
            loss: torch.Tensor = _Contrast.apply(  # type: ignore[no-untyped-call]
                self.protocol, self._compare, spread, at_least_float32(view1), at_least_float32(view2), identities
            )
        return loss

    def _compare(self, views: _Views, identities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss and its gradient with respect to the cosines (anchors, candidates); set `last`."""
        spread, comparisons = views.spread, _COMPARISONS[self.protocol]
        everyone = identities if spread is None else spread.gather(identities)
        start, total = (0, len(identities)) if spread is None else (spread.start, spread.total)
        same = identities.unsqueeze(1) == everyone.unsqueeze(0)
        masked = same.sum() - len(identities)
        rows = torch.arange(start, start + len(identities), device=identities.device)
        positives, absent = rows, None
        if self.protocol == "two_way":
            positives, same = rows.repeat(2), same.repeat(2, 1)
        elif self.protocol == "all":
            positives, same = torch.cat([rows + total, rows]), same.repeat(2, 2)
            itself = torch.cat([rows, rows + total])
            absent = itself.unsqueeze(1) == torch.arange(2 * total, device=rows.device)
        elif self.protocol == "half":
            absent = rows.unsqueeze(1) > torch.arange(total, device=rows.device)  # each pair of images once

        # The scale enters on the smaller factor: everything below is a logit, s c.
        blocks = [torch.mm(_of(views.own, a) * self.scale, _of(views.everyone, c).t()) for a, c in comparisons]
        softmax = _Softmax(blocks[0] if len(blocks) == 1 else torch.cat(blocks), positives, same, absent, self.mask)

        has_negative = softmax.has_negative
        ends = torch.where(has_negative, torch.stack([softmax.positive, softmax.hardest]), 0.0)
        sums = torch.stack([*ends, has_negative.to(ends.dtype), softmax.positive]).sum(dim=1)
        if spread is not None:
            sums, masked = summed(sums), summed(masked)
        positive, hardest = sums[:2] / (sums[2] * self.scale)
        margin = self._updated_margin(positive - hardest)

        anchors = total * (2 if self.protocol in ("two_way", "all") else 1)
        loss = softmax.losses(margin * self.scale).sum() / anchors
        if spread is not None:
            loss = summed(loss)
        if self.protocol != "one_way":
            masked = (masked * _ENTRIES[self.protocol]).long()
        self.last = ContrastStatistics(sums[3] / (anchors * self.scale), hardest, margin, masked)
        return loss, softmax.gradient(self.scale / anchors)

    def _updated_margin(self, gap: torch.Tensor) -> torch.Tensor:
        """Return m; an adaptive one in training mode after this batch's gap, if it is finite, has entered it."""
        if self.margin != "adaptive":
            return torch.full_like(gap, self.margin)
        if gap.dtype == torch.float64 and self.running_margin.dtype != torch.float64:
            self.running_margin = self.running_margin.double()
        if self.training:
            gap = gap.to(self.running_margin.dtype)
            self.running_margin.lerp_(torch.where(gap.abs() < torch.inf, gap, self.running_margin), self.ema)
        return self.running_margin.to(gap.dtype, copy=True)


class _Softmax:
    """The masked softmax of every anchor over its candidates, with its hardest negative, loss and gradient.

    Autograd would keep five matrices of anchors x candidates. Here one matrix holds the logits, then the exponentials,
    then the gradient.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        positives: torch.Tensor,
        same: torch.Tensor,
        absent: torch.Tensor | None,
        mask: Mask,
    ) -> None:
        self.positive = logits.gather(1, positives.unsqueeze(1)).squeeze(1)
        logits.masked_fill_(same, -torch.inf if mask == "exclude" else 0.0)
        if absent is not None:
            logits.masked_fill_(absent, -torch.inf)
        self._columns = positives.unsqueeze(1)
        if mask == "zero":
            logits.scatter_(1, self._columns, -torch.inf)
        self._top = self.hardest = logits.amax(dim=1)  # of what enters the softmax beside the positive
        if mask == "zero":
            # The positive's own place was one of the zeros: the published maximum counts it, the softmax does not.
            self.hardest = self._top.clamp(min=0.0)
        if mask == "exclude":
            self.has_negative = self.hardest != -torch.inf  # true for nan, which must reach the margin's guard
        elif absent is None:
            self.has_negative = torch.full_like(self.hardest, logits.shape[1] > 1, dtype=torch.bool)
        else:
            self.has_negative = absent.sum(dim=1) < logits.shape[1] - 1
        self._matrix = logits
        self._constant = same if mask == "zero" else None

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        """Return the loss of every anchor, the margin (a logit) taken off its positive."""
        target = self.positive - margin
        top = torch.maximum(self._top, target)
        exponentials = self._matrix.sub_(top.unsqueeze(1)).exp_()
        # The positive is kept apart from the rest: where the rest is small, 1 - p would lose it in rounding.
        self._rest = exponentials.sum(dim=1)
        below_top = target - top
        self._total_less_1 = self._rest + torch.expm1(below_top)
        return torch.log1p(self._total_less_1) - below_top

    def gradient(self, weight: float) -> torch.Tensor:
        """Return ``weight`` times the gradient of the summed losses with respect to the logits, after `losses`."""
        if self._constant is not None:
            self._matrix.masked_fill_(self._constant, 0.0)
        self._matrix.scatter_(1, self._columns, -self._rest.unsqueeze(1))
        return self._matrix.mul_((weight / (self._total_less_1 + 1)).unsqueeze(1))


class _Contrast(torch.autograd.Function):
    """The loss of two views; one function, so that each view's unit vectors and one matrix are all that is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        protocol: Protocol,
        compare: _Compare,
        spread: RowLayout | None,
        view1: torch.Tensor,
        view2: torch.Tensor,
        identities: torch.Tensor,
    ) -> torch.Tensor:
        (z1, inverse1), (z2, inverse2) = split_length(view1), split_length(view2)
        own = [z1, z2]
        views = _Views(own, own if spread is None else [spread.gather(z) for z in own], spread)
        loss, gradient = compare(views, identities)
        ctx.save_for_backward(gradient, z1, inverse1, z2, inverse2, *views.everyone)
        ctx.spread, ctx.comparisons = spread, _COMPARISONS[protocol]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, z1, inverse1, z2, inverse2, *everyone = ctx.saved_tensors
        own: list[torch.Tensor | None] = [None, None]
        others: list[torch.Tensor | None] = [None, None]
        with torch.autocast(z1.device.type, enabled=False):  # backward() may be called under autocast, too
            blocks = gradient.tensor_split(len(ctx.comparisons))
            for (anchors, candidates), block in zip(ctx.comparisons, blocks, strict=True):
                _add(own, anchors, block @ _of(everyone, candidates))
                _add(others, candidates, block.t() @ _of([z1, z2], anchors))
            for view, part in enumerate(others):
                if part is not None:
                    _add(own, [view], part if ctx.spread is None else ctx.spread.summed_local(part))
            to_z1, to_z2 = own
            assert to_z1 is not None
            assert to_z2 is not None
            to_view1 = through_unit_(to_z1, z1, inverse1.mul(upstream))
            return None, None, None, to_view1, through_unit_(to_z2, z2, inverse2.mul(upstream)), None


def _of(views: list[torch.Tensor], which: list[int]) -> torch.Tensor:
    return views[which[0]] if len(which) == 1 else torch.cat([views[view] for view in which])


def _add(gradients: list[torch.Tensor | None], views: list[int], gradient: torch.Tensor) -> None:
    for view, part in zip(views, gradient.tensor_split(len(views)), strict=True):
        known = gradients[view]
        gradients[view] = part if known is None else known.add_(part)


def _check(view1: torch.Tensor, view2: torch.Tensor, identities: torch.Tensor, least: int) -> None:
    if view1.ndim != 2 or view1.shape != view2.shape or len(view1) < least:
        raise InputError(
            f"got views {tuple(view1.shape)} and {tuple(view2.shape)}, expected the same (batch, embedding_size) twice"
        )
    if not view1.is_floating_point() or view1.dtype != view2.dtype:
        raise InputError(f"got views of {view1.dtype} and {view2.dtype}, expected one float dtype")
    if identities.shape != view1.shape[:1] or identities.is_floating_point():
        raise InputError(f"got identities {identities.dtype} {tuple(identities.shape)}, expected one integer an image")
