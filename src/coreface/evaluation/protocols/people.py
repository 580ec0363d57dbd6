"""Measuring a subject on sets of pairs and by protocols."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data import FaceSource, PairSet, open_faces, open_pairs, require_identities
from coreface.data.ijb import TemplateImages, TemplatePairList, read_images, read_pairs, read_searches
from coreface.errors import DataError, EvaluationError, InputError
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.embedding_sources import EmbeddingFile, EncoderSubject, Subject
from coreface.evaluation.identification import (
    DistractorRate,
    Identification,
    identify,
    identify_among_distractors,
    search_embeddings,
    split_open_set,
)
from coreface.evaluation.protocols.groups import GroupRates, group_rates, labels_of
from coreface.evaluation.protocols.pairs import (
    ONE_FOLD,
    image_identities,
    pair_scores,
    verify_pairs,
)
from coreface.evaluation.results import MeasuredSearches, MeasuredSet
from coreface.evaluation.templates import Templates, pool_templates
from coreface.evaluation.verification import Verification, verify
from coreface.plurals import counted

TEMPLATE_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_THRESHOLD_OF_SEARCHES = (
    "The threshold for an FPIR is the next float above the first best score of a non-mated search that must be "
    "rejected; ties count against the mate."
)
GROUP_FAR = 1e-2  # the groups are compared at the threshold of this FMR, or of the next that can be resolved


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
    folds = (
        f"{pairs.folds} folds in their given order; the threshold of a fold is the best of all others (the median of "
        "equally good midpoints)"
    )
    statement = (
        f"{len(pairs)} pairs in {folds if pairs.folds > 1 else 'one fold, so that no accuracy is measured'}. "
        f"Embeddings: {subject.way}; score: cosine. Intervals resample people, {people}. A pair with an image that "
        "cannot be embedded scores -1 and counts."
    )
    groups = _groups(verification, known, labels)
    unreadable = tuple(embedded.unreadable.values())
    notes = (ONE_FOLD,) if pairs.folds == 1 else ()
    return MeasuredSet(name, verification, statement, unreadable, pairs.image, _short(pairs.locate), groups, notes)


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
        statement += f" {counted(len(embedded.unreadable), 'image')} could not be embedded, in no pair."
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
        f"{seed}); a third of the people with two images or more, and all with one, are unknown. "
        f"{_THRESHOLD_OF_SEARCHES} Embeddings: {subject.way}."
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
    """Measure a subject by the 1:1 template protocol of IJB-B or IJB-C (`coreface.data.ijb`).

    Embeddings keep their lengths (N), are weighed by the detector's score (D), and those of the mirror image are added
    if the subject does so (F). Every template is somebody's: intervals resample what genuine pairs join.

    Raises:
        DataError: a list is missing or damaged.
        EvaluationError: the embeddings cannot be measured.
    """
    folder = Path(path)
    images, pairs = read_images(folder, name), read_pairs(folder, name)
    templates, pooled, unreadable = _pooled(subject, images, console)
    scores = templates.compare(pairs.first, pairs.second)
    verification = verify_pairs(
        TemplatePairs(pairs, templates), scores, fars=TEMPLATE_FARS, replicates=replicates, worst=0
    )
    statement = f"{name.upper()} 1:1: {pooled}; {len(scores)} pairs, score: cosine."
    return MeasuredSet(f"{name}:{path}", verification, statement, unreadable)


def measure_template_searches(
    subject: Subject, name: str, path: str, *, console: Console | None = None
) -> MeasuredSearches:
    """Measure a subject by the 1:N protocol of IJB-B or IJB-C: all probe templates searched in each gallery.

    Raises:
        DataError: a list is missing or damaged.
        EvaluationError: the embeddings cannot be measured.
    """
    folder = Path(path)
    images = read_images(folder, name)
    *galleries, probes = read_searches(folder, name)
    templates, pooled, unreadable = _pooled(subject, images, console)

    def vectors(ids: NDArray[np.int64]) -> NDArray[Any]:
        return templates.vectors[templates.rows(ids)]

    searches = tuple(
        search_embeddings(vectors(probes.templates), vectors(gallery.templates), probes.subjects, gallery.subjects)
        for gallery in galleries
    )
    entries = " and ".join(str(len(gallery.templates)) for gallery in galleries)
    statement = (
        f"{name.upper()} 1:N: {len(probes.templates)} probe templates searched in two galleries of {entries}, "
        f"separately. {_THRESHOLD_OF_SEARCHES} {pooled}."
    )
    return MeasuredSearches(f"{name}-1n:{path}", Identification(searches), statement, unreadable)


def _pooled(
    subject: Subject, images: TemplateImages, console: Console | None
) -> tuple[Templates, str, tuple[str, ...]]:
    """Return the templates, how they were made in words, and messages about images that could not be embedded."""
    embedded = subject.embed(images, console)
    vectors = np.zeros((len(images), embedded.embeddings.shape[1]), embedded.embeddings.dtype)
    vectors[embedded.indices] = embedded.embeddings
    present = np.zeros(len(images), np.bool_)
    present[embedded.indices] = True
    templates = pool_templates(vectors, images.templates, images.media, weights=images.detection, embedded=present)
    code = f"N1D1F{int(subject.flip)}" if isinstance(subject, EncoderSubject) else "D1, N and F as in the file"
    pooled = (
        f"{code}: {len(images)} images in {len(templates.ids)} templates (mean inside a medium, sum over media, unit "
        f"length); {int((~templates.enrolled).sum())} templates failed to enrol, whose comparisons score -1 and count. "
        f"Embeddings: {subject.way}"
    )
    return templates, pooled, tuple(embedded.unreadable.values())


class TemplatePairs(PairSet):
    """The pairs of a template protocol as a set of pairs, with templates in the place of images and without folds."""

    def __init__(self, pairs: TemplatePairList, templates: Templates) -> None:
        left, right = templates.rows(pairs.first), templates.rows(pairs.second)
        super().__init__(left, right, pairs.same, len(templates.ids), np.zeros(len(left), np.int64))
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
    return calibrate_embeddings(embedded.embeddings, faces.identities[embedded.indices])


def calibrate_embeddings(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> Calibrator:
    """Learn thresholds from embeddings (N, D) of people: every one against every other, and searches.

    Raises:
        EvaluationError: the embeddings cannot be measured.
    """
    measured = verify(embeddings, identities, replicates=0, worst=0)
    people, first = np.unique(identities, return_index=True)
    # The best other of everybody's search in all the others is a search without a mate in a gallery of one fewer.
    searches = search_embeddings(embeddings, embeddings[first], identities, people)
    return Calibrator.fit(
        measured.genuine_scores,
        measured.impostor_scores,
        pairs=measured.pairs,
        non_mated=searches.other,
        gallery=len(people) - 1,
    )


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
