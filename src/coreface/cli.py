"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coreface import __version__
from coreface.errors import CoreFaceError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from coreface.run import Evaluation

_BAD_INPUT, _FAILED, _INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 where the input was bad (one line on standard error says how), 1 where the machine failed (a full disk),
        130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and options.run_command is not _train:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.run_command is _train:
            _train(options, rest)
        else:
            options.run_command(options)
    except CoreFaceError as error:
        print(f"coreface: {error}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:
        print(f"coreface: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("coreface: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coreface",
        description="Train face encoders with CoReFace, measure them on people they have never seen, and use them.",
    )
    parser.add_argument("--version", action="version", version=f"coreface {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run_command=run)
        return added

    # --help of this one comes from the recipe's own parser, which lists every field.
    train = commands.add_parser("train", help="train an encoder by a recipe", add_help=False, allow_abbrev=False)
    train.set_defaults(run_command=_train)
    train.add_argument("--run", metavar="DIR")
    train.add_argument("--overwrite", action="store_true")
    train.add_argument("--print_config", action="store_true")
    train.add_argument("-h", "--help", action="store_true")

    evaluate = command("evaluate", _evaluate, "measure an encoder on people: every image against every other")
    evaluate.add_argument("model", metavar="MODEL", help="a run folder, or the folder of a saved encoder")
    evaluate.add_argument("--faces", metavar="PATH", help="a folder <identity>/<image>; default: whom the run held out")
    evaluate.add_argument("--no-flip", action="store_true", help="do not add the mirrored image's embedding")
    evaluate.add_argument("--replicates", type=int, metavar="N", help="of the bootstrap; 0 for no intervals")
    evaluate.add_argument("--json", action="store_true", help="print all numbers as JSON")
    evaluate.add_argument("--report", metavar="FILE", help="write a page with plots and the worst mistakes")

    demo = command(
        "demo", _demo, "train and evaluate on the ORL faces: raw pixels, the twin without the method, CoReFace"
    )
    demo.add_argument(
        "--folds", type=int, default=1, choices=range(1, 5), metavar="N", help="disjoint test groups, 1 to 4"
    )
    demo.add_argument("--run", default="runs/demo", metavar="DIR", help="where to write (default: %(default)s)")

    command("backbones", _backbones, "list the backbones")
    return parser


def _train(options: argparse.Namespace, words: list[str]) -> None:
    if options.help:
        from coreface.training.recipe_file import recipe_parser

        usage = "coreface train RECIPE [--run DIR] [--overwrite] [--print_config] [--any.field VALUE ...]"
        text = "Train an encoder by a recipe. Any field of the recipe can be given here as well; these are all of them."
        recipe_parser(usage, text).print_help()
        return
    path, overrides = _recipe_and_overrides(words)
    from coreface.training.recipe import Recipe

    recipe = Recipe.load(path, overrides)
    if options.print_config:
        from coreface.training.recipe_file import recipe_text

        print(recipe_text(recipe), end="")
        return
    from coreface.run import REPORT, train
    from coreface.training.trainer import ENCODER

    folder = Path(options.run or Path("runs") / Path(path).stem)
    run = train(recipe, folder, overwrite=options.overwrite, console=_console())
    if run.evaluation:
        _print_table(run.evaluation)
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


def _evaluate(options: argparse.Namespace) -> None:
    from coreface.evaluation.report import write_report
    from coreface.run import evaluate, run_page

    if options.replicates is not None and options.replicates < 0:
        raise RecipeError(f"--replicates is {options.replicates}, expected 0 or more")
    evaluation = evaluate(
        options.model, options.faces, flip=not options.no_flip, replicates=options.replicates, console=_console()
    )
    for message in evaluation.embedded.unreadable.values():
        print(f"coreface: left out: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps(evaluation.to_dict(), indent=2, allow_nan=False))
    else:
        _print_table(evaluation)
    if options.report:
        write_report(run_page(Path(options.model), evaluation), Path(options.report))
        print(f"report: {options.report}", file=sys.stderr if options.json else sys.stdout)


def _demo(options: argparse.Namespace) -> None:
    from coreface.demo import run_demo

    run_demo(Path(options.run), options.folds, _console())


def _backbones(options: argparse.Namespace) -> None:
    from coreface.models.registry import backbones

    for name, text in backbones().items():
        print(f"{name:14} {text}")


def _print_table(evaluation: "Evaluation") -> None:
    from coreface.evaluation.text import print_verification

    print_verification(evaluation.verification)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)
