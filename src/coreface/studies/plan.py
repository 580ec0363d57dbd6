"""The plan of a study: arms that change fields of a recipe, seeds, contrasts, and the measures and sets."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coreface.training.recipe import Recipe
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe

HELD_OUT = "held_out"  #: name of the set of people that the base recipe holds out
_UNKNOWN = "not there"
# Fields that do not change the weights. The faces have a separate digest.
FREE = ("data.train", "data.workers", "evaluation.", "checkpoint.", "log_every")


@dataclass(frozen=True)
class Arm:
    """An arm: one of the recipes that a study compares.

    Attributes:
        name: of the arm.
        recipe: the whole recipe, with the seed of the base.
        branch_seed: seed of the random numbers after the branch; None continues those of the shared epochs.
    """

    name: str
    recipe: Recipe
    branch_seed: int | None = None

    def of_seed(self, seed: int) -> Recipe:
        """Return the recipe of the run of this arm with a seed."""
        if self.branch_seed is not None:
            state = np.random.SeedSequence((seed, self.branch_seed)).generate_state(1, np.uint64)
            seed = int(state[0]) >> 1
        return dataclasses.replace(self.recipe, seed=seed)


@dataclass(frozen=True)
class Measure:
    """What is measured: sets of pairs, and all pairs of the images of people.

    Attributes:
        pairs: sets of pairs, ``FILE`` or ``FILE:IMAGES``.
        faces: people, as in ``data.train``; held_out means those that the recipe holds out.
        fars: target false accept rates.
        replicates: bootstrap resamples of the people.
    """

    pairs: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    fars: tuple[float, ...] = (0.1, 0.01)
    replicates: int = 1000

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of all sets."""
        return self.pairs + self.faces


@dataclass(frozen=True)
class Study:
    """Arms x seeds.

    Attributes:
        name: of the study file.
        base: the recipe of the shared epochs, from which the arms branch.
        shared_until: epochs that the arms of a seed have in common; 0 trains every arm from its first epoch.
        arms: by name, in the order of the file.
        contrasts: pairs of arms: the first minus the second.
        primary: the set and the measure of the study's primary outcome.
        measure: what is measured.
        seeds: seeds of the recipes.
    """

    name: str
    base: Recipe
    shared_until: int
    arms: Mapping[str, Arm]
    contrasts: tuple[tuple[str, str], ...]
    primary: tuple[str, str]
    measure: Measure
    seeds: tuple[int, ...]
    path: Path = field(default=Path(), compare=False)

    def with_threads(self, threads: int) -> "Study":
        """Return the study with this number of threads in every recipe."""

        def changed(recipe: Recipe) -> Recipe:
            return dataclasses.replace(recipe, threads=threads)

        arms = {name: dataclasses.replace(arm, recipe=changed(arm.recipe)) for name, arm in self.arms.items()}
        return dataclasses.replace(self, base=changed(self.base), arms=arms)

    def shared_recipe(self, seed: int) -> Recipe:
        """Return the recipe of the shared epochs of a seed; stages after the branch are left to the arms."""
        kept = [stage for stage in self.base.stages if stage.from_epoch <= self.shared_until]
        return dataclasses.replace(self.base, seed=seed, stages=kept)

    def shared_facts(self, seed: int) -> dict[str, Any]:
        """Return what determines the shared epochs of a seed, as plain values."""
        return {"until": self.shared_until, **_deciding(self.shared_recipe(seed))}

    def run_facts(self, arm: str, seed: int) -> dict[str, Any]:
        """Return what determines a run, as plain values: runs with equal facts have equal results."""
        own = _deciding(self.arms[arm].of_seed(seed))
        return {"shared": self.shared_facts(seed) if self.shared_until else None, **own}

    def differences(self) -> list[tuple[str, list[str]]]:
        """Return the fields in which arms differ: name, and the value in every arm, ``-`` where it has none."""
        by_arm = []
        for arm in self.arms.values():
            values = {name: value for name, value in leaves(arm.recipe.to_dict()) if not name.startswith(FREE)}
            by_arm.append({**values, "branch_seed": arm.branch_seed})
        names = sorted({name for values in by_arm for name in values})
        rows = [(name, [_text(values.get(name, "-")) for values in by_arm]) for name in names]
        return [(name, values) for name, values in rows if len(set(values)) > 1]


def digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the fields in which two runs differ; a field unknown at the time had today's default."""
    one, other = dict(leaves(before)), dict(leaves(now))
    defaults = dict(leaves(Recipe().to_dict()))
    stage = dict(leaves(dataclasses.asdict(StageRecipe(views=2, contrastive=ContrastiveRecipe()))))
    different = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one:
            plain = name.removeprefix("shared.")
            known = defaults.get(plain, stage.get(re.sub(r"^stages\.\d+\.", "", plain), _UNKNOWN))
            if other[name] == known:
                continue
        if one.get(name, _UNKNOWN) != other.get(name, _UNKNOWN):
            different.append(f"{name} was {one.get(name, _UNKNOWN)}, is {other.get(name, _UNKNOWN)}")
    return different


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and value of every field of nested sections; lists of sections are numbered from 1."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, 1):
            yield from leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, value


def measure_names(measure: Measure) -> tuple[str, ...]:
    """Return the names of the measures, in the order they are shown."""
    return ("accuracy", "eer", *(f"tar_at_far_{far:g}" for far in measure.fars))


def _deciding(recipe: Recipe) -> dict[str, Any]:
    values = recipe.to_dict()
    kept: dict[str, Any] = {}
    for name, value in leaves(values):
        if not name.startswith(FREE) and not name.startswith("stages."):
            kept[name] = value
    return {**kept, "stages": values["stages"]}


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
