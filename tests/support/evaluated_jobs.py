"""Evaluations that the processes of a test share; what they return are plain numbers and NumPy arrays."""

import io

import torch
from rich.console import Console

import support.toy_network  # noqa: F401 (registers the backbone "toy")
from coreface.data import open_faces
from coreface.distributed.processes import Processes
from coreface.errors import CoreFaceError
from coreface.evaluation.embedding import join_shares
from coreface.evaluation.protocols.pairs import pair_scores
from coreface.models.encoder import FaceEncoder
from coreface.runs.evaluated_sets import EvaluatedPeople, open_test_sets


def evaluate(encoder, places, people):
    """Return names, images held here, scores, and figures (the leader's), of sets of pairs and of people."""
    torch.set_num_threads(1)
    processes, console = Processes(), Console(file=io.StringIO(), width=1000)
    encoder = FaceEncoder.from_pretrained(encoder)
    try:
        sets = open_test_sets(places, processes, console)
    except CoreFaceError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found = {"screen": console.file.getvalue(), "held": [], "bytes": [], "scores": [], "figures": []}
    for one in [*sets, EvaluatedPeople(open_faces(people))]:
        share = one.embed(encoder, processes.rank, processes.world_size)
        found["held"].append(share.indices.tolist())
        shares = processes.gather_on_leader(share)
        if one in sets:
            found["bytes"].append(one.pairs.bytes_held)
        if shares is not None and one in sets:
            embedded = join_shares(shares, one.pairs.num_images)
            found["scores"].append(pair_scores(one.pairs, embedded.embeddings, embedded.indices))
        if shares is not None:
            found["figures"].append((one.name, dict(one.figures(shares))))
    return found
