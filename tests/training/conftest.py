"""A tiny recipe and a trainer of it, quick enough to run in every test."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from coreface.data import FaceSource, open_faces
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import ContrastiveRecipe, ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

CONTRAST = StageRecipe(from_epoch=2, views=2, dropout=0.3, contrastive=ContrastiveRecipe(weight=0.5, ema=0.5))


@pytest.fixture
def tiny(toy_backbone: str) -> Recipe:
    """A toy network at 16 pixels, two steps of 18 images an epoch; the contrastive term comes with the second epoch."""
    return Recipe(
        model=ModelRecipe(toy_backbone, embedding_size=16),
        data=DataRecipe(image_size=16, workers=0),
        stages=[StageRecipe(dropout=0.2), CONTRAST],
        optimizer=OptimizerRecipe(lr=0.05, batch_size=18, epochs=3),
        precision="float32",
        device="cpu",
        log_every=1,
    )


@pytest.fixture(scope="session")
def faces(toy_folder: Path) -> FaceSource:
    return open_faces(toy_folder)


@pytest.fixture
def change() -> Callable[..., Recipe]:
    """Return a function (recipe, section__field=value) that gives a changed recipe."""

    def change(recipe: Recipe, **changes: Any) -> Recipe:
        for name, value in changes.items():
            section, _, field = name.partition("__")
            if field:
                value = dataclasses.replace(getattr(recipe, section), **{field: value})
            recipe = dataclasses.replace(recipe, **{section: value})
        return recipe

    return change


class Screen(Console):
    """A console that keeps what it shows."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__(file=io.StringIO(), width=200, force_terminal=terminal)

    @property
    def text(self) -> str:
        return self.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def make_trainer(tmp_path: Path, faces: FaceSource, screen: Screen) -> Callable[..., Trainer]:
    """Return a function (recipe, folder="run", **options) that makes a trainer in a folder of its own."""

    def make(recipe: Recipe, folder: str = "run", *, source: FaceSource | None = None, **options: Any) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        options.setdefault("console", screen)
        return Trainer(recipe, source or faces, tmp_path / folder, **options)

    return make


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Return a function (kind, folder="run") that reads the rows of one kind from metrics.jsonl, as strict JSON."""

    def rows(kind: str, folder: str = "run") -> list[dict[str, Any]]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        read = [json.loads(line, parse_constant=_refuse) for line in lines]
        return [row for row in read if row["kind"] == kind]

    return rows


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
