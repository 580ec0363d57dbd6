"""The metadata of a checkpoint: the progress of the training, and its origin."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


class MeterCounts(NamedTuple):
    """Steps and images since the last row of metrics."""

    steps: int = 0
    images: int = 0


@dataclass(frozen=True)
class Origin:
    """The origin of a training's results, besides its recipe.

    Attributes:
        faces: ``images``, ``identities`` and ``sha256`` of what is trained on.
        environment: versions and machine, as in the environment.json of a run.
    """

    faces: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointFacts:
    """The facts of one checkpoint. The defaults are those of a training that has not begun.

    Attributes:
        epoch: epochs done, including their evaluation.
        batch: batches done of the next epoch.
        rate: learning rate of the last step.
        meter: counts that belong to the sums among the tensors.
        metrics_bytes: size of metrics.jsonl; later rows belong to steps that a resumed run repeats.
        unreadable: images that could not be read: index -> message.
        world_size: number of processes.
        segments: of the loader, `coreface.data.loader.FaceLoader.segments`.
        recipe: its fields.
        origin: faces and environment.
    """

    epoch: int = 0
    batch: int = 0
    rate: float = 0.0
    meter: MeterCounts = field(default_factory=MeterCounts)
    metrics_bytes: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    world_size: int = 1
    segments: int = 1
    recipe: dict[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as in a manifest of format 2, in which two of them have older names."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "rate": self.rate,
            "meter": self.meter._asdict(),
            "metrics_bytes": self.metrics_bytes,
            "unreadable": {str(index): text for index, text in self.unreadable.items()},
            "processes": self.world_size,
            "stretches": self.segments,
            "recipe": self.recipe,
            "faces": self.origin.faces,
            "environment": self.origin.environment,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the facts that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the content is not of this form.
        """
        return cls(
            epoch=int(values["epoch"]),
            batch=int(values["batch"]),
            rate=float(values["rate"]),
            meter=MeterCounts(**values["meter"]),
            metrics_bytes=int(values["metrics_bytes"]),
            unreadable={int(index): str(text) for index, text in values["unreadable"].items()},
            world_size=int(values["processes"]),
            segments=int(values["stretches"]),
            recipe=dict(values["recipe"]),
            origin=Origin(dict(values.get("faces", {})), dict(values.get("environment", {}))),
        )
