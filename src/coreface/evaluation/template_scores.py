"""Impostor scores of templates of several images: they are higher than those of single images.

The mean of K unit vectors of one person, made unit length again, has lost some of what varies between the images; what
is left resembles others more. The best of K scores is higher than one of them by its very nature. So a gallery of
templates needs the impostor scores of templates that were pooled by the same rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.effective_pairs import FMRS
from coreface.evaluation.metrics.scores import allowed_false_matches, conservative_threshold
from coreface.evaluation.metrics.tail import Tail

Pooling: TypeAlias = Literal["mean", "best"]
POOLINGS: tuple[Pooling, ...] = ("mean", "best")
IMAGES = (2, 5, 10)  # of the templates whose scores are kept; those between use the next larger number

_LARGEST = 1 << 23  # scores of one kind of templates
_EXACT = 200  # best scores that are all kept
_FEWEST_PEOPLE = 2
_ENOUGH = 30  # false matches that the variance is estimated from


@dataclass(frozen=True, eq=False)
class TemplateScores:
    """Scores of templates of one number of images against images of other people.

    Attributes:
        images: number of images in each template.
        impostor: the scores.
        effective: effective number of them at each rate of `FMRS`, from people as clusters on both sides; None where
            there are fewer than 30 false matches.
        people: number of people whose templates they are.
    """

    images: int
    impostor: Tail
    effective: tuple[float | None, ...]
    people: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**vars(self), "impostor": self.impostor.to_dict(), "effective": list(self.effective)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TemplateScores":
        """Return what `to_dict` described. Raises `InputError`, or what a missing field raises."""
        images, people = content["images"], content["people"]
        if type(images) is not int or images < 2 or type(people) is not int or people < _FEWEST_PEOPLE:
            raise InputError(f"templates of {images!r} images of {people!r} people; expected 2 or more of each")
        effective = tuple(None if number is None else float(number) for number in content["effective"])
        if len(effective) != len(FMRS) or not all(0 < number < np.inf for number in effective if number is not None):
            raise InputError(f"effective is not {len(FMRS)} numbers above 0")
        return cls(images, Tail.from_dict(content["impostor"]), effective, people)


def score_templates(
    embeddings: NDArray[np.float32],
    identities: NDArray[Any],
    probes: NDArray[np.float32],
    probe_identities: NDArray[Any],
) -> dict[Pooling, tuple[TemplateScores, ...]]:
    """Pool the images of people into templates by both rules, and compare them with the images of all others.

    Args:
        embeddings: (N, D) unit vectors of people with several images; templates of K images take them in order.
        identities: (N,) whose they are.
        probes: (P, D) unit vectors.
        probe_identities: (P,) whose they are; the same value is the same person.

    Returns:
        For each rule the scores by number of images, rising; none where too few people have that many.
    """
    found: dict[Pooling, list[TemplateScores]] = {pooling: [] for pooling in POOLINGS}
    for images in IMAGES:
        groups, owners = _groups(identities, images)
        if len(np.unique(owners)) < _FEWEST_PEOPLE or len(np.unique(probe_identities)) < _FEWEST_PEOPLE:
            continue
        side = int(np.sqrt(_LARGEST))
        some = _evenly(len(probes), max(side, _LARGEST // len(groups)))
        kept = _evenly(len(groups), _LARGEST // len(some))
        groups, owners = groups[kept], owners[kept]
        other = owners[:, None] != probe_identities[some][None, :]
        for pooling in POOLINGS:
            scores = _scores(embeddings, groups, probes[some], pooling)
            effective = _effective(scores, other, owners, probe_identities[some])
            tail = Tail.of(scores[other], _EXACT)
            found[pooling].append(TemplateScores(images, tail, effective, len(np.unique(owners))))
    return {pooling: tuple(scores) for pooling, scores in found.items()}


def _groups(identities: NDArray[Any], images: int) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Return the rows of each template (T, images), and whose it is."""
    groups: list[NDArray[np.intp]] = []
    owners = []
    for person in np.unique(identities):
        rows = np.flatnonzero(identities == person)
        whole = rows[: len(rows) // images * images].reshape(-1, images)
        groups += list(whole)
        owners += [person] * len(whole)
    return np.array(groups, np.intp).reshape(-1, images), np.array(owners)


def _scores(
    embeddings: NDArray[np.float32], groups: NDArray[np.intp], probes: NDArray[np.float32], pooling: Pooling
) -> NDArray[np.float32]:
    if pooling == "mean":
        means = embeddings[groups].mean(axis=1)
        unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.asarray(unit @ probes.T, np.float32)
    best = embeddings[groups[:, 0]] @ probes.T
    for column in groups.T[1:]:
        np.maximum(best, embeddings[column] @ probes.T, out=best)
    return np.asarray(best, np.float32)


def _effective(
    scores: NDArray[np.float32], other: NDArray[np.bool_], owners: NDArray[Any], probe_owners: NDArray[Any]
) -> tuple[float | None, ...]:
    """Return p (1 - p) / variance of the FMR p at each rate; the variance is clustered by person on both sides.

    Source: Cameron, Gelbach and Miller, Robust inference with multiway clustering, JBES 29, 2011.
    """
    pairs = np.asarray(scores[other])
    count = len(pairs)
    numbers: list[float | None] = []
    for rate in FMRS:
        allowed = allowed_false_matches(rate, count)
        threshold = conservative_threshold(pairs, rate) if _ENOUGH <= allowed < count else None
        if threshold is None:
            numbers.append(None)
            continue
        alarms = (scores >= threshold) & other
        share = alarms.sum() / count
        excess = np.where(other, alarms - share, 0)
        sides = [_clustered(excess.sum(axis=1), owners), _clustered(excess.sum(axis=0), probe_owners)]
        single = share * (1 - share) * count
        variance = max(*sides, sum(sides) - single) / count**2
        numbers.append(float(share * (1 - share) / variance) if variance > 0 and 0 < share < 1 else None)
    return tuple(numbers)


def _clustered(excess: NDArray[np.float64], owners: NDArray[Any]) -> float:
    _, cluster = np.unique(owners, return_inverse=True)
    totals = np.bincount(cluster, weights=excess)
    return float(np.square(totals).sum() * len(totals) / max(1, len(totals) - 1))


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    """Return ``most`` of ``count`` places, evenly, or all."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.intp)
