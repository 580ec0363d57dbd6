"""Average linkage of unit vectors down to a threshold, without a matrix of all pairs."""

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 1024, 8192  # of the block of products that is in memory at a time
_BATCH = 4096  # outdated groups that are searched at a time
_CROWDED = 0.9  # share of the stored means that must be of groups that can still merge

Pairs = NDArray[np.int64]


class AverageLinkage:
    """Merges groups of unit vectors, always the two whose mean cosine is highest, until none reaches the threshold.

    The mean cosine over all pairs of two groups is the product of their means, so only one mean per group is stored,
    and products are computed block by block. Merging cannot bring a group nearer to a third than the nearer of its two
    halves was. Hence two groups that are each other's nearest may be merged at once, in any order, and a group whose
    nearest is below the threshold is finished. The result is that of merging one pair at a time, and does not depend on
    the order of the groups unless cosines are equal to within rounding.

    Source: Murtagh, A survey of recent advances in hierarchical clustering algorithms, The Computer Journal 26, 1983
    (reciprocal nearest neighbours).

    Args:
        means: (G, D) float32, mean of each group's unit vectors; is copied.
        sizes: (G,) number of vectors in each.
        threshold: lowest mean cosine of two groups that are merged, above 0.
        apart: (P, 2) int64, pairs of groups that are never merged.
        fixed: the first ``fixed`` groups are never merged with each other.
    """

    def __init__(
        self,
        means: NDArray[np.float32],
        sizes: NDArray[np.int64],
        threshold: float,
        apart: Pairs | None = None,
        fixed: int = 0,
    ) -> None:
        count = len(means)
        self._threshold, self._fixed = np.float32(threshold), fixed
        self._means = np.array(means, np.float32)  # of the groups in _stored; zeros for those that are finished
        self._stored = np.arange(count)
        self._place = np.arange(count)  # of each group in _stored
        self._sizes = np.array(sizes, np.float64)
        self._into = np.arange(count)  # the group that each was merged into, or itself
        self._open = np.ones(count, np.bool_)  # can still merge
        self._known = np.zeros(count, np.bool_)  # the nearest is known; otherwise _score is an upper bound
        self._nearest = np.full(count, -1)
        self._score = np.full(count, np.inf, np.float32)
        self._apart: dict[int, set[int]] = {}
        for one, other in [] if apart is None else apart.tolist():
            self._apart.setdefault(one, set()).add(other)
            self._apart.setdefault(other, set()).add(one)

    def run(self) -> NDArray[np.int64]:
        """Return the group that each of the given groups ends in, (G,); a group has the number of its first member."""
        search = np.arange(len(self._into))
        while len(search):
            self._search(search)
            merged = self._merge_mutual()
            search = self._next_to_search(merged)
        return self._ends()

    def _ends(self) -> NDArray[np.int64]:
        into = self._into
        while (into[into] != into).any():
            into = into[into]
        return into.astype(np.int64)

    def _search(self, groups: NDArray[np.int64]) -> None:
        """Find the nearest group of each, and close those that have none."""
        for start in range(0, len(groups), _ROWS):
            rows = groups[start : start + _ROWS]
            score = np.zeros(len(rows), np.float32)
            nearest = np.full(len(rows), -1)
            means = self._means[self._place[rows]]
            for left in range(0, len(self._stored), _COLUMNS):
                columns = self._stored[left : left + _COLUMNS]
                cosines = means @ self._means[left : left + _COLUMNS].T
                self._forbid(cosines, rows, left)
                best = cosines.argmax(axis=1)
                value = cosines[np.arange(len(rows)), best]
                higher = value > score  # of equal ones the first
                score[higher], nearest[higher] = value[higher], columns[best[higher]]
            self._score[rows], self._nearest[rows], self._known[rows] = score, nearest, True
        self._close(groups[self._score[groups] < self._threshold])

    def _forbid(self, cosines: NDArray[np.float32], rows: NDArray[np.int64], left: int) -> None:
        """Set to 0, which is below any threshold, what must not be merged: a group with itself, or kept apart."""
        width = cosines.shape[1]
        place = self._place[rows] - left
        own = np.flatnonzero((place >= 0) & (place < width))
        cosines[own, place[own]] = 0
        if self._fixed:
            columns = self._stored[left : left + width] < self._fixed
            cosines[np.ix_(rows < self._fixed, columns)] = 0
        if self._apart:
            for row, group in enumerate(rows.tolist()):
                if others := self._apart.get(group):
                    places = self._place[list(others)] - left
                    cosines[row, places[(places >= 0) & (places < width)]] = 0

    def _merge_mutual(self) -> NDArray[np.int64]:
        """Merge the groups that are each other's nearest, and return those that result."""
        groups = self._stored[self._open[self._stored] & self._known[self._stored]]
        other = self._nearest[groups]
        mutual = self._open[other] & self._known[other] & (self._nearest[other] == groups) & (groups < other)
        ones: NDArray[np.int64] = groups[mutual]
        others: NDArray[np.int64] = other[mutual]
        if not len(ones) and len(groups) and not self._outdated(self._stored).any():
            # Rounding has made a circle of nearest groups: begin with the two that are most alike.
            first = groups[np.argmax(self._score[groups])]
            ones, others = np.sort([[first], [self._nearest[first]]], axis=0)
        if not len(ones):
            return ones
        for one, another in zip(ones.tolist(), others.tolist(), strict=True):
            self._take_over(one, another)
        total = self._sizes[ones] + self._sizes[others]
        share = (self._sizes[others] / total)[:, None]
        at, gone = self._place[ones], self._place[others]
        self._means[at] = (self._means[at] * (1 - share) + self._means[gone] * share).astype(np.float32)
        self._sizes[ones], self._into[others] = total, ones
        self._close(others)
        changed = np.zeros(len(self._into), np.bool_)
        changed[ones] = True
        self._known[self._stored[changed[self._nearest[self._stored]]]] = False
        self._known[ones] = False
        return ones

    def _take_over(self, one: int, another: int) -> None:
        """Let a group keep apart from what the group merged into it kept apart from."""
        for group in self._apart.pop(another, ()):
            self._apart[group].remove(another)
            self._apart[group].add(one)
            self._apart.setdefault(one, set()).add(group)

    def _next_to_search(self, merged: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the groups whose nearest decides what can be merged next.

        These are the merged groups, and outdated groups that are the nearest of another. If there are none, those with
        the highest bounds. Searching all outdated groups every time would take cubic time where one photograph is the
        nearest of all others of a person.
        """
        self._make_compact()
        groups = self._stored[self._open[self._stored]]
        targets = self._nearest[groups[self._known[groups]]]
        search: NDArray[np.int64] = np.union1d(merged, targets[self._outdated(targets)])
        if len(search):
            return search
        waiting = groups[~self._known[groups]]
        if len(waiting) > _BATCH:
            waiting = np.sort(waiting[np.argsort(-self._score[waiting], kind="stable")[:_BATCH]])
        # If all is known and nothing mutual, any search will do: rounding is at work, which _merge_mutual resolves.
        return waiting if len(waiting) else groups[:1]

    def _outdated(self, groups: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(self._open[groups] & ~self._known[groups])

    def _close(self, groups: NDArray[np.int64]) -> None:
        self._open[groups] = False
        self._means[self._place[groups]] = 0
        closed = np.zeros(len(self._open), np.bool_)
        closed[groups] = True
        self._known[self._stored[closed[self._nearest[self._stored]]]] = False

    def _make_compact(self) -> None:
        kept = self._open[self._stored]
        if kept.sum() < _CROWDED * len(kept):
            self._place[self._stored[~kept]] = -1
            self._stored, self._means = self._stored[kept], self._means[kept]
            self._place[self._stored] = np.arange(len(self._stored))
