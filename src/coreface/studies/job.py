"""One run of a study in a separate process: the shared epochs of a seed, or an arm from the branch to its scores.

The process reads its job from standard input; its arguments are modules to import first. It writes its progress to the
run's log and exits with 0, with `BUSY` if another process works on the run, or with the status of the command line. It
stops, with a checkpoint, if its parent dies.
"""

import hashlib
import os
import pickle
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from coreface.distributed.device import choose_device, choose_precision
from coreface.errors import CoreFaceError, DivergedError, EvaluationError, RunError, TrainingStopped
from coreface.models.encoder import FaceEncoder
from coreface.models.pretrained import saved_digest
from coreface.registry import import_module
from coreface.runs.branching import branch_run
from coreface.runs.folder import environment
from coreface.runs.run import resume, threads_of, train
from coreface.runs.status import is_finished
from coreface.studies.ownership import owned
from coreface.studies.plan import Study
from coreface.studies.results import (
    DIVERGED,
    FINISHED,
    UNMEASURED,
    Place,
    begin,
    begun_elsewhere,
    processor,
    shared_standing,
    standing,
    write_json,
)
from coreface.studies.scores import score_encoder, write_scores
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.checkpoint_manifest import MANIFEST
from coreface.training.checkpoint_writer import CHECKPOINTS
from coreface.training.initial_weights import ENCODER
from coreface.training.metrics_file import read_metrics
from coreface.training.recipe import Recipe

SHARED = "shared"  #: used instead of an arm: the epochs that all arms of a seed have in common
BUSY, LOST = 75, 76  #: exit statuses
_LOOKS = 1.0  # seconds between two checks of the parent
_VERSIONS = ("coreface", "python", "torch", "numpy", "opencv", "system")


@dataclass(frozen=True, eq=False)
class Job:
    """A run of an arm, or of the `SHARED` epochs."""

    study: Study
    place: Place
    seed: int
    arm: str

    @property
    def name(self) -> str:
        return f"seed {self.seed}, {self.arm}"


def run_job(job: Job, console: Console) -> None:
    """Perform a run: train and measure what is missing, and write its row and its scores.

    Raises:
        RunError: another process works on it, or its seed was started on another CPU model.
        CoreFaceError, TrainingStopped: as `coreface.runs.run.train` does.
    """

    def lost(reason: str) -> None:
        print(f"coreface: {reason}; nothing more is written", file=sys.stderr, flush=True)
        os._exit(LOST)

    with owned(job.place.owner(job.seed, job.arm), lost):
        if elsewhere := begun_elsewhere(job.study, job.place, job.seed):
            raise RunError(elsewhere)
        if job.arm == SHARED:
            if shared_standing(job.study, job.place, job.seed) is None:
                _train_shared(job, console)
        elif standing(job.study, job.place, job.seed, job.arm).state != "done":
            _train_arm(job, console)


def _train_shared(job: Job, console: Console) -> None:
    study, place = job.study, job.place
    folder, facts = place.run(job.seed, SHARED), study.shared_facts(job.seed)
    begin(place, job.seed, SHARED, facts)
    row = _origin(study.shared_recipe(job.seed)) | {"recipe": facts}
    try:
        _train(study.shared_recipe(job.seed), folder, study.shared_until, console)
    except DivergedError as error:
        write_json(place.shared(job.seed), {"state": DIVERGED, "reason": _short(error), **row})
        return
    newest = checkpoint_folders(folder / CHECKPOINTS)[0]
    write_json(place.shared(job.seed), {"state": FINISHED, **row, **_described(newest)})


def _train_arm(job: Job, console: Console) -> None:
    study, place, seed = job.study, job.place, job.seed
    folder, facts, recipe = place.run(seed, job.arm), study.run_facts(job.arm, seed), study.arms[job.arm].of_seed(seed)
    row: dict[str, Any] = {"arm": job.arm, "seed": seed, "state": FINISHED, **_origin(recipe)}
    row |= {"recipe": facts}
    begin(place, seed, job.arm, facts)
    if study.shared_until and not is_finished(folder):
        shared = shared_standing(study, place, seed)
        if shared is None:
            raise RunError(f"seed {seed}: the shared epochs are not trained")
        if shared["state"] == DIVERGED:
            row |= {"state": DIVERGED, "reason": f"in the shared epochs: {shared['reason']}"}
            write_json(place.row(seed, job.arm), row)
            return
        if not checkpoint_folders(folder / CHECKPOINTS):
            source = place.run(seed, SHARED) / CHECKPOINTS / shared["checkpoint"]
            branch_run(source, folder, recipe, study.shared_until, console)
    try:
        if not is_finished(folder):
            _train(recipe, folder, None, console)
    except DivergedError as error:
        write_json(place.row(seed, job.arm), row | {"state": DIVERGED, "reason": _short(error)})
        return
    newest = checkpoint_folders(folder / CHECKPOINTS)[0]
    try:
        with threads_of(recipe):
            encoder = FaceEncoder.from_pretrained(folder / ENCODER)
            scores, notes = score_encoder(encoder, study.measure, recipe, console)
    except EvaluationError as error:  # training again would give the same encoder
        tried = list(study.measure.sets)
        write_json(place.row(seed, job.arm), row | {"state": UNMEASURED, "reason": str(error), "tried": tried})
        return
    path = place.row(seed, job.arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    row |= {
        **_described(newest),
        "encoder": saved_digest(folder / ENCODER),
        "faces": open_checkpoint(newest).facts.origin.faces,
        "scores_sha256": write_scores(place.scores(path), scores),
        "sets": {
            name: {"pairs_sha256": one.digest(), "named": one.named, "measures": one.measures(study.measure.fars)}
            for name, one in scores.items()
        },
        "notes": notes,
        "times": _times(folder, recipe, study.shared_until),
    }
    write_json(path, row)


def _train(recipe: Recipe, folder: Path, until: int | None, console: Console) -> None:
    if checkpoint_folders(folder / CHECKPOINTS):
        resume(folder, recipe, until_epoch=until, console=console)
    else:
        train(recipe, folder, overwrite=True, until_epoch=until, console=console)


def _origin(recipe: Recipe) -> dict[str, Any]:
    device = choose_device(recipe.device)
    versions = {name: value for name, value in environment().items() if name in _VERSIONS}
    precision = str(choose_precision(recipe.precision, device)).removeprefix("torch.")
    return {"processor": processor(), "threads": recipe.threads, "precision": precision, "versions": versions}


def _described(checkpoint: Path) -> dict[str, Any]:
    digest_of_manifest = hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest()
    return {"checkpoint": checkpoint.name, "checkpoint_sha256": digest_of_manifest}


def _times(folder: Path, recipe: Recipe, shared_until: int) -> dict[str, float]:
    """Return seconds: of a step after the branch (the median), and of all its steps after the branch."""
    rows = [row for row in read_metrics(folder) if row.get("kind") == "step"]
    batch = recipe.optimizer.batch_size
    seconds, total, last = [], 0.0, 0
    for row in rows:
        each = batch / row["images_per_second"]
        if row["epoch"] > shared_until:
            seconds.append(each)
            total += each * (row["step"] - last)
        last = row["step"]
    return {"step": float(np.round(median(seconds), 6)), "training": round(total, 3)} if seconds else {}


def _short(error: DivergedError) -> str:
    return str(error).split(";")[0]


def _watch_parent(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            ended.wait(_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)

    ended = threading.Event()
    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> int:
    """Run the job on standard input."""
    for name in sys.argv[1:]:
        import_module(name)
    job, parent = pickle.load(sys.stdin.buffer)  # from the parent process
    _watch_parent(parent)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # for the phases in which no training handles it
    try:
        run_job(job, Console(stderr=True, width=200))
    except RunError as error:
        print(f"coreface: {error}", file=sys.stderr)
        return BUSY if "worked on by" in str(error) or "another process" in str(error) else 2
    except CoreFaceError as error:
        print(f"coreface: {error}", file=sys.stderr)
        return 1
    except TrainingStopped as error:
        print(f"coreface: {error}", file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
