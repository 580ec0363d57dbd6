"""Comparing two sources of embeddings on the same pairs: what differs, by how much, and whether that may be chance."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from coreface.data.pairs.pair_set import PairSet
from coreface.data.source import FaceSource
from coreface.errors import EvaluationError, InputError
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.metrics.resampling import Statistic, head_size, resample
from coreface.evaluation.metrics.uncertainty import Difference, paired_difference
from coreface.evaluation.protocols.pairs import pair_scores, resample_accuracy, verify_pairs
from coreface.evaluation.verification import planned_replicates, verify


def compare(
    a: EmbeddingSource,
    b: EmbeddingSource,
    photographs: FaceSource | PairSet,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    replicates: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, tuple[float, float, Difference]]:
    """Compare two sources of embeddings on the same pairs: each rate of both, and the difference a - b.

    Returns:
        name of the rate -> (that of a, that of b, the difference with interval and p-value).

    Raises:
        EvaluationError: the embeddings of either cannot be evaluated, or not of the same images.
    """
    one, other = (source.embed(photographs, console) for source in (a, b))
    names = a.provenance.name, b.provenance.name
    return compare_embedded(one, other, photographs, names=names, fars=fars, replicates=replicates, seed=seed)


def compare_embedded(
    a: EmbeddedImages,
    b: EmbeddedImages,
    photographs: FaceSource | PairSet,
    *,
    names: tuple[str, str] = ("a", "b"),
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    replicates: int | None = None,
    seed: int = 0,
) -> dict[str, tuple[float, float, Difference]]:
    """Compare two sets of embeddings of the same photographs, as `compare` does; ``names`` are for its messages."""
    embedded = a, b
    if not np.array_equal(a.indices, b.indices):
        raise EvaluationError(
            f"{names[0]} has {len(a.indices)} of the images and {names[1]} {len(b.indices)}; a paired comparison needs "
            "the same ones"
        )
    if isinstance(photographs, PairSet):
        both = [
            verify_pairs(photographs, pair_scores(photographs, e.embeddings, e.indices), fars=fars, replicates=0)
            for e in embedded
        ]
    else:
        both = [verify(e.embeddings, photographs.identities[e.indices], fars=fars, replicates=0) for e in embedded]
    samples = [verification.pairs for verification in both]
    statistics: list[Statistic] = ["eer", *(("tar", rate.far) for rate in both[0].tar if rate.resolvable)]
    if replicates is None:
        weighed = both[0].genuine + head_size(both[0].impostor, statistics)
        replicates, note = planned_replicates(weighed, both[0].identities)
        if not replicates:
            raise EvaluationError(f"a comparison needs intervals, and there are {note}")
    if replicates < 1:
        raise InputError(f"replicates is {replicates}; a comparison needs 1 or more, usually 1000")
    one, other = (
        resample(sample, statistics, replicates=replicates, seed=seed) for sample in samples if sample is not None
    )
    found: dict[str, tuple[float, float, Difference]] = {}
    if isinstance(photographs, PairSet) and both[0].accuracy and both[1].accuracy:
        values = [
            resample_accuracy(sample, photographs.fold_of, replicates=replicates, seed=seed)  # type: ignore[arg-type]
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
