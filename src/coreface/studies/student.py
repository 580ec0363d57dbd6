"""Student's t distribution for any positive degrees of freedom, whole or not, without SciPy: tails, quantile, power.

Sources: NIST Digital Library of Mathematical Functions, 8.17 (incomplete beta function); Johnson, Kotz and
Balakrishnan, Continuous Univariate Distributions 2, 1995, chapters 28 and 31 (Student's t and its noncentral form).
"""

from collections.abc import Callable
from math import erfc, exp, inf, lgamma, log, sqrt

from coreface.errors import InputError

_TINY = 1e-300
_NODES = 2000  # of the integral over the estimated standard deviation


def two_sided_p(t: float, freedom: float) -> float:
    """Return P(|T| >= |t|) of Student's t.

    Raises:
        InputError: ``freedom`` is not positive.
    """
    _check_freedom(freedom)
    square = t * t
    return _incomplete_beta(freedom / (freedom + square), square / (freedom + square), freedom / 2, 0.5)


def two_sided_quantile(level: float, freedom: float) -> float:
    """Return the t with P(|T| >= t) = ``level``; 1.96 for 0.05 and very many degrees of freedom.

    Raises:
        InputError: ``level`` is not between 0 and 1, or ``freedom`` is not positive.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; expected a share above 0 and below 1, such as 0.05")
    _check_freedom(freedom)
    return _crossing(lambda t: level - two_sided_p(t, freedom))


def power(shift: float, level: float, freedom: float) -> float:
    """Return the probability that a two-sided test at ``level`` rejects where the effect is ``shift`` standard errors.

    It is P(|T'| >= t) of the noncentral t distribution: the normal probability given the estimated standard deviation,
    integrated over that estimate.
    """
    threshold = two_sided_quantile(level, freedom)

    def rejected(ratio: float) -> float:  # for an estimate that is ``ratio`` times the true standard deviation
        return _normal_above(threshold * ratio - shift) + _normal_above(threshold * ratio + shift)

    # The ratio is sqrt(chi2 / freedom), near 1. Its logarithm has no edge at 0; below falls like exp(freedom x log).
    low, high = -max(12 / sqrt(freedom), 36 / freedom), min(12 / sqrt(freedom), 6.0)
    step = (high - low) / _NODES
    constant = log(2) + freedom / 2 * log(freedom / 2) - lgamma(freedom / 2)
    total = 0.0
    for node in range(_NODES + 1):
        place = low + node * step
        density = exp(constant + freedom * place - freedom / 2 * exp(2 * place))
        total += density * rejected(exp(place))
    return total * step


def detectable_shift(level: float, freedom: float, wanted: float = 0.8) -> float:
    """Return the effect, in standard errors, that a two-sided test at ``level`` finds with probability ``wanted``."""
    if not level < wanted < 1:
        raise InputError(f"power is {wanted!r}; expected a share above the level {level:g} and below 1, such as 0.8")
    return _crossing(lambda shift: power(shift, level, freedom) - wanted)


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """Regularized incomplete beta function I_x(a, b), by the continued fraction DLMF 8.17.22.

    ``rest`` is 1 - x, passed separately because computing it from x near 1 would lose digits.
    """
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only on the other side (8.17.4)
        return 1 - _incomplete_beta(rest, x, b, a)
    front = exp(a * log(x) + b * log(rest) + lgamma(a + b) - lgamma(a) - lgamma(b)) / a
    # Lentz's evaluation, from the front: value = 1 / (1 + d1 / (1 + d2 / (1 + ...))).
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), _TINY)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or _TINY)
            c = 1 + term / c or _TINY
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * value


def _normal_above(z: float) -> float:
    return erfc(z / sqrt(2)) / 2


def _crossing(rising: Callable[[float], float]) -> float:
    """Return the root of an increasing function of a number of 0 or more, by bisection."""
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
        if high == inf:
            raise InputError("the degrees of freedom are too few: the quantile is not finite")
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _check_freedom(freedom: float) -> None:
    if not freedom > 0:
        raise InputError(f"there are {freedom!r} degrees of freedom; expected a number above 0")
