"""Where embeddings come from: an encoder, or a file that another library made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from coreface.data.pairs.pair_set import PairSet
from coreface.data.path_names import match_names
from coreface.data.source import FaceSource
from coreface.errors import DataError, EvaluationError
from coreface.evaluation.embedding import EmbeddedImages, Photographs, embed_images, photographs_of
from coreface.evaluation.embedding_arrays import read_arrays
from coreface.evaluation.embedding_cache import EmbeddingCache
from coreface.evaluation.results import Provenance
from coreface.models.open import Encoder


class EmbeddingSource(ABC):
    """A source of embeddings to evaluate.

    Attributes:
        provenance: its name, and how embeddings are made.
        encoder: the encoder; None for embeddings made elsewhere.
    """

    provenance: Provenance
    encoder: Encoder | None = None

    @abstractmethod
    def embed(
        self,
        photographs: FaceSource | PairSet | Photographs,
        console: Console | None = None,
        *,
        unit_length: bool = True,
    ) -> EmbeddedImages:
        """Return the embeddings of the images of a source of faces, or of the distinct images of a set of pairs.

        Args:
            photographs: the images.
            console: where to show progress; None shows it on standard error.
            unit_length: normalise embeddings to unit length; False leaves them as the network made them.

        Raises:
            EvaluationError: there is an embedding of none of the images.
        """

    def labelled(self) -> tuple[NDArray[np.floating], NDArray[np.generic]]:
        """Return embeddings (N, D) that come with the identities (N,) of their images.

        Raises:
            DataError: this source has none.
        """
        raise DataError(
            f"{self.provenance.name} has no identities: say what to evaluate on with --pairs, --faces or --protocol"
        )


class EncoderSource(EmbeddingSource):
    """An encoder: one of ours, an ONNX file, or known weights.

    Args:
        name: what it is called.
        encoder: the encoder.
        flip: add the mirrored image's embedding.
        cache: the folder where embeddings are kept; None keeps none.
        options: more of what the encoder's ``embed`` takes: ``batch_size``, and of one of ours ``precision``.
    """

    def __init__(
        self, name: str, encoder: Encoder, *, flip: bool = True, cache: Path | None = None, **options: Any
    ) -> None:
        self.encoder: Encoder = encoder
        self._flip, self._cache, self._options = flip, cache, options
        rounded = options.get("precision", "float32") != "float32"
        # What changes an embedding beyond the last digits, and so belongs to a cached one.
        self._precision = f" precision={options['precision']}" if rounded else ""
        self.provenance = encoder_provenance(name, encoder.digest, flip=flip)
        if rounded:
            description = f"{self.provenance.description}, products in {options['precision']}"
            self.provenance = replace(self.provenance, description=description)

    def embed(
        self,
        photographs: FaceSource | PairSet | Photographs,
        console: Console | None = None,
        *,
        unit_length: bool = True,
    ) -> EmbeddedImages:
        images = photographs_of(photographs)
        cache = None
        if self._cache is not None:
            cache = EmbeddingCache(
                self._cache, self.encoder.digest, f"flip={self._flip} unit={unit_length}{self._precision}"
            )
        embed = partial(self.encoder.embed, flip=self._flip, unit=unit_length, **self._options)
        with progress_bar(console, len(images)) as progress:
            embedded = embed_images(embed, images, cache=cache, progress=progress)
        if cache is not None and cache.error is not None:
            reason = cache.error.strerror or cache.error
            console = console or Console(stderr=True)
            console.print(f"warning: embeddings are not kept, {cache.folder} cannot be written: {reason}", markup=False)
        return embedded


def encoder_provenance(name: str, digest: str, *, flip: bool) -> Provenance:
    """Return where the embeddings of an encoder come from."""
    description = "image + mirror image, unit length" if flip else "image alone, unit length"
    return Provenance(name, description, digest, flip)


class EmbeddingFile(EmbeddingSource):
    """Embeddings in a ``.npz`` file, made elsewhere.

    The file holds ``embeddings`` (N, D), floats or signed integers, and, unless the rows are in the order of the
    images, ``names`` (N,): the path of each image. The longest part of a path that is unambiguous counts
    (`coreface.data.path_names`). Without names the rows are the images of a set of pairs in the order left, right,
    left, right, ... (2 a pair), or the images of a source in its order. It may hold ``identities`` (N,) as well. Rows
    with a text in ``reasons`` (N,), where there is such, are those of images that could not be embedded.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read or does not hold this; nothing in it is run.
    """

    def __init__(self, path: Path) -> None:
        self.provenance = Provenance(path.stem, f"as found in {path.name}")
        self._path = path
        self.embeddings, names, self.identities = read_arrays(path)
        self._names = None if names is None else names.tolist()

    def embed(
        self,
        photographs: FaceSource | PairSet | Photographs,
        console: Console | None = None,
        *,
        unit_length: bool = True,
    ) -> EmbeddedImages:
        """Return the rows of the images, as they are in the file: protocols make them of unit length themselves.

        Raises:
            DataError: names stand twice or collide, or there are none and too many or too few rows.
            EvaluationError: there is an embedding of none of the images.
        """
        images = photographs_of(photographs)
        rows, missing = self._rows_of(photographs, images), {}
        for index in np.flatnonzero(rows < 0).tolist():
            missing[index] = f"{images.locate(index)}: no embedding of that name in {self._path}"
        kept = np.flatnonzero(rows >= 0)
        if not len(kept):
            raise EvaluationError(f"{self._path} has an embedding of none of the images, the first: {missing[0]}")
        return EmbeddedImages(self.embeddings[rows[kept]], kept, missing)

    def labelled(self) -> tuple[NDArray[np.floating], NDArray[np.generic]]:
        return super().labelled() if self.identities is None else (self.embeddings, self.identities)

    def _rows_of(self, source: FaceSource | PairSet | Photographs, images: Photographs) -> NDArray[np.int64]:
        if self._names is not None:
            places = [images.locate(index) for index in range(len(images))]
            relative = [images.relative_path(index) for index in range(len(images))]
            rows = match_names(self._names, places, relative, self._path)
            return np.array([-1 if row is None else row for row in rows], np.int64)
        count = len(self.embeddings)
        if isinstance(source, PairSet) and count == 2 * len(source):
            in_order = np.empty(len(images), np.int64)
            in_order[source.right], in_order[source.left] = np.arange(1, count, 2), np.arange(0, count, 2)
            return in_order
        if not isinstance(source, PairSet) and count == len(images):
            return np.arange(count)
        expected = f"{2 * len(source)}, two a pair" if isinstance(source, PairSet) else str(len(images))
        raise DataError(
            f"{self._path} has {count} embeddings and no names, the set needs {expected}: add names, one path an image"
        )


@contextmanager
def progress_bar(console: Console | None, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on a terminal, and nothing elsewhere; yields what to call with the number of images done."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("embedding", total=total)
        yield lambda done: progress.update(task, completed=done)
