"""A run: a recipe goes in; a folder with an encoder, its metrics and its report comes out.

This is where training and evaluation meet; they know nothing of each other.
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from coreface import __version__
from coreface.data import CREDIT, FaceSource, OrlSource, open_faces, require_identities, split_by_identity
from coreface.errors import CoreFaceError, EvaluationError, MissingExtraError, ModelError, RunError
from coreface.evaluation.embedding import EmbeddedFaces, embed_faces
from coreface.evaluation.report import Measured, Page, write_report
from coreface.evaluation.verification import Verification, verify
from coreface.files import write_atomically
from coreface.models.encoder import FaceEncoder
from coreface.models.weights import CONFIG, content_digest
from coreface.training.log import METRICS, say
from coreface.training.recipe import DataRecipe, Recipe
from coreface.training.recipe_file import recipe_text
from coreface.training.trainer import ENCODER, Evaluator, Trainer

RECIPE, REPORT = "recipe.yaml", "report.html"
ENVIRONMENT = "environment.json"
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


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder.
        encoder: the trained encoder, in eval mode, as saved in ``folder / "encoder"``.
        evaluation: its last evaluation, with intervals; None where there was nobody to
            evaluate on, or the encoder has collapsed.
    """

    folder: Path
    encoder: FaceEncoder
    evaluation: Evaluation | None


def train(
    recipe: Recipe | str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> Run:
    """Train an encoder and fill a run folder.

    Args:
        recipe: a recipe, or the path of one.
        run_dir: the folder to fill: recipe.yaml, environment.json, samples.png, metrics.jsonl, encoder/, report.html.
        overwrite: replace a run that lies there already.
        console: where to show progress; None shows it on standard error.

    Raises:
        CoreFaceError: the recipe, the faces or the folder do not do; the message says which and what to do.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    console = console or Console(stderr=True)
    faces, tested = open_recipe_faces(recipe)
    folder = Path(run_dir)
    _require_free(folder, overwrite)
    # What a recipe asks for in vain is found out here, before anything is written or replaced.
    trainer = Trainer(recipe, faces, folder, evaluator=evaluator_on(tested) if tested else None, console=console)
    start_run(recipe, folder, faces, console, overwrite=overwrite)
    if tested is None:
        say(console, "nobody is held out and evaluation.faces is not set: this run measures nothing")
    say(
        console,
        f"training {recipe.model.backbone} on {faces.num_identities} identities, {len(faces)} images, "
        f"{trainer.total_steps} steps; run folder {folder}",
    )
    trainer.train()
    encoder = FaceEncoder.from_pretrained(folder / ENCODER)
    if tested is None:
        return Run(folder, encoder, None)
    try:
        evaluation = evaluate(encoder, tested, console=console)
    except EvaluationError as error:  # the training is done and saved; that it cannot be measured is no reason to fail
        say(console, f"not measured: {error}")
        return Run(folder, encoder, None)
    page = run_page(folder, evaluation)
    write_report_where_possible(page, folder / REPORT, console)
    return Run(folder, encoder, evaluation)


def evaluate(
    model: FaceEncoder | str | os.PathLike[str],
    faces: FaceSource | str | os.PathLike[str] | None = None,
    *,
    flip: bool = True,
    replicates: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Measure an encoder on people: every image against every other.

    Args:
        model: an encoder, the folder of a saved one, or a run folder.
        faces: whom to measure on, a source or its path; None takes those a run held out.
        flip: add the mirrored image's embedding.
        replicates: of the bootstrap over identities; None for 1 000 or what 20 s allow, 0 for no intervals.
        console: where to show progress; None shows it on standard error.

    Raises:
        ModelError: there is no encoder.
        DataError: there are no faces, or fewer than two identities.
        EvaluationError: the embeddings cannot be measured.
    """
    encoder = model if isinstance(model, FaceEncoder) else FaceEncoder.from_pretrained(encoder_folder(Path(model)))
    if faces is None:
        faces = _held_out(model)
    elif not isinstance(faces, FaceSource):
        faces = open_faces(faces)
    require_identities(faces, 2, "evaluation")
    with _bar(console, len(faces)) as progress:
        embedded = embed_faces(encoder, faces, flip=flip, progress=progress)
    verification = verify(embedded.embeddings, embedded.identities, replicates=replicates)
    return Evaluation(verification, faces, embedded, content_digest(encoder), flip)


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


def open_recipe_faces(recipe: Recipe) -> tuple[FaceSource, FaceSource | None]:
    """Open the faces a recipe trains on and those it is measured on (None where there are none).

    Raises:
        DataError: a source is missing or too small.
    """
    data = recipe.data
    if not data.train:
        raise CoreFaceError("data.train is empty: give a folder <identity>/<image> with --data.train PATH")
    faces, held_out = _split(open_faces(data.train), data)
    require_identities(faces, 2, "training")
    tested = held_out if recipe.evaluation.faces is None else open_faces(recipe.evaluation.faces)
    if tested is not None:
        require_identities(tested, 2, "evaluation")
    return faces, tested


def evaluator_on(faces: FaceSource) -> Evaluator:
    """Return what measures an encoder on ``faces`` while training goes on: error rates without intervals."""

    def measure(encoder: FaceEncoder) -> Mapping[str, float | int | None]:
        embedded = embed_faces(encoder, faces)
        result = verify(embedded.embeddings, embedded.identities, replicates=0)
        rates = {f"tar_at_far_{rate.far:g}": rate.tar for rate in result.tar}
        return {"eer": result.eer.eer, **rates, "genuine": result.genuine, "impostor": result.impostor}

    return measure


def start_run(recipe: Recipe, folder: Path, faces: FaceSource, console: Console, *, overwrite: bool = False) -> Path:
    """Make the run folder with its recipe, environment and notices.

    Raises:
        RunError: something lies there already.
    """
    _require_free(folder, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():  # the folder itself stays: it may be a link, or where a disk is mounted
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        write_atomically(folder / RECIPE, recipe_text(recipe).encode())
        write_atomically(folder / ENVIRONMENT, json.dumps(environment(), indent=2).encode())
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): choose another folder with --run") from error
    listed = []
    for notice in faces.notices():
        say(console, f"warning: {notice.message}; listed in {folder / 'notices.txt'}")
        listed += [f"{notice.message}:", *(f"  {item}" for item in notice.items)]
    if listed:
        write_atomically(folder / "notices.txt", ("\n".join(listed) + "\n").encode())
    return folder


def _require_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    # A recipe.yaml alone may be anybody's, with all they have beside it.
    if not (folder / RECIPE).is_file() or not (folder / ENVIRONMENT).is_file():
        raise RunError(f"{folder} exists and is no run: choose another folder with --run")
    if not overwrite:
        raise RunError(
            f"{folder} holds a run already: choose another folder with --run, or replace it with --overwrite"
        )


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


def evaluation_notes(evaluation: Evaluation) -> tuple[str, ...]:
    """Return what a reader of the numbers must know: the protocol, what is missing, whose faces they are."""
    notes = [PROTOCOL if evaluation.flip else PROTOCOL_UNFLIPPED]
    if count := len(evaluation.embedded.unreadable):
        notes.append(f"{count} images could not be read and are in no pair.")
    if isinstance(evaluation.faces.origin, OrlSource):
        notes.append(CREDIT)
    return tuple(notes)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl; none where there is no such file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def write_report_where_possible(page: Page, path: Path, console: Console) -> bool:
    """Write the report, or say which extra it needs: a missing plot library must not spoil a finished run."""
    try:
        write_report(page, path)
    except MissingExtraError as error:
        say(console, f"no report: {error}")
        return False
    return True


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a run's numbers come from."""
    described: dict[str, Any] = {
        "coreface": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _held_out(model: FaceEncoder | str | os.PathLike[str]) -> FaceSource:
    if isinstance(model, FaceEncoder) or not (Path(model) / RECIPE).is_file():
        raise RunError("this encoder is no run, so nobody is held out: say whom to measure on with --faces PATH")
    _, tested = open_recipe_faces(Recipe.load(Path(model) / RECIPE))
    if tested is None:
        raise RunError(f"{model} held nobody out: say whom to measure on with --faces PATH")
    return tested


def _split(faces: FaceSource, data: DataRecipe) -> tuple[FaceSource, FaceSource | None]:
    if not data.holdout:
        return faces, None
    return split_by_identity(faces, data.holdout, seed=data.holdout_seed, fold=data.holdout_fold)


@contextmanager
def _bar(console: Console | None, total: int) -> Iterator[Callable[[int], None] | None]:
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("embedding", total=total)
        yield lambda done: progress.update(task, completed=done)
