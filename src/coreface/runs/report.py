"""The page of a run or of an evaluation: results, curves, recipe and environment."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from coreface.errors import EvaluationError, MissingExtraError, RunError
from coreface.evaluation.results import Provenance, Result, VerificationResult
from coreface.models.pretrained import CONFIG
from coreface.reports.page import Page, write_page
from coreface.runs.evaluation import evaluate
from coreface.runs.folder import REPORT, environment
from coreface.runs.status import RECIPE, is_locked, is_run
from coreface.training.best_encoder import BEST_ENCODER, read_best
from coreface.training.initial_weights import ENCODER
from coreface.training.log import say
from coreface.training.metrics_file import read_metrics


def run_page(folder: Path, result: VerificationResult) -> Page:
    """Return the page of a run: its last evaluation, its curves, its recipe and environment."""
    name = folder.resolve().name
    return Page(
        title=f"{name}: verification of people not in the training set",
        results=(replace(result, name=name),),
        compare=True,
        history={name: read_metrics(folder)},
        recipe=_recipe(folder),
        environment=environment(),
        notes=(*_best_note(folder), result.statement, *result.notes),
    )


def curves_page(folder: Path) -> Page:
    """Return the page of a run that is training, or that evaluates test sets only: its curves, what made it."""
    name = folder.resolve().name
    return Page(
        title=f"{name}: how training goes",
        history={name: read_metrics(folder)},
        recipe=_recipe(folder),
        environment=environment(),
        notes=_best_note(folder),
    )


def has_test_sets(folder: Path) -> bool:
    """Say whether a run has evaluated test sets."""
    return any(row.get("kind") == "set" for row in read_metrics(folder))


def _best_note(folder: Path) -> tuple[str, ...]:
    best = read_best(folder)
    if best is None:
        return ()
    return (
        f"Shown is the last encoder, in {ENCODER}/. {BEST_ENCODER}/ has the one with the lowest EER on the held-out "
        f"people: {100 * best.eer:.2f} %, epoch {best.epoch}, step {best.step}. These people chose it, so expect a "
        "higher EER on others. No test set chose it.",
    )


def evaluation_page(provenance: Provenance, results: Sequence[Result], run: Path | None = None) -> Page:
    """Return the page of an evaluation; for a run, with its curves and its recipe."""
    digest = f" Content digest {provenance.digest[:16]}." if provenance.digest else ""
    history = read_metrics(run) if run is not None and is_run(run) else []
    return Page(
        title=f"{provenance.name}: evaluation",
        summary=(
            f"Embeddings: {provenance.description}.{digest} A pair matches if and only if its cosine reaches the "
            "threshold.",
        ),
        results=_distinct(results),
        history={provenance.name: history} if history else {},
        recipe=_recipe(run) if run is not None else "",
        environment=environment(),
    )


def redraw_report(folder: Path, console: Console) -> Path:
    """Write the report of a run again and return its path.

    While the run trains, the page contains its curves only, so that training is not slowed down; afterwards the encoder
    is also evaluated on the held-out people.

    Raises:
        RunError: there is no run.
        MissingExtraError: matplotlib is not installed.
    """
    if not is_run(folder):
        state = "holds no run" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder} {state}: expected the folder of a run that coreface train wrote")
    page = curves_page(folder)
    if not is_locked(folder) and (folder / ENCODER / CONFIG).is_file():
        try:
            page = run_page(folder, evaluate(folder, console=console))
        except (RunError, EvaluationError) as error:  # no held-out people, or the encoder has collapsed
            say(console, f"not measured: {error}")
    write_page(page, folder / REPORT)
    return folder / REPORT


def write_page_where_possible(page: Page, path: Path, console: Console) -> bool:
    """Write the page, or show which extra it needs: a missing plot library must not fail a finished run."""
    try:
        write_page(page, path)
    except MissingExtraError as error:
        say(console, f"no report: {error}")
        return False
    return True


def _distinct(results: Sequence[Result]) -> tuple[Result, ...]:
    """Number results with equal names, such as those of two sets called lfw/pairs.txt."""
    names = Counter(result.name for result in results)
    return tuple(
        replace(result, name=f"{result.name} ({number})") if names[result.name] > 1 else result
        for number, result in enumerate(results, 1)
    )


def _recipe(folder: Path) -> str:
    path = folder / RECIPE
    return path.read_text(encoding="utf-8") if path.is_file() else ""
