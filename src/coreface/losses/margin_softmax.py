"""The margin-softmax, M in docs/method.md, as one function of embeddings and centres that saves memory.

Autograd would keep several (batch, identities) matrices and a normalised copy of the centres. Here one matrix of scaled
cosines is kept for the backward pass; everything else of that size exists for one chunk of identities at a time.
"""

import copy
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from coreface.distributed.collectives import RowLayout, maximum, summed
from coreface.losses.margins import Margin
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
    products: torch.dtype,
    layout: RowLayout | None = None,
) -> torch.Tensor:
    """Return the mean cross-entropy of a batch over the cosines with all centres, plus the margin's penalty.

    Args:
        embeddings: (batch, D), of any length, float32 or float64.
        weight: (identities, D), the centres, of any length, in the same dtype.
        columns: (batch,), int64, row of each embedding's own centre.
        margin: its state is updated once, from the whole batch.
        products: dtype of the factors of matrix products and of the cosines that are not targets. The rest (lengths,
            target cosines, sums, loss) has the dtype of the embeddings.
        layout: where embeddings and centres are spread over processes. ``embeddings`` and ``weight`` are this
            process's, ``columns`` has one for the embeddings of all, -1 where the centre is another process's.

    Returns:
        A scalar in the dtype of the embeddings, differentiable once in the first two arguments.
    """
    loss: torch.Tensor = _MarginSoftmax.apply(  # type: ignore[no-untyped-call]
        embeddings, weight, columns, margin, products, layout
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
        products: torch.dtype,
        layout: RowLayout | None,
    ) -> torch.Tensor:
        own_unit, shrink = split_length(embeddings)
        unit, norms = own_unit, torch.linalg.vector_norm(embeddings, dim=1)
        if layout is not None:
            unit, norms = layout.gather(unit), layout.gather(norms)
        inverse = _inverse_norms(weight)
        centre, found = _own_centres(weight, inverse, columns)
        cosines = torch.linalg.vecdot(unit, centre)
        graph = _TargetGraph(margin, cosines if layout is None else summed(cosines), norms)
        if margin.moves_others:
            margin = copy.deepcopy(margin)  # its state as it is now: `backward` asks once more
        sweep = _Sweep(weight, inverse, columns, graph.target.detach(), margin)

        scores = torch.empty(len(weight), len(unit), dtype=products, device=unit.device)
        factor = (unit * margin.scale).to(products).t()
        for block, rows in sweep.chunks(scores):
            torch.mm(weight[rows].to(products), factor, out=block)
            block.mul_(inverse[rows].unsqueeze(1))
        if not margin.moves_others:
            # Finite in float16, too: what weighs nothing is multiplied by its weight.
            sweep.without_targets(scores, 0, max(_NOTHING, torch.finfo(products).min))
        top, total = sweep.maximum_and_sum(scores)
        if layout is not None:
            highest = maximum(top.clone())
            total = summed(total.mul_(top.sub_(highest).exp_()))
            top = highest

        target = graph.target.detach() * margin.scale
        excess = (top - target).add_(total.log())
        # log(1 + e^excess): where the loss is small, log-sum-exp less the target would lose it in rounding.
        losses = excess.clamp(min=0).add_(excess.abs().neg_().exp_().log1p_())
        share = torch.sigmoid(excess)  # of all others in the softmax
        ctx.save_for_backward(own_unit, shrink, unit, centre, found, scores, top, share, share / total)
        ctx.graph, ctx.sweep, ctx.products, ctx.layout = graph, sweep, products, layout
        return losses.mean() if graph.penalty is None else losses.mean() + graph.penalty.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        own_unit, shrink, unit, centre, found, scores, top, share, parts = ctx.saved_tensors
        with torch.autocast(unit.device.type, enabled=False):  # backward() may be called under autocast, too
            graph, sweep, products, layout = ctx.graph, ctx.sweep, ctx.products, ctx.layout
            each = upstream * (sweep.margin.scale / len(unit))
            parts = parts * each

            to_weight, to_unit, bent = torch.empty_like(sweep.weight), torch.zeros_like(unit), torch.zeros_like(top)
            space = sweep.space(2)
            factor = (unit * parts.unsqueeze(1)).to(products)
            for block, rows in sweep.chunks(scores):
                centres, gradient = sweep.weight[rows], to_weight[rows]
                slope, radial = sweep.slopes(block, rows, top, parts, bent, space)
                slope = slope.to(products)
                if products == unit.dtype:
                    torch.mm(slope, factor, out=gradient)
                    to_unit.addmm_(slope.t(), centres)
                else:
                    gradient.copy_(slope @ factor)
                    to_unit.add_(slope.t() @ centres.to(products))
                gradient.addcmul_(centres, radial.mul_(sweep.inverse[rows]).unsqueeze(1), value=-1.0)
            to_unit.mul_(parts.unsqueeze(1))

            to_target = share * -each
            if sweep.margin.moves_others:
                to_target.addcmul_(bent if layout is None else summed(bent), parts)
            to_cosines, to_norms = graph.gradient(to_target, upstream)
            slopes = to_cosines.unsqueeze(1)
            to_unit.addcmul_(centre, slopes)
            if len(to_weight):
                tangent = torch.addcmul(unit, centre, graph.cosines.detach().unsqueeze(1), value=-1.0)
                tangent.mul_(slopes * found)
                to_weight.index_add_(0, sweep.columns.clamp(min=0), tangent)
            if layout is not None:
                to_unit = layout.summed_local(to_unit)
                to_norms = None if to_norms is None else layout.local(to_norms)
            to_embeddings = through_unit(to_unit, own_unit, shrink)
            if to_norms is not None:
                to_embeddings.addcmul_(own_unit, to_norms.unsqueeze(1))
        return to_embeddings, to_weight, None, None, None, None


class _TargetGraph:
    """The margin's target and penalty as functions of target cosines and norms, with a small graph of their own."""

    def __init__(self, margin: Margin, cosines: torch.Tensor, norms: torch.Tensor) -> None:
        with torch.enable_grad():
            self.cosines = cosines.detach().requires_grad_()
            self.norms = norms.detach().requires_grad_()
            self.target = margin.target(self.cosines, self.norms)
            self.penalty = margin.penalty(self.norms)

    def gradient(self, to_target: torch.Tensor, to_penalty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the gradients with respect to the cosines and to the norms (None where they do not enter)."""
        outputs, upstream = [self.target], [to_target]
        if self.penalty is not None and self.penalty.requires_grad:
            outputs, upstream = [self.target, self.penalty], [to_target, to_penalty]
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
        margin: Margin,
    ) -> None:
        self.weight = weight
        self.inverse = inverse
        self.columns = columns
        self.target = target
        self.margin = margin
        self._batch = torch.arange(len(columns), device=columns.device)
        entries = CHUNK.get(weight.device.type, 2**20)
        self._rows = max(1, entries // max(1, len(columns)))

    def chunks(self, scores: torch.Tensor) -> list[tuple[torch.Tensor, slice]]:
        """Return blocks of rows, each with its slice of the rows."""
        starts = range(0, len(scores), self._rows)
        return [(scores[start : start + self._rows], slice(start, start + self._rows)) for start in starts]

    def space(self, count: int) -> list[torch.Tensor]:
        """Return buffers for the largest chunk: new memory for every chunk would cost as much as a pass over it."""
        shape = (min(self._rows, len(self.weight)), len(self.columns))
        return [self.target.new_empty(shape) for _ in range(count)]

    def logits(self, block: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return the logits of the non-targets; the targets' places get a weight of 0."""
        block = block.to(self.target.dtype)
        if not self.margin.moves_others:
            return block
        logits = self.margin.others((block / self.margin.scale).t(), self.target).t() * self.margin.scale
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
        rows: slice,
        top: torch.Tensor,
        parts: torch.Tensor,
        bent: torch.Tensor,
        space: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the softmax's derivatives in a chunk, each centre's divided by its length.

        Args:
            block: (chunk, batch), the scaled cosines.
            rows: the chunk.
            top: (batch,), what is taken off the logits before exp.
            parts: (batch,), what the derivatives have to be multiplied with.
            bent: (batch,), to which those with respect to the targets are added, where the margin lets others depend
                on them; to be multiplied as well.
            space: two matrices that hold a chunk; overwritten, and the result may lie in the first.

        Returns:
            (chunk, batch) with respect to the scaled cosines, to be multiplied with ``parts``; (chunk,) their sums,
            multiplied, weighted with the cosines.
        """
        block = block.to(self.target.dtype)
        bends = self.margin.moves_others
        slope, product = (matrix[: len(block)] for matrix in space)
        slope = self._bent(block, rows, top, bent) if bends else torch.sub(block, top, out=slope).exp_()
        slope.mul_(self.inverse[rows].unsqueeze(1))
        return slope, torch.mv(torch.mul(slope, block, out=product), parts / self.margin.scale)

    def _bent(self, block: torch.Tensor, rows: slice, top: torch.Tensor, to_target: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            cosines = (block / self.margin.scale).t().requires_grad_()
            target = self.target.clone().requires_grad_()
            bent = self.margin.others(cosines, target)
        weights = torch.sub(bent.detach().t() * self.margin.scale, top).exp_()
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
