"""The resources of a service, opened once in each process."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from starlette.requests import Request

from coreface.models.onnx import read_preprocessing
from coreface.recognition.detection import Detector
from coreface.recognition.detectors import open_detector
from coreface.recognition.gallery import Gallery
from coreface.recognition.pipeline import FacePipeline
from coreface.serving.engine import FaceEngine
from coreface.serving.keys import Role
from coreface.serving.metrics import Metrics
from coreface.serving.problems import Problem
from coreface.serving.settings import Settings


@dataclass(eq=False)
class Service:
    """One process of the service.

    Attributes:
        settings: of the service.
        engine: detects and embeds faces.
        gallery: the people; None if the service only compares photographs.
        metrics: for Prometheus.
    """

    settings: Settings
    engine: FaceEngine
    gallery: Gallery | None = None
    metrics: Metrics = field(default_factory=Metrics)

    @classmethod
    def open(cls, settings: Settings, pipeline: FacePipeline | None = None) -> "Service":
        """Open model, detector, calibration and gallery.

        Args:
            settings: of the service.
            pipeline: used instead of the one in the settings.

        Raises:
            CoreFaceError: the model, the detector, the calibration or the gallery cannot be opened.
        """
        new_detector = None
        if pipeline is None:
            pipeline, new_detector = open_pipeline(settings), lambda: _detector(settings)
        metrics = Metrics()
        engine = FaceEngine(pipeline, settings.limits, settings.threads, new_detector, metrics.count_batch)
        gallery = None if settings.gallery is None else Gallery.open(settings.gallery, pipeline)
        return cls(settings, engine, gallery, metrics)

    @property
    def pipeline(self) -> FacePipeline:
        """Detects and embeds faces."""
        return self.engine.pipeline

    def close(self) -> None:
        """End the threads, and close the gallery."""
        self.engine.close()
        if self.gallery is not None:
            self.gallery.close()


def open_pipeline(settings: Settings) -> FacePipeline:
    """Open the pipeline that the settings describe; raises `CoreFaceError`."""
    return FacePipeline.from_pretrained(
        settings.model,
        _detector(settings),
        calibration=settings.calibration,
        alignment=settings.alignment,
        preprocessing=None if settings.preprocessing is None else read_preprocessing(Path(settings.preprocessing)),
        min_eyes=settings.min_eyes,
    )


def _detector(settings: Settings) -> Detector:
    return open_detector(settings.detector, max_side=settings.max_side, rotations=settings.rotations)


def service_of(request: Request) -> Service:
    """Return the service of a request."""
    return cast(Service, request.app.state.service)


def gallery_of(request: Request) -> Gallery:
    """Return the gallery of the service; routes that need one exist only if there is one."""
    gallery = service_of(request).gallery
    assert gallery is not None
    return gallery


def role_of(request: Request) -> Role:
    """Return the role of a request's key; without keys everything is allowed."""
    key = getattr(request.state, "key", None)
    return "admin" if key is None else cast(Role, key.role)


class Needs:
    """A route's dependency on a role."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> None:
        """Raise a problem if the key does not include the role."""
        key = getattr(request.state, "key", None)
        if key is not None and not key.allows(self.role):
            raise Problem("role-insufficient", f"this needs a key of role {self.role}; the key has role {key.role}")
