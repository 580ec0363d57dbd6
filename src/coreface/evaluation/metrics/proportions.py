"""Intervals of a share, and how far a count of errors carries: the Wilson interval and the rules of 3 and of 30."""

from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

from coreface.errors import InputError

_ENOUGH = 30


def check_confidence(confidence: float) -> None:
    """Raise `InputError` where a nominal coverage is no share between 0 and 1."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence!r}; expected a share above 0 and below 1, such as 0.95")


def wilson(
    share: float, trials: float, confidence: float = 0.95, *, freedom: float | None = None
) -> tuple[float, float]:
    """Wilson's score interval of a share seen in ``trials`` independent trials.

    Args:
        share: 0 to 1.
        trials: their number; it may be an effective one.
        confidence: nominal coverage, between 0 and 1.
        freedom: degrees of freedom of Student's quantile in place of the normal one, where ``trials`` is an estimate.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.

    Raises:
        InputError: an argument is out of range.
    """
    check_confidence(confidence)
    if not 0 <= share <= 1 or not trials > 0:
        raise InputError(f"a share of {share} in {trials} trials; expected 0 to 1, in a number of trials above 0")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if freedom is not None:  # Cornish and Fisher's first two terms: within 0.6 % from 10 degrees on
        v = max(freedom, 1)
        z += (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not push an end past what was seen.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


@dataclass(frozen=True)
class Badge:
    """How far a rate can be relied on, by the number of errors behind it.

    Attributes:
        level: ``solid`` from 30 errors on (rule of 30: with 90 % confidence the true rate is within 30 % of what was
            seen); ``rough`` for 1 to 29; ``none seen`` for 0.
        errors: how many there were.
        comparisons: of how many.
        bound: for 0 errors the upper 95 % limit 3 / comparisons (rule of 3), at most 1; otherwise None. Both rules
            count comparisons as independent, which pairs that share people are not: they are the least to ask.

    Source: Doddington et al., The NIST speaker recognition evaluation, Speech Communication 31, 2000 (rule of 30);
    ISO/IEC 19795-1:2021, annex B (both).
    """

    level: Literal["solid", "rough", "none seen"]
    errors: int
    comparisons: int
    bound: float | None

    def __str__(self) -> str:
        if self.bound is not None:
            return f"no error in {self.comparisons}: below {100 * self.bound:.2g} % at best (rule of 3)"
        if self.level == "rough":
            noun = "error" if self.errors == 1 else "errors"
            return f"{self.errors} {noun}: rough, fewer than {_ENOUGH} (rule of 30)"
        return f"{self.errors} errors: enough by the rule of 30"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def badge(errors: int, comparisons: int) -> Badge:
    """Judge a rate of ``errors`` in ``comparisons`` by the rules of 3 and of 30.

    Raises:
        InputError: the numbers are no count of a part in a whole.
    """
    if not 0 <= errors <= comparisons or comparisons < 1:
        raise InputError(f"{errors} errors in {comparisons} comparisons; expected 0 or more errors, 1 or more to count")
    if errors == 0:
        return Badge("none seen", 0, comparisons, min(1.0, 3 / comparisons))
    return Badge("solid" if errors >= _ENOUGH else "rough", errors, comparisons, None)
