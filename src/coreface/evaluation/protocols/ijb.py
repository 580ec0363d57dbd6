"""The template protocols of IJB-B and IJB-C, from their official lists (`coreface.data.ijb`): 1:1 and 1:N.

Embeddings keep their lengths (N), are weighed by the detector's score (D), and those of the mirror image are added if
the source of embeddings does so (F).
"""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data.ijb import Enrolment, TemplateImages, TemplatePairList, read_images, read_pairs, read_searches
from coreface.data.pairs.pair_set import PairSet
from coreface.errors import InputError
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.identification import THRESHOLD_OF_SEARCHES, Identification, search_embeddings
from coreface.evaluation.protocols.pairs import verify_pairs
from coreface.evaluation.protocols.protocol import EvaluationProtocol
from coreface.evaluation.results import IdentificationResult, VerificationResult
from coreface.evaluation.templates import Templates, pool_templates

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class IjbVerification(EvaluationProtocol[VerificationResult]):
    """Verification of pairs of templates. Intervals resample people, who are inferred from the genuine pairs.

    Args:
        folder: holds the lists and the images.
        dataset: ``"ijbb"`` or ``"ijbc"``.
        replicates: bootstrap replicates; 0 for no intervals; None for 1000, or fewer for very many pairs.

    Raises:
        DataError: a list is missing or damaged.
    """

    def __init__(self, folder: str | PathLike[str], *, dataset: str = "ijbc", replicates: int | None = None) -> None:
        self.name, self.dataset, self.replicates = f"{dataset}:{folder}", dataset, replicates
        self.images = read_images(Path(folder), dataset)
        self.pairs = read_pairs(Path(folder), dataset)

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> VerificationResult:
        templates, pooled, unreadable = _pooled(source, self.images, console)
        scores = templates.compare(self.pairs.first, self.pairs.second)
        pairs = TemplatePairs(self.pairs, templates)
        return VerificationResult(
            name=self.name,
            statement=f"{self.dataset.upper()} 1:1: {pooled}; {len(scores)} pairs, score: cosine.",
            provenance=source.provenance,
            unreadable=unreadable,
            verification=verify_pairs(pairs, scores, fars=FARS, replicates=self.replicates, worst=0),
        )


class IjbIdentification(EvaluationProtocol[IdentificationResult]):
    """Identification: all probe templates are searched in each of the two galleries.

    Args:
        folder: holds the lists and the images.
        dataset: ``"ijbb"`` or ``"ijbc"``.

    Raises:
        DataError: a list is missing or damaged.
    """

    def __init__(self, folder: str | PathLike[str], *, dataset: str = "ijbc") -> None:
        self.name, self.dataset = f"{dataset}-1n:{folder}", dataset
        self.images = read_images(Path(folder), dataset)
        *self.galleries, self.probes = read_searches(Path(folder), dataset)

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> IdentificationResult:
        templates, pooled, unreadable = _pooled(source, self.images, console)

        def vectors(enrolment: Enrolment) -> NDArray[Any]:
            return templates.vectors[templates.rows(enrolment.templates)]

        probes = self.probes
        searches = tuple(
            search_embeddings(vectors(probes), vectors(gallery), probes.subjects, gallery.subjects)
            for gallery in self.galleries
        )
        entries = " and ".join(str(len(gallery.templates)) for gallery in self.galleries)
        return IdentificationResult(
            name=self.name,
            statement=f"{self.dataset.upper()} 1:N: {len(probes.templates)} probe templates searched in two galleries "
            f"of {entries}, separately. {THRESHOLD_OF_SEARCHES} {pooled}.",
            provenance=source.provenance,
            unreadable=unreadable,
            identification=Identification(searches),
        )


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


def _pooled(
    source: EmbeddingSource, images: TemplateImages, console: Console | None
) -> tuple[Templates, str, tuple[str, ...]]:
    """Return the templates, how they were made in words, and messages about images that could not be embedded."""
    embedded = source.embed(images, console, unit_length=False)
    vectors = np.zeros((len(images), embedded.embeddings.shape[1]), embedded.embeddings.dtype)
    vectors[embedded.indices] = embedded.embeddings
    present = np.zeros(len(images), np.bool_)
    present[embedded.indices] = True
    templates = pool_templates(vectors, images.templates, images.media, weights=images.detection, embedded=present)
    flip = source.provenance.flip
    code = "D1, N and F as in the file" if flip is None else f"N1D1F{int(flip)}"
    pooled = (
        f"{code}: {len(images)} images in {len(templates.ids)} templates (mean inside a medium, sum over media, unit "
        f"length); {int((~templates.enrolled).sum())} templates failed to enrol, whose comparisons score -1 and count. "
        f"Embeddings: {source.provenance.description}"
    )
    return templates, pooled, tuple(embedded.unreadable.values())
