"""The classifier used in training: one centre per identity, and a margin-softmax over the cosines.

The loss of one view is M(h, y) in docs/method.md, equation 2. Evaluation does not use the centres.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from coreface.distributed.collectives import RowLayout, is_sharded, local, whole, world_size
from coreface.errors import InputError
from coreface.losses.margin_softmax import margin_softmax
from coreface.losses.margins import Margin, Targets
from coreface.losses.sampling import sampled
from coreface.numerics.precision import at_least_float32
from coreface.numerics.unit_length import unit_rows

if TYPE_CHECKING:
    from coreface.distributed.sharded_rows import Shard

#: Batch x identities up to which a call uses plain autograd: below it, few operations matter more than little memory.
SMALL = 2**16


class MarginClassifier(nn.Module):
    """Softmax over the cosines with one centre per identity, and a margin on the target.

    A call computes in float32 (float64 for float64 embeddings). With many identities it keeps one (identities, batch)
    matrix for the backward pass and no copy of the centres. Under autocast the factors of its matrix products and the
    non-target cosines are rounded to the autocast dtype; norms, target cosines, sums and the loss stay in float32.

    With ``sharded=True`` each process of torch.distributed holds a part of the rows. A call is then collective: it
    takes this process's batch (of any length, including 0), and value and gradients equal those of a single process
    with the joined batch and all rows. Gradients of weights that are replicated on every process must be SUMMED over
    the processes.

    With a ``sample_rate`` below 1, the softmax of a call in training mode includes the identities of its batch, and
    each other identity with that probability. The choice depends only on the seed, the number of the call and the
    identity, not on the number of processes. `update_own_rows` keeps an optimizer from changing the other rows.

    With ``subcentres`` K above 1, an identity has K centres and its cosine is the one with the nearest of them, so that
    mislabelled images can gather around a separate centre. Source: Deng et al., "Sub-center ArcFace" (ECCV 2020), here
    with any margin.

    Args:
        margin: an `ArcFace`, `CosFace`, `CurricularFace`, `MagFace`, `AdaFace` or any other `Margin`.
        embedding_size: D.
        identities: C, number of identities.
        sample_rate: probability of including an identity that is not in the batch, above 0, at most 1.
        subcentres: K, centres per identity.
        seed: seed of the sampling.
        sharded: split the rows over the processes; without a process group there is one process.
        device: where to create the weight. Sharded centres stay on that type of device.

    Raises:
        InputError: a number is out of range.

    Attributes:
        weight: (C, D), with subcentres (C, K, D), the centres; only their directions matter. Initialised N(0, 0.01),
            with the same numbers for any number of processes. Sharded, it is a DTensor, which
            torch.distributed.checkpoint saves and reshards.
        calls: a buffer, the number of calls that drew a sample.
        touched: (rows of this process,), bool, the rows used since the optimizer's last step; not saved.
    """

    calls: torch.Tensor
    touched: torch.Tensor

    def __init__(
        self,
        margin: Margin,
        embedding_size: int,
        identities: int,
        *,
        sample_rate: float = 1.0,
        subcentres: int = 1,
        seed: int = 0,
        sharded: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if embedding_size < 1 or identities < 1:
            raise InputError(f"got {identities} identities of {embedding_size} numbers, expected at least 1 of each")
        if not 0 < sample_rate <= 1:
            raise InputError(f"sample_rate is {sample_rate}, expected a probability above 0, at most 1")
        if not 1 <= subcentres <= 255:
            raise InputError(f"subcentres is {subcentres}, expected 1 to 255; the paper uses 3")
        if margin.moves_others and type(margin).scales is not Margin.scales:
            raise InputError(f"{type(margin).__name__} overrides both others and scales, expected at most one of them")
        self.margin = margin
        self.subcentres = subcentres
        self.sample_rate = sample_rate
        self.seed = seed
        self._shard: Shard | None = None
        centres = (embedding_size,) if subcentres == 1 else (subcentres, embedding_size)  # of one identity
        if sharded and world_size() > 1:
            from coreface.distributed import (
                sharded_rows as shards,
            )  # importing DTensor takes half as long as importing torch

            self._shard = shards.Shard(identities, torch.device(device))
            self.weight = nn.Parameter(self._shard.normal(*centres, std=0.01))
        else:
            self.weight = nn.Parameter(torch.empty(identities, *centres, device=device))
            nn.init.normal_(self.weight, std=0.01)
        if sample_rate < 1:
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=device))
            rows = identities if self._shard is None else self._shard.rows
            self.register_buffer("touched", torch.zeros(rows, dtype=torch.bool, device=device), persistent=False)

    def logits(
        self, embeddings: torch.Tensor, identities: torch.Tensor, bits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits: scaled cosines, with the margin on the targets. Autocast does not change their precision.

        For inspection: it allocates several matrices of the result's size, and gathers sharded centres.

        Args:
            embeddings: (batch, D), any float dtype, not necessarily unit length.
            identities: (batch,), int64 in 0 .. C - 1.
            bits: (batch,), int64, random bits of each embedding for a margin that draws random numbers; None uses
                torch's generator.

        Returns:
            (batch, C), float32 or float64.

        Raises:
            InputError: shapes do not match, or an identity has no centre (checked on the CPU only, where it costs no
                synchronisation).
        """
        self._check(embeddings, identities)
        return self._logits_and_penalty(embeddings, whole(self.weight), self._targets(identities, bits))[0]

    def forward(
        self, embeddings: torch.Tensor, identities: torch.Tensor, bits: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean cross-entropy of the logits, a scalar. Arguments and errors as for `logits`."""
        self._check(embeddings, identities)
        samples = self.training and self.sample_rate < 1
        targets = self._targets(identities, bits)
        if self._shard is None and not samples and len(embeddings) * len(self.weight) * self.subcentres <= SMALL:
            logits, penalty = self._logits_and_penalty(embeddings, self.weight, targets)
            loss = F.cross_entropy(logits, identities)
            return loss if penalty is None else loss + penalty

        device = embeddings.device.type
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            embeddings = at_least_float32(embeddings)
            reduced = autocast and embeddings.dtype == torch.float32
            products = torch.get_autocast_dtype(device) if reduced else embeddings.dtype
            layout: RowLayout | None = None
            weight, columns = local(self.weight), identities
            if self._shard is not None:
                layout = RowLayout(len(embeddings), embeddings.device)
                bits = None if targets.bits is None else layout.gather(targets.bits)
                targets = Targets(layout.gather(identities), bits)
                columns = self._shard.columns(targets.identities)
            if samples:
                weight, columns = self._sample(weight, columns)
            weight = weight.to(embeddings.dtype)
            return margin_softmax(embeddings, weight, columns, self.margin, targets, products, layout)

    def _targets(self, identities: torch.Tensor, bits: torch.Tensor | None) -> Targets:
        if not self.margin.draws:
            return Targets(identities)
        if bits is None:
            bits = torch.randint(-(2**63), 2**63 - 1, identities.shape, device=identities.device)
        return Targets(identities, bits)

    def _sample(self, weight: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sampled rows, and the index of each target among them; -1 if another process has it."""
        start = 0 if self._shard is None else self._shard.start
        chosen = sampled(self.seed, self.calls, start, len(weight), self.sample_rate, weight.device)
        self.calls += 1
        beyond = len(weight)  # stands for the targets of other processes
        places = torch.where(columns >= 0, columns, beyond)
        targets = torch.zeros(beyond + 1, dtype=torch.bool, device=weight.device).index_fill_(0, places, True)
        chosen |= targets[:beyond]
        self.touched |= chosen
        order = torch.cat([chosen.cumsum(0) - 1, places.new_tensor([-1])])
        return weight[chosen], order[places]

    def _logits_and_penalty(
        self, embeddings: torch.Tensor, weight: torch.Tensor, targets: Targets
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            norms = torch.linalg.vector_norm(embeddings, dim=1)
            centres = unit_rows(weight.to(embeddings.dtype).reshape(-1, weight.shape[-1]))
            cosines = unit_rows(embeddings) @ centres.t()
            if self.subcentres > 1:
                cosines = cosines.view(len(cosines), -1, self.subcentres).max(dim=2).values
            columns = targets.identities.unsqueeze(1)
            target = self.margin.target_of(cosines.gather(1, columns).squeeze(1), norms, targets)
            scales = self.margin.scales(norms).unsqueeze(1)
            logits = self.margin.others(cosines, target) * scales
            logits.scatter_(1, columns, target.unsqueeze(1) * scales)
            return logits, self.margin.penalty(norms)

    def _check(self, embeddings: torch.Tensor, identities: torch.Tensor) -> None:
        count, size = self.weight.shape[0], self.weight.shape[-1]
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

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load centres that were saved whole or sharded, whether or not these are sharded."""
        name = prefix + "weight"
        if (saved := state.get(name)) is not None:
            if self._shard is None:
                state = {**state, name: whole(saved)}
            elif not is_sharded(saved) and saved.shape == self.weight.shape:
                state = {**state, name: self._shard.part_of(saved)}
        super()._load_from_state_dict(state, prefix, *arguments)

    def extra_repr(self) -> str:
        parts = [f"identities={self.weight.shape[0]}, embedding_size={self.weight.shape[-1]}"]
        if self.subcentres > 1:
            parts.append(f"subcentres={self.subcentres}")
        if self.sample_rate < 1:
            parts.append(f"sample_rate={self.sample_rate}, seed={self.seed}")
        if self._shard is not None:
            parts.append(f"rows={self._shard.start}..{self._shard.start + self._shard.rows - 1}")
        return ", ".join(parts)
