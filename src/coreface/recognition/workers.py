"""Processes many items in this process or in several, with the results in the order of the items."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

import cv2

from coreface.errors import InputError, ProcessLostError

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

_AHEAD = 4  # items per worker that are queued or finished, which bounds the memory

_work: Callable[[Any], Any] | None = None  # of this worker process


class Job(Protocol[Item, Result]):
    """Work that can be pickled and sent to a process, which opens its own detectors and encoders."""

    def open(self) -> Callable[[Item], Result]:
        """Return the function that processes one item."""


def run_ordered(job: Job[Item, Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield the result of every item in order.

    Args:
        job: the work; pickled if there are several processes.
        items: the items to process.
        workers: number of processes; 1 uses this process.

    Raises:
        InputError: ``workers`` is below 1.
        ProcessLostError: a process died, for example for lack of memory.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}, expected 1 or more")
    if workers == 1:
        yield from map(job.open(), items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(job,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ProcessLostError(
            "a worker process died, possibly out of memory: run the command again to resume; fewer "
            "workers take less memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(job: Job[Any, Any]) -> None:
    global _work
    cv2.setNumThreads(1)  # the processes share the cores
    _work = job.open()


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
