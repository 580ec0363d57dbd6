"""The scores of a run's encoder on every set, their measures, and resamples of these."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data import FaceSource, PairSet, open_faces, require_identities
from coreface.errors import DataError, EvaluationError, InputError
from coreface.evaluation.embedding_sources import EncoderSource
from coreface.evaluation.metrics import eer, kfold_accuracy, tar_at_far
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.resampling import Statistic, resample
from coreface.evaluation.protocols.pairs import Pairs, image_identities, open_named_pairs, resample_accuracy
from coreface.evaluation.protocols.people import People
from coreface.evaluation.verification import Verification
from coreface.files import write_atomically
from coreface.models.encoder import FaceEncoder
from coreface.runs.folder import open_recipe_faces
from coreface.studies.plan import HELD_OUT, Measure, measure_names
from coreface.training.recipe import Recipe

_MAX_PAIRS = 5_000_000  # per set, since the scores of every run are stored


@dataclass(frozen=True, eq=False)
class SetScores:
    """The scores of one encoder on one set.

    Attributes:
        pairs: scores (P,) float32 with the people of each pair.
        folds: (P,) the fold of each pair; None if the set has no folds.
        named: whether the set has identities; otherwise they are inferred from the genuine pairs.
    """

    pairs: PairScores
    folds: NDArray[np.int64] | None
    named: bool

    def digest(self) -> str:
        """Return the SHA-256 of the pairs without their scores, equal for all runs on the same set."""
        hashed = hashlib.sha256()
        for array in (self.pairs.first, self.pairs.second, self.pairs.genuine, self.folds):
            hashed.update(b"none" if array is None else np.ascontiguousarray(array, np.int64).tobytes())
        return hashed.hexdigest()

    def measures(self, fars: Sequence[float]) -> dict[str, float | None]:
        """Return the measures by name (`measure_names`); None if the set does not have one."""
        genuine, impostor = self.pairs.genuine_scores, self.pairs.impostor_scores
        accuracy = None
        if self.folds is not None:
            accuracy = kfold_accuracy(self.pairs.scores, self.pairs.genuine, fold_of=self.folds).accuracy
        rates = [tar_at_far(genuine, impostor, far).tar for far in fars]
        values = (accuracy, eer(genuine, impostor).eer, *rates)
        return dict(zip(measure_names(Measure(fars=tuple(fars))), values, strict=True))

    def resampled(self, fars: Sequence[float], replicates: int) -> NDArray[np.float64]:
        """Return (replicates, measures): every measure for resampled people, the same draws for every encoder."""
        statistics: list[Statistic] = ["eer", *(("tar", far) for far in fars)]
        values = resample(self.pairs, statistics, replicates=replicates).values
        accuracy = np.full(replicates, np.nan)
        if self.folds is not None:
            accuracy = resample_accuracy(self.pairs, self.folds, replicates=replicates)
        return np.column_stack([accuracy, values])


def score_encoder(
    encoder: FaceEncoder, measure: Measure, recipe: Recipe, console: Console
) -> tuple[dict[str, SetScores], list[str]]:
    """Return the scores of an encoder on every set, and notes about images that could not be embedded.

    Raises:
        CoreFaceError: a set is missing, or the embeddings cannot be measured.
    """
    source = EncoderSource("", encoder)
    found, notes = {}, []
    for name in measure.pairs:
        protocol = Pairs(name, replicates=0)
        result = protocol.evaluate(source, console)
        folds = protocol.pairs.fold_of if protocol.pairs.folds > 1 else None
        found[name] = SetScores(_listed(result.verification), folds, image_identities(protocol.pairs)[1] is not None)
        notes += [f"{name}: not embedded: {text}" for text in result.unreadable]
    for name in measure.faces:
        faces = open_set_of_faces(name, recipe)
        if (pairs := len(faces) * (len(faces) - 1) // 2) > _MAX_PAIRS:
            raise DataError(
                f"{name}: {len(faces)} images make {pairs} pairs, expected {_MAX_PAIRS} or fewer: their scores are kept"
            )
        result = People(faces, replicates=0).evaluate(source, console)
        found[name] = SetScores(_listed(result.verification), None, True)
        notes += [f"{name}: not embedded: {text}" for text in result.unreadable]
    return found, notes


def open_sets(measure: Measure, recipe: Recipe) -> list[FaceSource | PairSet]:
    """Open every set.

    Raises:
        DataError: a set is missing or unusable.
    """
    faces = [open_set_of_faces(name, recipe) for name in measure.faces]
    return [*(open_named_pairs(name) for name in measure.pairs), *faces]


def open_set_of_faces(name: str, recipe: Recipe) -> FaceSource:
    """Open a set of people: those that a recipe holds out, or others by path.

    Raises:
        DataError: nobody is held out, or the path does not exist.
    """
    if name != HELD_OUT:
        faces = open_faces(name)
        require_identities(faces, 2, "evaluation")
        return faces
    _, tested = open_recipe_faces(recipe)
    if tested is None:
        raise DataError("measure.faces has held_out, and the base recipe holds nobody out: set data.holdout")
    return tested


def write_scores(path: Path, scores: Mapping[str, SetScores]) -> str:
    """Write the scores of a run as ``.npz`` and return their SHA-256.

    For set number k, from 0: ``k_scores``, ``k_first``, ``k_second``, ``k_same``, ``k_fold`` (empty without folds) and
    ``k_named``; ``sets`` has the names. People are numbers.
    """
    arrays: dict[str, NDArray[Any]] = {"sets": np.array(list(scores))}
    for number, one in enumerate(scores.values()):
        pairs = one.pairs
        folds = np.empty(0, np.int16) if one.folds is None else one.folds.astype(np.int16)
        for key, array in (
            ("scores", pairs.scores.astype(np.float32)),
            ("first", pairs.first.astype(np.int32)),
            ("second", pairs.second.astype(np.int32)),
            ("same", pairs.genuine),
            ("fold", folds),
            ("named", np.array(one.named)),
        ):
            arrays[f"{number}_{key}"] = array
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())
    return hashlib.sha256(file.getvalue()).hexdigest()


def read_scores(path: Path) -> dict[str, SetScores]:
    """Read what `write_scores` wrote.

    Raises:
        EvaluationError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {}
            for number, name in enumerate(arrays["sets"].tolist()):
                scores, first, second, same, fold, named = (
                    arrays[f"{number}_{key}"] for key in ("scores", "first", "second", "same", "fold", "named")
                )
                folds = fold.astype(np.int64) if len(fold) else None
                found[name] = SetScores(PairScores(scores, first, second, same), folds, bool(named))
            return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, InputError) as error:
        text = " ".join(str(error).split())
        raise EvaluationError(f"{path}: no scores of a run ({text}); remove it to measure again") from error


def _listed(verification: Verification) -> PairScores:
    """Return the pairs of a verification as one list, in float32; for people, genuine pairs come first."""
    pairs = verification.pairs
    assert pairs is not None
    if isinstance(pairs, PairScores):
        return PairScores(pairs.scores.astype(np.float32), pairs.first, pairs.second, pairs.same)
    first, second = pairs.impostor_identities(np.arange(len(pairs.impostor_scores)))
    genuine = pairs.genuine_identity
    return PairScores(
        np.concatenate([verification.genuine_scores, verification.impostor_scores]).astype(np.float32),
        np.concatenate([genuine, first]),
        np.concatenate([genuine, second]),
    )
