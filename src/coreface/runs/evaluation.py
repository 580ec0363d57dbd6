"""Evaluation of a run, an encoder or a file of embeddings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from rich.console import Console

from coreface.data.source import FaceSource
from coreface.errors import InputError, RunError
from coreface.evaluation.embedding_sources import EmbeddingFile, EmbeddingSource, EncoderSource
from coreface.evaluation.protocols.people import LabelledPeople, People
from coreface.evaluation.protocols.protocol import EvaluationProtocol
from coreface.evaluation.results import Result, VerificationResult
from coreface.files import user_path
from coreface.models.encoder import FaceEncoder
from coreface.models.open import open_encoder
from coreface.runs.folder import open_recipe_faces, require_registered
from coreface.runs.status import RECIPE
from coreface.training.best_encoder import BEST_ENCODER
from coreface.training.initial_weights import ENCODER
from coreface.training.recipe import Recipe

HELD_OUT = "held out"  #: name of the result on a run's held-out people

_Result = TypeVar("_Result", bound=Result)


@overload
def evaluate(
    model: EmbeddingSource | FaceEncoder | str | os.PathLike[str],
    faces: FaceSource | str | os.PathLike[str] | None = None,
    *,
    flip: bool = True,
    replicates: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> VerificationResult: ...


@overload
def evaluate(
    model: EmbeddingSource | FaceEncoder | str | os.PathLike[str],
    *,
    protocol: EvaluationProtocol[_Result],
    flip: bool = True,
    cache: Path | None = None,
    console: Console | None = None,
) -> _Result: ...


def evaluate(
    model: EmbeddingSource | FaceEncoder | str | os.PathLike[str],
    faces: FaceSource | str | os.PathLike[str] | None = None,
    *,
    protocol: EvaluationProtocol[Result] | None = None,
    flip: bool = True,
    replicates: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> Result:
    """Evaluate embeddings on people, every image against every other, or by another protocol.

    Args:
        model: an encoder, the folder of a saved one or of a run, an ONNX file, known weights such as ``sface``, a
            ``.npz`` of embeddings, or any other source.
        faces: the people, a source of faces or its path; None uses the run's held-out people.
        protocol: another evaluation protocol, such as ``Pairs("lfw/pairs.txt:lfw/images")``.
        flip: add the mirrored image's embedding.
        replicates: of the bootstrap over identities; None for 1 000, or fewer for very many pairs; 0 for no intervals.
            Another protocol has its own.
        cache: the folder where embeddings are kept, so that an interrupted evaluation can resume; None keeps none.
        console: where to show progress; None shows it on standard error.

    Raises:
        ModelError: there is no encoder.
        DataError: there are no faces, or fewer than two identities.
        EvaluationError: the embeddings cannot be evaluated.
        InputError: ``faces`` or ``replicates`` are combined with a protocol.
    """
    if protocol is not None and (faces is not None or replicates is not None):
        raise InputError(
            "faces and replicates cannot be combined with a protocol; pass them as options of the protocol"
        )
    source = open_source(model, flip=flip, cache=cache)
    if protocol is None:
        protocol = (
            default_protocol(model, replicates=replicates) if faces is None else People(faces, replicates=replicates)
        )
    return protocol.evaluate(source, console)


def open_source(
    model: EmbeddingSource | FaceEncoder | str | os.PathLike[str],
    *,
    flip: bool = True,
    cache: Path | None = None,
    opening: Mapping[str, Any] | None = None,
    embedding: Mapping[str, Any] | None = None,
) -> EmbeddingSource:
    """Open an encoder, the folder of a saved one or of a run, an ONNX file, known weights or a ``.npz`` of embeddings.

    Args:
        model: which.
        flip: add the mirrored image's embedding.
        cache: the folder where embeddings are kept; None keeps none.
        opening: more of what `open_encoder` takes, such as ``backbone`` for a weight file written by torch.save.
        embedding: more of what `EncoderSource` takes, such as ``precision``.

    Raises:
        InputError: an option does not go with the model.
        ModelError: there is no encoder.
        DataError: the file cannot be read.
    """
    if isinstance(model, EmbeddingSource):
        return model
    if isinstance(model, FaceEncoder):
        return EncoderSource("encoder", model, flip=flip, cache=cache)
    path = user_path(model)
    if path.suffix == ".npz":
        return EmbeddingFile(path)
    full = path.resolve()
    name = {ENCODER: full.parent.name, BEST_ENCODER: f"{full.parent.name}, best"}.get(full.name, full.name)
    return EncoderSource(name, open_encoder(model, **(opening or {})), flip=flip, cache=cache, **(embedding or {}))


def default_protocol(
    model: EmbeddingSource | FaceEncoder | str | os.PathLike[str],
    *,
    replicates: int | None = None,
    groups: Mapping[str, str] | str | os.PathLike[str] | None = None,
    group_column: str | None = None,
) -> EvaluationProtocol[VerificationResult]:
    """Return the default protocol: a run's held-out people, or the people in a file of embeddings.

    Raises:
        RunError: the model is not a run, or it has no held-out people.
    """
    if isinstance(model, EmbeddingSource) or (not isinstance(model, FaceEncoder) and Path(model).suffix == ".npz"):
        return LabelledPeople(replicates=replicates, groups=groups, group_column=group_column)
    faces = held_out(model)
    return People(faces, name=HELD_OUT, replicates=replicates, groups=groups, group_column=group_column)


def held_out(model: FaceEncoder | str | os.PathLike[str]) -> FaceSource:
    """Return the faces that a run held out.

    Raises:
        RunError: it is not a run, or has no held-out people.
    """
    if isinstance(model, FaceEncoder) or not (Path(model) / RECIPE).is_file():
        raise RunError(
            "this encoder is not a run, so no people are held out: give the people to evaluate on with --faces PATH"
        )
    require_registered(Path(model))
    _, tested = open_recipe_faces(Recipe.load(Path(model) / RECIPE))
    if tested is None:
        raise RunError(f"{model} held nobody out: give the people to evaluate on with --faces PATH")
    return tested
