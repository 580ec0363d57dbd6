"""The results of a study's runs on disk (a row of plain values and a file of scores per run), and their paths."""

import contextlib
import json
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coreface.files import write_atomically
from coreface.runs.status import is_finished
from coreface.studies.plan import Study, changes

FINISHED, DIVERGED, UNMEASURED = "finished", "diverged", "not measured"


@dataclass(frozen=True)
class Place:
    """The paths of a study's files.

    Attributes:
        folder: of the study.
        kept: a second, read-only folder of results next to the study file.
    """

    folder: Path
    kept: Path | None = None

    def run(self, seed: int, arm: str) -> Path:
        """Return the run folder of an arm, or of the ``shared`` epochs."""
        return self.folder / "runs" / f"seed_{seed}" / arm

    def owner(self, seed: int, arm: str) -> Path:
        return self.folder / "owners" / f"seed_{seed}.{arm}.json"

    def log(self, seed: int, arm: str) -> Path:
        return self.folder / "logs" / f"seed_{seed}.{arm}.txt"

    def row(self, seed: int, arm: str) -> Path:
        return self.folder / "results" / f"seed_{seed}.{arm}.json"

    def scores(self, row: Path) -> Path:
        return row.with_suffix(".npz")

    def shared(self, seed: int) -> Path:
        """Return the file that marks the shared epochs of a seed as done."""
        return self.run(seed, "shared.json")

    def trained_by(self, seed: int, arm: str) -> Path:
        """Return the file with the facts that a run folder is trained by."""
        return self.run(seed, f"{arm}.trained_by.json")

    def read_row(self, seed: int, arm: str) -> tuple[Path, dict[str, Any]] | None:
        """Return the row of a run and its path, from the study's own folder or the kept one."""
        own = self.row(seed, arm)
        for path in (own, *([self.kept / own.name] if self.kept else [])):
            found = read_json(path)
            if found is not None:
                return path, found
        return None


@dataclass(frozen=True)
class Standing:
    """The status of a run.

    Attributes:
        state: ``done``; ``measure`` if only its sets must be measured again; ``train`` otherwise.
        row: its row of results, if any.
        path: path of the row.
        reason: why it must be trained or measured again, or None.
    """

    state: str
    row: dict[str, Any] | None = None
    path: Path | None = None
    reason: str | None = None


def standing(study: Study, place: Place, seed: int, arm: str) -> Standing:
    """Return the status of a run, by comparing how it was trained and measured with the current study."""
    found = place.read_row(seed, arm)
    if found is None:
        return Standing("train")
    path, row = found
    facts = study.run_facts(arm, seed)
    if different := changes(row.get("recipe", {}), facts):
        return Standing("train", None, None, f"its recipe changed: {_some(different)}")
    if row.get("state") == DIVERGED or row.get("tried") == list(study.measure.sets):
        return Standing("done", row, path)
    missing = [name for name in study.measure.sets if name not in row.get("sets", {})]
    if not missing and place.scores(path).is_file():
        return Standing("done", row, path)
    reason = f"to be measured on {', '.join(missing)}" if missing else f"{place.scores(path)} is missing"
    if is_finished(place.run(seed, arm)) and has_begun(place, seed, arm, facts):
        return Standing("measure", row, path, reason)
    return Standing("train", None, None, f"{reason}, and its encoder is not here")


def begin(place: Place, seed: int, arm: str, facts: dict[str, Any]) -> None:
    """Prepare the run folder for a run with these facts, unless it already contains that run."""
    if has_begun(place, seed, arm, facts):
        return
    shutil.rmtree(place.run(seed, arm), ignore_errors=True)
    write_json(place.trained_by(seed, arm), {"recipe": facts})


def has_begun(place: Place, seed: int, arm: str, facts: dict[str, Any]) -> bool:
    """Return whether the run in a run folder has these facts."""
    found = read_json(place.trained_by(seed, arm))
    return found is not None and not changes(found["recipe"], facts)


def shared_standing(study: Study, place: Place, seed: int) -> dict[str, Any] | None:
    """Return the row of the finished shared epochs of a seed; None if they must be trained."""
    found = read_json(place.shared(seed))
    if found is None or changes(found["recipe"], study.shared_facts(seed)):
        return None
    if found["state"] == FINISHED and not (place.run(seed, "shared") / "checkpoints" / found["checkpoint"]).is_dir():
        return None
    return found


def processor_of_seed(study: Study, place: Place, seed: int) -> str | None:
    """Return the CPU model that the runs of a seed were trained on; None before the first."""
    rows = [standing(study, place, seed, arm).row for arm in study.arms]
    for row in (shared_standing(study, place, seed) if study.shared_until else None, *rows):
        if row is not None:
            return str(row["processor"])
    return None


def begun_elsewhere(study: Study, place: Place, seed: int) -> str | None:
    """Return why a seed is left to another machine (its runs were started on another CPU model), or None."""
    made_on, here = processor_of_seed(study, place, seed), processor()
    if made_on in (None, here):
        return None
    return (
        f"seed {seed} is left to another machine: all its runs need the same CPU model, and it was started on "
        f"{made_on}; this is {here}"
    )


def processor() -> str:
    """Return the model of the CPU, and of the GPU if there is one: equal models give bit-identical results."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        facts = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*?)\s*$", text, re.MULTILINE))
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def _some(items: list[str], most: int = 4) -> str:
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if it is missing or invalid."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
