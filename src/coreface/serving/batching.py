"""Batched embedding of the crops of several requests."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Crops: TypeAlias = Sequence[NDArray[np.uint8]]
Rows: TypeAlias = NDArray[np.float32]


class Batcher:
    """Collects crops while the encoder is busy, and embeds them together, in the order of arrival.

    No crop waits for others: an idle encoder starts at once, and the next batch is collected while it is busy.

    Args:
        embed: crops -> (n, embedding_size); called in a single thread.
        most: largest number of crops in a batch, unless a single request has more.
        on_batch: called with the number of crops of each batch.
    """

    def __init__(
        self, embed: Callable[[Crops], Rows], most: int = 32, on_batch: Callable[[int], None] = lambda crops: None
    ) -> None:
        self._embed, self._most, self._on_batch = embed, most, on_batch
        self._waiting: deque[tuple[Crops, asyncio.Future[Rows]]] = deque()
        self._thread = ThreadPoolExecutor(1, "coreface-encoder")
        self._task: asyncio.Task[None] | None = None

    async def embed(self, crops: Crops) -> Rows:
        """Return the embeddings of crops, in their order."""
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._waiting.append((crops, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """End the thread; waiting crops are not embedded."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            crops = [crop for some, _ in batch for crop in some]
            self._on_batch(len(crops))
            try:
                rows: Any = await loop.run_in_executor(self._thread, self._embed, crops)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            start = 0
            for some, future in batch:
                if not future.done():  # its request has timed out
                    future.set_result(rows[start : start + len(some)])
                start += len(some)
        self._task = None

    def _next(self) -> list[tuple[Crops, "asyncio.Future[Rows]"]]:
        batch: list[tuple[Crops, asyncio.Future[Rows]]] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0][0]) <= self._most):
            crops, future = self._waiting.popleft()
            if not future.done():
                batch.append((crops, future))
                count += len(crops)
        return batch
