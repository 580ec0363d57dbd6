"""coreface: face images with identities go in; a face encoder, its honest error rates and its thresholds come out."""

import importlib
from typing import TYPE_CHECKING, Any

from coreface._version import __version__

# Names are imported on first use, so that `coreface --help` and `import coreface` stay quick without torch.
_HOME = {
    "ArcFace": "coreface.losses.margins",
    "Calibrator": "coreface.evaluation.calibration",
    "CosFace": "coreface.losses.margins",
    "AdaFace": "coreface.losses.adaptive_margins",
    "CurricularFace": "coreface.losses.adaptive_margins",
    "MagFace": "coreface.losses.adaptive_margins",
    "CoReFaceLoss": "coreface.losses.contrastive",
    "MarginClassifier": "coreface.losses.classifier",
    "FaceEncoder": "coreface.models.encoder",
    "FacePipeline": "coreface.recognition.pipeline",
    "Decision": "coreface.recognition.pipeline",
    "RowMasks": "coreface.models.views",
    "open_encoder": "coreface.models.open",
    "backbones": "coreface.models.registry",
    "Recipe": "coreface.training.recipe",
    "train": "coreface.runs.run",
    "resume": "coreface.runs.run",
    "evaluate": "coreface.runs.evaluation",
    "load_image": "coreface.images.load",
    "CoreFaceError": "coreface.errors",
    "TrainingStopped": "coreface.errors",
    "StorageError": "coreface.errors",
    "DivergedError": "coreface.errors",
    "CheckpointError": "coreface.errors",
    "DataError": "coreface.errors",
    "EvaluationError": "coreface.errors",
    "FaceError": "coreface.errors",
    "ImageError": "coreface.errors",
    "InputError": "coreface.errors",
    "MissingExtraError": "coreface.errors",
    "ModelError": "coreface.errors",
    "RecipeError": "coreface.errors",
    "RunError": "coreface.errors",
}
_ROOMS = ("data", "errors", "evaluation", "images", "losses", "models", "recognition", "training")

__all__ = [
    "AdaFace",
    "ArcFace",
    "Calibrator",
    "CheckpointError",
    "CoReFaceLoss",
    "CoreFaceError",
    "CosFace",
    "CurricularFace",
    "DataError",
    "Decision",
    "DivergedError",
    "EvaluationError",
    "FaceEncoder",
    "FaceError",
    "FacePipeline",
    "ImageError",
    "InputError",
    "MagFace",
    "MarginClassifier",
    "MissingExtraError",
    "ModelError",
    "Recipe",
    "RecipeError",
    "RowMasks",
    "RunError",
    "StorageError",
    "TrainingStopped",
    "__version__",
    "backbones",
    "data",
    "errors",
    "evaluate",
    "evaluation",
    "images",
    "load_image",
    "losses",
    "models",
    "open_encoder",
    "recognition",
    "resume",
    "train",
    "training",
]

if TYPE_CHECKING:
    from coreface import data, errors, evaluation, images, losses, models, recognition, training
    from coreface.errors import (
        CheckpointError,
        CoreFaceError,
        DataError,
        DivergedError,
        EvaluationError,
        FaceError,
        ImageError,
        InputError,
        MissingExtraError,
        ModelError,
        RecipeError,
        RunError,
        StorageError,
        TrainingStopped,
    )
    from coreface.evaluation.calibration import Calibrator
    from coreface.images.load import load_image
    from coreface.losses.adaptive_margins import AdaFace, CurricularFace, MagFace
    from coreface.losses.classifier import MarginClassifier
    from coreface.losses.contrastive import CoReFaceLoss
    from coreface.losses.margins import ArcFace, CosFace
    from coreface.models.encoder import FaceEncoder
    from coreface.models.open import open_encoder
    from coreface.models.registry import backbones
    from coreface.models.views import RowMasks
    from coreface.recognition.pipeline import Decision, FacePipeline
    from coreface.runs.evaluation import evaluate
    from coreface.runs.run import resume, train
    from coreface.training.recipe import Recipe


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"coreface.{name}")
    else:
        raise AttributeError(f"module 'coreface' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
