"""Passes over a matrix (identities, batch) of scaled cosines, one chunk of identities at a time.

The matrix itself is kept. Everything else of its size (logits, exponentials, derivatives) exists for one chunk only.
"""

from collections.abc import Iterable

import torch

from coreface.losses.margins import Margin

#: Entries of a chunk, by type of device. On a CPU a chunk has to stay in the caches between two matrix products.
CHUNK = {"cpu": 2**19, "cuda": 2**26}
#: A logit whose softmax weight is 0. Unlike -inf it gives 0 when it is multiplied by that weight.
NO_LOGIT = -1e18


class CosineChunks:
    """The non-target logits of a batch and their derivatives, computed from scaled cosines chunk by chunk.

    Args:
        weight: (identities * K, D), the centres of this process, K of them per identity.
        inverse_norms: (identities * K,), 1 / the norm of each centre.
        columns: (batch,), int64, index of each image's identity; -1 if another process has it.
        target: (batch,), target cosines with the margin.
        scale: (batch,), s.
        margin: may change the cosines with other identities (`Margin.others`).
        subcentres: K.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        inverse_norms: torch.Tensor,
        columns: torch.Tensor,
        target: torch.Tensor,
        scale: torch.Tensor,
        margin: Margin,
        subcentres: int,
    ) -> None:
        self.weight = weight
        self.inverse_norms = inverse_norms
        self.columns = columns
        self.target = target
        self.scale = scale
        self.margin = margin
        self.subcentres = subcentres
        self._batch = torch.arange(len(columns), device=columns.device)
        entries = CHUNK.get(weight.device.type, 2**20)
        self._rows = max(1, entries // max(1, len(columns) * subcentres))

    def of(self, cosines: torch.Tensor) -> list[tuple[torch.Tensor, slice]]:
        """Split a matrix (identities, batch) into chunks, each with the slice of its identities."""
        starts = range(0, len(cosines), self._rows)
        return [(cosines[start : start + self._rows], slice(start, start + self._rows)) for start in starts]

    def centres(self, identities: slice) -> slice:
        """Return the rows of ``weight`` that belong to the identities of a chunk."""
        return slice(identities.start * self.subcentres, identities.stop * self.subcentres)

    def buffers(self, count: int, per_identity: int = 1) -> list[torch.Tensor]:
        """Return buffers for the largest chunk: allocating them for every chunk would cost as much as a pass."""
        identities = min(self._rows, len(self.weight) // self.subcentres)
        return [self.target.new_empty(identities * per_identity, len(self.columns)) for _ in range(count)]

    def take_nearest(self, by_centre: torch.Tensor, largest: torch.Tensor, nearest: torch.Tensor) -> None:
        """Write the largest cosine of each identity in a chunk, and which of its centres it belongs to.

        Args:
            by_centre: (centres of the chunk, batch), the cosines.
            largest: (chunk, batch); overwritten.
            nearest: (chunk, batch), uint8; overwritten.
        """
        first, *others = by_centre.view(len(largest), self.subcentres, -1).unbind(1)
        largest.copy_(first)
        nearest.zero_()
        for number, other in enumerate(others, 1):  # a tenth of the time of max(dim=1) on a CPU
            torch.maximum(nearest, (other > largest).view(torch.uint8).mul_(number), out=nearest)
            torch.maximum(largest, other, out=largest)

    def logits(self, chunk: torch.Tensor, identities: slice) -> torch.Tensor:
        """Return the non-target logits of a chunk; the entries of the targets get a softmax weight of 0."""
        chunk = chunk.to(self.target.dtype)
        if not self.margin.moves_others:
            return chunk
        logits = self.margin.others((chunk / self.scale).t(), self.target).t() * self.scale
        return self.without_targets(logits, identities.start, NO_LOGIT)

    def maximum_and_sum(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest non-target logit of each image, and the sum of exp(logit - largest), both (batch,)."""
        maximum = torch.full_like(self.target, NO_LOGIT)
        total = torch.zeros_like(self.target)
        (buffer,) = self.buffers(1)
        for chunk, identities in self.of(cosines):
            logits = self.logits(chunk, identities)
            higher = torch.maximum(maximum, logits.amax(dim=0))
            exponentials = torch.sub(logits, higher, out=buffer[: len(chunk)]).exp_()
            total.mul_(maximum.sub_(higher).exp_()).add_(exponentials.sum(dim=0))
            maximum = higher
        return maximum, total

    def derivatives(
        self,
        chunk: torch.Tensor,
        nearest: torch.Tensor | None,
        identities: slice,
        maximum: torch.Tensor,
        normaliser: torch.Tensor,
        to_target: torch.Tensor,
        buffers: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the derivatives of the loss with respect to the scaled cosines of a chunk, over the centres' norms.

        Args:
            chunk: (chunk, batch), the scaled cosines.
            nearest: (chunk, batch), which of an identity's centres each cosine belongs to; None if K is 1.
            identities: the identities of the chunk.
            maximum: (batch,), subtracted from the logits before exp.
            normaliser: (batch,), what exp(logit - maximum) is multiplied by to give the derivative.
            to_target: (batch,), accumulates the derivatives with respect to the targets if the margin lets the other
                cosines depend on them; also to be multiplied by ``normaliser``.
            buffers: two, and if K is above 1 two with K rows for each identity; overwritten, and the result may share
                memory with them.

        Returns:
            (centres of the chunk, batch), the derivatives, still to be multiplied by ``normaliser``;
            (centres of the chunk,), their sums over the batch weighted by ``normaliser`` and the cosines.
        """
        chunk = chunk.to(self.target.dtype)
        slope, product = (buffer[: len(chunk)] for buffer in buffers[:2])
        if self.margin.moves_others:
            slope = self._through_margin(chunk, identities, maximum, to_target)
        else:
            torch.sub(chunk, maximum, out=slope).exp_()
        torch.mul(slope, chunk, out=product)
        if nearest is not None:
            slope, product = self._at_nearest(nearest, (slope, product), buffers[2:])
        inverse_norms = self.inverse_norms[self.centres(identities)]
        slope.mul_(inverse_norms.unsqueeze(1))
        return slope, torch.mv(product, normaliser / self.scale).mul_(inverse_norms)

    def _through_margin(
        self, chunk: torch.Tensor, identities: slice, maximum: torch.Tensor, to_target: torch.Tensor
    ) -> torch.Tensor:
        """Backpropagate exp(logit - maximum) through `Margin.others`."""
        with torch.enable_grad():
            cosines = (chunk / self.scale).t().requires_grad_()
            target = self.target.clone().requires_grad_()
            others = self.margin.others(cosines, target)
        weights = torch.sub(others.detach().t() * self.scale, maximum).exp_()
        weights = self.without_targets(weights, identities.start, 0.0)
        slope, by_target = torch.autograd.grad(others, [cosines, target], weights.t(), allow_unused=True)
        if by_target is not None:
            to_target.add_(by_target)
        return slope.t().contiguous()

    def _at_nearest(
        self, nearest: torch.Tensor, chunks: Iterable[torch.Tensor], buffers: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Expand (chunk, batch) to (centres of the chunk, batch), 0 except at the nearest centre of each identity."""
        places = nearest.long().unsqueeze(1)
        expanded = []
        for chunk, buffer in zip(chunks, buffers, strict=True):
            by_centre = buffer[: len(chunk) * self.subcentres].zero_()
            by_centre.view(len(chunk), self.subcentres, -1).scatter_(1, places, chunk.unsqueeze(1))
            expanded.append(by_centre)
        return expanded

    def without_targets(self, chunk: torch.Tensor, start: int, value: float) -> torch.Tensor:
        """Overwrite the entries of the targets in a chunk that begins at identity ``start``, without synchronising."""
        if not len(chunk):
            return chunk
        row = self.columns - start
        inside = (row >= 0) & (row < len(chunk))
        places = (row.clamp(0, len(chunk) - 1), self._batch)
        return chunk.index_put_(places, torch.where(inside, value, chunk[places]))
