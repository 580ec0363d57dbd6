"""How many labels are wrong, and below which score they are listed, from the scores alone; no label is trusted.

The observed scores are a mixture, H = (1 - pi) F0 + pi F1: a share pi of them belongs to wrong labels. F1, their
distribution, can be sampled, because a wrong label can be made on purpose: an image put among those of another
identity. F0 is never needed.

Mixture proportion: H(t) / F1(t) = pi + (1 - pi) F0(t) / F1(t), so every t gives an upper bound of pi, and the smallest
is pi itself where the lowest scores all belong to wrong labels (Blanchard, Lee and Scott, "Semi-Supervised Novelty
Detection", JMLR 2010, equation for the proportion of novelties). A good image that looks like nobody, such as a
blurred one, cannot be told from a wrong label by its score and counts as one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError

_BOUND = 3.0  # standard errors of the bound that chooses t: few counts give no small bound by chance
_CAUTION = 1.0  # standard errors by which pi is taken lower where the good ones that are lost are counted


@dataclass(frozen=True)
class Cut:
    """Below which score things are listed, and what that is expected to cost.

    Attributes:
        scored: number of scores.
        share_wrong: estimate of pi, the share of them that is wrong.
        threshold: what scores at most this is listed; None lists nothing.
        listed: number of scores that are listed.
        good_lost: expected share of the good ones that is listed, with pi one standard error lower than estimated.
        precision: expected share of the listed ones that is wrong; None where nothing is listed.
    """

    scored: int
    share_wrong: float
    threshold: float | None
    listed: int
    good_lost: float
    precision: float | None


def require_share(good_lost: float) -> None:
    """Raise `InputError` where the share of good ones that may be listed is not between 0 and 1."""
    if not 0 < good_lost < 1:
        raise InputError(f"good_lost is {good_lost!r}, expected a share between 0 and 1, such as 0.005")


def cut_scores(observed: NDArray[np.floating], wrong: NDArray[np.floating], good_lost: float = 0.005) -> Cut:
    """Return the threshold at and below which scores are listed.

    Of the scores below t, n pi F1(t) are expected to be wrong, and a share (H(t) - pi F1(t)) / (1 - pi) of the good
    ones is among them; for this share, pi is taken one standard error lower. Of the thresholds where it is at most
    ``good_lost``, the one is taken that lists most more wrong than good ones; none where no threshold lists more.

    Args:
        observed: (n,) scores; low ones are suspect.
        wrong: (m,) scores that wrong labels have.
        good_lost: the share, 0 < good_lost < 1.

    Raises:
        InputError: ``good_lost`` is out of range, or a score is not finite.
    """
    require_share(good_lost)
    if not (np.isfinite(observed).all() and np.isfinite(wrong).all()):
        raise InputError("scores are not finite, expected numbers")
    count = len(observed)
    if not count or not len(wrong):
        return Cut(count, 0.0, None, 0, 0.0, None)
    # Between two observed scores H is constant and F1 grows: each t is just below an observed score, or infinite.
    values, repeats = np.unique(observed, return_counts=True)
    below = np.concatenate([[0], np.cumsum(repeats)]).astype(np.float64)  # n H(t)
    wrong_below = np.searchsorted(np.sort(wrong), values, side="left")
    wrong_share = np.concatenate([wrong_below, [len(wrong)]]) / len(wrong)  # F1(t)
    wrong_count, cautious = _count_wrong(below, wrong_share)
    true = np.minimum(wrong_count * wrong_share, below)
    lost = (below - np.minimum(cautious * wrong_share, below)) / max(count - cautious, 1)
    gain = np.where(lost <= good_lost, 2 * true - below, -np.inf)  # wrong ones less good ones
    best = int(gain.argmax())
    if gain[best] <= 0:
        return Cut(count, wrong_count / count, None, 0, 0.0, None)
    return Cut(
        count,
        wrong_count / count,
        float(values[best - 1]),
        int(below[best]),
        float(lost[best]),
        float(true[best] / below[best]),
    )


def _count_wrong(below: NDArray[np.float64], wrong_share: NDArray[np.float64]) -> tuple[float, float]:
    """Return n pi, at most n, and the same less one standard error.

    It is n H(t) / F1(t) at the t where the upper confidence bound of this is smallest.
    """
    seen = wrong_share > 0
    below, wrong_share = below[seen], wrong_share[seen]
    best = int(_bound(below, wrong_share, _BOUND).argmin())
    likely, cautious = (float(_bound(below, wrong_share, errors)[best]) for errors in (0.0, -_CAUTION))
    return min(likely, float(below[-1])), min(cautious, float(below[-1]))


def _bound(below: NDArray[np.float64], wrong_share: NDArray[np.float64], errors: float) -> NDArray[np.float64]:
    """Return the number of wrong ones, each below t with probability F1(t), of which so many are below t by chance.

    The count k is as many binomial standard errors away from N F1 as ``errors`` says (Wilson's form, solved for N).
    """
    above = 1 - wrong_share
    root = np.sqrt(below * above + (errors * above / 2) ** 2)
    bound: NDArray[np.float64] = (below + errors**2 * above / 2 + errors * root) / wrong_share
    return bound
