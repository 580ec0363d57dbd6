"""The margin of a recipe: its name, and the options of its constructor."""

import difflib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from coreface.errors import InputError, RecipeError
from coreface.losses.margins import Margin
from coreface.losses.registry import MARGINS
from coreface.training.recipe_sections import MarginRecipe

_SECTION = "classifier.margin"
_SCALE = 64.0


def build_margin(recipe: MarginRecipe) -> Margin:
    """Build the margin of a recipe.

    Raises:
        RecipeError: there is no such margin, it has no such option, or a value is not valid.
    """
    try:
        kind = MARGINS[recipe.name]
    except InputError as error:
        raise RecipeError(f"{_SECTION}.name: {error}") from error
    given = dict(recipe.options)
    # A margin registered by the user may have no default for its scale.
    if recipe.scale is not None or inspect.signature(kind).parameters["scale"].default is inspect.Parameter.empty:
        given["scale"] = _SCALE if recipe.scale is None else recipe.scale
    if recipe.margin is not None:
        given["margin"] = recipe.margin
    arguments = _arguments(recipe.name, inspect.signature(kind).parameters, _hints(kind), given)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:  # InputError is a ValueError
        raise RecipeError(f"{_SECTION}: {error}") from error


def _hints(kind: type[Margin]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind.__init__)
    except NameError:  # a hint that cannot be resolved, as under TYPE_CHECKING
        return {}


def _arguments(
    name: str, parameters: Mapping[str, inspect.Parameter], hints: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the given options as arguments of a margin's constructor."""
    arguments = {}
    for option, value in given.items():
        if option not in parameters:
            near = difflib.get_close_matches(option, parameters, n=1)
            advice = f"did you mean {near[0]}?" if near else f"{name} has {', '.join(parameters)}"
            raise RecipeError(f"there is no field {_SECTION}.{option}; {advice}")
        hint = hints.get(option, Any)
        try:
            arguments[option] = _fitted(value, hint)
        except (TypeError, ValueError) as error:
            expected = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
            raise RecipeError(
                f"{_SECTION}.{option} is {value!r}, expected {expected.replace('typing.', '')}"
            ) from error
    missing = [
        option
        for option, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and option not in arguments
    ]
    if missing:
        raise RecipeError(f"{_SECTION}.{missing[0]} is missing: {name} has no default for it")
    return arguments


def _fitted(value: Any, hint: Any) -> Any:
    """Convert a plain YAML value to a type hint. Raises TypeError or ValueError if it does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for one in inner:
            try:
                return _fitted(value, one)
            except (TypeError, ValueError):
                continue
    elif origin is typing.Literal:
        if any(value == one and type(value) is type(one) for one in inner):
            return value
    elif hint is float and type(value) in (int, float, str):
        return float(value)  # YAML 1.1 reads 1e-3 as text
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        of_any_length = origin is list or inner[1:] == (...,)
        hints = inner[:1] * len(value) if of_any_length else inner
        return origin(_fitted(item, one) for item, one in zip(value, hints, strict=True))
    elif type(value) is hint or (value is None and hint is type(None)):
        return value
    raise TypeError
