"""The margin-softmax, M in docs/method.md, as one function of embeddings and centres that saves memory.

Autograd would keep several (batch, identities) matrices and a normalised copy of the centres. Here one matrix of scaled
cosines is kept for the backward pass; everything else of that size exists for one chunk of identities at a time.
"""

import copy
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from coreface.distributed.collectives import RowLayout, maximum, summed
from coreface.losses.margins import Margin, Targets
from coreface.numerics.unit_length import split_length, through_unit

#: Entries of a chunk, by kind of device. On a CPU a chunk has to stay in the caches between two matrix products.
CHUNK = {"cpu": 2**19, "cuda": 2**26}
# A logit of weight 0. Unlike -inf it gives 0 when it is multiplied by its weight.
_NOTHING = -1e18


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
        weight: (identities, D), or (identities, K, D) with K centres of each, of any length, in the same dtype.
        columns: (batch,), int64, row of each embedding's own identity.
        margin: its state is updated once, from the whole batch.
        targets: what the margin may know of the images.
        products: dtype of the factors of matrix products and of the cosines that are not targets. The rest (lengths,
            target cosines, sums, loss) has the dtype of the embeddings.
        layout: where embeddings and centres are spread over processes. ``embeddings`` and ``weight`` are this
            process's, ``columns`` and ``targets`` are those of all; a column is -1 where another process has
            the identity.

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
        own_unit, shrink = split_length(embeddings)
        unit, norms = own_unit, torch.linalg.vector_norm(embeddings, dim=1)
        if layout is not None:
            unit, norms = layout.gather(unit), layout.gather(norms)
        inverse = _inverse_norms(weight)
        own_rows = columns if subcentres == 1 else _nearest_centres(unit, weight, inverse, columns, subcentres)
        centre, found = _own_centres(weight, inverse, own_rows)
        cosines = torch.linalg.vecdot(unit, centre)
        graph = _TargetGraph(margin, cosines if layout is None else summed(cosines), norms, targets)
        if margin.moves_others:
            margin = copy.deepcopy(margin)  # its state as it is now: `backward` asks once more
        scale = graph.scales.detach()
        sweep = _Sweep(weight, inverse, columns, graph.target.detach(), scale, margin, subcentres)

        scores = torch.empty(len(weight) // subcentres, len(unit), dtype=products, device=unit.device)
        nearest = None if subcentres == 1 else torch.empty_like(scores, dtype=torch.uint8)
        factor = (unit * scale.unsqueeze(1)).to(products).t()
        for block, rows in sweep.chunks(scores):
            centres = sweep.centres(rows)
            if nearest is None:
                torch.mm(weight[centres].to(products), factor, out=block)
                block.mul_(inverse[centres].unsqueeze(1))
            else:
                all_scores = (weight[centres].to(products) @ factor).mul_(inverse[centres].unsqueeze(1))
                best, which = all_scores.view(len(block), subcentres, len(unit)).max(dim=1)
                block.copy_(best)
                nearest[rows] = which
        if not margin.moves_others:
            # Finite in float16, too: what weighs nothing is multiplied by its weight.
            sweep.without_targets(scores, 0, max(_NOTHING, torch.finfo(products).min))
        top, total = sweep.maximum_and_sum(scores)
        if layout is not None:
            highest = maximum(top.clone())
            total = summed(total.mul_(top.sub_(highest).exp_()))
            top = highest

        target = graph.target.detach() * scale
        excess = (top - target).add_(total.log())
        # log(1 + e^excess): where the loss is small, log-sum-exp less the target would lose it in rounding.
        losses = excess.clamp(min=0).add_(excess.abs().neg_().exp_().log1p_())
        share = torch.sigmoid(excess)  # of all others in the softmax
        ctx.save_for_backward(own_unit, shrink, unit, centre, found, scores, top, share, share / total)
        ctx.graph, ctx.sweep, ctx.products, ctx.layout = graph, sweep, products, layout
        ctx.own_rows, ctx.nearest = own_rows, nearest
        return losses.mean() if graph.penalty is None else losses.mean() + graph.penalty.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        own_unit, shrink, unit, centre, found, scores, top, share, parts = ctx.saved_tensors
        with torch.autocast(unit.device.type, enabled=False):  # backward() may be called under autocast, too
            graph, sweep, products, layout = ctx.graph, ctx.sweep, ctx.products, ctx.layout
            each = sweep.scale * (upstream / len(unit))
            parts = parts * each

            to_weight, to_unit, bent = torch.empty_like(sweep.weight), torch.zeros_like(unit), torch.zeros_like(top)
            space = sweep.space(2)
            factor = (unit * parts.unsqueeze(1)).to(products)
            for block, rows in sweep.chunks(scores):
                inside = sweep.centres(rows)
                centres, gradient = sweep.weight[inside], to_weight[inside]
                which = None if ctx.nearest is None else ctx.nearest[rows]
                slope, radial = sweep.slopes(block, which, rows, top, parts, bent, space)
                slope = slope.to(products)
                if products == unit.dtype:
                    torch.mm(slope, factor, out=gradient)
                    to_unit.addmm_(slope.t(), centres)
                else:
                    gradient.copy_(slope @ factor)
                    to_unit.add_(slope.t() @ centres.to(products))
                gradient.addcmul_(centres, radial.mul_(sweep.inverse[inside]).unsqueeze(1), value=-1.0)
            to_unit.mul_(parts.unsqueeze(1))

            to_target = share * -each
            if sweep.margin.moves_others:
                to_target.addcmul_(bent if layout is None else summed(bent), parts)
            to_scales = None
            if graph.scales.requires_grad:
                by_others = torch.linalg.vecdot(to_unit, unit)
                by_others = by_others if layout is None else summed(by_others)
                to_scales = (by_others + to_target * graph.target.detach()) / sweep.scale
            to_cosines, to_norms = graph.gradient(to_target, upstream, to_scales)
            slopes = to_cosines.unsqueeze(1)
            to_unit.addcmul_(centre, slopes)
            if len(to_weight):
                tangent = torch.addcmul(unit, centre, graph.cosines.detach().unsqueeze(1), value=-1.0)
                tangent.mul_(slopes * found)
                to_weight.index_add_(0, ctx.own_rows.clamp(min=0), tangent)
            if layout is not None:
                to_unit = layout.summed_local(to_unit)
                to_norms = None if to_norms is None else layout.local(to_norms)
            to_embeddings = through_unit(to_unit, own_unit, shrink)
            if to_norms is not None:
                to_embeddings.addcmul_(own_unit, to_norms.unsqueeze(1))
        return to_embeddings, to_weight, None, None, None, None, None, None


class _TargetGraph:
    """The margin's target and penalty as functions of target cosines and norms, with a small graph of their own."""

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
        """Return the gradients with respect to the cosines and to the norms (None where they do not enter)."""
        outputs, upstream = [self.target], [to_target]
        if self.penalty is not None and self.penalty.requires_grad:
            outputs, upstream = [*outputs, self.penalty], [*upstream, to_penalty]
        if to_scales is not None:
            outputs, upstream = [*outputs, self.scales], [*upstream, to_scales]
        to_cosines, to_norms = torch.autograd.grad(
            outputs, [self.cosines, self.norms], upstream, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(to_target) if to_cosines is None else to_cosines, to_norms


class _Sweep:
    """The passes over the chunks of a matrix (identities, batch) of scaled cosines."""

    def __init__(
        self,
        weight: torch.Tensor,
        inverse: torch.Tensor,
        columns: torch.Tensor,
        target: torch.Tensor,
        scale: torch.Tensor,
        margin: Margin,
        subcentres: int,
    ) -> None:
        self.weight = weight
        self.inverse = inverse
        self.columns = columns
        self.target = target
        self.scale = scale
        self.margin = margin
        self.subcentres = subcentres
        self._batch = torch.arange(len(columns), device=columns.device)
        entries = CHUNK.get(weight.device.type, 2**20)
        self._rows = max(1, entries // max(1, len(columns) * subcentres))

    def chunks(self, scores: torch.Tensor) -> list[tuple[torch.Tensor, slice]]:
        """Return blocks of rows, each with its slice of the rows."""
        starts = range(0, len(scores), self._rows)
        return [(scores[start : start + self._rows], slice(start, start + self._rows)) for start in starts]

    def centres(self, rows: slice) -> slice:
        """Return the centres of the identities of a chunk."""
        return slice(rows.start * self.subcentres, rows.stop * self.subcentres)

    def space(self, count: int) -> list[torch.Tensor]:
        """Return buffers for the largest chunk: new memory for every chunk would cost as much as a pass over it."""
        shape = (min(self._rows, len(self.weight) // self.subcentres), len(self.columns))
        return [self.target.new_empty(shape) for _ in range(count)]

    def logits(self, block: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return the logits of the non-targets; the targets' places get a weight of 0."""
        block = block.to(self.target.dtype)
        if not self.margin.moves_others:
            return block
        logits = self.margin.others((block / self.scale).t(), self.target).t() * self.scale
        return self.without_targets(logits, rows.start, _NOTHING)

    def maximum_and_sum(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest logit beside each target, and the sum of all exp(logit - largest)."""
        top = torch.full_like(self.target, _NOTHING)
        total = torch.zeros_like(self.target)
        (space,) = self.space(1)
        for block, rows in self.chunks(scores):
            logits = self.logits(block, rows)
            higher = torch.maximum(top, logits.amax(dim=0))
            exponentials = torch.sub(logits, higher, out=space[: len(block)]).exp_()
            total.mul_(top.sub_(higher).exp_()).add_(exponentials.sum(dim=0))
            top = higher
        return top, total

    def slopes(
        self,
        block: torch.Tensor,
        nearest: torch.Tensor | None,
        rows: slice,
        top: torch.Tensor,
        parts: torch.Tensor,
        bent: torch.Tensor,
        space: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the softmax's derivatives in a chunk, each centre's divided by its length.

        Args:
            block: (chunk, batch), the scaled cosines.
            nearest: (chunk, batch), which of an identity's centres each belongs to; None where there is one.
            rows: the chunk.
            top: (batch,), what is taken off the logits before exp.
            parts: (batch,), what the derivatives have to be multiplied with.
            bent: (batch,), to which those with respect to the targets are added, where the margin lets others depend
                on them; to be multiplied as well.
            space: two matrices that hold a chunk; overwritten, and the result may lie in the first.

        Returns:
            (centres of the chunk, batch) with respect to the scaled cosines, to be multiplied with ``parts``;
            (centres of the chunk,) their sums, multiplied, weighted with the cosines.
        """
        block = block.to(self.target.dtype)
        bends = self.margin.moves_others
        slope, product = (matrix[: len(block)] for matrix in space)
        slope = self._bent(block, rows, top, bent) if bends else torch.sub(block, top, out=slope).exp_()
        if nearest is not None:
            slope, block = self._of_nearest(nearest, slope, block)
            product = torch.empty_like(block)
        slope.mul_(self.inverse[self.centres(rows)].unsqueeze(1))
        return slope, torch.mv(torch.mul(slope, block, out=product), parts / self.scale)

    def _of_nearest(self, nearest: torch.Tensor, *blocks: torch.Tensor) -> list[torch.Tensor]:
        """Return blocks (chunk, batch) as (centres of the chunk, batch): 0 but at the nearest centre of an identity."""
        places = nearest.long().unsqueeze(1)
        return [
            block.new_zeros(len(block), self.subcentres, block.shape[1])
            .scatter_(1, places, block.unsqueeze(1))
            .flatten(0, 1)
            for block in blocks
        ]

    def _bent(self, block: torch.Tensor, rows: slice, top: torch.Tensor, to_target: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            cosines = (block / self.scale).t().requires_grad_()
            target = self.target.clone().requires_grad_()
            bent = self.margin.others(cosines, target)
        weights = torch.sub(bent.detach().t() * self.scale, top).exp_()
        weights = self.without_targets(weights, rows.start, 0.0)
        slope, by_target = torch.autograd.grad(bent, [cosines, target], weights.t(), allow_unused=True)
        if by_target is not None:
            to_target.add_(by_target)
        return slope.t().contiguous()

    def without_targets(self, block: torch.Tensor, start: int, value: float) -> torch.Tensor:
        """Overwrite the targets' places in rows from ``start``; no synchronisation, whichever of them lie there."""
        if not len(block):
            return block
        row = self.columns - start
        inside = (row >= 0) & (row < len(block))
        places = (row.clamp(0, len(block) - 1), self._batch)
        return block.index_put_(places, torch.where(inside, value, block[places]))


def _nearest_centres(
    unit: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, columns: torch.Tensor, subcentres: int
) -> torch.Tensor:
    """Return the row of the nearest centre of each embedding's own identity, (batch,); -1 if elsewhere."""
    if not len(weight):
        return columns
    rows = columns.clamp(min=0).unsqueeze(1) * subcentres + torch.arange(subcentres, device=columns.device)
    cosines = torch.einsum("nd,nkd->nk", unit, weight[rows]) * inverse[rows]
    return torch.where(columns >= 0, rows.gather(1, cosines.argmax(dim=1, keepdim=True)).squeeze(1), -1)


def _own_centres(
    weight: torch.Tensor, inverse: torch.Tensor, columns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each embedding's own centre at unit length, (batch, D), and 1 / its length, (batch, 1); 0 if elsewhere."""
    if not len(weight):
        return weight.new_zeros(len(columns), weight.shape[1]), weight.new_zeros(len(columns), 1)
    rows = columns.clamp(min=0)
    found = (inverse[rows] * (columns >= 0)).unsqueeze(1)
    return weight[rows].mul_(found), found


def _inverse_norms(weight: torch.Tensor) -> torch.Tensor:
    """Return 1 / |w| of every row; 0 for a row of zeros, whose cosines are 0 and which gets no gradient."""
    inverse: torch.Tensor = torch.linalg.vector_norm(weight, dim=1).reciprocal_()
    return inverse.nan_to_num_(nan=torch.nan, posinf=0.0)
