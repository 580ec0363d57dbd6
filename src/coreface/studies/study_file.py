"""Reads a study file, checks it before anything is trained, and verifies that its arms agree up to the branch."""

import dataclasses
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from coreface.errors import RecipeError
from coreface.runs.folder import located
from coreface.studies.plan import HELD_OUT, Arm, Measure, Study, leaves, measure_names
from coreface.training.recipe import Recipe
from coreface.training.recipe_file import recipe_from

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FIELDS = ("base", "shared_until", "arms", "contrasts", "primary", "measure", "seeds")
# Fields that the state at the branch depends on: an arm that branches from it cannot change them.
_FIXED = (
    *("model.backbone", "model.embedding_size", "data.train", "data.image_size", "data.holdout", "data.max_unreadable"),
    *("data.identity_level", "data.label", "classifier.subcentres"),
    *("optimizer.name", "optimizer.batch_size", "init_from", "seed", "device", "threads"),
)


def read_study(path: str | os.PathLike[str], overrides: list[str] | None = None) -> Study:
    """Read a study file, and verify that its arms agree up to the branch.

    Args:
        path: a YAML file, or the name of a study that comes with coreface. The path of the base recipe is relative to
            it, paths of data are relative to the current folder.
        overrides: fields of the base recipe, as on the command line of `coreface train`.

    Raises:
        RecipeError: the file is missing or invalid, or an arm cannot branch; the message names the field.
    """
    file = _find(Path(path))
    values = _read_yaml(file)
    base = located(Recipe.load(file.parent / _text_of(file, values, "base"), overrides or []))
    until = values.get("shared_until", 0)
    if not isinstance(until, int) or isinstance(until, bool) or not 0 <= until < base.optimizer.epochs:
        raise RecipeError(
            f"{file}: shared_until is {until!r}, expected a whole number from 0 to {base.optimizer.epochs - 1} epochs"
        )
    arms = {name: _arm(file, name, fields, base, until) for name, fields in _section(file, values, "arms").items()}
    measure = _measure(file, _section(file, values, "measure"))
    return Study(
        name=file.stem,
        base=base,
        shared_until=until,
        arms=arms,
        contrasts=_contrasts(file, values.get("contrasts"), arms),
        primary=_primary(file, _section(file, values, "primary"), measure),
        measure=measure,
        seeds=_seeds(file, values.get("seeds")),
        path=file,
    )


def _arm(file: Path, name: Any, fields: Any, base: Recipe, until: int) -> Arm:
    where = f"{file}: arm {name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "shared":
        raise RecipeError(f"{where}: expected a name of letters, digits, dots, dashes and underscores; not shared")
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        raise RecipeError(f"{where} is {fields!r}, expected fields of the recipe that it changes, or {{}}")
    changed = dict(fields)
    branch_seed = changed.pop("branch_seed", None)
    if branch_seed is not None and (not isinstance(branch_seed, int) or branch_seed < 0):
        raise RecipeError(f"{where}: branch_seed is {branch_seed!r}, expected a whole number from 0")
    stages = changed.get("stages")
    if until and isinstance(stages, list) and all(_begins_after(stage, until) for stage in stages):
        shared = [stage for stage in base.to_dict()["stages"] if stage["from_epoch"] <= until]
        changed["stages"] = [*shared, *stages]
    recipe = recipe_from(Recipe, _merged(base.to_dict(), changed), where)
    arm = Arm(name, located(recipe), branch_seed)
    _require_equal_until(where, arm, base, until)
    return arm


def _require_equal_until(where: str, arm: Arm, base: Recipe, until: int) -> None:
    """Raise `RecipeError` if an arm cannot branch where the shared epochs end, or contradicts them."""
    if not until:
        return
    own, shared = dict(leaves(arm.recipe.to_dict())), dict(leaves(base.to_dict()))
    for name in own.keys() | shared.keys():
        if name.startswith(_FIXED) and own.get(name) != shared.get(name):
            hint = "; use branch_seed" if name == "seed" else ""
            raise RecipeError(
                f"{where}: {name} is {own.get(name)!r}, and {shared.get(name)!r} in the {until} shared epochs: the "
                f"state that the arm begins from depends on it{hint}; set it in the base, or set shared_until: 0"
            )
    for epoch in range(1, until + 1):
        index, expected = arm.recipe.stage_at(epoch), base.stage_at(epoch)
        if index != expected or arm.recipe.stages[index] != base.stages[expected]:
            raise RecipeError(
                f"{where}: its stages say {arm.recipe.stages[index]} of epoch {epoch}, and the base says "
                f"{base.stages[expected]}: the arms of a seed share the first {until} epochs; let its stages begin "
                f"with from_epoch: {until + 1}"
            )
    if arm.recipe.optimizer.epochs <= until:
        raise RecipeError(f"{where}: it has {arm.recipe.optimizer.epochs} epochs, all of them shared; expected more")


def _merged(base: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changed fields into nested values; names may have dots, and lists are replaced as a whole."""
    merged = dict(base)
    for name, value in changed.items():
        section, dot, rest = str(name).partition(".")
        inner = {rest: value} if dot else value
        old = merged.get(section)
        merged[section] = _merged(old, inner) if isinstance(old, dict) and isinstance(inner, Mapping) else inner
    return merged


def _begins_after(stage: Any, until: int) -> bool:
    first = stage.get("from_epoch", 1) if isinstance(stage, dict) else 0
    return isinstance(first, int) and first > until


def _measure(file: Path, values: dict[str, Any]) -> Measure:
    known = [entry.name for entry in dataclasses.fields(Measure)]
    for name in values:
        if name not in known:
            raise RecipeError(f"{file}: measure.{name} is unknown, expected one of {', '.join(known)}")
    lists: dict[str, tuple[Any, ...]] = {}
    for name, kind in (("pairs", str), ("faces", str), ("fars", float)):
        given = values.get(name, list(getattr(Measure(), name)))
        if not isinstance(given, list) or not all(isinstance(item, kind) for item in given):
            raise RecipeError(f"{file}: measure.{name} is {given!r}, expected a list, such as [{_example(name)}]")
        lists[name] = tuple(given)
    if len(set(lists["pairs"] + lists["faces"])) < len(lists["pairs"] + lists["faces"]) or not any(
        (lists["pairs"], lists["faces"])
    ):
        raise RecipeError(f"{file}: measure has no set, or one twice; expected pairs: [{_example('pairs')}]")
    for far in lists["fars"]:
        if not 0 < far < 1:
            raise RecipeError(f"{file}: measure.fars has {far!r}, expected rates above 0 and below 1")
    replicates = values.get("replicates", 1000)
    if not isinstance(replicates, int) or replicates < 100:
        raise RecipeError(f"{file}: measure.replicates is {replicates!r}, expected a whole number from 100")
    return Measure(lists["pairs"], lists["faces"], lists["fars"], replicates)


def _example(name: str) -> str:
    return {"pairs": "pairs.txt:images", "faces": HELD_OUT, "fars": "0.1, 0.01"}[name]


def _primary(file: Path, values: dict[str, Any], measure: Measure) -> tuple[str, str]:
    names = measure_names(measure)
    given, name = values.get("pairs", values.get("faces")), values.get("measure")
    if given not in measure.sets or len(values) != 2:
        raise RecipeError(
            f"{file}: primary is {values!r}, expected one of the measured sets ({', '.join(measure.sets)}), as "
            "{pairs: SET, measure: NAME} or {faces: SET, measure: NAME}"
        )
    if name not in names or (name == "accuracy" and given in measure.faces):
        usable = names if given in measure.pairs else names[1:]
        raise RecipeError(f"{file}: primary.measure is {name!r}, expected one of {', '.join(usable)}")
    return str(given), str(name)


def _contrasts(file: Path, values: Any, arms: Mapping[str, Arm]) -> tuple[tuple[str, str], ...]:
    found = []
    for pair in values if isinstance(values, list) else [values]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1] or not {*pair} <= arms.keys():
            raise RecipeError(
                f"{file}: contrasts has {pair!r}, expected pairs [ARM, ARM] of two of {', '.join(arms)}: the first "
                "minus the second"
            )
        found.append((pair[0], pair[1]))
    if len(set(found)) < len(found):
        raise RecipeError(f"{file}: contrasts holds a pair twice")
    return tuple(found)


def _seeds(file: Path, values: Any) -> tuple[int, ...]:
    good = isinstance(values, list) and bool(values) and len({*map(str, values)}) == len(values)
    if not good or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in values):
        raise RecipeError(f"{file}: seeds is {values!r}, expected different whole numbers, such as [1, 2, 3]")
    return tuple(values)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    package = Path(str(resources.files("coreface")))
    for folder in (package / "study_files", package.parents[1] / "studies"):
        if len(path.parts) == 1 and (found := folder / f"{path.stem}.yaml").is_file():
            return found
    raise RecipeError(f"{path}: no such study; the ones that come with coreface are found by their names: orl_small")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{file}: not a study, expected the fields {', '.join(_FIELDS)}")
    for name in values:
        if name not in _FIELDS:
            raise RecipeError(f"{file}: there is no field {name}, expected {', '.join(_FIELDS)}")
    return values


def _section(file: Path, values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict) or not section:
        raise RecipeError(f"{file}: {name} is {section!r}, expected a section with fields; see docs/studies.md")
    return section


def _text_of(file: Path, values: dict[str, Any], name: str) -> str:
    text = values.get(name)
    if not isinstance(text, str):
        raise RecipeError(f"{file}: {name} is {text!r}, expected the path of a recipe")
    return text
