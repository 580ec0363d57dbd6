"""The first pass of `coreface align --face consistent`: every face of every photograph, and which one is meant."""

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import FaceError, ImageError
from coreface.images.load import load_image
from coreface.recognition.align_journal import Journal, state_of
from coreface.recognition.consistent_faces import ConsistentFace, consistent_faces
from coreface.recognition.detection import Face
from coreface.recognition.embed_parts import EmbedSettings
from coreface.recognition.workers import run_ordered

FACES = ".faces.jsonl"  # the faces of each photograph with their embeddings; hidden as the other journal is


@dataclass(frozen=True)
class Photograph:
    """A photograph, the path of its crops without suffix, and whose it is."""

    path: str
    name: str
    target: str
    identity: str


@dataclass(frozen=True, eq=False)
class Pick:
    """The face that is meant in a photograph, or why there is none."""

    face: Face | None
    reason: str = ""
    message: str = ""

    @property
    def mark(self) -> list[list[float]] | None:
        """What tells this face from the others of the photograph."""
        return None if self.face is None or self.face.landmarks is None else self.face.landmarks.tolist()


def pick_faces(
    photographs: Sequence[Photograph],
    folder: Path,
    settings: EmbedSettings,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Pick]:
    """Return the face that is meant in each photograph, by the photograph's name.

    Faces and embeddings stay in the folder, so that an interrupted call resumes, and new photographs are compared with
    those that are there.

    Args:
        photographs: of all people.
        folder: of the crops.
        settings: how faces are found and embedded.
        workers: number of processes.
        progress: called with the number of finished photographs.

    Raises:
        DataError: the faces in the folder were found with other settings.
        ProcessLostError: a worker died.
        OSError: it cannot be written.
    """
    pipeline = settings.pipeline()
    contract = {**pipeline.contract, "min_eyes": pipeline.cropper.min_eyes, "limits": pipeline.cropper.limits.to_dict()}
    journal = Journal(folder / FACES, json.loads(json.dumps(contract)), claim=False)
    waiting = [
        photograph
        for photograph in photographs
        if journal.entries.get(photograph.name, {}).get("state", None) != state_of(photograph.path)
    ]
    done = len(photographs) - len(waiting)
    for entry in run_ordered(_FindJob(settings), waiting, workers):
        journal.add(entry)
        done += 1
        if progress:
            progress(done)
    journal.finish(photograph.name for photograph in photographs)
    by_identity = sorted(photographs, key=lambda photograph: photograph.identity)
    people = [list(own) for _, own in groupby(by_identity, key=lambda photograph: photograph.identity)]
    entries = journal.entries
    size = pipeline.encoder.embedding_size
    chosen, threshold = consistent_faces(
        [[_embeddings(entries[own.name], size) for own in person] for person in people]
    )
    return {
        photograph.name: _pick(entries[photograph.name], choice, threshold)
        for person, choices in zip(people, chosen, strict=True)
        for photograph, choice in zip(person, choices, strict=True)
    }


@dataclass(frozen=True)
class _FindJob:
    settings: EmbedSettings

    def open(self) -> Callable[[Photograph], dict[str, Any]]:
        pipeline = self.settings.pipeline()

        def work(photograph: Photograph) -> dict[str, Any]:
            entry: dict[str, Any] = {"name": photograph.name, "state": state_of(photograph.path), "faces": []}
            try:
                crops = pipeline.cropper.crops(load_image(photograph.path))
            except FaceError as error:
                return {**entry, "reason": error.reason, "message": str(error)}
            except ImageError as error:
                return {**entry, "reason": "unreadable", "message": str(error)}
            # The crops of one photograph at a time: no embedding depends on how the photographs are divided.
            rows = pipeline.encoder.embed([crop.image for crop in crops], flip=pipeline.flip)
            entry["faces"] = [
                {
                    "box": crop.face.box,
                    "landmarks": None if crop.face.landmarks is None else crop.face.landmarks.tolist(),
                    "score": crop.face.score,
                    "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode(),
                }
                for crop, row in zip(crops, rows, strict=True)
            ]
            return entry

        return work


def _embeddings(entry: dict[str, Any], size: int) -> NDArray[np.float32]:
    rows: Iterable[bytes] = (base64.b64decode(face["embedding"]) for face in entry["faces"])
    return np.frombuffer(b"".join(rows), "<f4").reshape(-1, size).astype(np.float32)


def _pick(entry: dict[str, Any], choice: ConsistentFace, threshold: float | None) -> Pick:
    faces = entry["faces"]
    if not faces:
        return Pick(None, entry["reason"], entry["message"])
    if choice.index is not None:
        face = faces[choice.index]
        left, top, right, bottom = face["box"]
        landmarks = None if face["landmarks"] is None else np.array(face["landmarks"])
        return Pick(Face((left, top, right, bottom), landmarks, face["score"]))
    if choice.cosine is None:
        return Pick(None, "undecided", f"{len(faces)} faces were found, and no other photograph of the person has one")
    return Pick(
        None,
        "undecided",
        f"{len(faces)} faces were found; the one that resembles the person's others most has a cosine of "
        f"{choice.cosine:.3f}, expected at least {threshold:.3f}",
    )
