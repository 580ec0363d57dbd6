"""The sections of a recipe about the faces for training and evaluation, and about augmentation.

As in `recipe_sections`, the attribute descriptions are the help texts of the command line, and nothing imports torch.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from coreface.training.recipe_sections import require


@dataclass(frozen=True)
class AugmentRecipe:
    """Random changes of the training images. The published method only mirrors them.

    Attributes:
        scale: Smallest and largest factor of the size of the face, such as [0.9, 1.1].
        rotate: Degrees in either direction.
        shift: Share of the side in either direction.
        crop: Probability that all but a rectangle becomes black, 0.2 to 1 of the area.
        photometric: Probability that brightness, contrast and saturation change, each by a factor of 0.5 to 1.5.
        low_resolution: Probability that the image is reduced to 0.2 to 1 of its side and enlarged again.
        erase: Probability that a rectangle gets a random colour, 0.02 to 1/3 of the area.
    """

    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    rotate: float = 0.0
    shift: float = 0.0
    crop: float = 0.0
    photometric: float = 0.0
    low_resolution: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        rising = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] < math.inf
        require(rising, "data.augment.scale", self.scale, "two rising factors above 0, such as [0.9, 1.1]")
        require(0 <= self.rotate <= 180, "data.augment.rotate", self.rotate, "0 to 180 degrees")
        require(0 <= self.shift < 1, "data.augment.shift", self.shift, "a share of the side from 0 to below 1")
        for name in ("crop", "photometric", "low_resolution", "erase"):
            probability = getattr(self, name)
            require(0 <= probability <= 1, f"data.augment.{name}", probability, "a probability from 0 to 1")


@dataclass(frozen=True)
class DataRecipe:
    """The faces.

    Attributes:
        train: A folder <identity>/<image>, a RecordIO .rec, tar shards, or the word orl for the faces of the demo.
        label: Of tar shards, where the labels are, cls, txt or json:FIELD; null for cls.
        identity_level: How many folders below a folder the identities are, 1 for <identity>/<session>/<image>; null
            uses the folders that contain images.
        image_size: Side of the input in pixels, a multiple of 16.
        workers: Processes that decode; 0 decodes in the training process.
        flip: Mirror half of the images at random.
        augment: Other random changes of the images, for small data.
        holdout: Identities held out of training for evaluation, a number or a share below 1; 0 for none.
        holdout_seed: Seed of the draw; null uses the order of the source.
        holdout_fold: Number of the slice of that order.
        max_unreadable: Share of the images that may turn out unreadable before training stops.
        alignment: Alignment of the crops (arcface) if no alignment.json next to them records it, as for public
            RecordIO; it is stored with the encoder, so that photographs are aligned in the same way.
    """

    train: str = ""
    label: str | None = None
    identity_level: int | None = None
    image_size: int = 112
    workers: int = 2
    flip: bool = True
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    holdout: int | float = 0
    holdout_seed: int | None = 0
    holdout_fold: int = 0
    max_unreadable: float = 0.1
    alignment: Literal["arcface"] | None = None

    def __post_init__(self) -> None:
        require(
            self.image_size >= 16 and self.image_size % 16 == 0, "data.image_size", self.image_size, "a multiple of 16"
        )
        level = self.identity_level
        require(level is None or level >= 1, "data.identity_level", level, "1 or more, or null")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(0 <= self.max_unreadable <= 1, "data.max_unreadable", self.max_unreadable, "a share from 0 to 1")
        whole = isinstance(self.holdout, int) or 0 < self.holdout < 1
        require(self.holdout >= 0 and whole, "data.holdout", self.holdout, "a whole number, or a share below 1")
        seed = self.holdout_seed
        require(seed is None or seed >= 0, "data.holdout_seed", seed, "0 or more, or null")
        require(self.holdout_fold >= 0, "data.holdout_fold", self.holdout_fold, "0 or more")


@dataclass(frozen=True)
class EvaluationRecipe:
    """Evaluation during training.

    Attributes:
        faces: Other people to evaluate on, as for data.train; null uses the held-out identities.
        label: Of those, as for data.label.
        identity_level: Of those, as for data.identity_level.
        every: Epochs between evaluations; the last epoch is always evaluated.
        every_steps: Steps between further evaluations within epochs; null for none.
        pairs: Test sets, each as for coreface evaluate --pairs, FILE or FILE:IMAGES.
        keep_best: held_out also keeps the encoder with the lowest EER on the held-out identities; null keeps only the
            last one. Test sets are never used to choose.
    """

    faces: str | None = None
    label: str | None = None
    identity_level: int | None = None
    every: int = 1
    every_steps: int | None = None
    pairs: list[str] = field(default_factory=list)
    keep_best: Literal["held_out"] | None = None

    def __post_init__(self) -> None:
        level = self.identity_level
        require(level is None or level >= 1, "evaluation.identity_level", level, "1 or more, or null")
        alone = self.faces is not None or (self.label, level) == (None, None)
        require(alone, "evaluation.faces", None, "a path, because evaluation.label or evaluation.identity_level is set")
        require(self.every >= 1, "evaluation.every", self.every, "at least 1")
        steps = self.every_steps
        require(steps is None or steps >= 1, "evaluation.every_steps", steps, "at least 1, or null")
        named = all(self.pairs) and len(set(self.pairs)) == len(self.pairs)
        require(named, "evaluation.pairs", self.pairs, "paths, each once")
