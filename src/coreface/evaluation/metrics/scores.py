"""Scores: their types, the rates that they can resolve, and the thresholds between them."""

from fractions import Fraction
from math import floor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError

Floats: TypeAlias = NDArray[np.floating[Any]]

_FLOATS = {2: np.float16, 4: np.float32, 8: np.float64}


def allowed_false_matches(far: float, impostor: int) -> int:
    """Return floor(far x impostor), exact in the decimal that ``far`` prints as.

    Raises:
        InputError: ``far`` is not a number between 0 and 1.
    """
    try:
        target = float(far)
    except (TypeError, ValueError):
        target = np.nan
    if not 0 < target < 1:
        raise InputError(f"far is {far!r}; expected a rate above 0 and below 1, such as 1e-3")
    return floor(Fraction(repr(target)) * impostor)


def checked_floats(values: ArrayLike, what: str, ndim: int) -> Floats:
    """Return ``values`` as float16, float32 or float64 (integers as float64) of ``ndim`` dimensions, not empty, finite.

    Raises:
        InputError: wrong number of dimensions or dtype.
        EvaluationError: empty, or some values are NaN or infinite.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} are no array ({error}); expected {ndim} dimension(s) of numbers") from None
    if array.ndim != ndim:
        raise InputError(f"{what} have shape {array.shape}; expected {ndim} dimension(s)")
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InputError(f"{what} have dtype {array.dtype}; expected float16, float32, float64 or integers")
    if array.size == 0:
        raise EvaluationError(f"there are no {what} (shape {array.shape}); at least one is needed to measure anything")
    array = array.astype(_FLOATS[array.dtype.itemsize] if array.dtype.kind == "f" else np.float64, copy=False)
    # The two extremes are NaN if any value is, and need no mask as long as millions of scores.
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        bad = np.argwhere(~np.isfinite(array))
        raise EvaluationError(
            f"{what} hold {len(bad)} NaN or infinite values of {array.size} (the first at {bad[0].tolist()}); "
            "expected finite numbers: find their cause; dropping them would bias the result"
        )
    return array


def checked_kinds(genuine: ArrayLike, impostor: ArrayLike) -> tuple[Floats, Floats]:
    """Return genuine and impostor scores, each (n,), in their common dtype; errors as for `checked_floats`."""
    checked = checked_floats(genuine, "genuine scores", 1), checked_floats(impostor, "impostor scores", 1)
    common = np.result_type(*checked)
    return checked[0].astype(common, copy=False), checked[1].astype(common, copy=False)


def checked_same(same: ArrayLike, count: int) -> NDArray[np.bool_]:
    """Return whether each of ``count`` pairs shows one person, from bools or from 0 and 1.

    Raises:
        InputError: wrong shape, another number of pairs, or other values.
        EvaluationError: all pairs are of one kind.
    """
    labels = np.asarray(same)
    if labels.shape != (count,):
        raise InputError(f"same has shape {labels.shape}; expected ({count},), one label for each of the scores")
    if labels.dtype.kind not in "biu" or not np.isin(labels, (0, 1)).all():
        raise InputError(f"same has dtype {labels.dtype} and other values than 0 and 1; expected bool")
    labels = labels.astype(np.bool_)
    if labels.all() or not labels.any():
        kind = "genuine" if labels.any() else "impostor"
        raise EvaluationError(f"all {count} pairs are {kind}; expected genuine and impostor pairs")
    return labels


def next_above(score: np.floating[Any]) -> np.floating[Any]:
    """Return the next float above ``score`` in its own dtype: the lowest threshold that rejects it.

    Raises:
        EvaluationError: there is none, the score being the largest float.
    """
    with np.errstate(over="ignore"):
        above: np.floating[Any] = np.nextafter(score, score.dtype.type(np.inf))
    if np.isinf(above):
        raise EvaluationError(f"a score is {score}, the largest {score.dtype}: no threshold is above it; rescale")
    return above


def as_threshold(value: float, dtype: np.dtype[Any]) -> np.floating[Any]:
    """Return the lowest number of ``dtype`` that is not below ``value``: it accepts the same scores of that type."""
    rounded: np.floating[Any] = dtype.type(value)
    return rounded if float(rounded) >= value else np.nextafter(rounded, dtype.type(np.inf))


def conservative_threshold(scores: Floats, rate: float) -> np.floating[Any] | None:
    """Return the lowest threshold that at most floor(rate x n) of ``scores`` (n,) reach; None where that is 0 of them.

    It is the next float, in the dtype of the scores, above the (k + 1)-th largest: ties never push the share above
    ``rate``.
    """
    allowed = allowed_false_matches(rate, len(scores))
    if allowed == 0:
        return None
    first_rejected = len(scores) - 1 - allowed
    return next_above(np.partition(scores, first_rejected)[first_rejected])


def share_at_or_above(scores: Floats, threshold: np.floating[Any]) -> float:
    """Return the share of ``scores`` (n,) that match at ``threshold``."""
    return int(np.count_nonzero(scores >= threshold)) / len(scores)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, made read-only."""
    array.setflags(write=False)
    return array
