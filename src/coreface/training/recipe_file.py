"""Recipes as YAML with overrides from the command line. Reading one imports and executes nothing.

jsonargparse parses the values. Some input is refused before, because jsonargparse would accept it silently or answer
with a long usage text: unknown fields, classes to import, whole sections from other files, and `--stages.x`, which
would change only the last stage.
"""

import argparse
import dataclasses
import difflib
import math
import re
import types
import typing
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from coreface.errors import RecipeError
from coreface.training.recipe_sections import ClassifierRecipe, ContrastiveRecipe, MarginRecipe, StageRecipe

_FORBIDDEN = ("class_path", "init_args")
_MARGIN = "classifier.margin."
_PLAIN_MARGIN = ("name", "scale", "margin")  # fields of all margins; others are options of a single one

Recipe = TypeVar("Recipe")  # the dataclass `coreface.training.recipe.Recipe`


def fields_help(recipe_type: type) -> str:
    """Return the part of `coreface train --help` that lists every field of a recipe."""
    parser = _recipe_parser(recipe_type)
    parser.usage = argparse.SUPPRESS
    for action in parser._actions:
        # jsonargparse adds options of its own, which this command refuses: whole sections from files, list+.
        if action.dest in ("help", "config", "print_config", f"{_MARGIN}options") or action.metavar == "CONFIG":
            action.help = argparse.SUPPRESS
        action.option_strings = [name for name in action.option_strings if not name.endswith("+")]
    for group in parser._action_groups:
        if group.title == "options":
            group.title = "Fields of the recipe"
    return str(parser.format_help())


def _recipe_parser(recipe_type: type) -> ArgumentParser:
    parser = ArgumentParser(prog="coreface train", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(recipe_type, as_group=False)
    return parser


def stage_parser() -> ArgumentParser:
    """Return a parser that knows the fields of a stage, for printing its help."""
    text = "The fields of a stage and of its contrastive term, as in a recipe."
    usage = "coreface train RECIPE --stages '[{from_epoch: 1, views: 2, contrastive: {weight: 0.05}}, ...]'"
    parser = ArgumentParser(prog="coreface train", usage=usage, description=text)
    parser.add_class_arguments(StageRecipe, "stages")
    parser.add_class_arguments(ContrastiveRecipe, "contrastive")
    return parser


def recipe_from(recipe_type: type[Recipe], values: dict[str, Any], where: str) -> Recipe:
    """Return the recipe from plain nested values, as in a recipe file; ``where`` starts the error messages.

    Raises:
        RecipeError: an unknown field, or a value out of range.
    """
    _check_sections(recipe_type, values, where, "")
    try:
        return _parsed(recipe_type, values, [])
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def read_recipe(recipe_type: type[Recipe], path: Path, overrides: Iterable[str]) -> Recipe:
    """Read a recipe file and apply overrides. Errors: see `coreface.training.recipe.Recipe.load`."""
    content = _read_yaml(path)
    _check_sections(recipe_type, content, str(path), "")
    given = _overrides(overrides)
    _check_overrides(recipe_type, given)
    given = [(name, _all_of_stages(value) if name == "stages" else value) for name, value in given]
    try:
        return _parsed(recipe_type, content, given)
    except RecipeError as error:
        raise RecipeError(f"{_place(recipe_type, path, content, given, str(error))}: {error}") from error


def _parsed(recipe_type: type[Recipe], content: dict[str, Any], given: list[tuple[str, str]]) -> Recipe:
    content, given, options = _margin_options_apart(content, given)
    parser = _recipe_parser(recipe_type)
    try:
        words = [f"--config={yaml.safe_dump(content)}", *(f"--{name}={value}" for name, value in given)]
        values = parser.parse_args(words)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older releases of jsonargparse know only the deprecated name
            made = getattr(parser, "instantiate", parser.instantiate_classes)(values)
        sections = {name: made[name] for name in _fields(recipe_type)}
        return recipe_type(**{**sections, "classifier": _with_margin_options(sections["classifier"], options)})
    except RecipeError:
        raise
    except Exception as error:  # argparse and jsonargparse raise several kinds, some not public
        raise RecipeError(_one_line(error)) from error


def _place(recipe_type: type, path: Path, content: dict[str, Any], given: list[tuple[str, str]], message: str) -> str:
    """Return where an invalid value comes from: the file or the command line."""
    if any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", message) for name, _ in given):
        return "command line"
    try:
        _parsed(recipe_type, content, [])
    except RecipeError:
        return str(path)
    return "command line"


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe; those that come with coreface are in recipes/") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({_one_line(error)})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML: {_one_line(error)}") from error


def _check_sections(section: type, values: Any, where: str, prefix: str) -> None:
    """Compare the content with the dataclasses; raise at the first key that is not a field."""
    if not isinstance(values, dict):
        named = f"{prefix[:-1]} is" if prefix else "holds"
        raise RecipeError(f"{where}: {named} a {type(values).__name__}, expected fields such as {_fields(section)[0]}")
    hints = typing.get_type_hints(section)
    for key, value in values.items():
        if key in _FORBIDDEN:
            raise RecipeError(f"{where}: {prefix}{key} names a class to import; a recipe holds values only: remove it")
        if section is MarginRecipe and key not in _PLAIN_MARGIN:
            continue  # an option, checked by the margin
        if key not in hints:
            raise RecipeError(f"{where}: there is no field {prefix}{key}; {_nearest(str(key), _fields(section))}")
        inner, many = _section_of(hints[key])
        _require_value(value, hints[key], f"{where}: {prefix}{key}")
        if inner is None or value is None:
            continue
        if not many:
            _check_sections(inner, value, where, f"{prefix}{key}.")
        elif isinstance(value, list):
            for item in value:
                _check_sections(inner, item, where, f"{prefix}{key}.")


def _overrides(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return the fields that ``--field value`` and ``--field=value`` name, with their values."""
    given = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise RecipeError(f"{word!r} is not a field of a recipe, expected --any.field VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                raise RecipeError(f"--{name} has no value, expected --{name} VALUE")
        given.append((name, value))
    return given


def _check_overrides(recipe_type: type, given: list[tuple[str, str]]) -> None:
    known = dict(_leaves(recipe_type, ""))
    for name, value in given:
        if any(word in name for word in _FORBIDDEN):
            raise RecipeError(f"--{name} names a class to import; a recipe holds values only: remove it")
        if name.startswith("stages."):
            raise RecipeError(
                f"--{name} does not name a stage: change the recipe, or give all of them: --stages '[{{...}}, ...]'"
            )
        if any(leaf.startswith(f"{name}.") for leaf in known):
            raise RecipeError(f"--{name} is a section: give its fields, such as --{min(_under(known, name))}")
        if name not in known and not _is_margin_option(name):
            raise RecipeError(f"command line: there is no field {name}; {_nearest(name, sorted(known))}")
        if known.get(name) is str:
            continue  # any text is valid
        try:
            read = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"--{name}: not YAML: {_one_line(error)}") from error
        # jsonargparse would import a class named by a text item.
        _check_sections(recipe_type, {name: read} if name == "stages" else {}, "command line", "")
        if name in known:
            _require_value(read, known[name], f"--{name}")
            if typing.get_origin(known[name]) is list and not isinstance(read, list):
                raise RecipeError(f"--{name} is {value!r}, expected a list: --{name} '[{value}]'")


def _is_margin_option(name: str) -> bool:
    return name.startswith(_MARGIN) and name.removeprefix(_MARGIN) not in _PLAIN_MARGIN


def _margin_options_apart(
    content: dict[str, Any], given: list[tuple[str, str]]
) -> tuple[dict[str, Any], list[tuple[str, str]], dict[str, Any]]:
    """Return a checked recipe and its overrides without the options of the margin, and these options."""
    classifier = content.get("classifier", {})
    margin = classifier.get("margin", {})
    options = {str(key): value for key, value in margin.items() if key not in _PLAIN_MARGIN}
    if options:
        plain = {key: value for key, value in margin.items() if key in _PLAIN_MARGIN}
        content = {**content, "classifier": {**classifier, "margin": plain}}
    options |= {name.removeprefix(_MARGIN): yaml.safe_load(text) for name, text in given if _is_margin_option(name)}
    return content, [(name, text) for name, text in given if not _is_margin_option(name)], options


def _with_margin_options(classifier: ClassifierRecipe, options: dict[str, Any]) -> ClassifierRecipe:
    """Return the section with the options of its margin, which is built once to find mistakes here."""
    margin = dataclasses.replace(classifier.margin, options=options)
    if margin.options or margin.name != MarginRecipe.name:  # the default needs no torch
        from coreface.training.margin_options import build_margin  # imports torch

        build_margin(margin)
    return dataclasses.replace(classifier, margin=margin)


def _all_of_stages(text: str) -> str:
    """Add the defaults to the stages: jsonargparse would take missing fields from the stages of the file."""
    stages = yaml.safe_load(text)
    if not isinstance(stages, list):
        return text
    complete = []
    for stage in stages:
        complete.append({**dataclasses.asdict(StageRecipe()), **stage})
        if (term := stage.get("contrastive")) is not None:
            complete[-1]["contrastive"] = {**dataclasses.asdict(ContrastiveRecipe()), **term}
    return yaml.safe_dump(complete, default_flow_style=True, width=math.inf)


def _require_value(value: Any, hint: Any, where: str) -> None:
    if value is None and type(None) not in typing.get_args(hint):
        raise RecipeError(f"{where} is null, expected a value; leave it out for its default")


def _under(known: Iterable[str], section: str) -> Iterator[str]:
    return (leaf for leaf in known if leaf.startswith(f"{section}."))


def _leaves(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in typing.get_type_hints(section).items():
        inner, many = _section_of(hint)
        if inner is None or many:
            yield f"{prefix}{name}", hint
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


def _section_of(hint: Any) -> tuple[type | None, bool]:
    """Return the dataclass behind a type such as X, X | None or list[X], and whether it is a list."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint), False
    if typing.get_origin(hint) in (list, types.UnionType, typing.Union):
        for argument in typing.get_args(hint):
            if dataclasses.is_dataclass(argument):
                return typing.cast(type, argument), typing.get_origin(hint) is list
    return None, False


def _fields(section: type) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
