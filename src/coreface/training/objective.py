"""The objective: classification of every view, plus the weighted contrastive term."""

from typing import NamedTuple

import torch
from torch import nn

from coreface.distributed.collectives import summed, world_size
from coreface.losses.classifier import MarginClassifier
from coreface.losses.contrastive import ContrastStatistics, CoReFaceLoss
from coreface.models.row_masks import RowMasks
from coreface.training.margin_options import build_margin
from coreface.training.recipe import Recipe


class Losses(NamedTuple):
    """One step's losses, scalar tensors; the contrastive ones are None in a stage without the term."""

    total: torch.Tensor
    classification: torch.Tensor
    contrastive: torch.Tensor | None
    contrast: ContrastStatistics | None


class Objective(nn.Module):
    """L = mean over the views of M(h, y) + lambda L_con: docs/method.md, equations 2, 5 and 7.

    Over several processes, each with a part of the batch, a call is collective. The losses are those of the whole batch
    (contrastive losses without ``gather`` are means over the processes), and so are the gradients of this process's
    tensors. Gradients of replicated parameters have to be summed.

    Args:
        recipe: its classifier and stages are built.
        embedding_size: D.
        identities: C.
        device: of the identity centres, if they are sharded over several processes.
        sizes: (identities,), int64, images of each identity, for a margin that depends on them.

    Attributes:
        classifier: the identity centres, shared by all stages.
        contrasts: stage index (as text) -> its contrastive loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        embedding_size: int,
        identities: int,
        device: torch.device | str = "cpu",
        *,
        sizes: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        margin = build_margin(recipe.classifier.margin)
        if sizes is not None:
            margin.see_sizes(sizes)
        self.classifier = MarginClassifier(
            margin,
            embedding_size,
            identities,
            sample_rate=recipe.classifier.sample_rate,
            subcentres=recipe.classifier.subcentres,
            seed=recipe.seed,
            sharded=True,
            device=device if world_size() > 1 else "cpu",
        )
        self.contrasts = nn.ModuleDict()
        self._weights: dict[int, float] = {}
        for index, stage in enumerate(recipe.stages):
            if (term := stage.contrastive) is not None:
                self.contrasts[str(index)] = CoReFaceLoss(
                    term.scale, term.margin, term.ema, term.mask, term.protocol, term.gather
                )
                self._weights[index] = term.weight

    def forward(
        self, stage: int, views: list[torch.Tensor], identities: torch.Tensor, masks: RowMasks | None = None
    ) -> Losses:
        """Return the losses of a batch.

        Args:
            stage: index of the stage.
            views: tensors (batch, embedding_size), one per view.
            identities: (batch,), int64.
            masks: source of the random numbers of margins that draw; None uses torch's generator.
        """
        # One call for all views: the mean over all rows is the mean over the views, and the centres are read once.
        bits = None
        if masks is not None and self.classifier.margin.draws:
            bits = torch.cat([masks.bits(f"margin of view {view}") for view in range(len(views))])
        classification = self.classifier(torch.cat(views), identities.repeat(len(views)), bits)
        if stage not in self._weights:
            return Losses(classification, classification.detach(), None, None)
        contrast = self.contrasts[str(stage)]
        assert isinstance(contrast, CoReFaceLoss)
        contrastive, statistics = contrast(views[0], views[1], identities), contrast.last
        assert statistics is not None
        if world_size() > 1 and not contrast.gather:
            contrastive, statistics = _over_processes(contrastive, statistics)
        total = classification + self._weights[stage] * contrastive
        return Losses(total, classification.detach(), contrastive.detach(), statistics)


def _over_processes(loss: torch.Tensor, statistics: ContrastStatistics) -> tuple[torch.Tensor, ContrastStatistics]:
    """Return the mean loss of all processes, with the gradient of this process's share, and their joint statistics."""
    count = world_size()
    share = loss / count
    sums = summed(torch.stack([loss.detach(), *(value.to(loss.dtype) for value in statistics)]))
    mean, positive, hardest, margin, _ = sums / count
    return share + (mean - share.detach()), ContrastStatistics(positive, hardest, margin, sums[4].long())


def mean_losses(micro_batches: list[tuple[Losses, float]]) -> Losses:
    """Return the mean over micro-batches, each weighted by its share of the images; counts are added up."""
    if len(micro_batches) == 1:
        return micro_batches[0][0]

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([value * share for value, (_, share) in zip(values, micro_batches, strict=True)]).sum()

    contrasts = [losses.contrast for losses, _ in micro_batches if losses.contrast is not None]
    return Losses(
        mean([losses.total for losses, _ in micro_batches]),
        mean([losses.classification for losses, _ in micro_batches]),
        mean([losses.contrastive for losses, _ in micro_batches if losses.contrastive is not None])
        if contrasts
        else None,
        ContrastStatistics(
            positive=mean([contrast.positive for contrast in contrasts]),
            hardest_negative=mean([contrast.hardest_negative for contrast in contrasts]),
            margin=mean([contrast.margin for contrast in contrasts]),
            masked=torch.stack([contrast.masked for contrast in contrasts]).sum(),
        )
        if contrasts
        else None,
    )
