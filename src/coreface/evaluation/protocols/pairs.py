"""Verification on a given set of pairs, as LFW's View 2 and the `.bin` sets have it: folds, error rates, intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import PurePath

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from coreface.data.open import open_pairs
from coreface.data.pairs.pair_set import PairSet
from coreface.errors import EvaluationError
from coreface.evaluation.all_pairs import ScoredPair, unit_rows
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.metrics.folds import kfold_accuracy
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.resampling import identity_weights
from coreface.evaluation.metrics.scores import Floats
from coreface.evaluation.metrics.uncertainty import Interval, rate_interval
from coreface.evaluation.protocols.groups import open_labels, rates_by_group
from coreface.evaluation.protocols.protocol import EvaluationProtocol, short_name
from coreface.evaluation.results import VerificationResult
from coreface.evaluation.templates import FAILED
from coreface.evaluation.verification import Mistakes, Verification, check_rates, verify_scores
from coreface.files import user_path


class Pairs(EvaluationProtocol[VerificationResult]):
    """Verification on a set of pairs: cross-validated accuracy, EER, TAR at FARs, with intervals.

    Args:
        pairs: the set, or its path: ``FILE`` or ``FILE:IMAGES``.
        name: what the result is called; None takes the end of the path.
        replicates: bootstrap replicates; 0 for no intervals; None for 1000, or fewer for very many pairs.
        groups: identity -> label, or a CSV file of both: error rates by label too.
        group_column: which column of the file; None takes the second.

    Raises:
        DataError: the set or the labels cannot be read.
    """

    def __init__(
        self,
        pairs: PairSet | str | PathLike[str],
        *,
        name: str | None = None,
        replicates: int | None = None,
        groups: Mapping[str, str] | str | PathLike[str] | None = None,
        group_column: str | None = None,
    ) -> None:
        self.labels = open_labels(groups, group_column)
        if isinstance(pairs, PairSet):
            self.pairs, self.name, self._place = pairs, name or "pairs", name or "pairs"
        else:
            text = str(pairs)
            path = text if user_path(text).exists() else text.rpartition(":")[0] or text
            self.pairs, self.name, self._place = open_named_pairs(text), name or short_name(path), text
        self.replicates = replicates

    def photographs(self) -> Mapping[str, PairSet]:
        return {self._place: self.pairs}

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> VerificationResult:
        pairs = self.pairs
        embedded = source.embed(pairs, console)
        scores = pair_scores(pairs, embedded.embeddings, embedded.indices)
        verification = verify_pairs(pairs, scores, replicates=self.replicates)
        _, names = image_identities(pairs)
        known = "known by their folders" if names else "images linked by genuine pairs are treated as one person"
        folds = "one fold, so no accuracy is computed"
        if pairs.folds > 1:
            folds = (
                f"{pairs.folds} folds in their given order; the threshold of a fold is the best of all others (the "
                "median of equally good midpoints)"
            )
        return VerificationResult(
            name=self.name,
            statement=f"{len(pairs)} pairs in {folds}. Embeddings: {source.provenance.description}; score: cosine. "
            f"Intervals resample people, {known}. A pair with an image that cannot be embedded scores -1 and counts.",
            notes=(ONE_FOLD,) if pairs.folds == 1 else (),
            provenance=source.provenance,
            unreadable=tuple(embedded.unreadable.values()),
            verification=verification,
            image=pairs.image,
            label=lambda index: short_name(pairs.locate(index)),
            groups=rates_by_group(verification, names, self.labels),
        )


def open_named_pairs(text: str) -> PairSet:
    """Open a set of pairs from ``FILE`` or ``FILE:IMAGES``.

    Raises:
        DataError: nothing at the path can be read.
    """
    if user_path(text).exists() or ":" not in text:
        return open_pairs(text)
    path, _, images = text.rpartition(":")
    return open_pairs(path, images)


ONE_FOLD = "accuracy: not computed, because all pairs are in one fold and the threshold comes from the other folds"


def pair_scores(pairs: PairSet, embeddings: ArrayLike, images: ArrayLike) -> Floats:
    """Cosines of the pairs; -1 for a pair with an image that could not be embedded: it stays in every denominator.

    Args:
        pairs: the set.
        embeddings: (n, D) float, of the images that could be embedded.
        images: (n,) integers, their numbers among the set's distinct images.

    Raises:
        EvaluationError: the embeddings are not finite, zero or all the same, or none belongs to a pair.
    """
    unit = unit_rows(embeddings)
    rows = np.full(pairs.num_images, -1)
    rows[np.asarray(images)] = np.arange(len(unit))
    left, right = rows[pairs.left], rows[pairs.right]
    scores: Floats = np.einsum("pd,pd->p", unit[left], unit[right])
    failed = (left < 0) | (right < 0)
    if failed.all():
        raise EvaluationError("no pair has two images that could be embedded")
    scores[failed] = FAILED
    return scores


def verify_pairs(
    pairs: PairSet,
    scores: Floats,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    replicates: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    worst: int = 10,
) -> Verification:
    """Return the error rates of a set of pairs: cross-validated accuracy, equal error rate, TAR at FARs.

    Args:
        pairs: the set.
        scores: (P,) of its pairs, in their order (`pair_scores`).
        fars: target false accept rates of ``tar``.
        replicates: bootstrap replicates; 0 for no intervals; None for 1000, or fewer for very many pairs.
        confidence: nominal coverage of the intervals.
        seed: of the bootstrap.
        worst: how many of the worst mistakes of each kind to list.

    Raises:
        InputError: ``fars`` is out of range.
        EvaluationError: all pairs are of one kind, or scores are not finite.
    """
    check_rates(fars, confidence)
    scored = scored_pairs(pairs, scores)
    mistakes = Mistakes(
        impostor=_worst(pairs, scores, ~pairs.same, -scores, worst),
        genuine=_worst(pairs, scores, pairs.same, scores, worst),
    )
    verification = verify_scores(
        scored,
        mistakes,
        images=pairs.num_images,
        fars=fars,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
        weighed=len(scores) * (1 + pairs.folds),
    )
    accuracy = kfold_accuracy(scores, pairs.same, fold_of=pairs.fold_of) if pairs.folds > 1 else None
    interval: Interval | None = None
    if accuracy is not None and verification.replicates:
        values = resample_accuracy(scored, pairs.fold_of, replicates=verification.replicates, seed=seed)
        interval = rate_interval(accuracy.accuracy, values, scored.identities, confidence)
    failures = int(np.count_nonzero(scores == FAILED))
    return replace(verification, accuracy=accuracy, accuracy_interval=interval, failures=failures)


def scored_pairs(pairs: PairSet, scores: Floats) -> PairScores:
    """Add the identities of a set of pairs to its scores, as far as they are known (`image_identities`)."""
    identity, _ = image_identities(pairs)
    index = np.unique(np.concatenate([identity[pairs.left], identity[pairs.right]]), return_inverse=True)[1]
    first, second = np.split(index, 2)
    return PairScores(scores, first, second, pairs.same)


def image_identities(pairs: PairSet) -> tuple[NDArray[np.int64], list[str] | None]:
    """Say who is on each distinct image, (num_images,), as far as the set tells, and the people's names if it does.

    Images in a folder a person, as LFW has them, are known by their folders, if no pair contradicts it; the name of a
    person is the path of the folder, as in a source of faces. A set without names tells less: images joined by genuine
    pairs show one person, and every such group counts as one.
    """
    places = [PurePath(pairs.relative_path(index)).parent for index in range(pairs.num_images)]
    folders = sorted(set(places))
    number = {folder: index for index, folder in enumerate(folders)}
    named = np.array([number[place] for place in places], np.int64)
    if np.array_equal(named[pairs.left] == named[pairs.right], pairs.same):
        used = np.unique(named[np.concatenate([pairs.left, pairs.right])])
        return np.searchsorted(used, named), [folders[index].as_posix() for index in used]
    parent = np.arange(pairs.num_images)

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = image = int(parent[parent[image]])
        return image

    for left, right in zip(pairs.left[pairs.same].tolist(), pairs.right[pairs.same].tolist(), strict=True):
        parent[root(left)] = root(right)
    return np.array([root(image) for image in range(pairs.num_images)], np.int64), None


def resample_accuracy(
    scored: PairScores, fold_of: NDArray[np.int64], *, replicates: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Cross-validated accuracy of resampled identities, the threshold of each fold chosen again in each replicate.

    Returns:
        (replicates,) float64, the mean over the folds; NaN where a fold, or the rest of one, has no pair.
    """
    order = np.argsort(scored.scores, kind="stable")
    rising, genuine = scored.scores[order].astype(np.float64), scored.genuine[order]
    first, second, home = scored.first[order], scored.second[order], fold_of[order]
    plans = []
    for fold in range(int(fold_of.max()) + 1):
        train, held = np.flatnonzero(home != fold), np.flatnonzero(home == fold)
        midpoints = rising[train][1:] / 2 + rising[train][:-1] / 2
        plans.append((train, held, midpoints, np.searchsorted(rising[train], midpoints)))
    values = np.full(replicates, np.nan)
    signs = np.where(genuine, -1.0, 1.0)
    for replicate, drawn in enumerate(identity_weights(scored.identities, replicates, seed)):
        weights = np.where(genuine & (first == second), drawn[first], drawn[first] * drawn[second]).astype(np.float64)
        signed = weights * signs
        accuracies = []
        for train, held, midpoints, below in plans:
            whole = weights[held].sum()
            if whole == 0 or not weights[train].any():
                break
            correct = np.concatenate([[0.0], np.cumsum(signed[train])])[below]
            best = np.flatnonzero(correct == correct.max())
            threshold = midpoints[best[len(best) // 2]]
            right = (rising[held] >= threshold) == genuine[held]
            accuracies.append(weights[held][right].sum() / whole)
        else:
            values[replicate] = np.mean(accuracies)
    return values


def _worst(
    pairs: PairSet, scores: Floats, kind: NDArray[np.bool_], badness: Floats, count: int
) -> tuple[ScoredPair, ...]:
    places = np.flatnonzero(kind)
    places = places[np.argsort(badness[places], kind="stable")[:count]]
    return tuple(ScoredPair(int(pairs.left[place]), int(pairs.right[place]), float(scores[place])) for place in places)
