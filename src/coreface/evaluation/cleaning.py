"""What may be wrong with the labels of faces: images, identities, pairs of identities, and duplicates."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coreface.data.near_duplicates import PATCH_SIDE, AlikePair, alike_across, grey_patch, pixel_digest
from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, ImageError
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.label_noise import Cut, cut_scores
from coreface.evaluation.label_scores import LabelledEmbeddings, Scores

Kind = Literal["wrong image", "unlike pair", "two people", "one person", "duplicate", "near duplicate"]

#: Each kind of finding, in the order in which they are listed, in words.
KINDS: dict[Kind, str] = {
    "wrong image": "images that do not look like their identity",
    "unlike pair": "identities of two images that do not look like one person",
    "two people": "identities that look like two people",
    "one person": "pairs of identities that look like one person",
    "duplicate": "equal images of different identities",
    "near duplicate": "nearly equal images of different identities",
}
_MOST_WRONG = 0.5
_TYPICAL = 3
_CHUNK = 64


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong.

    Attributes:
        kind: what it is.
        identity: whose label is in question.
        score: what it was found by: of a wrong image the cosine with the centre of the others of its identity, less
            ``other_score``; of duplicates their likeness; of the rest a cosine.
        images: the images whose labels are in question; for ``one person`` typical images of the identity.
        beside: images to compare them with: typical ones of the identity, for ``one person`` those of the other one,
            for duplicates the other image.
        other: the other identity that is most alike, or that it is confused with; None where there is none.
        other_score: cosine with its centre, where it has one of its own.
        other_images: typical images of the other identity, where ``beside`` are not these.
    """

    kind: Kind
    identity: int
    score: float
    images: tuple[int, ...]
    beside: tuple[int, ...]
    other: int | None = None
    other_score: float | None = None
    other_images: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelReport:
    """What was found.

    Attributes:
        source: the faces.
        cuts: kind -> where its scores are cut, and the expected cost; none for duplicates.
        findings: all of them, kind by kind, the worst first.
        own_scores: (len(source),) the cosine of each image with the centre of the others of its identity; NaN where
            there are none.
        unreadable: messages of the images that could not be embedded or read.
    """

    source: FaceSource
    cuts: dict[Kind, Cut]
    findings: tuple[Finding, ...]
    own_scores: NDArray[np.float64] = field(repr=False)
    unreadable: tuple[str, ...] = ()

    def of_kind(self, kind: Kind) -> list[Finding]:
        """Return the findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]


def find_label_errors(
    source: FaceSource,
    embedded: EmbeddedImages,
    duplicates: list[AlikePair] | None = None,
    *,
    good_lost: float = 0.005,
    seed: int = 0,
) -> LabelReport:
    """List what may be wrong with labels. See `coreface.evaluation.label_noise` for what the thresholds mean.

    Args:
        source: the faces.
        embedded: their embeddings.
        duplicates: pairs of equal or nearly equal images of different identities, from `find_duplicates`.
        good_lost: for each kind, the expected share of the good ones that may be listed.
        seed: of the wrong labels that are made for comparison.

    Raises:
        EvaluationError: more than half of the images do not look like their identity.
        InputError: ``good_lost`` is out of range.
    """
    indices = embedded.indices
    people = LabelledEmbeddings(embedded.embeddings, source.identities[indices], seed=seed)
    own = people.own_scores()
    finder = _Finder(people, own, indices, good_lost)
    findings = [*finder.wrong_images(), *finder.unlike_pairs(), *finder.two_people(), *finder.one_person()]
    own_scores = np.full(len(source), np.nan)
    own_scores[indices] = own
    findings += [_duplicate(source, pair, own_scores) for pair in duplicates or ()]
    return LabelReport(source, finder.cuts, tuple(findings), own_scores, tuple(embedded.unreadable.values()))


def find_duplicates(
    source: FaceSource, *, least: float = 0.98, progress: Callable[[int], None] | None = None
) -> list[AlikePair]:
    """Return the pairs of equal or nearly equal images of different identities; unreadable images are passed over.

    Args:
        source: the faces; each is decoded once.
        least: see `coreface.data.near_duplicates.alike_across`.
        progress: called with the number of images done.
    """
    digests: list[bytes] = []
    kept: list[int] = []
    near = least <= 1  # equal pixels need no patches
    patches = np.empty((len(source), PATCH_SIDE**2 if near else 0), np.float32)
    for index in range(len(source)):
        try:
            image = source[index][0]
            if near:
                patches[len(kept)] = grey_patch(image)
        except ImageError:
            continue
        digests.append(pixel_digest(image))
        kept.append(index)
        if progress and (index + 1) % _CHUNK == 0:
            progress(index + 1)
    pairs = alike_across(digests, patches[: len(kept)], source.identities[kept], least)
    return [pair._replace(first=kept[pair.first], second=kept[pair.second]) for pair in pairs]


class _Finder:
    """Cuts the scores of each kind and makes findings of what is listed."""

    def __init__(
        self,
        people: LabelledEmbeddings,
        own: NDArray[np.float64],
        indices: NDArray[np.int64],
        good_lost: float,
    ) -> None:
        self._people, self._own, self._indices, self._good_lost = people, own, indices, good_lost
        self.cuts: dict[Kind, Cut] = {}

    def wrong_images(self) -> list[Finding]:
        rows = np.flatnonzero(self._people.counts[self._people.identities] > 2)
        scores = self._people.image_scores(rows)
        numbers = self._listed("wrong image", scores)
        listed, cut = rows[numbers], self.cuts["wrong image"]
        if cut.share_wrong > _MOST_WRONG:
            raise EvaluationError(
                f"{cut.share_wrong:.0%} of the images do not look like their identity; expected less than half: either "
                "the encoder does not fit these images (alignment, colours), or the labels belong to other images"
            )
        nearest, likeness = self._people.nearest_other(listed)
        columns = listed, scores.observed[numbers], nearest, likeness
        return [
            Finding(
                "wrong image",
                int(self._people.identities[row]),
                score,
                self._numbers(row),
                self._typical(int(self._people.identities[row]), (row,)),
                other,
                other_score,
                self._typical(other),
            )
            for row, score, other, other_score in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def unlike_pairs(self) -> list[Finding]:
        rows = np.flatnonzero(self._people.counts[self._people.identities] == 2)
        first = rows[rows == self._people.by_identity[self._people.starts[self._people.identities[rows]]]]
        found = []
        for row in first[self._listed("unlike pair", self._people.pair_scores(first))].tolist():
            identity = int(self._people.identities[row])
            both = self._numbers(*self._people.rows_of(identity).tolist())
            found.append(Finding("unlike pair", identity, float(self._own[row]), both, ()))
        return found

    def two_people(self) -> list[Finding]:
        scores, identities, sides = self._people.split_scores()
        found = []
        for number in self._listed("two people", scores).tolist():
            identity, side = int(identities[number]), sides[number].tolist()
            nearest, likeness = self._people.nearest_other(sides[number])
            other = int(np.bincount(nearest[nearest >= 0]).argmax()) if (nearest >= 0).any() else None
            found.append(
                Finding(
                    "two people",
                    identity,
                    float(scores.observed[number]),
                    self._numbers(*side),
                    self._typical(identity, side),
                    other,
                    float(likeness[nearest == other].mean()) if other is not None else None,
                )
            )
        return found

    def one_person(self) -> list[Finding]:
        scores, identities, nearest = self._people.twin_scores()
        cut = self._listed("one person", Scores(-scores.observed, -scores.wrong))
        found = self.cuts["one person"]
        if found.threshold is not None:  # high scores are suspect here
            self.cuts["one person"] = replace(found, threshold=-found.threshold)
        made: dict[frozenset[int], Finding] = {}
        for number in cut.tolist():
            one, other = int(identities[number]), int(nearest[number])
            score, sides = float(scores.observed[number]), (self._typical(one), self._typical(other))
            made.setdefault(frozenset((one, other)), Finding("one person", one, score, *sides, other))
        return list(made.values())

    def _listed(self, kind: Kind, scores: Scores) -> NDArray[np.int64]:
        """Return the numbers of the scores that are listed, the worst first."""
        cut = self.cuts[kind] = cut_scores(scores.observed, scores.wrong, self._good_lost)
        if cut.threshold is None:
            return np.empty(0, np.int64)
        order = np.argsort(scores.observed, kind="stable")
        return order[: cut.listed].astype(np.int64)

    def _typical(self, identity: int, without: tuple[int, ...] | list[int] = ()) -> tuple[int, ...]:
        """Return up to three images of an identity that are most like its others."""
        rows = np.setdiff1d(self._people.rows_of(identity), np.array(without, np.int64))
        best = rows[np.argsort(-np.nan_to_num(self._own[rows]), kind="stable")][:_TYPICAL]
        return self._numbers(*best.tolist())

    def _numbers(self, *rows: int) -> tuple[int, ...]:
        return tuple(int(self._indices[row]) for row in rows)


def _duplicate(source: FaceSource, pair: AlikePair, own_scores: NDArray[np.float64]) -> Finding:
    """Put the image in question that is less like its identity; the later one where they are equal."""
    kept, wrong = sorted(
        (pair.first, pair.second), key=lambda index: (-np.nan_to_num(own_scores[index], nan=-1), index)
    )
    return Finding(
        "duplicate" if pair.exact else "near duplicate",
        int(source.identities[wrong]),
        pair.likeness,
        (wrong,),
        (kept,),
        int(source.identities[kept]),
    )
