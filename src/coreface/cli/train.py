"""`coreface train`: trains by a recipe, of which any field can be changed, or resumes an interrupted run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coreface.cli.terminal import add_import_option, progress_console
from coreface.distributed.launch import is_leader
from coreface.errors import RecipeError

if TYPE_CHECKING:
    from coreface.training.recipe import Recipe

_USAGE = """coreface train RECIPE [--run DIR] [--overwrite] [--init-from PATH] [--print_config] [--import MODULE]
                      [--any.field VALUE ...]
       coreface train --resume RUN [RECIPE] [--force] [--import MODULE] [--any.field VALUE ...]"""
_TEXT = (
    "Train an encoder by a recipe, or resume an interrupted run. Any field of the recipe can be changed on the "
    "command line; all fields are listed below. Training in several processes: docs/scaling.md."
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    train = commands.add_parser("train", help="train an encoder by a recipe", add_help=False, allow_abbrev=False)
    train.set_defaults(run_command=_train, takes_more=True)
    _add_options(train)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true", help="print this and exit")
    text = "the folder of the run, runs/<recipe> without it; --run-dir is for torchrun, which has a --run of its own"
    parser.add_argument("--run", "--run-dir", metavar="DIR", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run")
    parser.add_argument("--resume", metavar="RUN", help="resume an interrupted run from its newest checkpoint")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: resume even if a changed recipe or changed faces change the result",
    )
    text = "start from the encoder of a run, a saved encoder, a checkpoint or a public InsightFace .pth"
    parser.add_argument("--init-from", metavar="PATH", help=text)
    add_import_option(parser)
    text = "print the recipe with every field and exit"
    parser.add_argument("--print_config", action="store_true", help=text)


def _help() -> str:
    """Return the help: first this command's own options, then the fields of a recipe."""
    from coreface.training.recipe import Recipe
    from coreface.training.recipe_file import fields_help

    parser = argparse.ArgumentParser("coreface train", usage=_USAGE, description=_TEXT, add_help=False)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file, such as recipes/orl_demo.yaml")
    _add_options(parser)
    return f"{parser.format_help()}\n{fields_help(Recipe)}"


def _train(options: argparse.Namespace) -> None:
    if options.help:
        print(_help(), end="")
        return
    if any(word.startswith("--stages") and word.endswith(".help") for word in options.rest):
        from coreface.training.recipe_file import stage_parser

        stage_parser().print_help()
        return
    recipes, overrides = _recipes_and_overrides(options.rest)
    if options.init_from is not None:
        overrides += ["--init_from", options.init_from]
    _check_combination(options, recipes)
    from coreface.training.recipe import Recipe

    if options.print_config:
        print(Recipe.load(recipes[0], overrides).to_yaml(), end="")
        return
    folder = Path(options.resume or options.run or Path("runs") / Path(recipes[0]).stem)
    if options.resume is not None:
        from coreface.runs.run import resume

        run = resume(
            folder,
            recipes[0] if recipes else None,
            overrides=overrides,
            force=options.force,
            console=progress_console(),
        )
    else:
        recipe = Recipe.load(recipes[0], overrides)
        from coreface.runs.run import train

        if recipe.data.alignment and is_leader():
            _warn_of_other_crops(recipe)
        run = train(recipe, folder, overwrite=options.overwrite, console=progress_console())
    if not is_leader():
        return
    from coreface.reports.tables import print_result
    from coreface.runs.folder import REPORT
    from coreface.training.best_encoder import BEST_ENCODER, read_best
    from coreface.training.initial_weights import ENCODER

    if run.evaluation:
        print_result(run.evaluation)
        if (folder / REPORT).is_file():
            print(f"report: {folder / REPORT}")
    print(f"encoder: {folder / ENCODER}")
    if best := read_best(folder):
        print(f"best by the held-out people: {folder / BEST_ENCODER} (EER {100 * best.eer:.2f} %, epoch {best.epoch})")


def _warn_of_other_crops(recipe: "Recipe") -> None:
    """Warn if faces do not look like crops of the alignment in the recipe."""
    from coreface.cli.embedding_options import warn_of_crops
    from coreface.data import open_faces
    from coreface.images.alignment import Alignment

    if recipe.data.alignment:
        warn_of_crops(open_faces(recipe.data.train), recipe.data.train, Alignment(recipe.data.alignment))


def _check_combination(options: argparse.Namespace, recipes: list[str]) -> None:
    if len(recipes) > 1 or (not recipes and options.resume is None):
        got = f"got {', '.join(recipes)}" if recipes else "none given"
        raise RecipeError(f"expected one recipe, {got}: coreface train RECIPE, for example recipes/orl_demo.yaml")
    if options.force and options.resume is None:
        raise RecipeError("--force is an option of --resume RUN: it resumes a run whose recipe or faces have changed")
    for name, given in (("--run", options.run), ("--overwrite", options.overwrite), ("--init-from", options.init_from)):
        if given and options.resume is not None:
            raise RecipeError(f"{name} cannot be combined with --resume, which resumes the run in {options.resume}")
    if options.print_config and options.resume is not None:
        raise RecipeError(
            f"--print_config cannot be combined with --resume; the recipe is {options.resume}/recipe.yaml"
        )


def _recipes_and_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Tell the recipe from the fields that override it, in any order: --field VALUE RECIPE --field=VALUE."""
    recipes, overrides = [], []
    value_comes = False
    for word in words:
        if value_comes and not word.startswith("--"):
            overrides.append(word)
            value_comes = False
        elif word.startswith("-"):
            overrides.append(word)
            value_comes = "=" not in word
        else:
            recipes.append(word)
    return recipes, overrides
