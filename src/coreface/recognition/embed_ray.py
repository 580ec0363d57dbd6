"""The parts of a job on Ray, for clusters of machines."""

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import cv2
import numpy as np

from coreface.errors import InputError, MissingExtraError, ProcessLostError
from coreface.recognition.embed_parts import Arrays, EmbedJob

_BLOCKS = 1000  # of parts; what an actor that dies has finished of its block is done again
_OBJECT_STORE = 256 << 20  # bytes; a part has well under 1 MB


def run_on_ray(job: EmbedJob, starts: Sequence[int], workers: int) -> Iterator[tuple[int, Arrays]]:
    """Yield the part that begins with each start, in the order in which Ray finishes them.

    Uses the cluster at ``RAY_ADDRESS``; without that variable, Ray is started on this machine's loopback, and stopped
    at the end. The photographs must have the same paths on all machines. An actor that dies is started again.

    Args:
        job: the work.
        starts: the parts.
        workers: number of actors, one processor each.

    Raises:
        InputError: ``workers`` is below 1.
        MissingExtraError: Ray is not installed.
        ProcessLostError: Ray has failed.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}, expected 1 or more")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics to its makers
    if not os.environ.get("RAY_ADDRESS"):
        # Read when Ray is imported, on Linux too: without it, even a local cluster listens on the network.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("ray is not installed: pip install 'coreface[ray]'") from error
    if not starts:
        return
    with _connection(ray, workers):
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = data.from_items([{"start": start} for start in starts], override_num_blocks=min(len(starts), _BLOCKS))
        pool = data.ActorPoolStrategy(size=min(workers, len(starts)))
        parts = rows.map(_Actor, fn_constructor_args=(job,), compute=pool, num_cpus=1)
        try:
            for row in parts.iter_rows():
                yield int(row["start"]), _unpacked(row["part"])
        except ray.exceptions.RayError as error:
            raise ProcessLostError(
                f"Ray has failed ({str(error).strip().splitlines()[-1]}): run the command again to resume"
            ) from error


class _Actor:
    """A process that keeps its pipeline."""

    def __init__(self, job: EmbedJob) -> None:
        cv2.setNumThreads(1)  # the actors share the cores
        self._work = job.open()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        start, part = self._work(int(row["start"]))
        packed = BytesIO()
        np.savez(packed, **part)  # type: ignore[arg-type]
        return {"start": start, "part": packed.getvalue()}


def _unpacked(content: bytes) -> Arrays:
    with np.load(BytesIO(content)) as part:
        return dict(part.items())


@contextmanager
def _connection(ray: Any, workers: int) -> Iterator[None]:
    if ray.is_initialized():  # the caller's own
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
