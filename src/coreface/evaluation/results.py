"""Results of an evaluation: the numbers, the protocol in words, and where the embeddings come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource
from coreface.evaluation.embedding import EmbeddedImages
from coreface.evaluation.identification import DistractorRate, Identification
from coreface.evaluation.metrics.groups import GroupRates
from coreface.evaluation.quality_curves import QualityCurves
from coreface.evaluation.verification import Verification


@dataclass(frozen=True)
class Provenance:
    """Where embeddings come from.

    Attributes:
        name: of the encoder or the file, as tables and pages call it.
        description: how embeddings were made, in words.
        digest: content digest of the encoder; None for embeddings made elsewhere.
        flip: whether those of mirrored images were added; None where that is not known.
    """

    name: str
    description: str
    digest: str | None = None
    flip: bool | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(ABC):
    """What a protocol found.

    Attributes:
        name: of what was evaluated on, such as the path of a set of pairs.
        statement: the protocol, in words.
        provenance: of the embeddings.
        unreadable: messages about images that could not be embedded.
        notes: what else a reader must know, such as whose photographs these are.
    """

    kind: ClassVar[str]  #: the list of the JSON document that results of this class belong to

    name: str
    statement: str
    provenance: Provenance
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        """Content digest of the encoder; None for embeddings made elsewhere."""
        return self.provenance.digest

    @property
    def flip(self) -> bool | None:
        """Whether embeddings of mirrored images were added; None where that is not known."""
        return self.provenance.flip

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, without scores and images, as plain Python values."""
        return {
            "name": self.name,
            "statement": self.statement,
            **self._numbers(),
            "unreadable": list(self.unreadable),
            "notes": list(self.notes),
            "encoder": self.digest,
            "flip": self.flip,
        }

    @abstractmethod
    def _numbers(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class VerificationResult(Result):
    """Error rates on pairs of images.

    Attributes:
        verification: the error rates, their intervals and the scores.
        image: number of an image, as the worst pairs name it -> uint8 RGB (height, width, 3); None shows none.
        label: number of an image -> its place; None if not known.
        groups: error rates by group; None where none were asked for.
        faces: the people, where every image was compared with every other.
        embedded: their embeddings.
    """

    kind = "sets"

    verification: Verification
    image: Callable[[int], NDArray[np.uint8]] | None = None
    label: Callable[[int], str] | None = None
    groups: GroupRates | None = None
    faces: FaceSource | None = field(default=None, repr=False)
    embedded: EmbeddedImages | None = field(default=None, repr=False)

    def _numbers(self) -> dict[str, Any]:
        groups = None if self.groups is None else self.groups.to_dict()
        return {**self.verification.to_dict(), "groups": groups}


@dataclass(frozen=True, eq=False, kw_only=True)
class IdentificationResult(Result):
    """Rates of searches in galleries.

    Attributes:
        identification: the searches and their rates.
        distractors: rank-1 rates among distractors; empty where there were none.
    """

    kind = "identification"

    identification: Identification
    distractors: tuple[DistractorRate, ...] = ()

    def _numbers(self) -> dict[str, Any]:
        among = [{"distractors": d.distractors, "rate": d.rate, "searches": d.searches} for d in self.distractors]
        return {**self.identification.to_dict(), "distractors": among}


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityResult(Result):
    """How well measures of quality predict the errors of an encoder.

    Attributes:
        quality: their error-versus-discard curves.
    """

    kind = "quality"

    quality: QualityCurves

    def _numbers(self) -> dict[str, Any]:
        return self.quality.to_dict()


@dataclass(frozen=True, eq=False, kw_only=True)
class TableResult(Result):
    """Numbers of any other kind, as one table.

    Attributes:
        columns: headings of the columns of numbers.
        rows: name of a row -> its values, one a column; None where there is no value.
    """

    kind = "tables"

    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | int | str | None]]

    def _numbers(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": {name: list(values) for name, values in self.rows.items()}}


def document(provenance: Provenance, results: Sequence[Result]) -> dict[str, Any]:
    """Return the results of one source of embeddings as plain Python values: a list for each kind of result.

    For a single result, its keys are also at the top level.
    """
    lists: dict[str, list[dict[str, Any]]] = {VerificationResult.kind: [], IdentificationResult.kind: []}
    for result in results:
        lists.setdefault(result.kind, []).append(result.to_dict())
    alone = results[0].to_dict() if len(results) == 1 else {}
    return alone | {
        "name": provenance.name,
        "encoder": provenance.digest,
        "embeddings": provenance.description,
        "flip": provenance.flip,
        **lists,
    }
