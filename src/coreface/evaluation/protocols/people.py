"""Verification on people: every image against every other."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data.open import open_faces
from coreface.data.orl import CREDIT, OrlSource
from coreface.data.source import FaceSource, require_identities
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.protocols.groups import open_labels, rates_by_group
from coreface.evaluation.protocols.protocol import EvaluationProtocol, short_name
from coreface.evaluation.results import Provenance, VerificationResult
from coreface.evaluation.verification import verify
from coreface.plurals import counted


class People(EvaluationProtocol[VerificationResult]):
    """Verification on people: all genuine and all impostor pairs of their images.

    Args:
        faces: the people, a source of faces or its path.
        name: what the result is called; None takes the path.
        replicates: bootstrap replicates over identities; None for 1 000, or fewer for very many pairs; 0 for no
            intervals.
        groups: identity -> label, or a CSV file of both: error rates by label too.
        group_column: which column of the file; None takes the second.
        label: of faces in tar shards, as in `coreface.data.open.open_faces`.
        identity_level: of faces in a folder, likewise.

    Raises:
        DataError: there are fewer than two identities, or faces or labels cannot be read.
    """

    def __init__(
        self,
        faces: FaceSource | str | PathLike[str],
        *,
        name: str | None = None,
        replicates: int | None = None,
        groups: Mapping[str, str] | str | PathLike[str] | None = None,
        group_column: str | None = None,
        label: str | None = None,
        identity_level: int | None = None,
    ) -> None:
        self.labels = open_labels(groups, group_column)
        self.name = name or ("people" if isinstance(faces, FaceSource) else str(faces))
        if not isinstance(faces, FaceSource):
            faces = open_faces(faces, label=label, identity_level=identity_level)
        self.faces = faces
        require_identities(self.faces, 2, "evaluation")
        self.replicates = replicates

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> VerificationResult:
        return self.result(source.embed(self.faces, console), source.provenance)

    def photographs(self) -> Mapping[str, FaceSource]:
        return {self.name: self.faces}

    def result(self, embedded: EmbeddedImages, provenance: Provenance) -> VerificationResult:
        """Return the result of embeddings of the people's images."""
        faces, indices = self.faces, embedded.indices
        identities = faces.identities[indices]
        verification = verify(embedded.embeddings, identities, replicates=self.replicates)
        names = [faces.identity_names[index] for index in np.unique(identities)]
        statement = _statement("images", provenance)
        if embedded.unreadable:
            statement += f" {counted(len(embedded.unreadable), 'image')} could not be embedded and are in no pair."

        def image(row: int) -> NDArray[np.uint8]:
            return faces[int(indices[row])][0]

        return VerificationResult(
            name=self.name,
            statement=statement,
            provenance=provenance,
            unreadable=tuple(embedded.unreadable.values()),
            notes=(CREDIT,) if isinstance(faces.origin, OrlSource) else (),
            verification=verification,
            image=image,
            label=lambda row: short_name(faces.locate(int(indices[row]))),
            groups=rates_by_group(verification, names, self.labels),
            faces=faces,
            embedded=embedded,
        )


class LabelledPeople(EvaluationProtocol[VerificationResult]):
    """The same on embeddings that come with the identities of their images, without photographs.

    Args:
        replicates: as in `People`.
        groups: likewise; identities are then names.
        group_column: likewise.
    """

    def __init__(
        self,
        *,
        replicates: int | None = None,
        groups: Mapping[str, str] | str | PathLike[str] | None = None,
        group_column: str | None = None,
    ) -> None:
        self.labels = open_labels(groups, group_column)
        self.replicates = replicates

    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> VerificationResult:
        embeddings, identities = source.labelled()
        values, index = np.unique(identities, return_inverse=True)
        verification = verify(embeddings, index, replicates=self.replicates)
        names: Sequence[str] = [str(value) for value in values]
        return VerificationResult(
            name=source.provenance.name,
            statement=_statement("embeddings", source.provenance),
            provenance=source.provenance,
            verification=verification,
            groups=rates_by_group(verification, names, self.labels),
        )


def _statement(of: str, provenance: Provenance) -> str:
    return (
        f"All genuine and all impostor pairs of the {of}. Embeddings: {provenance.description}; score: cosine. "
        "Intervals resample people."
    )
