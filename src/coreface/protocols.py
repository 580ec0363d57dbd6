"""Measuring a subject on sets of pairs and by protocols, and comparing two on the same pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data import FaceSource, PairSet, open_faces, open_pairs, require_identities
from coreface.errors import DataError, EvaluationError, InputError
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.groups import GroupRates, group_rates, labels_of
from coreface.evaluation.identification import (
    DistractorRate,
    Identification,
    identify,
    identify_among_distractors,
    search_embeddings,
    split_open_set,
)
from coreface.evaluation.pair_verification import (
    image_identities,
    pair_scores,
    resample_accuracy,
    verify_pairs,
)
from coreface.evaluation.resampling import Statistic, head_size, resample
from coreface.evaluation.templates import Templates, pool_templates
from coreface.evaluation.uncertainty import Difference, paired_difference
from coreface.evaluation.verification import Verification, planned_replicates, verify
from coreface.ijb import TemplateProtocol, read_protocol
from coreface.subjects import EmbeddingFile, EncoderSubject, Subject

TEMPLATE_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
GROUP_FAR = 1e-2  # the groups are compared at the threshold of this FMR, or of the next that can be resolved


@dataclass(frozen=True, eq=False)
class MeasuredSet:
    """A subject on one set of pairs.

    Attributes:
        name: of the set.
        verification: what was measured.
        statement: the protocol, in words.
        unreadable: messages about images that could not be embedded.
        image: number of an image, as the worst pairs name it -> uint8 RGB (height, width, 3); None shows none.
        label: number of an image -> where it lies; None where nobody knows.
        groups: error rates by group; None where nobody asked.
    """

    name: str
    verification: Verification
    statement: str
    unreadable: tuple[str, ...] = ()
    image: Callable[[int], NDArray[np.uint8]] | None = None
    label: Callable[[int], str] | None = None
    groups: GroupRates | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all but scores and images as plain Python values."""
        groups = None if self.groups is None else self.groups.to_dict()
        return {
            "name": self.name,
            "statement": self.statement,
            **self.verification.to_dict(),
            "unreadable": list(self.unreadable),
            "groups": groups,
        }


@dataclass(frozen=True, eq=False)
class MeasuredSearches:
    """A subject in open-set identification.

    Attributes:
        name: of the set.
        identification: the searches and their rates.
        statement: the protocol, in words.
        unreadable: messages about images that could not be embedded.
        distractors: rank-1 rates among distractors; empty where there were none.
    """

    name: str
    identification: Identification
    statement: str
    unreadable: tuple[str, ...] = ()
    distractors: tuple[DistractorRate, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as plain Python values."""
        among = [{"distractors": d.distractors, "rate": d.rate, "searches": d.searches} for d in self.distractors]
        return {
            "name": self.name,
            "statement": self.statement,
            **self.identification.to_dict(),
            "unreadable": list(self.unreadable),
            "distractors": among,
        }


def open_named_pairs(text: str) -> PairSet:
    """Open a set of pairs from ``FILE`` or ``FILE:IMAGES``.

    Raises:
        DataError: nothing that can be read lies there.
    """
    if Path(text).exists() or ":" not in text:
        return open_pairs(text)
    path, _, images = text.rpartition(":")
    return open_pairs(path, images)


def measure_pairs(
    subject: Subject,
    pairs: PairSet,
    name: str,
    *,
    replicates: int | None = None,
    labels: dict[str, str] | None = None,
    console: Console | None = None,
) -> MeasuredSet:
    """Measure a subject on a set of pairs: cross-validated accuracy, EER, TAR at FARs, with intervals.

    Raises:
        EvaluationError: the embeddings cannot be measured.
    """
    embedded = subject.embed(pairs, console)
    scores = pair_scores(pairs, embedded.embeddings, embedded.indices)
    verification = verify_pairs(pairs, scores, replicates=replicates)
    _, known = image_identities(pairs)
    people = "known by their folders" if known else "known as far as genuine pairs join images"
    statement = (
        f"{len(pairs)} pairs in {pairs.folds} folds in their given order; the threshold of a fold is the best of all "
        f"others (the median of equally good midpoints). Embeddings: {subject.way}; score: cosine. Intervals resample "
        f"people, {people}. A pair with an image that cannot be embedded scores -1 and counts."
    )
    groups = _groups(verification, known, labels)
    unreadable = tuple(embedded.unreadable.values())
    return MeasuredSet(name, verification, statement, unreadable, pairs.image, _short(pairs.locate), groups)


def measure_faces(
    subject: Subject,
    faces: FaceSource,
    name: str,
    *,
    replicates: int | None = None,
    labels: dict[str, str] | None = None,
    console: Console | None = None,
) -> MeasuredSet:
    """Measure a subject on people: every image against every other.

    Raises:
        DataError: there are fewer than two identities.
        EvaluationError: the embeddings cannot be measured.
    """
    require_identities(faces, 2, "evaluation")
    embedded = subject.embed(faces, console)
    indices = embedded.indices
    verification = verify(embedded.embeddings, faces.identities[indices], replicates=replicates)
    names = [faces.identity_names[i] for i in np.unique(faces.identities[indices])]
    statement = (
        f"All genuine and all impostor pairs of the images. Embeddings: {subject.way}; score: cosine. "
        "Intervals resample people."
    )
    if embedded.unreadable:
        statement += f" {len(embedded.unreadable)} images could not be embedded and are in no pair."
    return MeasuredSet(
        name,
        verification,
        statement,
        tuple(embedded.unreadable.values()),
        lambda row: faces[int(indices[row])][0],
        _short(lambda row: faces.locate(int(indices[row]))),
        _groups(verification, names, labels),
    )


def measure_file(file: EmbeddingFile, *, replicates: int | None = None) -> MeasuredSet:
    """Measure embeddings that come with identities: every one against every other.

    Raises:
        DataError: the file has no identities.
        EvaluationError: the embeddings cannot be measured.
    """
    if file.identities is None:
        raise DataError(f"{file.name} has no identities: say what to measure on with --pairs, --faces or --protocol")
    index = np.unique(file.identities, return_inverse=True)[1]
    verification = verify(file.embeddings, index, replicates=replicates)
    statement = f"All genuine and all impostor pairs of the embeddings, {file.way}; score: cosine."
    return MeasuredSet(file.name, verification, statement)


def measure_open_set(
    subject: Subject,
    path: str,
    *,
    seed: int = 0,
    distractors: str | None = None,
    console: Console | None = None,
) -> MeasuredSearches:
    """Measure open-set identification on a folder of people: two galleries, probes and unknown people from a seed.

    Raises:
        DataError: there are no faces.
        EvaluationError: too few people have two images, or the embeddings cannot be measured.
    """
    faces = open_faces(path)
    embedded = subject.embed(faces, console)
    identities = faces.identities[embedded.indices]
    split = split_open_set(identities, seed=seed)
    result = identify(embedded.embeddings, identities, split)
    entries = " and ".join(str(len(gallery)) for gallery in split.galleries)
    statement = (
        f"{len(split.probes)} probes searched in two galleries of {entries} people, one image each, separately (seed "
        f"{seed}); a third of the people with two images or more, and all with one, are unknown. The threshold for an "
        "FPIR is the next float above the first best score of a non-mated search that must be rejected; ties count "
        f"against the mate. Embeddings: {subject.way}."
    )
    among: tuple[DistractorRate, ...] = ()
    if distractors is not None:
        strangers = subject.embed(open_faces(distractors), console).embeddings
        among = identify_among_distractors(embedded.embeddings, identities, strangers)
    name = f"open-set:{path}"
    return MeasuredSearches(name, result, statement, tuple(embedded.unreadable.values()), among)


def measure_templates(
    subject: Subject, name: str, path: str, *, replicates: int | None = None, console: Console | None = None
) -> MeasuredSet:
    """Measure a subject by the 1:1 template protocol of IJB-B or IJB-C (`coreface.ijb`).

    Embeddings keep their lengths (N), are weighed by the detector's score (D), and those of the mirror image are added
    if the subject does so (F). Every template is somebody's: intervals resample what genuine pairs join.

    Raises:
        DataError: a list is missing or damaged.
        EvaluationError: the embeddings cannot be measured.
    """
    protocol = read_protocol(Path(path), name)
    embedded = subject.embed(protocol, console)
    vectors = np.zeros((len(protocol), embedded.embeddings.shape[1]), embedded.embeddings.dtype)
    vectors[embedded.indices] = embedded.embeddings
    present = np.zeros(len(protocol), np.bool_)
    present[embedded.indices] = True
    templates = pool_templates(
        vectors, protocol.templates, protocol.media, weights=protocol.detection, embedded=present
    )
    scores = templates.compare(protocol.first, protocol.second)
    code = f"N1D1F{int(subject.flip)}" if isinstance(subject, EncoderSubject) else "D1, N and F as in the file"
    listed = TemplatePairs(protocol, templates)
    verification = verify_pairs(listed, scores, fars=TEMPLATE_FARS, replicates=replicates, worst=0)
    statement = (
        f"{name.upper()} 1:1, {code}: {len(protocol)} images in {len(templates.ids)} templates (mean inside a medium, "
        f"sum over media, unit length), {len(scores)} pairs; {int((~templates.enrolled).sum())} templates failed to "
        f"enrol, whose pairs score -1 and count. Embeddings: {subject.way}; score: cosine."
    )
    return MeasuredSet(f"{name}:{path}", verification, statement, tuple(embedded.unreadable.values()))


class TemplatePairs(PairSet):
    """The pairs of a template protocol as a set of pairs, with templates in the place of images and without folds."""

    def __init__(self, protocol: TemplateProtocol, templates: Templates) -> None:
        left, right = templates.rows(protocol.first), templates.rows(protocol.second)
        super().__init__(left, right, protocol.same, len(templates.ids), np.zeros(len(left), np.int64))
        self._ids = templates.ids

    def encoded(self, index: int) -> bytes:
        raise InputError(f"template {self._ids[index]} is no image")

    def locate(self, index: int) -> str:
        return f"template {self._ids[index]}"


def calibrate(subject: Subject, faces: FaceSource, console: Console | None = None) -> Calibrator:
    """Learn thresholds from people: every image against every other, and against one image of everybody else.

    Raises:
        DataError: there are fewer than two identities.
        EvaluationError: the embeddings cannot be measured.
    """
    require_identities(faces, 2, "calibration")
    embedded = subject.embed(faces, console)
    identities = faces.identities[embedded.indices]
    measured = verify(embedded.embeddings, identities, replicates=0, worst=0)
    people, first = np.unique(identities, return_index=True)
    # The best other of everybody's search in all the others is a search without a mate in a gallery of one fewer.
    searches = search_embeddings(embedded.embeddings, embedded.embeddings[first], identities, people)
    return Calibrator.fit(
        measured.genuine_scores,
        measured.impostor_scores,
        pairs=measured.pairs,
        non_mated=searches.other,
        gallery=len(people) - 1,
    )


def compare(
    a: Subject,
    b: Subject,
    source: FaceSource | PairSet,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    replicates: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, tuple[float, float, Difference]]:
    """Compare two subjects on the same pairs: each rate of both, and the difference a - b.

    Returns:
        name of the rate -> (that of a, that of b, the difference with interval and p-value).

    Raises:
        EvaluationError: the embeddings of either cannot be measured, or not of the same images.
    """
    embedded = [subject.embed(source, console) for subject in (a, b)]
    if not np.array_equal(embedded[0].indices, embedded[1].indices):
        raise EvaluationError(
            f"{a.name} has {len(embedded[0].indices)} and {b.name} {len(embedded[1].indices)} of the images; a paired "
            "comparison needs the same ones"
        )
    if isinstance(source, PairSet):
        both = [verify_pairs(source, pair_scores(source, e.embeddings, e.indices), replicates=0) for e in embedded]
    else:
        both = [verify(e.embeddings, source.identities[e.indices], replicates=0) for e in embedded]
    samples = [verification.pairs for verification in both]
    statistics: list[Statistic] = ["eer", *(("tar", rate.far) for rate in both[0].tar if rate.resolvable)]
    if replicates is None:
        replicates = planned_replicates(both[0].genuine + head_size(both[0].impostor, statistics))[0]
    if replicates < 1:
        raise InputError(f"replicates is {replicates}; a comparison needs 1 or more, usually 1000")
    one, other = (
        resample(sample, statistics, replicates=replicates, seed=seed) for sample in samples if sample is not None
    )
    found: dict[str, tuple[float, float, Difference]] = {}
    if isinstance(source, PairSet) and both[0].accuracy and both[1].accuracy:
        values = [
            resample_accuracy(sample, source.fold_of, replicates=replicates, seed=seed)  # type: ignore[arg-type]
            for sample in samples
        ]
        rates = both[0].accuracy.accuracy, both[1].accuracy.accuracy
        found["accuracy"] = (*rates, paired_difference(rates[0] - rates[1], values[0] - values[1]))
    for place, statistic in enumerate(statistics):
        name = "EER" if statistic == "eer" else f"TAR at FAR {statistic[1]:g}"
        rates = float(one.estimates[place]), float(other.estimates[place])
        found[name] = (
            *rates,
            paired_difference(rates[0] - rates[1], one.values[:, place] - other.values[:, place]),
        )
    return found


def short_name(text: str) -> str:
    """Return the last two parts of a path, without the images that go with it: lfw/pairs.txt."""
    path = text if Path(text).exists() else text.rpartition(":")[0] or text
    return "/".join(Path(path).parts[-2:])


def _short(locate: Callable[[int], str]) -> Callable[[int], str]:
    return lambda index: "/".join(Path(locate(index)).parts[-2:])


def _groups(
    verification: Verification, names: Sequence[str] | None, labels: dict[str, str] | None
) -> GroupRates | None:
    if labels is None:
        return None
    if names is None or verification.pairs is None:
        raise EvaluationError(
            "groups need the names of the people, which this set does not have; use a folder or a list"
        )
    thresholds = [rate.threshold for rate in verification.tar if rate.far >= GROUP_FAR and rate.threshold is not None]
    if not thresholds:
        raise EvaluationError(f"groups need a threshold, and {verification.impostor} impostor pairs resolve none")
    return group_rates(verification.pairs, labels_of(names, labels), max(thresholds))
