"""What every protocol is: something that evaluates embeddings in one way."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console

from coreface.data.pairs.pair_set import PairSet
from coreface.data.source import FaceSource
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.results import Result

R_co = TypeVar("R_co", bound=Result, covariant=True)


class EvaluationProtocol(ABC, Generic[R_co]):
    """Evaluates embeddings in one way. What it evaluates on is opened when it is built, so that a wrong path is found
    before anything is embedded.
    """

    @abstractmethod
    def evaluate(self, source: EmbeddingSource, console: Console | None = None) -> R_co:
        """Embed the photographs and return the result.

        Args:
            source: makes the embeddings.
            console: where to show progress; None shows it on standard error.

        Raises:
            EvaluationError: the embeddings cannot be evaluated.
        """

    def photographs(self) -> Mapping[str, FaceSource | PairSet]:
        """Return the crops that it evaluates on, by path.

        `coreface evaluate` warns where an encoder was trained on the people on them, or on crops that look different.
        """
        return {}


def short_name(path: str) -> str:
    """Return the last two parts of a path: person/photograph.jpg."""
    return "/".join(Path(path).parts[-2:])
