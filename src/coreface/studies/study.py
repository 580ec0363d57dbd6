"""Runs a study: arms x seeds, each an ordinary, resumable run. After a kill the same command resumes the study."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from coreface.errors import MissingExtraError, RecipeError, RunError
from coreface.files import write_atomically
from coreface.plurals import counted
from coreface.studies.estimate import StepTimes, time_steps
from coreface.studies.job import SHARED, Job
from coreface.studies.plan import Study
from coreface.studies.report import print_differences, print_plan, print_summary, write_study_page
from coreface.studies.results import (
    Place,
    begun_elsewhere,
    read_json,
    shared_standing,
    standing,
    write_json,
)
from coreface.studies.runner import run_jobs
from coreface.studies.scores import open_sets
from coreface.studies.summary import Summary, summarise
from coreface.training.log import say

RESULT, PAGE = "study.json", "study.html"


def run_study(
    study: Study,
    folder: str | os.PathLike[str],
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    dry_run: bool = False,
    imports: Sequence[str] = (),
    console: Console | None = None,
) -> Summary | None:
    """Perform the missing runs of a study, and write and print its results.

    Args:
        study: the plan, from `coreface.studies.study_file.read_study`.
        folder: folder of the study: runs, results, study.json, study.html.
        jobs: runs at once.
        only: arms to run; empty for all.
        seeds: seeds to run; empty for all.
        dry_run: do not train; print the runs and the time they take, from measured steps.
        imports: modules that every run imports first, for the names they register.
        console: where to show progress; None shows it on standard error.

    Returns:
        The results so far; None for a dry run.

    Raises:
        RecipeError: an arm or a seed is not part of the study.
        RunError: runs failed; the others are done, and the same command tries the failed ones again.
        TrainingStopped: stopped by Ctrl-C or SIGTERM; the same command resumes.
        CoreFaceError: results are inconsistent.
    """
    console = console or Console(stderr=True)
    for arm in only:
        if arm not in study.arms:
            raise RecipeError(f"--only {arm}: the study has the arms {', '.join(study.arms)}")
    for seed in seeds:
        if seed not in study.seeds:
            raise RecipeError(f"--seeds: the study has the seeds {', '.join(map(str, study.seeds))}, not {seed}")
    if jobs < 1:
        raise RecipeError(f"--jobs is {jobs}, expected 1 or more")
    place = Place(Path(folder).absolute(), kept_results(study))
    study = study.with_threads(_threads(study, place, jobs))
    out = Console()
    print_differences(study, out)
    planned = _planned(study, place, list(only) or list(study.arms), list(seeds) or list(study.seeds), console)
    if dry_run:
        times = time_steps(study) if planned else StepTimes({}, 0, 0.0)
        print_plan(study, planned, times, jobs, out)
        return None
    if planned:
        open_sets(study.measure, study.base)  # reports a missing set before anything is trained
    place.folder.mkdir(parents=True, exist_ok=True)
    if study.base.threads is not None:
        write_json(place.folder / "threads.json", {"threads": study.base.threads})
    write_atomically(place.folder / "study.yaml", study.path.read_bytes())
    failed = run_jobs(planned, jobs, console, imports)
    summary = summarise(study, place)
    write_json(place.folder / RESULT, summary.to_dict())
    print_summary(summary, out)
    try:
        write_study_page(summary, place, place.folder / PAGE)
        say(out, f"page: {place.folder / PAGE}")
    except MissingExtraError as error:
        say(console, f"no page: {error}")
    say(out, f"numbers: {place.folder / RESULT}")
    if failed:
        lines = "; ".join(f"{job.name}: {reason}" for job, reason in failed.items())
        raise RunError(f"{counted(len(failed), 'run')} failed, the same command tries again: {lines}")
    return summary


def kept_results(study: Study) -> Path | None:
    """Return the folder ``results/<study>`` next to a study file, whose runs count as finished, or None."""
    folder = study.path.parent / "results" / study.name
    return folder if folder.is_dir() else None


def _threads(study: Study, place: Place, jobs: int) -> int:
    """Return the threads per run: from the recipe, else as when the study was started, else an equal share."""
    if study.base.threads is not None:
        return study.base.threads
    begun = read_json(place.folder / "threads.json")
    if begun is not None:
        return int(begun["threads"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // jobs, int(allowed) if allowed.isdigit() else cores))


def _planned(study: Study, place: Place, arms: list[str], seeds: list[int], console: Console) -> list[Job]:
    """Return the missing runs: for every seed its shared epochs, if an arm needs them, and its arms."""
    planned = []
    for seed in seeds:
        of_seed = []
        needs_shared = False
        for arm in arms:
            found = standing(study, place, seed, arm)
            if found.state == "done":
                continue
            if found.reason:
                say(console, f"seed {seed}, {arm}: {found.reason}: {found.state} again")
            of_seed.append(Job(study, place, seed, arm))
            needs_shared |= found.state == "train"
        if not of_seed:
            continue
        if elsewhere := begun_elsewhere(study, place, seed):
            say(console, elsewhere)
            continue
        if needs_shared and study.shared_until and shared_standing(study, place, seed) is None:
            planned.append(Job(study, place, seed, SHARED))
        planned += of_seed
    return planned
