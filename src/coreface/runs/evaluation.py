"""Measuring an encoder on people: every image against every other, as a table and as a page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data import CREDIT, FaceSource, OrlSource, open_faces, require_identities
from coreface.errors import EvaluationError, MissingExtraError, ModelError, RunError
from coreface.evaluation.embedding import EmbeddedFaces, embed_faces
from coreface.evaluation.embedding_sources import EncoderSubject
from coreface.evaluation.verification import Verification, verify
from coreface.models.encoder import FaceEncoder
from coreface.models.pretrained import CONFIG, saved_digest
from coreface.plurals import counted
from coreface.reports.page import Measured, Page, write_report
from coreface.runs.folder import REPORT, environment, open_recipe_faces, require_registered
from coreface.runs.status import RECIPE, is_locked, is_run
from coreface.training.initial_weights import ENCODER
from coreface.training.log import say
from coreface.training.metrics_file import read_metrics
from coreface.training.recipe import Recipe

PROTOCOL = (
    "All genuine and all impostor pairs of the images of people that were never trained on. Embeddings are the sum "
    "over an image and its mirror image, made unit length; the score of a pair is the cosine."
)
PROTOCOL_UNFLIPPED = PROTOCOL.replace("the sum over an image and its mirror image,", "those of the image alone,")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        verification: the error rates, their intervals and the scores.
        faces: the source that was measured.
        embedded: its embeddings; ``embedded.indices`` says which image of the source each row is.
        digest: content digest of the encoder.
        flip: whether mirrored images were added.
    """

    verification: Verification
    faces: FaceSource
    embedded: EmbeddedFaces
    digest: str
    flip: bool

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the image behind a row of the embeddings, uint8 RGB (height, width, 3)."""
        return self.faces[int(self.embedded.indices[row])][0]

    def label(self, row: int) -> str:
        """Say where the image behind a row of the embeddings lies."""
        return self.faces.locate(int(self.embedded.indices[row]))

    def to_dict(self) -> dict[str, Any]:
        """Return all but scores and embeddings as plain Python values."""
        unreadable = [self.embedded.unreadable[index] for index in sorted(self.embedded.unreadable)]
        return {**self.verification.to_dict(), "unreadable": unreadable, "encoder": self.digest, "flip": self.flip}


def evaluate(
    model: FaceEncoder | str | os.PathLike[str],
    faces: FaceSource | str | os.PathLike[str] | None = None,
    *,
    flip: bool = True,
    replicates: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Measure an encoder on people: every image against every other.

    Args:
        model: an encoder, the folder of a saved one, or a run folder.
        faces: whom to measure on, a source or its path; None takes those a run held out.
        flip: add the mirrored image's embedding.
        replicates: of the bootstrap over identities; None for 1 000, or fewer for very many pairs; 0 for no intervals.
        cache: the folder where embeddings are kept, to go on after an interruption; None keeps none.
        console: where to show progress; None shows it on standard error.

    Raises:
        ModelError: there is no encoder.
        DataError: there are no faces, or fewer than two identities.
        EvaluationError: the embeddings cannot be measured.
    """
    encoder = model if isinstance(model, FaceEncoder) else FaceEncoder.from_pretrained(encoder_folder(Path(model)))
    if faces is None:
        faces = held_out(model)
    elif not isinstance(faces, FaceSource):
        faces = open_faces(faces)
    require_identities(faces, 2, "evaluation")
    subject = EncoderSubject("", encoder, flip=flip, cache=cache)
    found = subject.embed(faces, console)
    embedded = EmbeddedFaces(found.embeddings, faces.identities[found.indices], found.indices, found.unreadable)
    verification = verify(embedded.embeddings, embedded.identities, replicates=replicates)
    return Evaluation(verification, faces, embedded, subject.digest, flip)


def encoder_folder(path: Path) -> Path:
    """Return where the encoder of a run folder, or of a folder that is one itself, lies.

    Raises:
        ModelError: neither.
    """
    for folder in (path, path / ENCODER):
        if (folder / CONFIG).is_file():
            return folder
    state = "holds no encoder" if path.is_dir() else "does not exist"
    raise ModelError(f"{path} {state}: expected a run folder, or one that save_pretrained wrote")


class HeldOut:
    """Measures an encoder on people while training goes on: error rates without intervals.

    Args:
        faces: the people.
    """

    def __init__(self, faces: FaceSource) -> None:
        self._faces = faces
        self._embedded: EmbeddedFaces | None = None

    def __call__(self, encoder: FaceEncoder) -> Mapping[str, float | int | None]:
        self._embedded = None
        self._embedded = embed_faces(encoder, self._faces)
        result = verify(self._embedded.embeddings, self._embedded.identities, replicates=0)
        rates = {f"tar_at_far_{rate.far:g}": rate.tar for rate in result.tar}
        return {"eer": result.eer.eer, **rates, "genuine": result.genuine, "impostor": result.impostor}

    def with_intervals(self, folder: Path, console: Console) -> Evaluation:
        """Return the last measurement, of the encoder that was saved to ``folder`` then, with intervals.

        The people are embedded only where this has not measured yet.

        Raises:
            EvaluationError: the embeddings cannot be measured.
        """
        if self._embedded is None:
            return evaluate(folder, self._faces, console=console)
        verification = verify(self._embedded.embeddings, self._embedded.identities)
        return Evaluation(verification, self._faces, self._embedded, saved_digest(folder), True)


def run_page(folder: Path, evaluation: Evaluation, name: str | None = None) -> Page:
    """Return the report of a run: its last evaluation, its curves, what made it."""
    name = name or folder.resolve().name
    return Page(
        title=f"{name}: verification of people it has never seen",
        summary=(),
        measured=(Measured(name, evaluation.verification),),
        image=evaluation.image,
        label=evaluation.label,
        history={name: read_metrics(folder)},
        recipe=(folder / RECIPE).read_text(encoding="utf-8") if (folder / RECIPE).is_file() else "",
        environment=environment(),
        notes=evaluation_notes(evaluation),
    )


def redraw_report(folder: Path, console: Console) -> Path:
    """Draw the page of a run anew and return where it lies.

    While the run trains, the page holds its curves alone, so that it costs the training nothing; afterwards the encoder
    is measured on the people it held out as well.

    Raises:
        RunError: there is no run.
        MissingExtraError: matplotlib is not installed.
    """
    if not is_run(folder):
        state = "holds no run" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {state}: expected the folder of a run that coreface train wrote")
    page = None
    if not is_locked(folder) and (folder / ENCODER / CONFIG).is_file():
        try:
            page = run_page(folder, evaluate(folder, console=console))
        except (RunError, EvaluationError) as error:  # nobody was held out, or the encoder has collapsed
            say(console, f"not measured: {error}")
    name = folder.resolve().name
    write_report(
        page
        or Page(
            title=f"{name}: how training goes",
            summary=(),
            measured=(),
            history={name: read_metrics(folder)},
            recipe=(folder / RECIPE).read_text(encoding="utf-8"),
            environment=environment(),
        ),
        folder / REPORT,
    )
    return folder / REPORT


def evaluation_notes(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what a reader of the numbers must know: the protocol, what is missing, whose faces they are."""
    notes = [PROTOCOL if evaluation.flip else PROTOCOL_UNFLIPPED]
    if count := len(evaluation.embedded.unreadable):
        notes.append(f"{counted(count, 'image')} unreadable, in no pair.")
    if isinstance(evaluation.faces.origin, OrlSource):
        notes.append(CREDIT)
    return tuple(notes)


def write_report_where_possible(page: Page, path: Path, console: Console) -> bool:
    """Write the report, or say which extra it needs: a missing plot library must not spoil a finished run."""
    try:
        write_report(page, path)
    except MissingExtraError as error:
        say(console, f"no report: {error}")
        return False
    return True


def held_out(model: FaceEncoder | str | os.PathLike[str]) -> FaceSource:
    """Return the faces that a run held out.

    Raises:
        RunError: it is no run, or held nobody out.
    """
    if isinstance(model, FaceEncoder) or not (Path(model) / RECIPE).is_file():
        raise RunError("this encoder is no run, so nobody is held out: say whom to measure on with --faces PATH")
    require_registered(Path(model))
    _, tested = open_recipe_faces(Recipe.load(Path(model) / RECIPE))
    if tested is None:
        raise RunError(f"{model} held nobody out: say whom to measure on with --faces PATH")
    return tested
