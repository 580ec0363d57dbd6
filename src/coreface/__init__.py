"""coreface: face images with identities go in; a face encoder, its honest error rates and its thresholds come out."""

# isort: skip_file
# (it would make one statement of every name with an `as`)
import importlib
from typing import TYPE_CHECKING, Any

from coreface._deprecated import install as _install_moved_modules
from coreface._version import __version__ as __version__

_install_moved_modules()

if TYPE_CHECKING:  # what type checkers and editors read; `as` makes a name public to them
    from coreface import (
        data as data,
        errors as errors,
        evaluation as evaluation,
        images as images,
        losses as losses,
        models as models,
        recognition as recognition,
        training as training,
    )
    from coreface.errors import (
        CheckpointError as CheckpointError,
        CoreFaceError as CoreFaceError,
        DataError as DataError,
        DivergedError as DivergedError,
        EvaluationError as EvaluationError,
        ContractError as ContractError,
        FaceError as FaceError,
        GalleryError as GalleryError,
        ImageError as ImageError,
        InputError as InputError,
        MissingExtraError as MissingExtraError,
        ModelError as ModelError,
        PersonExistsError as PersonExistsError,
        RecipeError as RecipeError,
        RunError as RunError,
        StorageError as StorageError,
        TrainingStopped as TrainingStopped,
        UnknownPersonError as UnknownPersonError,
    )
    from coreface.evaluation.calibration import Calibrator as Calibrator
    from coreface.evaluation.protocols.protocol import EvaluationProtocol as EvaluationProtocol
    from coreface.evaluation.protocols.registry import (
        ProtocolOption as ProtocolOption,
        register_protocol as register_protocol,
    )
    from coreface.evaluation.results import (
        IdentificationResult as IdentificationResult,
        TableResult as TableResult,
        VerificationResult as VerificationResult,
    )
    from coreface.images.load import load_image as load_image
    from coreface.losses.adaptive_margins import (
        AdaFace as AdaFace,
        CurricularFace as CurricularFace,
        MagFace as MagFace,
    )
    from coreface.losses.classifier import MarginClassifier as MarginClassifier
    from coreface.losses.contrastive import CoReFaceLoss as CoReFaceLoss
    from coreface.losses.dynamic_margin import DynamicMargin as DynamicMargin
    from coreface.losses.elasticface import ElasticFace as ElasticFace
    from coreface.losses.margins import ArcFace as ArcFace, CosFace as CosFace, Margin as Margin
    from coreface.losses.sphereface import SphereFace as SphereFace, SphereFaceR as SphereFaceR
    from coreface.losses.registry import margins as margins, register_margin as register_margin
    from coreface.models.backbone import Backbone as Backbone, ModuleBackbone as ModuleBackbone
    from coreface.models.encoder import FaceEncoder as FaceEncoder
    from coreface.models.open import open_encoder as open_encoder
    from coreface.models.registry import backbones as backbones, register_backbone as register_backbone
    from coreface.models.row_masks import RowMasks as RowMasks
    from coreface.recognition.decision import Decision as Decision
    from coreface.recognition.gallery import Gallery as Gallery
    from coreface.recognition.gallery_records import EmbeddedFace as EmbeddedFace
    from coreface.recognition.pipeline import FacePipeline as FacePipeline
    from coreface.runs.evaluation import evaluate as evaluate
    from coreface.runs.export import export_onnx as export_onnx
    from coreface.runs.run import resume as resume, train as train
    from coreface.serving.client import Client as Client, ServiceError as ServiceError
    from coreface.training.recipe import Recipe as Recipe

# What the program reads: names are imported on first use, so that `coreface --help` and `import coreface` stay quick
# without torch. Both lists name the same; a test compares them.
_ROOMS = ("data", "errors", "evaluation", "images", "losses", "models", "recognition", "training")
_PUBLIC = {
    "coreface.errors": (
        "CheckpointError",
        "CoreFaceError",
        "DataError",
        "DivergedError",
        "EvaluationError",
        "ContractError",
        "FaceError",
        "GalleryError",
        "ImageError",
        "InputError",
        "MissingExtraError",
        "ModelError",
        "PersonExistsError",
        "RecipeError",
        "RunError",
        "StorageError",
        "TrainingStopped",
        "UnknownPersonError",
    ),
    "coreface.evaluation.calibration": ("Calibrator",),
    "coreface.evaluation.protocols.protocol": ("EvaluationProtocol",),
    "coreface.evaluation.protocols.registry": ("ProtocolOption", "register_protocol"),
    "coreface.evaluation.results": ("IdentificationResult", "TableResult", "VerificationResult"),
    "coreface.images.load": ("load_image",),
    "coreface.losses.adaptive_margins": ("AdaFace", "CurricularFace", "MagFace"),
    "coreface.losses.classifier": ("MarginClassifier",),
    "coreface.losses.contrastive": ("CoReFaceLoss",),
    "coreface.losses.dynamic_margin": ("DynamicMargin",),
    "coreface.losses.elasticface": ("ElasticFace",),
    "coreface.losses.margins": ("ArcFace", "CosFace", "Margin"),
    "coreface.losses.registry": ("margins", "register_margin"),
    "coreface.losses.sphereface": ("SphereFace", "SphereFaceR"),
    "coreface.models.backbone": ("Backbone", "ModuleBackbone"),
    "coreface.models.encoder": ("FaceEncoder",),
    "coreface.models.open": ("open_encoder",),
    "coreface.models.registry": ("backbones", "register_backbone"),
    "coreface.models.row_masks": ("RowMasks",),
    "coreface.recognition.decision": ("Decision",),
    "coreface.recognition.gallery": ("Gallery",),
    "coreface.recognition.gallery_records": ("EmbeddedFace",),
    "coreface.recognition.pipeline": ("FacePipeline",),
    "coreface.runs.evaluation": ("evaluate",),
    "coreface.runs.export": ("export_onnx",),
    "coreface.runs.run": ("resume", "train"),
    "coreface.serving.client": ("Client", "ServiceError"),
    "coreface.training.recipe": ("Recipe",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(["__version__", *_ROOMS, *_HOME])


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
