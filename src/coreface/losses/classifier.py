"""The identity centres that training compares embeddings with; evaluation never sees them."""

import torch
import torch.nn.functional as F
from torch import nn

from coreface.errors import InputError
from coreface.losses.margins import Margin
from coreface.losses.softmax import margin_softmax
from coreface.losses.unit import unit_rows
from coreface.precision import at_least_float32

#: Batch x identities up to which a call takes the plain way, where fewer operations count for more than fewer bytes.
SMALL = 2**16


class MarginClassifier(nn.Module):
    """Softmax over the cosines with one centre an identity, with a margin on the target.

    A call computes in float32 (float64 for float64 embeddings). With many identities it keeps one matrix of
    (identities, batch) for the backward pass and no copy of the centres, and under autocast the factors of its matrix
    products and the cosines with other identities are rounded to the autocast dtype; lengths, target cosines, sums and
    the loss stay in float32.

    Args:
        margin: an `ArcFace`, `CosFace`, `CurricularFace`, `MagFace`, `AdaFace` or any other `Margin`.
        embedding_size: D.
        identities: C, number of identities.

    Raises:
        InputError: a number is out of range.

    Attributes:
        weight: (C, D), the centres; only their directions matter. Initialised N(0, 0.01).
    """

    def __init__(self, margin: Margin, embedding_size: int, identities: int) -> None:
        super().__init__()
        if embedding_size < 1 or identities < 1:
            raise InputError(f"got {identities} identities of {embedding_size} numbers, expected at least 1 of both")
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(identities, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def logits(self, embeddings: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Return what enters the softmax: scaled cosines, the targets with the margin. Never reduced by autocast.

        Args:
            embeddings: (batch, D), any float dtype, not necessarily unit length.
            identities: (batch,), int64 in 0 .. C - 1.

        Returns:
            (batch, C), float32 or float64.

        Raises:
            InputError: shapes do not fit, or (checked on the CPU only, where it costs no synchronisation) an identity
                has no centre.
        """
        self._check(embeddings, identities)
        return self._logits_and_penalty(embeddings, identities)[0]

    def forward(self, embeddings: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the logits, a scalar. Arguments and errors as for `logits`."""
        self._check(embeddings, identities)
        if len(embeddings) * len(self.weight) <= SMALL:
            logits, penalty = self._logits_and_penalty(embeddings, identities)
            loss = F.cross_entropy(logits, identities)
            return loss if penalty is None else loss + penalty
        device = embeddings.device.type
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            embeddings = at_least_float32(embeddings)
            reduced = autocast and embeddings.dtype == torch.float32
            products = torch.get_autocast_dtype(device) if reduced else embeddings.dtype
            return margin_softmax(embeddings, self.weight.to(embeddings.dtype), identities, self.margin, products)

    def _logits_and_penalty(
        self, embeddings: torch.Tensor, identities: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            norms = torch.linalg.vector_norm(embeddings, dim=1)
            cosines = unit_rows(embeddings) @ unit_rows(self.weight.to(embeddings.dtype)).t()
            columns = identities.unsqueeze(1)
            target = self.margin.target(cosines.gather(1, columns).squeeze(1), norms)
            logits = self.margin.others(cosines, target) * self.margin.scale
            logits.scatter_(1, columns, (target * self.margin.scale).unsqueeze(1))
            return logits, self.margin.penalty(norms)

    def _check(self, embeddings: torch.Tensor, identities: torch.Tensor) -> None:
        count, size = self.weight.shape
        if embeddings.ndim != 2 or embeddings.shape[1] != size or not embeddings.is_floating_point():
            raise InputError(
                f"got embeddings {embeddings.dtype} {tuple(embeddings.shape)}, expected floats (batch, {size})"
            )
        if identities.shape != embeddings.shape[:1] or identities.dtype != torch.int64:
            raise InputError(
                f"got identities {identities.dtype} {tuple(identities.shape)}, expected int64 ({len(embeddings)},)"
            )
        if identities.device.type == "cpu" and len(identities):
            lowest, highest = int(identities.min()), int(identities.max())
            if lowest < 0 or highest >= count:
                raise InputError(
                    f"got identities {lowest} to {highest}, expected 0 to {count - 1}: there are {count} centres"
                )

    def extra_repr(self) -> str:
        return f"identities={self.weight.shape[0]}, embedding_size={self.weight.shape[1]}"
