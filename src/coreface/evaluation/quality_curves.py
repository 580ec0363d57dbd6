"""How well measures of quality predict which genuine pairs of an encoder fail, each and all together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.all_pairs import AllPairs, unit_rows
from coreface.evaluation.metrics.discard import DiscardCurve, discard_curve
from coreface.evaluation.metrics.scores import Floats, conservative_threshold, share_at_or_above

COMBINATION: Final = "combination"  #: the name of the curve of all measures together
_FMRS = (1e-2, 1e-1)
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class QualityCurves:
    """Error-versus-discard curves of several measures on the same pairs.

    Attributes:
        threshold: the lowest that is safe for ``target``, from all impostor pairs.
        target: the FMR asked for.
        fmr: the FMR at the threshold.
        fnmr: share of the genuine pairs below it.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
        images: number of images.
        identities: number of people.
        curves: of each measure, and of their ``combination``.
    """

    threshold: float
    target: float
    fmr: float
    fnmr: float
    genuine: int
    impostor: int
    images: int
    identities: int
    curves: Mapping[str, DiscardCurve]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        curves = {name: curve.to_dict() for name, curve in self.curves.items()}
        return {**vars(self), "curves": curves}


def quality_curves(
    embeddings: ArrayLike,
    identities: ArrayLike,
    measures: Mapping[str, ArrayLike],
    *,
    fmr: float | None = None,
    limit: float = 0.2,
    replicates: int = 1000,
    seed: int = 0,
) -> QualityCurves:
    """Compare every image with every other, and discard genuine pairs by each measure of quality.

    The combination is the mean cosine of an image with the person's others as a linear function of the logarithms of
    the ranks of all measures, for which the poorest images count most. The people are divided into five folds, and the
    function that judges a fold is fitted to the others. There is none with fewer than two measures or five people.

    Args:
        embeddings: (N, D) float.
        identities: (N,) integers, who is on each image.
        measures: name -> (N,) of each image, higher is better.
        fmr: the FMR that the threshold is for; None for 1 %, or 10 % where the impostor pairs do not resolve that.
        limit: the largest share of genuine pairs that is discarded.
        replicates: of the bootstrap over people; 0 for no intervals.
        seed: of the folds and the bootstrap.

    Raises:
        InputError: shapes differ, or an argument is out of range.
        EvaluationError: there are no genuine or no impostor pairs, too few of these for a threshold, or a value is not
            finite.
    """
    unit = unit_rows(embeddings)
    people = np.asarray(identities)
    columns = {name: np.asarray(values, np.float64) for name, values in measures.items()}
    if people.shape != (len(unit),) or people.dtype.kind not in "iu":
        raise InputError(f"identities have shape {people.shape} and dtype {people.dtype}; expected an integer an image")
    for name, values in columns.items():
        if values.shape != (len(unit),):
            raise InputError(f"{name} has shape {values.shape}, expected ({len(unit)},), one value an image")
        if not np.isfinite(values).all():
            raise EvaluationError(f"{name} of image {np.flatnonzero(~np.isfinite(values))[0]} is not finite")
    person = np.unique(people, return_inverse=True)[1].astype(np.int32)
    pairs = AllPairs(person)
    genuine, impostor = pairs.compare(unit)
    if not len(genuine) or not len(impostor):
        raise EvaluationError(f"{len(genuine)} genuine and {len(impostor)} impostor pairs; expected both")
    target, threshold = _threshold(impostor, _FMRS if fmr is None else (fmr,))
    first, second = pairs.genuine_images()
    if len(columns) > 1 and pairs.identities >= _FOLDS:
        columns[COMBINATION] = combine_measures(unit, person, list(columns.values()), seed=seed)
    curves = {
        name: discard_curve(
            genuine,
            np.minimum(values[first], values[second]),
            pairs.genuine_identity,
            float(threshold),
            limit=limit,
            replicates=replicates,
            seed=seed,
        )
        for name, values in columns.items()
    }
    return QualityCurves(
        float(threshold),
        target,
        share_at_or_above(impostor, threshold),
        int(np.count_nonzero(genuine < threshold)) / len(genuine),
        len(genuine),
        len(impostor),
        len(unit),
        pairs.identities,
        curves,
    )


def combine_measures(
    unit: Floats, person: NDArray[np.int32], measures: list[NDArray[np.float64]], *, folds: int = _FOLDS, seed: int = 0
) -> NDArray[np.float64]:
    """Return the quality (N,) of images by all measures together, fitted to other people than it judges.

    Args:
        unit: (N, D) embeddings of unit length.
        person: (N,), numbered from 0.
        measures: (N,) each.
        folds: into which the people are divided.
        seed: of the division.
    """
    target = _mean_genuine_cosine(unit, person)
    fold = (np.random.default_rng(seed).permutation(int(person.max()) + 1) % folds)[person]
    combined = np.empty(len(unit))
    for number in range(folds):
        judged = fold == number
        fitted = ~judged & np.isfinite(target)
        if not judged.any() or not fitted.any():
            combined[judged] = 0.0
            continue
        # Ranks among the people who are fitted to: no measure's unit or outliers count.
        ranks = [np.searchsorted(np.sort(values[fitted]), values, side="right") + 1 for values in measures]
        inputs = np.stack([np.ones(len(unit)), *np.log(ranks)], axis=1)
        weights = np.linalg.lstsq(inputs[fitted], target[fitted], rcond=None)[0]
        combined[judged] = inputs[judged] @ weights
    return combined


def _mean_genuine_cosine(unit: Floats, person: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the mean cosine of each image with the person's others, NaN where there is no other."""
    sums = np.zeros((int(person.max()) + 1, unit.shape[1]))
    np.add.at(sums, person, unit)
    counts = np.bincount(person)[person] - 1
    totals = np.einsum("nd,nd->n", sums[person], unit.astype(np.float64)) - 1
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _threshold(impostor: Floats, targets: tuple[float, ...]) -> tuple[float, np.floating[Any]]:
    for target in targets:
        threshold = conservative_threshold(impostor, target)
        if threshold is not None:
            return target, threshold
    raise EvaluationError(f"{len(impostor)} impostor pairs resolve no FMR of {targets[-1]:g}: take more people")
