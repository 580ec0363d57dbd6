"""Error rates by group of people at one threshold for all: who bears the errors.

Every identity has one label: a group is whatever the labels say. FNMR of a group is that of its genuine pairs, FMR that
of impostor pairs inside it; the matrix has the impostor pairs of each two groups. A rate with fewer than 30 errors
behind it is not given: it would compare noise (the rule of 30, `coreface.evaluation.metrics.proportions`).

Source: Grother, Ngan and Hanaoka, FRVT part 3: demographic effects, NISTIR 8280, 2019.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.metrics.pair_scores import PairSample
from coreface.evaluation.metrics.scores import as_threshold

FEWEST_ERRORS = 30


@dataclass(frozen=True)
class GroupRate:
    """An error rate of a group, or of two.

    Attributes:
        rate: errors / pairs; None where there are fewer than 30 errors.
        errors: number of errors.
        pairs: number of pairs.
    """

    rate: float | None
    errors: int
    pairs: int


@dataclass(frozen=True)
class GroupRates:
    """Error rates by group at one threshold.

    Attributes:
        threshold: a pair matches iff its score is not below it.
        names: the groups, in the order of their names.
        identities: number of identities of each group.
        fnmr: of the genuine pairs of each group.
        fmr: of the impostor pairs of each two groups; element [g][g] is that inside group g.
        fnmr_ratio: largest FNMR over smallest, of the groups that have one; None where fewer than two have.
        fmr_ratio: largest FMR over smallest, inside groups; None likewise.
        unlabelled: number of identities without a label; their pairs are counted nowhere here.
    """

    threshold: float
    names: tuple[str, ...]
    identities: tuple[int, ...]
    fnmr: tuple[GroupRate, ...]
    fmr: tuple[tuple[GroupRate, ...], ...]
    fnmr_ratio: float | None
    fmr_ratio: float | None
    unlabelled: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        plain = asdict(self)
        for name in ("names", "identities", "fnmr"):
            plain[name] = list(plain[name])
        plain["fmr"] = [list(row) for row in plain["fmr"]]
        return plain


def group_rates(pairs: PairSample, labels: Sequence[str | None], threshold: float) -> GroupRates:
    """Count errors by group.

    Args:
        pairs: scores and identities.
        labels: for each identity, by its index, the name of its group; None for an identity that has none.
        threshold: for all groups alike.

    Raises:
        InputError: another number of labels than of identities, no label at all, or the threshold is not finite.
    """
    if len(labels) != pairs.identities:
        raise InputError(f"{len(labels)} labels for {pairs.identities} identities; expected one each")
    names = sorted({label for label in labels if label is not None})
    if not names:
        raise InputError("no identity has a label; expected one or more: check that the names are those of the faces")
    if not np.isfinite(threshold):
        raise InputError(f"the threshold is {threshold}; expected a finite number")
    number = {name: index for index, name in enumerate(names)}
    count = len(names)
    group = np.array([count if label is None else number[label] for label in labels])  # the last: without a label

    genuine, impostor = pairs.genuine_scores, pairs.impostor_scores
    of = group[pairs.genuine_identity]
    missed = np.bincount(of[genuine < as_threshold(threshold, genuine.dtype)], minlength=count + 1)
    compared = np.bincount(of, minlength=count + 1)
    first, second = pairs.impostor_identities(np.flatnonzero(impostor >= as_threshold(threshold, impostor.dtype)))
    codes = group[first] * (count + 1) + group[second]
    matched = np.bincount(codes, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
    matched = matched + matched.T - np.diag(np.diag(matched))
    totals = _impostor_pairs(pairs, group, count)

    fnmr = tuple(_rate(missed[g], compared[g]) for g in range(count))
    fmr = tuple(tuple(_rate(matched[g, h], totals[g, h]) for h in range(count)) for g in range(count))
    return GroupRates(
        threshold=float(threshold),
        names=tuple(names),
        identities=tuple(np.bincount(group, minlength=count + 1)[:count].tolist()),
        fnmr=fnmr,
        fmr=fmr,
        fnmr_ratio=_ratio(fnmr),
        fmr_ratio=_ratio([fmr[g][g] for g in range(count)]),
        unlabelled=int(np.count_nonzero(group == count)),
    )


def _impostor_pairs(pairs: PairSample, group: NDArray[np.intp], count: int) -> NDArray[np.int64]:
    """(count, count) impostor pairs of each two groups, from sums over identities: Q(g + h) - Q(g) - Q(h)."""
    members = np.array([group == g for g in range(count)])
    inside = pairs.impostor_weights(members.astype(np.int64))
    totals = np.diag(inside)
    upper = [(g, h) for g in range(count) for h in range(g + 1, count)]
    if upper:
        both = pairs.impostor_weights(np.array([members[g] | members[h] for g, h in upper]).astype(np.int64))
        for (g, h), total in zip(upper, both, strict=True):
            totals[g, h] = totals[h, g] = total - inside[g] - inside[h]
    return np.rint(totals).astype(np.int64)


def _rate(errors: int, pairs: int) -> GroupRate:
    return GroupRate(int(errors) / int(pairs) if errors >= FEWEST_ERRORS else None, int(errors), int(pairs))


def _ratio(rates: Sequence[GroupRate]) -> float | None:
    given = [rate.rate for rate in rates if rate.rate is not None]
    return max(given) / min(given) if len(given) >= 2 else None
