"""Learning the thresholds of an encoder from people."""

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data.source import FaceSource, require_identities
from coreface.errors import EvaluationError
from coreface.evaluation.all_pairs import unit_rows
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.effective_pairs import FMRS
from coreface.evaluation.embedding_sources import EmbeddingSource
from coreface.evaluation.identification import search_embeddings
from coreface.evaluation.template_scores import score_templates
from coreface.evaluation.verification import verify
from coreface.plurals import counted


def calibrate(source: EmbeddingSource, faces: FaceSource, console: Console | None = None) -> Calibrator:
    """Learn thresholds from people: every image against every other, and against one image of everybody else.

    Raises:
        DataError: there are fewer than two identities.
        EvaluationError: the embeddings cannot be evaluated.
    """
    require_identities(faces, 2, "calibration")
    embedded = source.embed(faces, console)
    return calibrate_embeddings(embedded.embeddings, faces.identities[embedded.indices])


def calibrate_embeddings(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> Calibrator:
    """Learn thresholds from embeddings (N, D) of people: every one against every other, and searches.

    Raises:
        EvaluationError: the embeddings cannot be evaluated, or are of too few people for any threshold.
    """
    verification = verify(embeddings, identities, replicates=0, worst=0)
    people, first = np.unique(identities, return_index=True)
    # The best other of everybody's search in all the others is a search without a mate in a gallery of one fewer.
    unit = unit_rows(embeddings)
    searches = search_embeddings(embeddings, embeddings[first], identities, people)
    calibrator = Calibrator.fit(
        verification.genuine_scores,
        verification.impostor_scores,
        pairs=verification.pairs,
        non_mated=searches.other,
        gallery=len(people) - 1,
        templates=score_templates(unit, identities, unit, identities),
    )
    if all(calibrator.threshold(fmr).threshold is None for fmr in FMRS):
        raise EvaluationError(
            f"{counted(verification.impostor, 'impostor pair')} of {counted(len(people), 'identity')} resolve no "
            f"threshold, not even for an FMR of {max(FMRS):g}: calibrate on more people"
        )
    return calibrator
