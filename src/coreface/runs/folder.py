"""The folder of a run: its files, how it is created, and the record of its environment."""

import dataclasses
import json
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console

from coreface._version import __version__
from coreface.data import FaceSource, open_faces, require_identities, split_by_identity
from coreface.data.labels import IDENTITIES, write_names
from coreface.data.open import READERS
from coreface.distributed.launch import resume_command
from coreface.distributed.rendezvous import FAILURES
from coreface.errors import CoreFaceError, RunError
from coreface.files import escaped, user_path, write_atomically, write_lines
from coreface.losses.registry import MARGINS
from coreface.models.registry import BACKBONES
from coreface.registry import Registry
from coreface.runs.status import ENVIRONMENT, LAUNCHERS, RECIPE, is_run
from coreface.training.log import say
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe

REPORT = "report.html"
_REGISTERED = "registered"  # in environment.json
_TRACEBACK = re.compile(r"\.?rank_\d+\.attempt_\d+\.txt")  # in `FAILURES`; with the dot one that was cut short


def open_recipe_faces(recipe: Recipe) -> tuple[FaceSource, FaceSource | None]:
    """Open the faces a recipe trains on and those it is evaluated on (None if there are none).

    Raises:
        CoreFaceError: a source is missing or too small, or a path cannot be written in a recipe.
    """
    data = recipe.data
    if not data.train:
        raise CoreFaceError("data.train is empty: give a folder <identity>/<image> with --data.train PATH")
    for place in (data.train, recipe.evaluation.faces, *recipe.evaluation.pairs, recipe.init_from):
        _require_writable(place)
    faces, held_out = _split(open_faces(data.train, label=data.label, identity_level=data.identity_level), data)
    require_identities(faces, 2, "training")
    tested, other = held_out, recipe.evaluation
    if other.faces is not None:
        tested = open_faces(other.faces, label=other.label, identity_level=other.identity_level)
    if tested is not None:
        require_identities(tested, 2, "evaluation")
    return faces, tested


def held_out_beside(recipe: Recipe, faces: FaceSource) -> FaceSource | None:
    """Return the people held out where others are evaluated, ``evaluation.faces``; None where they are, or nobody is.

    ``faces`` are those that `open_recipe_faces` trains on.
    """
    return None if recipe.evaluation.faces is None else _split(faces.origin, recipe.data)[1]


def located(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, as it is stored in a run."""
    data = dataclasses.replace(recipe.data, train=_absolute(recipe.data.train))
    evaluation = dataclasses.replace(
        recipe.evaluation,
        faces=None if (faces := recipe.evaluation.faces) is None else _absolute(faces),
        pairs=[_absolute_pairs(place) for place in recipe.evaluation.pairs],
    )
    init_from = _absolute(recipe.init_from) if recipe.init_from is not None else None
    return dataclasses.replace(recipe, data=data, evaluation=evaluation, init_from=init_from)


def _require_writable(place: str | None) -> None:
    """Raise `CoreFaceError` if a path cannot be written in the recipe of a run, which is YAML in UTF-8."""
    path = "" if place is None else _absolute(place)
    if any(0xD800 <= ord(sign) <= 0xDFFF for sign in path):
        raise CoreFaceError(
            f"{escaped(path)} is no UTF-8, and a recipe holds no other path: rename it, or make a symbolic link "
            "to it (names inside of it may be anything)"
        )


def _absolute(place: str) -> str:
    # `open_faces` takes orl as a name, not a path.
    path = user_path(place)
    return place if place == "orl" or not path.exists() else str(path.absolute())


def _absolute_pairs(place: str) -> str:
    """Return the place of a set of pairs, FILE or FILE:IMAGES, with absolute paths."""
    if user_path(place).exists() or ":" not in place:
        return _absolute(place)
    file, _, images = place.rpartition(":")
    return f"{_absolute(file)}:{_absolute(images)}"


def start_run(
    recipe: Recipe,
    folder: Path,
    faces: FaceSource,
    console: Console,
    *,
    overwrite: bool = False,
    launchers: Sequence[str] = (),
) -> Path:
    """Create the run folder with its recipe, environment, notices, and the names of the identities in order.

    ``launchers`` are the launchers of the processes that start the run, for `begun_by`.

    Raises:
        RunError: the folder exists already.
    """
    require_free(folder, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():  # keep the folder itself, which may be a link or a mount point
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        write_atomically(
            folder / ENVIRONMENT, json.dumps({**environment(), **_strangers(recipe, faces)}, indent=2).encode()
        )
        write_names(folder, faces.identity_names)
        if launchers:
            write_atomically(folder / LAUNCHERS, json.dumps(sorted(set(launchers))).encode())
        write_atomically(folder / RECIPE, located(recipe).to_yaml().encode())
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): choose another folder with --run") from error
    write_notices(faces, folder, console)
    return folder


def write_notices(faces: FaceSource, folder: Path, console: Console) -> None:
    """Show the notices about the faces, and write them to a file."""
    listed = []
    for notice in faces.notices():
        say(console, f"warning: {notice.message}; listed in {folder / 'notices.txt'}")
        listed += [f"{notice.message}:", *(f"  {item}" for item in notice.items)]
    if listed:
        write_lines(folder / "notices.txt", listed)


def require_free(folder: Path, overwrite: bool) -> None:
    """Raise `RunError` if a folder contains anything other than a run that may be replaced."""
    if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or _was_killed_at_its_start(folder))):
        return
    if not is_run(folder):
        raise RunError(f"{folder} exists and is not a run: choose another folder with --run")
    if not overwrite:
        raise RunError(
            f"{folder} already contains a run: resume it with {resume_command(folder)}, choose another folder "
            "with --run, or replace it with --overwrite"
        )


def begun_by(folder: Path, launchers: Sequence[str]) -> bool:
    """Return whether a folder contains a run that was started by one of these launchers."""
    try:
        return is_run(folder) and not set(launchers).isdisjoint(json.loads((folder / LAUNCHERS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def _was_killed_at_its_start(folder: Path) -> bool:
    """Return whether the folder contains only files that `start_run` writes before the recipe, its last file."""
    started = (ENVIRONMENT, IDENTITIES, LAUNCHERS)
    for name in (entry.name for entry in folder.iterdir()):
        unfinished = name.endswith(".tmp") and name.startswith(tuple(f".{one}." for one in (*started, RECIPE)))
        if name not in (*started, FAILURES) and not unfinished:
            return False
    failures = folder / FAILURES
    if failures.exists() and not (
        failures.is_dir() and all(_TRACEBACK.match(kept.name) for kept in failures.iterdir())
    ):
        return False
    try:
        written = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return not any((folder / name).exists() for name in (IDENTITIES, LAUNCHERS))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and "coreface" in written  # not an unrelated file of that name


def environment() -> dict[str, Any]:
    """Return the versions of the software and the machine."""
    described: dict[str, Any] = {
        "coreface": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _strangers(recipe: Recipe, faces: FaceSource) -> dict[str, Any]:
    """Return the modules that registered the run's non-coreface parts, for information; they are never imported."""
    reader = next((name for name in READERS if READERS[name] is type(faces.origin)), "folder")
    used: tuple[tuple[Registry[Any], str], ...] = (
        (BACKBONES, recipe.model.backbone),
        (MARGINS, recipe.classifier.margin.name),
        (READERS, reader),
    )
    modules = {f"{one.kind} {name}": one.module(name) for one, name in used if name in one and not one.is_own(name)}
    return {_REGISTERED: modules} if modules else {}


def require_registered(folder: Path) -> None:
    """Check that everything a run needs is registered.

    Raises:
        RunError: a module that registers a part has not been imported.
    """
    try:
        modules = json.loads((folder / ENVIRONMENT).read_bytes()).get(_REGISTERED, {})
    except (OSError, ValueError, AttributeError):
        return
    if not isinstance(modules, dict):
        return
    known = {f"{one.kind} {name}" for one in (BACKBONES, MARGINS, READERS) for name in one}
    for missing in sorted(modules.keys() - known):
        raise RunError(
            f"{folder}: the {missing} was registered by the module {modules[missing]}, which coreface does not import "
            f"because a file names it: give --import {modules[missing]} again, or import it first in Python"
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _split(faces: FaceSource, data: DataRecipe) -> tuple[FaceSource, FaceSource | None]:
    if not data.holdout:
        return faces, None
    return split_by_identity(faces, data.holdout, seed=data.holdout_seed, fold=data.holdout_fold)
