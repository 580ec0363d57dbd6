"""Runs the jobs of a study, several processes at once, and shared epochs before the arms that branch from them."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from coreface.errors import TrainingStopped
from coreface.studies.job import BUSY, LOST, SHARED, Job
from coreface.studies.ownership import live_owner
from coreface.studies.results import begun_elsewhere, shared_standing, standing
from coreface.training.log import say

_LOOKS = 0.2  # seconds between two checks of the processes
_PATIENCE = 5.0  # seconds between two checks of runs with other owners


class _Stop:
    """A context that records SIGTERM and Ctrl-C."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "_Stop":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number


def run_jobs(jobs: Sequence[Job], at_once: int, console: Console, imports: Sequence[str] = ()) -> dict[Job, str]:
    """Run jobs to completion, several at once, in their order, except that arms wait for their shared epochs.

    Args:
        jobs: runs to perform; runs that other processes work on are waited for.
        at_once: how many at once.
        console: where to show progress.
        imports: modules that every process imports first, for the names they register.

    Returns:
        The jobs that failed, each with the reason; they can be tried again. A run that diverged does not count as
        failed.

    Raises:
        TrainingStopped: Ctrl-C or SIGTERM came; every run has written a checkpoint.
    """
    waiting, failed = list(jobs), dict[Job, str]()
    running: dict[Job, subprocess.Popen[bytes]] = {}
    owners: dict[Job, str] = {}  # other owners that have been reported
    look_again = 0.0
    with _Stop() as stop:
        try:
            while waiting or running:
                if len(running) < at_once and time.monotonic() >= look_again:
                    for job in list(waiting):
                        if len(running) < at_once and _leaves_waiting(job, owners, failed, console):
                            waiting.remove(job)
                            if job not in failed and not _is_done(job):
                                running[job] = _start(job, imports)
                                say(console, f"{job.name}: begins or goes on")
                    look_again = time.monotonic() + _PATIENCE
                for job, process in list(running.items()):
                    if (status := process.poll()) is not None:
                        del running[job]
                        look_again = 0.0
                        if status in (BUSY, LOST):
                            waiting.append(job)
                            look_again = time.monotonic() + _PATIENCE
                            continue
                        if status:
                            failed[job] = _last_words(job, status)
                        say(console, f"{job.name}: failed: {failed[job]}" if status else f"{job.name}: done")
                if stop.signal is not None:
                    raise TrainingStopped(
                        "stopped; nothing is lost; the same command goes on from the newest checkpoints", stop.signal
                    )
                time.sleep(_LOOKS)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failed


def _leaves_waiting(job: Job, owners: dict[Job, str], failed: dict[Job, str], console: Console) -> bool:
    """Return whether a job is finished, has failed (recorded in ``failed``), or can start now."""
    for other, reason in failed.items():
        if other.arm == SHARED and other.seed == job.seed:
            failed[job] = f"the shared epochs failed: {reason}"
            return True
    if _is_done(job):
        return True
    if elsewhere := begun_elsewhere(job.study, job.place, job.seed):  # since this command started
        failed[job] = elsewhere
        return True
    if not _is_ready(job):
        return False
    owner = live_owner(job.place.owner(job.seed, job.arm))
    if owner is not None and owners.get(job) != owner:
        say(console, f"{job.name}: {owner} is at work on it")
        owners[job] = owner
    return owner is None


def _is_done(job: Job) -> bool:
    if job.arm == SHARED:
        return shared_standing(job.study, job.place, job.seed) is not None
    return standing(job.study, job.place, job.seed, job.arm).state == "done"


def _is_ready(job: Job) -> bool:
    if job.arm == SHARED or not job.study.shared_until:
        return True
    if standing(job.study, job.place, job.seed, job.arm).state == "measure":
        return True
    return shared_standing(job.study, job.place, job.seed) is not None


def _start(job: Job, imports: Sequence[str]) -> "subprocess.Popen[bytes]":
    log = job.place.log(job.seed, job.arm)
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(job.study.base.threads or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "coreface.studies.job", *imports],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the runs
        )
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps((job, os.getpid())))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has already died; see its log
    return process


def _last_words(job: Job, status: int) -> str:
    log = job.place.log(job.seed, job.arm)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = lines[-1].removeprefix("coreface: ") if lines else "it said nothing"
    if status < 0:
        said = f"ended by {signal.Signals(-status).name}; its last words: {said}"
    return f"{said} (log: {log})"
