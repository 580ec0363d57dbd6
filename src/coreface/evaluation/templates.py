"""Templates: several images and video frames of a person become one vector, as IJB-B and IJB-C have it.

An image's embedding is averaged inside its medium (the frames of one video count as one image), the media are summed,
and the sum is made unit length. A template of which no image could be embedded has failed to enrol: its comparisons
score -1 and stay in every denominator.

Sources: Whitelam et al., IARPA Janus Benchmark-B, CVPRW 2017; Maze et al., IARPA Janus Benchmark-C, ICB 2018.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.metrics.scores import Floats, checked_floats

FAILED = -1.0  #: the score of a comparison with a template that failed to enrol

_ROWS = 2048  # embeddings pooled, or pairs compared, at a time: they stay in the cache


@dataclass(frozen=True, eq=False)
class Templates:
    """Pooled templates.

    Attributes:
        ids: (T,) template ids, rising.
        vectors: (T, D) float, each row of unit length, or zero where the template failed to enrol.
        enrolled: (T,) bool, False where no image of the template could be embedded.
        images: (T,) number of images that were pooled.
    """

    ids: NDArray[np.int64]
    vectors: Floats
    enrolled: NDArray[np.bool_]
    images: NDArray[np.int64]

    def rows(self, ids: ArrayLike) -> NDArray[np.intp]:
        """Return the row of each template id.

        Raises:
            InputError: an id is unknown.
        """
        wanted = np.asarray(ids)
        rows = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        unknown = np.flatnonzero(self.ids[rows] != wanted)
        if len(unknown):
            raise InputError(
                f"template {wanted[unknown[0]]} (entry {unknown[0]}) has no image in the list of images; "
                "expected every template of the protocol to have one: check that both files are of one protocol"
            )
        return rows

    def compare(self, first: ArrayLike, second: ArrayLike) -> Floats:
        """Cosines of pairs of templates, given by their ids (P,); -1 where either failed to enrol.

        Takes a few megabytes besides the result, whatever the number of pairs.

        Raises:
            InputError: an id is unknown, or the lengths differ.
        """
        a, b = self.rows(first), self.rows(second)
        if a.shape != b.shape:
            raise InputError(f"{len(a)} first and {len(b)} second templates; expected pairs")
        scores = np.empty(len(a), self.vectors.dtype)
        for start in range(0, len(a), _ROWS):
            part = slice(start, start + _ROWS)
            np.einsum("pd,pd->p", self.vectors[a[part]], self.vectors[b[part]], out=scores[part])
        scores[~(self.enrolled[a] & self.enrolled[b])] = FAILED
        return scores


def pool_templates(
    embeddings: ArrayLike,
    templates: ArrayLike,
    media: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    embedded: ArrayLike | None = None,
) -> Templates:
    """Pool embeddings of images into templates: mean inside a medium, sum over the media, unit length.

    The mean and the sum are one weighted sum, each image counting 1 / (images of its medium in its template). One
    template after another is summed, so that little memory is needed besides the embeddings and the result.

    Args:
        embeddings: (N, D) float, one row an image as the protocol lists them; of unit length, or as the network made
            them: then long vectors, which are those of clear faces, count more.
        templates: (N,) integers, the template of each image.
        media: (N,) integers, its medium. Only images of one template are pooled inside a medium.
        weights: (N,) float, a factor for each embedding, such as the detector's confidence.
        embedded: (N,) bool, False where the image could not be embedded; its row is not looked at.

    Raises:
        InputError: wrong shape, dtype or length.
        EvaluationError: an embedding, or a weight, that is used is not finite.
    """
    vectors = np.asarray(embeddings)
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise InputError(f"embeddings have shape {vectors.shape} and dtype {vectors.dtype}; expected floats (N, D)")
    count = len(vectors)
    template, medium = (_ids(values, name, count) for values, name in ((templates, "templates"), (media, "media")))
    kept = np.ones(count, np.bool_) if embedded is None else np.asarray(embedded)
    if kept.shape != (count,) or kept.dtype != np.bool_:
        raise InputError(f"embedded has shape {kept.shape} and dtype {kept.dtype}; expected ({count},) bool")
    factor = np.ones(count) if weights is None else checked_floats(weights, "weights", 1).astype(np.float64)
    if factor.shape != (count,):
        raise InputError(f"weights have shape {factor.shape}; expected ({count},), one an image")

    ids = np.unique(template)
    order = np.lexsort((medium, template))
    order = order[kept[order]]
    template, medium = template[order], medium[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(template) != 0) | (np.diff(medium) != 0)][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    factor = factor[order] / np.repeat(sizes, sizes)

    bounds = np.append(np.searchsorted(template, ids), len(template))
    sums = np.zeros((len(ids), vectors.shape[1]), np.result_type(vectors.dtype, np.float32))
    factor = factor.astype(sums.dtype)
    for row, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        if end > begin:
            sums[row, :] = factor[begin:end] @ vectors[order[begin:end]].astype(sums.dtype, copy=False)
    images = np.diff(bounds)
    lengths = np.sqrt(np.einsum("td,td->t", sums, sums))
    if not np.isfinite(lengths).all():
        bad = ids[np.flatnonzero(~np.isfinite(lengths))]
        raise EvaluationError(
            f"{len(bad)} of {len(ids)} templates hold NaN, infinite or huge embeddings (the first is template "
            f"{bad[0]}); mark images that could not be embedded in `embedded`, and find where the others come from"
        )
    zero = (lengths == 0) & (images > 0)
    if zero.any():
        raise EvaluationError(
            f"{np.count_nonzero(zero)} templates sum up to zero (the first is template {ids[zero][0]}) and have no "
            "direction to compare; check the input of the encoder for it"
        )
    sums /= np.where(lengths, lengths, 1)[:, None]
    return Templates(ids, sums, images > 0, images)


def _ids(values: ArrayLike, name: str, count: int) -> NDArray[np.int64]:
    ids: NDArray[Any] = np.asarray(values)
    if ids.shape != (count,) or ids.dtype.kind not in "iu":
        raise InputError(
            f"{name} have shape {ids.shape} and dtype {ids.dtype}; expected ({count},) integers, one an image"
        )
    return ids.astype(np.int64)
