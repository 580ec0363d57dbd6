"""The margin-softmax, M in docs/method.md, as one function of embeddings and centres that saves memory.

The loss of an image with target logit t and non-target logits l_j is log(1 + sum_j e^(l_j - t)). Autograd would keep
several (batch, identities) matrices and a normalised copy of the centres. Here only the matrix of scaled cosines is
kept for the backward pass; `coreface.losses.cosine_chunks` computes the rest chunk by chunk.
"""

import copy
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from coreface.distributed.collectives import RowLayout, maximum, summed
from coreface.losses.cosine_chunks import NO_LOGIT, CosineChunks
from coreface.losses.margins import Margin, Targets
from coreface.numerics.unit_length import split_length, through_unit


def margin_softmax(
    embeddings: torch.Tensor,
    weight: torch.Tensor,
    columns: torch.Tensor,
    margin: Margin,
    targets: Targets,
    products: torch.dtype,
    layout: RowLayout | None = None,
) -> torch.Tensor:
    """Return the mean cross-entropy of a batch over the cosines with all centres, plus the margin's penalty.

    Args:
        embeddings: (batch, D), of any length, float32 or float64.
        weight: (identities, D), or (identities, K, D) with K centres per identity, of any length, in the same dtype.
        columns: (batch,), int64, the index in ``weight`` of each image's identity.
        margin: its running state is updated once, from the whole batch.
        targets: identities and random bits, for margins that need them.
        products: dtype of the factors of matrix products and of the non-target cosines. Everything else (norms, target
            cosines, sums, loss) has the dtype of the embeddings.
        layout: how embeddings and centres are split over processes; None for one process. ``embeddings`` and
            ``weight`` are those of this process, ``columns`` and ``targets`` those of all; a column is -1 if another
            process has the identity.

    Returns:
        A scalar in the dtype of the embeddings, differentiable once in the first two arguments.
    """
    loss: torch.Tensor = _MarginSoftmax.apply(  # type: ignore[no-untyped-call]
        *(embeddings, weight.reshape(-1, weight.shape[-1]), columns),
        *(margin, targets, products, layout, 1 if weight.ndim == 2 else weight.shape[1]),
    )
    return loss


class _MarginSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        weight: torch.Tensor,
        columns: torch.Tensor,
        margin: Margin,
        targets: Targets,
        products: torch.dtype,
        layout: RowLayout | None,
        subcentres: int,
    ) -> torch.Tensor:
        # Target cosines and their logits t. `unit` and `norms` are those of all processes.
        local_unit, local_inverse_norms = split_length(embeddings)
        unit, norms = local_unit, torch.linalg.vector_norm(embeddings, dim=1)
        if layout is not None:
            unit, norms = layout.gather(unit), layout.gather(norms)
        inverse_norms = _inverse_norms(weight)
        target_rows = columns
        if subcentres > 1:
            target_rows = _nearest_centres(unit, weight, inverse_norms, columns, subcentres)
        target_centres, target_inverse_norms = _target_centres(weight, inverse_norms, target_rows)
        cosines = torch.linalg.vecdot(unit, target_centres)
        graph = _TargetGraph(margin, cosines if layout is None else summed(cosines), norms, targets)
        target, scale = graph.target.detach(), graph.scales.detach()
        if margin.moves_others:
            margin = copy.deepcopy(margin)  # the backward pass needs its running state as it is now
        chunks = CosineChunks(weight, inverse_norms, columns, target, scale, margin, subcentres)

        # All cosines, times s. With sub-centres, the largest of an identity and which centre it belongs to.
        scaled = torch.empty(len(weight) // subcentres, len(unit), dtype=products, device=unit.device)
        nearest = None if subcentres == 1 else torch.empty_like(scaled, dtype=torch.uint8)
        factor = (unit * scale.unsqueeze(1)).to(products).t()
        buffer = None if nearest is None else chunks.buffers(1, subcentres)[0].to(products)
        for chunk, identities in chunks.of(scaled):
            centres = chunks.centres(identities)
            by_centre = chunk if buffer is None else buffer[: len(chunk) * subcentres]
            torch.mm(weight[centres].to(products), factor, out=by_centre)
            by_centre.mul_(inverse_norms[centres].unsqueeze(1))
            if nearest is not None:
                chunks.take_nearest(by_centre, chunk, nearest[identities])
        if not margin.moves_others:
            # In float16 the smallest finite number: an infinite one times its weight 0 would be nan.
            chunks.without_targets(scaled, 0, max(NO_LOGIT, torch.finfo(products).min))

        # log(1 + sum_j e^(l_j - t)) = log(1 + e^excess), with sum_j e^l_j = total * e^top.
        top, total = chunks.maximum_and_sum(scaled)
        if layout is not None:
            highest = maximum(top.clone())
            total = summed(total.mul_(top.sub_(highest).exp_()))
            top = highest
        excess = (top - target * scale).add_(total.log())
        # Softplus of the excess: log-sum-exp minus t would round a small loss away.
        losses = excess.clamp(min=0).add_(excess.abs().neg_().exp_().log1p_())
        others_probability = torch.sigmoid(excess)  # sum_j p_j, where p is the softmax
        normaliser = others_probability / total  # p_j = e^(l_j - top) * normaliser
        ctx.save_for_backward(
            *(local_unit, local_inverse_norms, unit, target_centres, target_inverse_norms),
            *(scaled, top, others_probability, normaliser),
        )
        ctx.graph, ctx.chunks, ctx.products, ctx.layout = graph, chunks, products, layout
        ctx.target_rows, ctx.nearest = target_rows, nearest
        return losses.mean() if graph.penalty is None else losses.mean() + graph.penalty.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        local_unit, local_inverse_norms, unit, target_centres, target_inverse_norms, *others = ctx.saved_tensors
        scaled, top, others_probability, normaliser = others
        with torch.autocast(unit.device.type, enabled=False):  # backward() may be called under autocast, too
            graph, chunks, products, layout = ctx.graph, ctx.chunks, ctx.products, ctx.layout
            # With respect to the cosines, d loss / d l_j = p_j and d loss / d t = -sum_j p_j are multiplied by s.
            per_image = chunks.scale * (upstream / len(unit))
            normaliser = normaliser * per_image

            # Non-targets: to the centres, and to the unit embeddings.
            to_weight, to_unit = torch.empty_like(chunks.weight), torch.zeros_like(unit)
            target_by_others = torch.zeros_like(top)
            buffers = chunks.buffers(2)
            if chunks.subcentres > 1:
                buffers += chunks.buffers(2, chunks.subcentres)
            factor = (unit * normaliser.unsqueeze(1)).to(products)
            for chunk, identities in chunks.of(scaled):
                rows = chunks.centres(identities)
                centres, gradient = chunks.weight[rows], to_weight[rows]
                nearest = None if ctx.nearest is None else ctx.nearest[identities]
                slope, radial = chunks.derivatives(
                    chunk, nearest, identities, top, normaliser, target_by_others, buffers
                )
                slope = slope.to(products)
                if products == unit.dtype:
                    torch.mm(slope, factor, out=gradient)
                    to_unit.addmm_(slope.t(), centres)
                else:
                    gradient.copy_(slope @ factor)
                    to_unit.add_(slope.t() @ centres.to(products))
                # Only the part across a centre moves its direction: the part along it is subtracted.
                gradient.addcmul_(centres, radial.mul_(chunks.inverse_norms[rows]).unsqueeze(1), value=-1.0)
            to_unit.mul_(normaliser.unsqueeze(1))

            # Targets: through the margin to the target cosines and the norms, then to centres and embeddings.
            to_target = others_probability * -per_image
            if chunks.margin.moves_others:
                to_target.addcmul_(target_by_others if layout is None else summed(target_by_others), normaliser)
            to_scales = None
            if graph.scales.requires_grad:
                by_others = torch.linalg.vecdot(to_unit, unit)
                by_others = by_others if layout is None else summed(by_others)
                to_scales = (by_others + to_target * graph.target.detach()) / chunks.scale
            to_cosines, to_norms = graph.gradient(to_target, upstream, to_scales)
            slopes = to_cosines.unsqueeze(1)
            to_unit.addcmul_(target_centres, slopes)
            if len(to_weight):
                tangent = torch.addcmul(unit, target_centres, graph.cosines.detach().unsqueeze(1), value=-1.0)
                tangent.mul_(slopes * target_inverse_norms)
                to_weight.index_add_(0, ctx.target_rows.clamp(min=0), tangent)

            if layout is not None:
                to_unit = layout.summed_local(to_unit)
                to_norms = None if to_norms is None else layout.local(to_norms)
            to_embeddings = through_unit(to_unit, local_unit, local_inverse_norms)
            if to_norms is not None:
                to_embeddings.addcmul_(local_unit, to_norms.unsqueeze(1))
        return to_embeddings, to_weight, None, None, None, None, None, None


class _TargetGraph:
    """The margin's target, scale and penalty as functions of target cosines and norms, in a small autograd graph."""

    def __init__(self, margin: Margin, cosines: torch.Tensor, norms: torch.Tensor, targets: Targets) -> None:
        with torch.enable_grad():
            self.cosines = cosines.detach().requires_grad_()
            self.norms = norms.detach().requires_grad_()
            self.target = margin.target_of(self.cosines, self.norms, targets)
            self.scales = margin.scales(self.norms)
            self.penalty = margin.penalty(self.norms)

    def gradient(
        self, to_target: torch.Tensor, to_penalty: torch.Tensor, to_scales: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the gradients with respect to the cosines and to the norms; None if the norms are not used."""
        outputs, upstream = [self.target], [to_target]
        if self.penalty is not None and self.penalty.requires_grad:
            outputs, upstream = [*outputs, self.penalty], [*upstream, to_penalty]
        if to_scales is not None:
            outputs, upstream = [*outputs, self.scales], [*upstream, to_scales]
        to_cosines, to_norms = torch.autograd.grad(
            outputs, [self.cosines, self.norms], upstream, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(to_target) if to_cosines is None else to_cosines, to_norms


def _nearest_centres(
    unit: torch.Tensor, weight: torch.Tensor, inverse_norms: torch.Tensor, columns: torch.Tensor, subcentres: int
) -> torch.Tensor:
    """Return the row of the nearest centre of each image's identity, (batch,); -1 if another process has it."""
    if not len(weight):
        return columns
    rows = columns.clamp(min=0).unsqueeze(1) * subcentres + torch.arange(subcentres, device=columns.device)
    cosines = torch.einsum("nd,nkd->nk", unit, weight[rows]) * inverse_norms[rows]
    return torch.where(columns >= 0, rows.gather(1, cosines.argmax(dim=1, keepdim=True)).squeeze(1), -1)


def _target_centres(
    weight: torch.Tensor, inverse_norms: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unit-length centres in these rows, (batch, D), and 1 / their norms, (batch, 1); 0 for row -1."""
    if not len(weight):
        return weight.new_zeros(len(rows), weight.shape[1]), weight.new_zeros(len(rows), 1)
    present = rows.clamp(min=0)
    target_inverse_norms = (inverse_norms[present] * (rows >= 0)).unsqueeze(1)
    return weight[present].mul_(target_inverse_norms), target_inverse_norms


def _inverse_norms(weight: torch.Tensor) -> torch.Tensor:
    """Return 1 / |w| of every row; 0 for a row of zeros, whose cosines are 0 and which gets no gradient."""
    inverse: torch.Tensor = torch.linalg.vector_norm(weight, dim=1).reciprocal_()
    return inverse.nan_to_num_(nan=torch.nan, posinf=0.0)
