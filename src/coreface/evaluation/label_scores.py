"""Scores that are low (or high) where a label is wrong, and the scores of the same kind that wrong labels have.

An image has the cosine with the centre of the other images of its identity, less the cosine with the most alike centre
of another identity: an encoder that was trained on a wrong label puts the image near the wrong centre, but leaves it
near the right one. Two groups of images, such as two identities, have the mean of the cosines of all pairs of an image
of one and an image of the other: unlike the cosine of their centres its expectation does not depend on how many images
there are. Wrong labels are made on purpose: an image of somebody else in the place of each image, two identities put
together, one identity divided in two.
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError

LEAST_SIDE = 2  #: images on each side of an identity that looks like two people; one image alone is a wrong image
_DRAWS = 5  # wrong labels made for each image
_LEAST_OTHERS = 10  # identities to draw from where few are as large as needed
_MOST_ROUNDS = 20  # of two-means
_BLOCK = 512


class Scores(NamedTuple):
    """Scores of things, and of wrong ones.

    Attributes:
        observed: (n,) float64, one a thing.
        wrong: (m,) float64, of wrong labels that were made on purpose.
    """

    observed: NDArray[np.float64]
    wrong: NDArray[np.float64]


class SplitScores(NamedTuple):
    """Scores of the identities that two-means divides into two sides of at least two images.

    Attributes:
        scores: mean cosine across the sides.
        identities: (n,) int64, which identity each observed score belongs to.
        smaller_sides: the rows of the embeddings on the smaller side of each.
    """

    scores: Scores
    identities: NDArray[np.int64]
    smaller_sides: list[NDArray[np.int64]]


class LabelledEmbeddings:
    """Unit embeddings with their identities, and the sums that all scores are made of.

    Args:
        embeddings: (N, D) floats; rows are made of unit length.
        identities: (N,) whole numbers, from 0; an identity may have no image.
        seed: of the wrong labels that are made.

    Raises:
        InputError: the shapes do not fit, or an embedding is zero or not finite.
    """

    def __init__(self, embeddings: NDArray[np.floating], identities: NDArray[np.integer], *, seed: int = 0) -> None:
        if embeddings.ndim != 2 or identities.shape != embeddings.shape[:1] or identities.dtype.kind not in "iu":
            raise InputError(
                f"embeddings have shape {embeddings.shape}, identities {identities.dtype} {identities.shape}; "
                "expected (N, D) and whole numbers (N,)"
            )
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            row = int((~(np.isfinite(lengths) & (lengths > 0))).argmax())
            raise InputError(f"embedding {row} is zero or not finite, expected a direction")
        self.unit = (embeddings / lengths).astype(np.float32)
        self.identities = identities.astype(np.int64)
        self.counts = np.bincount(self.identities)
        self.by_identity = np.argsort(self.identities, kind="stable")  # rows, identity by identity
        self.starts = np.cumsum(self.counts) - self.counts
        self.sums = _sums(self.unit, self.identities, len(self.counts))
        self._rng = np.random.default_rng(seed)

    def rows_of(self, identity: int) -> NDArray[np.int64]:
        """Return the rows of an identity."""
        start = self.starts[identity]
        return self.by_identity[start : start + self.counts[identity]]

    def own_scores(self) -> NDArray[np.float64]:
        """Return the cosine of every image with the centre of the others of its identity, (N,); NaN without others."""
        scores = np.full(len(self.unit), np.nan)
        several = np.flatnonzero(self.counts[self.identities] > 1)
        scores[several] = self._in_place_of(several, several)
        return scores

    def image_scores(self, rows: NDArray[np.int64]) -> Scores:
        """Score images by the cosine with their own centre less that with the most alike other centre.

        Wrong: an image of another identity in the place of each of them. The centre of its own identity is left out,
        as if this were a person of whom there is nothing else: a centre that the image is a part of would be too alike.

        Args:
            rows: (n,) images that have others of their identity.

        Returns:
            The scores; empty where there are fewer than three identities.
        """
        if np.count_nonzero(self.counts) < 3:
            return Scores(np.empty(0), np.empty(0))
        images, places = self._replaced(rows)
        nearest, best, second = self._others
        other = np.where(nearest[images] == self.identities[places], second[images], best[images])
        return Scores(self._in_place_of(rows, rows) - best[rows], self._in_place_of(images, places) - other)

    def pair_scores(self, rows: NDArray[np.int64]) -> Scores:
        """Score images of identities of two by their cosine. Wrong: an image of another identity in the place of each.

        Args:
            rows: (n,) one image of each pair.
        """
        return Scores(self._in_place_of(rows, rows), self._in_place_of(*self._replaced(rows)))

    def split_scores(self) -> SplitScores:
        """Divide each identity in two by two-means. Wrong: images of two identities, as many as on the two sides."""
        observed, wrong, chosen, smaller = [], [], [], []
        by_size = np.argsort(-self.counts, kind="stable")
        sizes = self.counts[by_size]
        for identity in np.flatnonzero(self.counts >= 2 * LEAST_SIDE).tolist():
            rows = self.rows_of(identity)
            side = two_means(self.unit[rows])
            counts = [len(rows) - int(side.sum()), int(side.sum())]
            if min(counts) < LEAST_SIDE:
                continue
            chosen.append(identity)
            observed.append(_across(self.unit[rows], side))
            smaller.append(rows[side == int(counts[1] <= counts[0])])
            made = self._two_people(counts, by_size, sizes)
            if made is not None:
                side = two_means(made)
                if LEAST_SIDE <= side.sum() <= len(side) - LEAST_SIDE:
                    wrong.append(_across(made, side))
        return SplitScores(Scores(np.array(observed), np.array(wrong)), np.array(chosen, np.int64), smaller)

    def twin_scores(self) -> tuple[Scores, NDArray[np.int64], NDArray[np.int64]]:
        """Score every identity by the other that is most like it. Wrong: the two halves of one identity.

        High scores are suspect here.

        Returns:
            The scores; (n,) the identities that have images; (n,) the most alike other of each. All are empty where
            there are fewer than two identities.
        """
        present = np.flatnonzero(self.counts)
        means = self.sums[present] / self.counts[present, None]
        if len(present) < 2:
            return Scores(np.empty(0), np.empty(0)), np.empty(0, np.int64), np.empty(0, np.int64)
        observed, nearest = np.empty(len(present)), np.empty(len(present), np.int64)
        for start in range(0, len(present), _BLOCK):
            products = means[start : start + _BLOCK] @ means.T
            here = np.arange(len(products))
            products[here, start + here] = -np.inf
            best = products.argmax(axis=1)
            observed[start : start + len(here)], nearest[start : start + len(here)] = products[here, best], best
        return Scores(observed, self._halves()), present, present[nearest]

    def nearest_other(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the other identity whose centre is most like each image, and the cosine with it; -1 where none is."""
        nearest, best, _ = self._others
        return nearest[rows], np.where(nearest[rows] < 0, np.nan, best[rows])

    @cached_property
    def _others(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The most alike other identity of each image, -1 where none is; the cosines with its centre and the second."""
        present = np.flatnonzero(self.counts)
        centres = _unit(self.sums[present]).astype(np.float32)
        nearest = np.full(len(self.unit), -1, np.int64)
        best, second = np.full((2, len(self.unit)), -np.inf)
        for start in range(0, len(self.unit) if len(present) > 1 else 0, _BLOCK):
            block = slice(start, start + _BLOCK)
            products = self.unit[block] @ centres.T
            here = np.arange(len(products))
            products[here, np.searchsorted(present, self.identities[block])] = -np.inf
            most = products.argmax(axis=1)
            nearest[block], best[block] = present[most], products[here, most]
            products[here, most] = -np.inf
            second[block] = products.max(axis=1)
        return nearest, best, second

    def _replaced(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw images of other identities for the places of images, several each: the images, and the places."""
        total = len(self.unit)
        places = np.tile(rows[self.counts[self.identities[rows]] < total], _DRAWS)
        own = self.identities[places]
        # A number among the images of other identities; those of one identity follow one another in by_identity.
        drawn = self._rng.integers(total - self.counts[own])
        drawn += np.where(drawn >= self.starts[own], self.counts[own], 0)
        return self.by_identity[drawn], places

    def _in_place_of(self, images: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosine of each image with the centre of the identity of a place, less the image that is there."""
        scores = np.empty(len(places))
        for start in range(0, len(places), 2**14):
            part = places[start : start + 2**14]
            own = self.identities[part]
            others = _unit(self.sums[own] - self.unit[part])
            scores[start : start + len(part)] = np.einsum(
                "nd,nd->n", self.unit[images[start : start + len(part)]], others
            )
        return scores

    def _two_people(
        self, counts: list[int], by_size: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """Return embeddings of two identities, as many as ``counts`` says where they have so many."""
        present = int(np.count_nonzero(sizes))
        if present < 2:
            return None
        drawn: list[int] = []
        for count in sorted(counts, reverse=True):
            enough = int(np.count_nonzero(sizes >= count))
            pool = by_size[: min(max(enough, _LEAST_OTHERS), present)]
            drawn.append(int(self._rng.choice(pool[~np.isin(pool, drawn)])))
        parts = [
            self._rng.choice(self.rows_of(identity), min(count, int(self.counts[identity])), replace=False)
            for identity, count in zip(drawn, sorted(counts, reverse=True), strict=True)
        ]
        made: NDArray[np.float32] = self.unit[np.concatenate(parts)]
        return made

    def _halves(self) -> NDArray[np.float64]:
        """Return the mean cosine across two random halves of every identity of two images or more."""
        order = np.lexsort((self._rng.random(len(self.unit)), self.identities))
        rank = np.arange(len(order)) - self.starts[self.identities[order]]
        first = order[rank < self.counts[self.identities[order]] // 2]
        sums = _sums(self.unit[first], self.identities[first], len(self.counts))
        several = np.flatnonzero(self.counts > 1)
        half = self.counts[several] // 2
        products = np.einsum("nd,nd->n", sums[several], self.sums[several] - sums[several])
        result: NDArray[np.float64] = products / (half * (self.counts[several] - half))
        return result


def two_means(unit: NDArray[np.float32]) -> NDArray[np.int64]:
    """Divide unit vectors (n, D) into two sides by cosine, from the two that are least alike; (n,) of 0 and 1."""
    first, second = np.unravel_index(int((unit @ unit.T).argmin()), (len(unit), len(unit)))
    centres = unit[[first, second]]
    side = np.full(len(unit), -1)
    for _ in range(_MOST_ROUNDS):
        nearer = (unit @ centres.T).argmax(axis=1)
        if (nearer == side).all() or len(np.unique(nearer)) < 2:
            break
        side = nearer
        centres = np.stack([unit[side == number].sum(axis=0) for number in (0, 1)])
        centres = _unit(centres)
    sides: NDArray[np.int64] = np.maximum(side, 0).astype(np.int64)
    return sides


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows of unit length; a row of zeros stays zero, and is like nothing."""
    unit: NDArray[Any] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _across(unit: NDArray[np.float32], side: NDArray[np.int64]) -> float:
    return float(unit[side == 0].mean(axis=0) @ unit[side == 1].mean(axis=0))


def _sums(unit: NDArray[np.float32], identities: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return the sum of the rows of each identity, (count, D)."""
    sums = np.zeros((count, unit.shape[1]))
    for start in range(0, len(unit), _BLOCK):  # np.add.at takes the rows as float64
        np.add.at(sums, identities[start : start + _BLOCK], unit[start : start + _BLOCK])
    return sums
