"""The demo: 30 people train, 10 others test; raw pixels, the twin without the contrastive term, and CoReFace.

Both encoders share stage 1 to the last bit, then go on by the same schedule with the same two views, the same dropout
and the same random masks; only the contrastive term differs. Faces: ORL (AT&T Laboratories Cambridge).
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from coreface.data import FaceSource
from coreface.errors import RecipeError
from coreface.evaluation.metrics import Floats
from coreface.evaluation.results import Provenance, VerificationResult
from coreface.evaluation.verification import pixel_embeddings, verify
from coreface.images.load import fit_square
from coreface.plurals import counted
from coreface.reports.page import Page
from coreface.reports.tables import percent_interval
from coreface.reports.terminal_table import Column, print_table
from coreface.runs.evaluation import evaluate
from coreface.runs.folder import REPORT, environment, open_recipe_faces, start_run
from coreface.runs.report import write_page_where_possible
from coreface.runs.resuming import training_origin
from coreface.runs.status import RECIPE, run_lock
from coreface.training.initial_weights import ENCODER
from coreface.training.log import say
from coreface.training.metrics_file import read_metrics
from coreface.training.recipe import Recipe
from coreface.training.trainer import Trainer

PIXELS, TWIN, COREFACE = "raw pixels", "twin, no contrastive term", "CoReFace"
FOLDS = 4  #: of ten people each: every one of the 40 is tested once
_SYSTEMS = (
    "The twin shares stage 1 with CoReFace, and in stage 2 has the same schedule, the same two dropout views and the "
    "same random masks; it lacks the contrastive term alone. Raw pixels: the cosine of images less the mean image of "
    "the training people."
)


@dataclass(frozen=True)
class Fold:
    """The results of one fold, all on the same people, whom neither encoder was trained on."""

    pixels: VerificationResult
    twin: VerificationResult
    coreface: VerificationResult

    def results(self) -> tuple[VerificationResult, ...]:
        """Return the three in the order they are shown."""
        return self.pixels, self.twin, self.coreface


def run_demo(folder: Path, folds: int = FOLDS, console: Console | None = None) -> list[Fold]:
    """Train and evaluate on one or more identity-disjoint folds; print the table and write the report.

    Args:
        folder: where the runs and the report go. Earlier demos there are replaced.
        folds: how many of the four folds.
        console: where to show progress; None shows it on standard error.

    Raises:
        MissingExtraError: the package that carries the faces is not installed.
        RunError: something that is not a run lies in ``folder``.
    """
    console = console or Console(stderr=True)
    recipe = Recipe.load(find_recipe("orl_demo"))
    results = [_run_fold(_of_fold(recipe, fold), folder / f"fold{fold}", console) for fold in range(folds)]
    _print_table(results)
    first, report = folder / "fold0", folder / REPORT
    written = write_page_where_possible(_page(results, first), report, console)
    _print_conclusion(results, first, report if written else None)
    return results


def find_recipe(name: str) -> Path:
    """Return the path of a recipe that comes with coreface, installed or in a checkout.

    Raises:
        RecipeError: there is none of that name.
    """
    package = Path(str(resources.files("coreface")))
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (path := folder / f"{name}.yaml").is_file():
            return path
    raise RecipeError(f"the recipe {name}.yaml is missing from this installation: install coreface again")


def _of_fold(recipe: Recipe, fold: int) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, holdout_fold=fold))


def _run_fold(recipe: Recipe, folder: Path, console: Console) -> Fold:
    faces, tested = open_recipe_faces(recipe)
    if tested is None:
        raise RecipeError("the demo's recipe holds nobody out: restore data.holdout")
    last_stage = len(recipe.stages) - 1
    plain = dataclasses.replace(recipe.stages[last_stage], contrastive=None)
    twin_recipe = dataclasses.replace(recipe, stages=[*recipe.stages[:last_stage], plain])
    trainers = {}
    with contextlib.ExitStack() as locks:
        for name, plan in (("coreface", recipe), ("twin", twin_recipe)):
            locks.enter_context(run_lock(folder / name))
            start_run(plan, folder / name, faces, console, overwrite=True)
            trainers[name] = Trainer(plan, faces, folder / name, console=console, origin=training_origin(faces))
        say(console, f"{folder}: stage 1, shared, on {faces.num_identities} people")
        trainers["coreface"].train(until_epoch=recipe.stages[last_stage].from_epoch - 1)
        trainers["twin"].take_over(trainers["coreface"])
        for name in ("twin", "coreface"):
            say(console, f"{folder}: stage 2, {name}")
            trainers[name].train()
    twin, coreface = (
        dataclasses.replace(evaluate(folder / run / ENCODER, tested, console=console), name=name)
        for run, name in (("twin", TWIN), ("coreface", COREFACE))
    )
    return Fold(pixels=evaluate_pixels(faces, tested), twin=twin, coreface=coreface)


def evaluate_pixels(faces: FaceSource, tested: FaceSource) -> VerificationResult:
    """Evaluate the baseline: the cosine of images less the mean image of the training people."""
    train, test = _stack(faces), _stack(tested)
    embeddings = pixel_embeddings(test, train.mean(axis=0, dtype=np.float64))
    return VerificationResult(
        name=PIXELS,
        statement="All genuine and all impostor pairs of the images; score: cosine.",
        provenance=Provenance(PIXELS, "pixels less the mean image of the training people"),
        verification=verify(embeddings, tested.identities),
    )


def _stack(source: FaceSource) -> NDArray[np.uint8]:
    images = [source[index][0] for index in range(len(source))]
    size = max(images[0].shape)
    return np.stack([fit_square(image, size) for image in images])


def _print_table(results: list[Fold]) -> None:
    rows = []
    for number, fold in enumerate(results):
        verifications = [one.verification for one in fold.results()]
        intervals = [percent_interval(one.eer_interval) for one in verifications]
        rows.append(
            [f"{number}", *(f"{_rate(one.eer.eer)} ({i})" for one, i in zip(verifications, intervals, strict=True))]
        )
    if len(results) > 1:
        rows += [[], ["mean", *(_rate(rate) for rate in _rates(results).mean(axis=0))]]
    print_table(
        (Column("fold", left=True), PIXELS, "twin", COREFACE),
        rows,
        title="Equal error rate in % on people never seen in training (lower is better)",
        notes=(
            "In brackets: 95 % bootstrap interval over the test identities.",
            "The twin is CoReFace without the contrastive term.",
        ),
    )


def _print_conclusion(results: list[Fold], first: Path, report: Path | None) -> None:
    out = Console()
    for paragraph in (_comparison(results), _honesty(len(results))):
        out.print(paragraph, markup=False, highlight=False)
    out.print("\nWhat to do next:", markup=False, highlight=False)
    commands = {
        f"coreface evaluate {first / 'coreface'}": "the numbers once more, from the saved encoder",
        "coreface train recipes/orl_demo.yaml --seed 2": "your own run; any field can be changed like the seed",
        f"coreface evaluate {first / 'coreface'} --faces FOLDER": "on your photographs, FOLDER/<person>/<image>",
    }
    for command, purpose in commands.items():
        say(out, f"  {command}\n      {purpose}")
    if report is not None:
        say(out, f"report: {report}")


def _rates(results: list[Fold]) -> NDArray[np.float64]:
    """Return the equal error rates, (folds, 3), in the order of `Fold.results`."""
    return np.array([[one.verification.eer.eer for one in fold.results()] for fold in results])


def _comparison(results: list[Fold]) -> str:
    rates = _rates(results)
    share = rates[:, 2].mean() / rates[:, 0].mean()
    below = int((rates[:, 2] < rates[:, 0]).sum())
    return (
        f"CoReFace's mean error is {share:.2f} of that of raw pixels, and below it in {below} of "
        f"{counted(len(results), 'fold')}."
    )


def _honesty(folds: int) -> str:
    every = "" if folds == FOLDS else " `make demo` tests every one of the 40 people once."
    return (
        f"{10 * folds} people prove little. Where the intervals overlap, nothing is shown: neither that CoReFace beats "
        f"its twin, nor that either beats raw pixels.{every}"
    )


def _rate(share: float) -> str:
    return f"{100 * share:.2f}"


def _page(results: list[Fold], folder: Path) -> Page:
    fold, folds = results[0], len(results)
    rows: dict[str, list[dict[str, Any]]] = {
        COREFACE: read_metrics(folder / "coreface"),
        TWIN: read_metrics(folder / "twin"),
    }
    means = zip((PIXELS, TWIN, COREFACE), _rates(results).mean(axis=0), strict=True)
    over = f"Mean equal error rate over {folds} folds of ten people" if folds > 1 else "Equal error rate"
    rest = f" The rest of the page shows fold 0 of the {folds} that ran." if folds > 1 else ""
    return Page(
        title="CoReFace on the ORL faces: people it has never seen",
        summary=(
            "30 people, 10 photographs each, trained a face encoder from nothing on a processor; the people below were "
            "never shown to it. Training works where the scores of genuine pairs (one person) part from those of "
            "impostor pairs (two people).",
            f"{over}: {', '.join(f'{name} {_rate(mean)} %' for name, mean in means)}. {_comparison(results)}{rest}",
            _honesty(folds),
        ),
        results=fold.results(),
        compare=True,
        opening={name: _all_scores(results, index) for name, index in ((PIXELS, 0), (COREFACE, 2))},
        history=rows,
        recipe=(folder / "coreface" / RECIPE).read_text(encoding="utf-8"),
        environment=environment(),
        notes=(_SYSTEMS, fold.coreface.statement, *fold.coreface.notes),
    )


def _all_scores(results: list[Fold], index: int) -> tuple[Floats, Floats]:
    """Return the genuine and the impostor scores of all folds."""
    found = [fold.results()[index].verification for fold in results]
    return (
        np.concatenate([one.genuine_scores for one in found]),
        np.concatenate([one.impostor_scores for one in found]),
    )
