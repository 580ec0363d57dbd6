"""A run: a recipe goes in; a folder with an encoder, its metrics and its report comes out.

This is where training and evaluation meet; they know nothing of each other.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from coreface.errors import EvaluationError
from coreface.measure import Evaluation, evaluate, evaluator_on, run_page, write_report_where_possible
from coreface.models.encoder import FaceEncoder
from coreface.run_folder import REPORT, open_recipe_faces, require_free, start_run
from coreface.training.log import say
from coreface.training.recipe import Recipe
from coreface.training.trainer import ENCODER, Trainer


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
        run_dir: the folder to fill: recipe.yaml, environment.json, identities.json, samples.png, metrics.jsonl,
            encoder/, report.html.
        overwrite: replace a run that lies there already.
        console: where to show progress; None shows it on standard error.

    Raises:
        CoreFaceError: the recipe, the faces or the folder do not do; the message says which and what to do.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    console = console or Console(stderr=True)
    faces, tested = open_recipe_faces(recipe)
    folder = Path(run_dir)
    require_free(folder, overwrite)
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
