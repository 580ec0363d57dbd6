"""The templates of a gallery in memory, and the exact search among them."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import GalleryError
from coreface.evaluation.template_scores import Pooling

Hits: TypeAlias = "list[tuple[int, float]]"  #: (number of the person, cosine), the highest cosine first

_GROWTH = 1.25
_BLOCK = 256  # scores per block; the maxima of the blocks are compared first
_SCORES = 1 << 24  # scores computed at once: 64 MB
_UNIT = 1e-3  # tolerance for the length of a stored embedding


class TemplateMatrix:
    """Unit vectors with their owners: one per person with ``mean`` pooling, one per template with ``best``.

    Args:
        embedding_size: length of a vector.
        pooling: how the templates of a person become rows.
        capacity: number of rows to reserve.
    """

    def __init__(self, embedding_size: int, pooling: Pooling, capacity: int = 0) -> None:
        self.pooling = pooling
        self.size = 0
        self._rows = np.empty((capacity, embedding_size), np.float32)
        self._owners = np.empty(capacity, np.int64)
        self._counts = np.empty(capacity, np.int64)  # templates in each row
        self._images: dict[int, int] | None = None

    @property
    def images(self) -> dict[int, int]:
        """Number of images -> number of people with that many templates."""
        if self._images is None:
            counts = self._counts[: self.size]
            if self.pooling == "best":
                counts = np.unique(self._owners[: self.size], return_counts=True)[1]
            number = np.bincount(counts)
            self._images = {images: int(number[images]) for images in np.flatnonzero(number).tolist()}
        return self._images

    @classmethod
    def load(
        cls,
        people: NDArray[np.int64],
        templates: int,
        chunks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
        embedding_size: int,
        pooling: Pooling,
    ) -> "TemplateMatrix":
        """Read all templates of a gallery; only the result and one chunk are in memory.

        Args:
            people: numbers of all people, rising.
            templates: number of templates.
            chunks: (owners, unit vectors) of templates, in any order.
            embedding_size: length of a vector.
            pooling: how the templates of a person become rows.

        Raises:
            GalleryError: a stored embedding does not have unit length, or belongs to no person.
        """
        matrix = cls(embedding_size, pooling, templates if pooling == "best" else min(len(people), templates))
        if pooling == "best":
            for owners, vectors in chunks:
                matrix._append(owners, checked_unit(vectors))
            return matrix
        place = np.full(len(people), -1, np.int64)  # of each person in the matrix, in the order of first appearance
        counts = matrix._counts
        counts[:] = 0
        for owners, vectors in chunks:
            person = np.searchsorted(people, owners)
            if len(person) and (person.max() == len(people) or (people[person] != owners).any()):
                raise GalleryError("a template belongs to no person: the gallery is damaged")
            new, first = np.unique(person[place[person] < 0], return_index=True)
            new = new[np.argsort(first)]
            rows = np.arange(matrix.size, matrix.size + len(new))
            place[new], matrix._owners[rows], matrix._rows[rows] = rows, people[new], 0
            matrix.size += len(new)
            added = place[person]
            if len(np.unique(added)) == len(added):
                matrix._rows[added] += checked_unit(vectors)
            else:
                np.add.at(matrix._rows, added, checked_unit(vectors))
            np.add.at(counts, added, 1)
        for start in range(0, matrix.size, 4096):
            part = np.flatnonzero(counts[start : min(start + 4096, matrix.size)] > 1) + start
            matrix._rows[part] = pooled(matrix._rows[part])
        return matrix

    def replace(self, people: NDArray[np.int64], owners: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Replace the rows of people.

        Args:
            people: whose rows are replaced.
            owners: the owner of each of their present templates, grouped.
            vectors: (n, D) unit vectors.
        """
        gone = np.flatnonzero(np.isin(self._owners[: self.size], people))
        kept_size = self.size - len(gone)
        self._images = None
        # Rows from the end fill the holes.
        holes = gone[gone < kept_size]
        movers = np.setdiff1d(np.arange(kept_size, self.size), gone, assume_unique=True)
        for column in (self._rows, self._owners, self._counts):
            column[holes] = column[movers]
        self._rows[kept_size : self.size] = 0
        self.size = kept_size
        if len(owners) == 0:
            return
        checked_unit(vectors)
        if self.pooling == "mean":
            starts = np.flatnonzero(np.r_[True, np.diff(owners) != 0])
            counts = np.diff(np.r_[starts, len(owners)])
            sums = np.add.reduceat(vectors, starts, axis=0)
            sums[counts > 1] = pooled(sums[counts > 1])
            self._append(owners[starts], sums, counts)
        else:
            self._append(owners, vectors)

    def search(self, probes: NDArray[np.float32], top: int) -> list[Hits]:
        """Return the people most similar to each probe, at most ``top``, each once.

        Args:
            probes: (n, D) unit vectors.
            top: 1 or more.
        """
        if self.size == 0:
            return [[] for _ in probes]
        rows = self._rows[: self.size]
        if len(probes) == 1:  # a matrix-vector product is faster than a product of two matrices
            return [self._best(rows @ probes[0], top)]
        hits: list[Hits] = []
        step = max(1, _SCORES // self.size)
        for start in range(0, len(probes), step):
            hits += [self._best(scores, top) for scores in probes[start : start + step] @ rows.T]
        return hits

    def _best(self, scores: NDArray[np.float32], top: int) -> Hits:
        wanted = top
        while True:
            order = _highest(scores, wanted)
            owners = self._owners[order]
            _, first = np.unique(owners, return_index=True)
            if len(first) >= top or len(order) == len(scores):
                chosen = np.sort(first)[:top]
                return list(zip(owners[chosen].tolist(), scores[order[chosen]].tolist(), strict=True))
            wanted *= 4  # several templates belong to one person

    def _append(
        self, owners: NDArray[np.int64], vectors: NDArray[np.float32], counts: NDArray[np.int64] | int = 1
    ) -> None:
        size = self.size + len(owners)
        if size > len(self._owners):
            capacity = max(size, int(len(self._owners) * _GROWTH) + 64)
            larger = np.empty((capacity, self._rows.shape[1]), np.float32)
            larger[: self.size] = self._rows[: self.size]
            self._rows = larger
            free = np.empty(capacity - self.size, np.int64)
            self._owners = np.r_[self._owners[: self.size], free]
            self._counts = np.r_[self._counts[: self.size], free]
        self._rows[self.size : size] = vectors
        self._owners[self.size : size] = owners
        self._counts[self.size : size] = counts
        self.size = size


def pooled(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sums of unit vectors (n, D), scaled to unit length: the mean of the templates of each person.

    Opposite vectors have the sum zero, which stays zero and resembles nobody.
    """
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1), np.float32)


def checked_unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return stored embeddings (n, D); raise `GalleryError` if one does not have unit length."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if not (np.abs(squares - 1) < _UNIT).all():
        raise GalleryError("a stored embedding does not have unit length: the gallery is damaged")
    return vectors


def _highest(scores: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    """Return the indices of the ``top`` highest scores (n,), the highest first; of equal ones the lower index.

    The k highest scores are in the k blocks with the highest maxima. Finding these blocks reads the scores once; a
    partition of all scores would cost as much as computing them.
    """
    count = len(scores)
    if count > 4 * _BLOCK * top:
        whole = count // _BLOCK * _BLOCK
        maxima = scores[:whole].reshape(-1, _BLOCK).max(axis=1)
        blocks = np.argpartition(maxima, len(maxima) - top)[len(maxima) - top :]
        places = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).reshape(-1)
        places = np.sort(np.r_[places, np.arange(whole, count)])
    else:
        places = np.arange(count)
    values = scores[places]
    if len(places) > top:
        part = np.argpartition(values, len(values) - top)[len(values) - top :]
        places, values = places[part], values[part]
    return places[np.lexsort((places, -values))]
