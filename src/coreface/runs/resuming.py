"""Resuming: which checkpoint to use, whether recipe and faces fit it, and the state of the run folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from coreface.data import FaceSource
from coreface.errors import RunError
from coreface.files import write_atomically
from coreface.runs.folder import environment
from coreface.runs.status import RECIPE
from coreface.training.checkpoint import Checkpoint, remove_leftovers
from coreface.training.checkpoint_facts import Origin
from coreface.training.checkpoint_state import optimizer_changed
from coreface.training.checkpoint_writer import CHECKPOINTS, newest_checkpoint
from coreface.training.log import say
from coreface.training.metrics_file import METRICS
from coreface.training.recipe import Recipe

# These affect the time that training takes, the reports, and where the same faces are stored, not the result.
_FREE = (
    *(
        "data.train",
        "data.label",
        "data.identity_level",
        "data.workers",
        "data.max_unreadable",
        "evaluation.",
        "checkpoint.",
    ),
    *("init_from", "log_every", "optimizer.max_skips", "threads", "model.activation_checkpointing"),
)
_ABSENT = "nothing"


def training_origin(faces: FaceSource) -> Origin:
    """Return the origin that every checkpoint records: the faces and the environment."""
    digest = hashlib.sha256(faces.identities.astype("<i8").tobytes())
    digest.update("\0".join(faces.identity_names).encode("utf-8", errors="surrogatepass"))
    described = {"images": len(faces), "identities": faces.num_identities, "sha256": digest.hexdigest()}
    return Origin(described, environment())


def open_newest(folder: Path, console: Console) -> Checkpoint | None:
    """Return the newest intact checkpoint of a run that no other process is training; None if there is none.

    Damaged checkpoints are reported and renamed.

    Raises:
        CheckpointError: all are damaged.
    """
    remove_leftovers(folder / CHECKPOINTS)
    checkpoint, damaged = newest_checkpoint(folder)
    for path, error in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        if aside.exists():
            shutil.rmtree(aside)
        path.replace(aside)
        say(console, f"warning: {error}; set aside as {aside.name}")
    return checkpoint


def require_same(checkpoint: Checkpoint, recipe: Recipe, faces: FaceSource, folder: Path) -> None:
    """Raise `RunError`, with a list, if recipe or faces have changed in a way that changes the result."""
    before = dict(_leaves("", checkpoint.facts.recipe))
    now = dict(_leaves("", json.loads(json.dumps(recipe.to_dict()))))
    different = [
        f"{name} was {before.get(name, _ABSENT)}, is {now.get(name, _ABSENT)}"
        for name in sorted(before.keys() | now.keys())
        if not name.startswith(_FREE) and before.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]
    trained, given = checkpoint.facts.origin.faces, training_origin(faces).faces
    if trained != given:
        different.append(f"the faces were {_counts(trained)}, are {_other(trained, given)}")
    if different:
        raise RunError(
            f"{folder} cannot be resumed with the same result: {'; '.join(different)}. Undo the change, or add --force "
            "to resume from its weights anyway"
        )


def require_as_many_identities(checkpoint: Checkpoint, faces: FaceSource, folder: Path) -> None:
    """Raise `RunError` if the number of identities has changed: the class centres do not fit, even with --force."""
    trained, given = checkpoint.facts.origin.faces, training_origin(faces).faces
    if trained["identities"] != given["identities"]:
        raise RunError(
            f"{folder} was trained on {_counts(trained)}, and there are {_counts(given)} now: the class centres belong "
            f"to other people. Start a new run from its encoder: coreface train {folder / RECIPE} --run NEW "
            f"--init-from {folder}"
        )


def _counts(faces: dict[str, Any]) -> str:
    return f"{faces['images']} images of {faces['identities']} identities"


def _other(trained: dict[str, Any], given: dict[str, Any]) -> str:
    return (
        _counts(given) if _counts(given) != _counts(trained) else "the same numbers, but other images or another order"
    )


def continue_folder(folder: Path, recipe: Recipe, checkpoint: Checkpoint, processes: int, console: Console) -> None:
    """Restore a run folder to its state at a checkpoint, and report what may make results differ."""
    kept = checkpoint.facts.metrics_bytes
    metrics = folder / METRICS
    present = metrics.stat().st_size if metrics.exists() else 0
    if present < kept:
        say(console, f"warning: {metrics} has {present} bytes, expected at least {kept}: rows are lost")
    elif present > kept:
        os.truncate(metrics, kept)
    write_atomically(folder / RECIPE, recipe.to_yaml().encode())
    if optimizer_changed(checkpoint, recipe):
        say(console, "warning: the optimizer has changed: its state (momentum) starts from zero")
    if (count := checkpoint.facts.world_size) != processes:
        say(
            console,
            f"note: this run was trained by {_processes(count)}, now by {_processes(processes)}: it sees the same "
            "batches in the same order, and results differ by rounding (by more if BatchNorm or the contrastive term "
            "uses the images of each process separately)",
        )
    before, now = checkpoint.facts.origin.environment, environment()
    different = [
        f"{name} {before.get(name, _ABSENT)}, now {now.get(name, _ABSENT)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if different:
        say(
            console,
            f"note: this run was trained with {'; '.join(different)}: the result may differ by rounding from "
            "that of an uninterrupted run",
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def restart_folder(folder: Path, recipe: Recipe) -> None:
    """Remove the files of a run that was interrupted before its first checkpoint."""
    (folder / METRICS).unlink(missing_ok=True)
    (folder / "unreadable.txt").unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    write_atomically(folder / RECIPE, recipe.to_yaml().encode())


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value, 1):
            yield from _leaves(f"{prefix}.{number}", item)
    else:
        yield prefix, value
