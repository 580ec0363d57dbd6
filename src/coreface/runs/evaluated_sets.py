"""What a run evaluates while it trains: the people it held out, or others, and test sets of pairs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from coreface.data.pairs.pair_set import PairSet
from coreface.data.pairs.share import PairShare
from coreface.data.source import FaceSource
from coreface.distributed.processes import Processes
from coreface.errors import DataError
from coreface.evaluation.embedding import EmbeddedImages, embed_share, join_shares
from coreface.evaluation.embedding_sources import encoder_provenance
from coreface.evaluation.metrics import TarAtFar, eer, kfold_accuracy, tar_at_far
from coreface.evaluation.protocols.pairs import open_named_pairs, pair_scores
from coreface.evaluation.protocols.people import People
from coreface.evaluation.protocols.protocol import short_name
from coreface.evaluation.results import VerificationResult
from coreface.evaluation.verification import verify
from coreface.files import user_path
from coreface.models.encoder import FaceEncoder
from coreface.models.pretrained import saved_digest
from coreface.plurals import counted
from coreface.runs.evaluation import HELD_OUT, open_source
from coreface.training.evaluating import Figures
from coreface.training.log import say

_FARS = (1e-1, 1e-2, 1e-3)


class EvaluatedPeople:
    """People to evaluate an encoder on during training, every image against every other, without intervals.

    Args:
        faces: the people.
        name: as `coreface.training.evaluating.EvaluatedSet` has it.
        held_out: likewise.
    """

    def __init__(self, faces: FaceSource, *, name: str | None = None, held_out: bool = True) -> None:
        self.name, self.held_out = name, held_out
        self._faces = faces
        self._embedded: EmbeddedImages | None = None

    def embed(self, encoder: FaceEncoder, rank: int, world_size: int) -> EmbeddedImages:
        self._embedded = None
        return embed_share(encoder.embed, self._faces, range(rank, len(self._faces), world_size))

    def figures(self, shares: list[EmbeddedImages]) -> Figures:
        self._embedded = embedded = join_shares(shares, len(self._faces))
        identities = self._faces.identities[embedded.indices]
        result = verify(embedded.embeddings, identities, fars=_FARS, replicates=0)
        return {
            "eer": result.eer.eer,
            **_rates(result.tar),
            "genuine": result.genuine,
            "impostor": result.impostor,
        }

    def with_intervals(self, folder: Path, console: Console) -> VerificationResult:
        """Return the last evaluation, of the encoder that was saved to ``folder`` then, with intervals.

        The people are embedded only where this has not been done yet.

        Raises:
            EvaluationError: the embeddings cannot be evaluated.
        """
        people = People(self._faces, name=HELD_OUT)
        if self._embedded is None:
            return people.evaluate(open_source(folder), console)
        provenance = encoder_provenance(folder.resolve().parent.name, saved_digest(folder), flip=True)
        return people.result(self._embedded, provenance)


class EvaluatedPairs:
    """A test set of pairs: accuracy over folds with its standard error, EER and TAR at FARs.

    Args:
        name: of the set.
        pairs: with the images of this process.
    """

    held_out = False

    def __init__(self, name: str, pairs: PairShare) -> None:
        self.name: str | None = name
        self.pairs = pairs

    def embed(self, encoder: FaceEncoder, rank: int, world_size: int) -> EmbeddedImages:
        return embed_share(encoder.embed, self.pairs, self.pairs.indices.tolist())

    def figures(self, shares: list[EmbeddedImages]) -> Figures:
        pairs = self.pairs
        embedded = join_shares(shares, pairs.num_images)
        scores = pair_scores(pairs, embedded.embeddings, embedded.indices)
        genuine, impostor = scores[pairs.same], scores[~pairs.same]
        accuracy = kfold_accuracy(scores, pairs.same, fold_of=pairs.fold_of) if pairs.folds > 1 else None
        return {
            "accuracy": None if accuracy is None else accuracy.accuracy,
            "accuracy_error": None if accuracy is None else accuracy.standard_error,
            "eer": eer(genuine, impostor).eer,
            **_rates([tar_at_far(genuine, impostor, far) for far in _FARS]),
            "genuine": len(genuine),
            "impostor": len(impostor),
        }


def open_test_sets(places: Sequence[str], processes: Processes, console: Console) -> list[EvaluatedPairs]:
    """Open the sets of ``evaluation.pairs`` and divide the images over the processes; all of them call this.

    The leader reads, and every process keeps its share of the images in memory. Every image is decoded once; those that
    cannot be are counted, and their pairs score -1.

    Args:
        places: FILE or FILE:IMAGES of each set.
        processes: those that evaluate.
        console: where to warn.

    Raises:
        DataError: a set is missing or cannot be read, none of its images can be, or its pairs are all of one kind.
    """
    return [_opened(name, place, processes, console) for place, name in _names(places).items()]


def _opened(name: str, place: str, processes: Processes, console: Console) -> EvaluatedPairs:
    share = processes.scatter(lambda: _shares(place, processes.world_size))
    unreadable = [message for some in processes.on_all(lambda: list(share.unreadable())) for message in some]
    if unreadable:
        count = f"{len(unreadable)} of the {share.num_images} images"
        if len(unreadable) == share.num_images:
            raise DataError(f"evaluation.pairs: {place}: none of {count} can be read, the first: {unreadable[0]}")
        say(console, f"warning: {name}: {count} cannot be read, and their pairs score -1; the first: {unreadable[0]}")
    return EvaluatedPairs(name, share)


def _shares(place: str, world_size: int) -> list[PairShare]:
    try:
        pairs: PairSet = open_named_pairs(place)
    except DataError as error:
        raise DataError(f"evaluation.pairs: {error}") from error
    if pairs.same.all() or not pairs.same.any():
        kind = "genuine" if pairs.same.all() else "impostor"
        raise DataError(
            f"evaluation.pairs: {place}: all {counted(len(pairs), 'pair')} are {kind}, expected genuine and impostor "
            "ones: an error rate takes both"
        )
    return [PairShare(pairs, rank, world_size) for rank in range(world_size)]


def _names(places: Iterable[str]) -> dict[str, str]:
    """Return place -> name of each set: the end of the path of its file, or the whole place where two are alike."""
    files = {place: place if user_path(place).exists() else place.rpartition(":")[0] or place for place in places}
    short = {place: short_name(file) for place, file in files.items()}
    often = Counter(short.values())
    return {place: name if often[name] == 1 else place for place, name in short.items()}


def _rates(rates: Iterable[TarAtFar]) -> Mapping[str, float | None]:
    return {f"tar_at_far_{rate.far:g}": rate.tar for rate in rates}
