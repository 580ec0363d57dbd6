"""The sections of a recipe: plain dataclasses that check their values when they are made.

The attribute descriptions are the help texts of the command line. Nothing here imports torch.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from coreface.errors import RecipeError


def require(condition: bool, name: str, got: object, expected: str) -> None:
    if not condition:
        raise RecipeError(f"{name} is {got!r}, expected {expected}")


@dataclass(frozen=True)
class ModelRecipe:
    """The encoder.

    Attributes:
        backbone: A name that `coreface backbones` lists, such as iresnet50, mobilefacenet or vit_t.
        embedding_size: Length of an embedding.
        view_statistics: Whether BatchNorm sees two views as two batches (separate, as published) or as one (joint).
        sync_batchnorm: Whether BatchNorm takes its statistics over the images of all processes, or of each alone.
        activation_checkpointing: Compute most activations again in the backward pass, for less memory and about a third
            more time. Vision transformers only.
    """

    backbone: str = "iresnet50"
    embedding_size: int = 512
    view_statistics: Literal["separate", "joint"] = "separate"
    sync_batchnorm: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        require(self.embedding_size >= 1, "model.embedding_size", self.embedding_size, "at least 1")


@dataclass(frozen=True)
class MarginRecipe:
    """The margin of the softmax over identities.

    Attributes:
        name: arcface, cosface, curricularface, magface, adaface, sphereface, sphereface_r, elasticface, dynamic_margin,
            or a registered one.
        scale: Factor of the cosines; null for the published one (64, for sphereface_r 30, for sphereface the
            length of the embedding).
        margin: Radians, for cosface a difference of cosines, for the spherefaces a factor; null for the published one.
            Always null for magface, whose margin follows the length of the embedding.
        options: Other parameters of the margin. In a recipe and on the command line they are fields like those above,
            classifier.margin.lengths for example; docs/extending.md.
    """

    name: str = "arcface"
    scale: float | None = None
    margin: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = self.scale is None or 0 < self.scale < math.inf
        require(positive, "classifier.margin.scale", self.scale, "a positive number, or null")
        finite = self.margin is None or math.isfinite(self.margin)
        require(finite, "classifier.margin.margin", self.margin, "a number, or null")
        follows = self.name != "magface" or self.margin is None
        require(follows, "classifier.margin.margin", self.margin, "null for magface")


@dataclass(frozen=True)
class ClassifierRecipe:
    """The identity centres.

    Attributes:
        margin: The margin-softmax.
        sample_rate: Share of the identities outside the batch that a step compares with; 1 takes all.
        subcentres: Centres per identity, of which the nearest counts; 3 helps if labels are wrong.
    """

    margin: MarginRecipe = field(default_factory=MarginRecipe)
    sample_rate: float = 1.0
    subcentres: int = 1

    def __post_init__(self) -> None:
        require(0 < self.sample_rate <= 1, "classifier.sample_rate", self.sample_rate, "a share above 0, at most 1")
        require(1 <= self.subcentres <= 255, "classifier.subcentres", self.subcentres, "1 to 255")


@dataclass(frozen=True)
class ContrastiveRecipe:
    """The CoReFace term.

    Attributes:
        weight: Its weight in the loss, the lambda of the paper.
        scale: Factor of the cosines.
        margin: adaptive, or a fixed number.
        ema: Weight of the new value in the running margin.
        mask: How other images of the same identity are left out, exclude or zero (as in the authors' release).
        protocol: Which cosines between the views are compared.
        gather: Compare with the images of all processes; false, as published, with those of the same process.
    """

    weight: float = 0.05
    scale: float = 64.0
    margin: Literal["adaptive"] | float = "adaptive"
    ema: float = 0.99
    mask: Literal["exclude", "zero"] = "exclude"
    protocol: Literal["one_way", "two_way", "all", "half"] = "one_way"
    gather: bool = False

    def __post_init__(self) -> None:
        usual = "a positive number (leave the term out for none)"
        require(0 < self.weight < math.inf, "contrastive.weight", self.weight, usual)
        require(0 < self.scale < math.inf, "contrastive.scale", self.scale, "a positive number")
        finite = isinstance(self.margin, str) or math.isfinite(self.margin)
        require(finite, "contrastive.margin", self.margin, "adaptive, or a number")
        require(0 <= self.ema <= 1, "contrastive.ema", self.ema, "a weight from 0 to 1")


@dataclass(frozen=True)
class StageRecipe:
    """The epochs from one up to the next stage.

    Attributes:
        from_epoch: First epoch of the stage; epochs are numbered from 1.
        views: Dropout views per image; each is classified. The contrastive term needs 2.
        dropout: Rate of the dropout on the features.
        contrastive: The CoReFace term; null for none.
    """

    from_epoch: int = 1
    views: int = 1
    dropout: float = 0.4
    contrastive: ContrastiveRecipe | None = None

    def __post_init__(self) -> None:
        require(self.from_epoch >= 1, "stages.from_epoch", self.from_epoch, "at least 1")
        require(self.views >= 1, "stages.views", self.views, "at least 1")
        require(0 <= self.dropout < 1, "stages.dropout", self.dropout, "a rate from 0 to below 1")
        if self.contrastive is not None:
            require(self.views == 2, "stages.views", self.views, "2 where a stage has a contrastive term")


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer and its schedule.

    Attributes:
        name: sgd or adamw.
        lr: Learning rate after the warm-up.
        momentum: Of SGD; the first beta of AdamW.
        weight_decay: On every parameter, as published.
        batch_size: Images per step, of all processes together.
        epochs: Passes over the images.
        schedule: step drops the rate tenfold at the start of each of lr_drops; cosine and polynomial fall to 0.
        lr_drops: Epochs at whose start the rate drops tenfold.
        power: Of the polynomial.
        warmup_epochs: Epochs over which the rate rises from 0.
        clip_norm: Largest norm of the gradient; null does not clip.
        clip: Parameters whose gradients form the norm: all, or backbone (as in the authors' release).
        micro_batches: Parts of a batch that pass through the network one at a time, for batches larger than the memory.
        max_skips: Consecutive steps without a finite loss and gradient after which training stops.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5.0e-4
    batch_size: int = 128
    epochs: int = 20
    schedule: Literal["step", "cosine", "polynomial"] = "step"
    lr_drops: list[int] = field(default_factory=list)
    power: float = 2.0
    warmup_epochs: float = 0.0
    clip_norm: float | None = 5.0
    clip: Literal["all", "backbone"] = "all"
    micro_batches: int = 1
    max_skips: int = 10

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimizer.lr", self.lr, "a positive number")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 to below 1")
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(self.batch_size >= 2, "optimizer.batch_size", self.batch_size, "at least 2")
        require(self.epochs >= 1, "optimizer.epochs", self.epochs, "at least 1")
        require(0 < self.power < math.inf, "optimizer.power", self.power, "a positive number")
        require(
            0 <= self.warmup_epochs < self.epochs,
            "optimizer.warmup_epochs",
            self.warmup_epochs,
            "0 or more, and fewer than epochs",
        )
        require(
            self.clip_norm is None or self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "positive, or null"
        )
        require(
            1 <= self.micro_batches <= self.batch_size // 2,
            "optimizer.micro_batches",
            self.micro_batches,
            "at least 1, and at least 2 images in each: BatchNorm has no statistics of one",
        )
        require(self.max_skips >= 1, "optimizer.max_skips", self.max_skips, "at least 1")
        drops = self.lr_drops
        require(
            drops == sorted(set(drops)) and all(d >= 2 for d in drops),
            "optimizer.lr_drops",
            drops,
            "rising epochs from 2",
        )
        require(not drops or self.schedule == "step", "optimizer.lr_drops", drops, "none unless schedule is step")

    def images_per_process(self, world_size: int) -> int:
        """Return how many images of a batch each process gets.

        Raises:
            RecipeError: the batch cannot be divided evenly.
        """
        unit = world_size * self.micro_batches
        if world_size > 1 and (self.batch_size % unit or self.batch_size < 2 * unit):
            cut = f" in {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
            raise RecipeError(
                f"optimizer.batch_size is {self.batch_size}, expected a multiple of {unit} that is at least "
                f"{2 * unit}: it is divided among {world_size} processes{cut}, and BatchNorm needs 2 images"
            )
        return self.batch_size // world_size


@dataclass(frozen=True)
class CheckpointRecipe:
    """The checkpoints, from which an interrupted run resumes.

    Attributes:
        every_minutes: Minutes between two checkpoints, the most that an interruption can lose.
        every_steps: Steps between two checkpoints, whichever comes first; null counts minutes only.
        keep_last: Number of checkpoints that are kept.
        asynchronous: Write while training continues; false makes it wait.
    """

    every_minutes: float = 10.0
    every_steps: int | None = None
    keep_last: int = 2
    asynchronous: bool = True

    def __post_init__(self) -> None:
        require(self.every_minutes > 0, "checkpoint.every_minutes", self.every_minutes, "a positive number")
        every = self.every_steps
        require(every is None or every >= 1, "checkpoint.every_steps", every, "at least 1, or null")
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "at least 1")
