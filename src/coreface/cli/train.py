"""`coreface train`: a recipe, and any of its fields changed."""

import argparse
from pathlib import Path

from coreface.cli.terminal import print_evaluation, progress_console
from coreface.errors import RecipeError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    # --help of this one comes from the recipe's own parser, which lists every field.
    train = commands.add_parser("train", help="train an encoder by a recipe", add_help=False, allow_abbrev=False)
    train.set_defaults(run_command=_train, takes_more=True)
    train.add_argument("--run", metavar="DIR")
    train.add_argument("--overwrite", action="store_true")
    train.add_argument("--print_config", action="store_true")
    train.add_argument("-h", "--help", action="store_true")


def _train(options: argparse.Namespace) -> None:
    if options.help:
        from coreface.training.recipe_file import recipe_parser

        usage = "coreface train RECIPE [--run DIR] [--overwrite] [--print_config] [--any.field VALUE ...]"
        text = "Train an encoder by a recipe. Any field of the recipe can be given here as well; these are all of them."
        recipe_parser(usage, text).print_help()
        return
    path, overrides = _recipe_and_overrides(options.rest)
    from coreface.training.recipe import Recipe

    recipe = Recipe.load(path, overrides)
    if options.print_config:
        from coreface.training.recipe_file import recipe_text

        print(recipe_text(recipe), end="")
        return
    from coreface.run import train
    from coreface.run_folder import REPORT
    from coreface.training.trainer import ENCODER

    folder = Path(options.run or Path("runs") / Path(path).stem)
    run = train(recipe, folder, overwrite=options.overwrite, console=progress_console())
    if run.evaluation:
        print_evaluation(run.evaluation)
        if (folder / REPORT).is_file():
            print(f"report: {folder / REPORT}")
    print(f"encoder: {folder / ENCODER}")


def _recipe_and_overrides(words: list[str]) -> tuple[str, list[str]]:
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
    if len(recipes) != 1:
        got = f"got {', '.join(recipes)}" if recipes else "none given"
        raise RecipeError(f"expected one recipe, {got}: coreface train RECIPE, for example recipes/orl_demo.yaml")
    return recipes[0], overrides
