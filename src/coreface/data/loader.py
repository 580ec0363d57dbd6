"""From a source of faces to training batches, which depend only on (seed, epoch)."""

import atexit
import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from coreface.data.augmentation import Augmentation
from coreface.data.batch_reader import BatchReader, Draw, Pixels, start_worker
from coreface.data.source import FaceSource
from coreface.errors import DataError, InputError
from coreface.images.preprocessing import to_network_input


class _Schedule(Sampler[list[Draw]]):
    """The batches of one epoch; the loader sets them before it starts the epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Draw]] = []

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class FaceLoader:
    """Shuffled, randomly mirrored and augmented, normalised batches of a source, on a device.

    The order of the images and their flips are drawn from ``(seed, epoch)`` alone, their augmentation from ``(seed,
    epoch, image)``: neither the number of workers nor the batch at which an epoch is entered changes what a batch
    holds. The incomplete last batch of an epoch is dropped. An image that cannot be read is left out of its batch and
    kept in `unreadable`. A batch with fewer than two readable images is skipped, because BatchNorm needs two.

    Several processes share the batches that a single process would see with a batch size ``world_size`` times as large:
    the same images in the same order, for any number of processes. If such a joint batch is divided into micro-batches,
    every process has its share of each. Every process yields the same number of batches, all of full size: an image
    that cannot be read is replaced by another one of its batch.

    A source that is best read in sequence (tar shards) is divided into segments, one per process unless `segments` is
    set, and every joint batch takes the same number of images from each; so a process reads its own shards. With the
    same number of segments any number of processes sees the same batches.

    Args:
        source: where the faces come from.
        batch_size: images a batch, at least 2.
        image_size: side of the square images, in pixels; others are padded and resized
            (`coreface.images.load.fit_square`).
        seed: of the order, the flips and the augmentation.
        workers: processes that decode; 0 decodes in this process.
        device: of the batches. They are sent there as uint8.
        flip: mirror half of the images at random.
        augment: other random changes of the images, made before they are mirrored; None makes none.
        rank: number of this process among those that train together, from 0.
        world_size: number of these processes.
        max_unreadable: the share of the images of the source that may turn out unreadable before `epoch` raises.
        micro_batches: into how many a joint batch is divided.

    Raises:
        InputError: an argument is out of range, or the micro-batches do not divide the batch of a process.
        DataError: the source cannot fill one batch of every process.

    Attributes:
        unreadable: images that could not be read so far: index -> message.
        next_batch: number, in its epoch, of the batch after the last yielded one: where `epoch` would continue.
        rows: (batch_size,) int64, the positions of this process's images in the joint batch.
        segments: into how many a source that is read in sequence is divided; 1 for any other source.
    """

    def __init__(
        self,
        source: FaceSource,
        batch_size: int,
        *,
        image_size: int = 112,
        seed: int = 0,
        workers: int = 0,
        device: torch.device | str = "cpu",
        flip: bool = True,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
        max_unreadable: float = 1.0,
        micro_batches: int = 1,
    ) -> None:
        if batch_size < 2:
            raise InputError(f"batch_size is {batch_size}, expected at least 2: BatchNorm needs two")
        if image_size < 1:
            raise InputError(f"image_size is {image_size}, expected at least 1 pixel")
        for name, value in (("seed", seed), ("workers", workers)):
            if value < 0:
                raise InputError(f"{name} is {value}, expected 0 or more")
        if not 0 <= rank < world_size:
            raise InputError(f"rank is {rank} of {world_size} processes, expected 0 to {world_size - 1}")
        if not 0 <= max_unreadable <= 1:
            raise InputError(f"max_unreadable is {max_unreadable}, expected a share from 0 to 1")
        if micro_batches < 1 or (world_size > 1 and batch_size % micro_batches):
            raise InputError(
                f"micro_batches is {micro_batches}, expected a divisor of the {batch_size} images of a process"
            )
        if len(source) < batch_size * world_size:
            each = f" for each of {world_size} processes" if world_size > 1 else ""
            raise DataError(
                f"{len(source)} images cannot fill one batch of {batch_size}{each}: lower the batch size or add images"
            )
        self.unreadable: dict[int, str] = {}
        self.next_batch = 0
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._flip = flip
        self._world_size = world_size
        self._micro_batches = micro_batches if batch_size % micro_batches == 0 else 1
        joint = np.arange(batch_size * world_size).reshape(self._micro_batches, world_size, -1)
        self.rows: NDArray[np.int64] = joint[:, rank].reshape(-1)
        self.segments = world_size if source.in_sequence else 1
        self._max_unreadable = max_unreadable
        self._device = torch.device(device)
        self._schedule = _Schedule()
        self._next_epoch = 1
        self._loader: DataLoader[Any] = DataLoader(
            BatchReader(source, image_size, fill=world_size > 1, augment=augment, seed=seed),
            batch_sampler=self._schedule,
            collate_fn=_as_is,
            num_workers=workers,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            pin_memory=self._device.type == "cuda",
            # Without a separate generator every epoch would draw from torch's global one and change the random numbers
            # of the training: a run resumed within an epoch would differ from one that was not.
            generator=torch.Generator(),
        )
        self._end = weakref.finalize(self, _end_workers, self._loader, os.getpid())
        if workers:
            _with_workers.add(self)

    def __len__(self) -> int:
        """Batches per epoch of this process."""
        return len(self._source) // self._world_size // self._batch_size

    def draws(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the order of this process's images in an epoch and whether each is mirrored, both of the same length.

        Raises:
            InputError: `segments` does not divide the joint batch, or a micro-batch.
        """
        rng = np.random.default_rng([self._seed, epoch])
        order = self._source.reading_order(rng)
        flips = rng.random(len(order)) < 0.5 if self._flip else np.zeros(len(order), dtype=np.bool_)
        if self._world_size == 1 and self.segments == 1:
            return order, flips
        places = self._places(len(order))[:, self.rows].reshape(-1)
        return order[places], flips[places]

    def _places(self, total: int) -> NDArray[np.int64]:
        """Return the positions, in the order of an epoch, of the images of every joint batch, (batches, joint size)."""
        batches, joint = len(self), self._batch_size * self._world_size
        if self.segments == 1:
            return np.arange(batches * joint).reshape(batches, joint)
        if joint % (self.segments * self._micro_batches):
            raise InputError(
                f"a batch of {joint} images in {self._micro_batches} micro-batches cannot take equal shares from "
                f"{self.segments} segments of the shards: make the batch size a multiple of their product"
            )
        starts = np.arange(self.segments) * (total // self.segments)
        within = np.arange(batches * joint // self.segments).reshape(batches, self._micro_batches, 1, -1)
        return (starts.reshape(-1, 1) + within).reshape(batches, joint)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of an epoch, from batch ``start`` on.

        Yields:
            images (batch, 3, size, size) float32 in [-1, 1] and identities (batch,) int64, both on the device.

        Raises:
            InputError: ``start`` is negative.
            DataError: more images cannot be read than ``max_unreadable`` allows.
        """
        if start < 0:
            raise InputError(f"start is {start}, expected the number of a batch, 0 or more")
        order, flips = self.draws(number)
        size = self._batch_size
        self._schedule.batches = [
            [Draw(int(i), bool(f), number) for i, f in zip(order[at : at + size], flips[at : at + size], strict=True)]
            for at in range(start * size, len(self) * size, size)
        ]
        for batch, pixels in enumerate(self._loader, start):
            self.next_batch = batch + 1
            if pixels.unreadable:
                self._note(pixels)
            if len(pixels.identities) < 2:
                continue
            images = pixels.images.to(self._device, non_blocking=True)
            yield to_network_input(images), pixels.identities.to(self._device, non_blocking=True)

    def require_readable(self) -> None:
        """Raise `DataError` if more images cannot be read than ``max_unreadable`` allows."""
        count, total = len(self.unreadable), len(self._source)
        if count > self._max_unreadable * total:
            raise DataError(
                f"{count} of {total} images cannot be read, expected at most {self._max_unreadable:.2%}: get a new "
                f"copy of the data, or raise max_unreadable; the latest: {next(reversed(self.unreadable.values()))}"
            )

    def _note(self, pixels: Pixels) -> None:
        self.unreadable.update(pixels.unreadable)
        self.require_readable()
        if self._world_size > 1 and not len(pixels.identities):
            example = next(iter(pixels.unreadable.values()))
            raise DataError(f"a whole batch cannot be read: get a new copy of the data; the latest: {example}")

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the next epoch: the first iteration is epoch 1, the second epoch 2, and so on."""
        epoch = self._next_epoch
        self._next_epoch += 1
        return self.epoch(epoch)


def _as_is(batch: Any) -> Any:
    return batch


def _end_workers(loader: "DataLoader[Any]", owner: int) -> None:
    """End the workers while torch can still tell them to; afterwards it would send SIGTERM, which they ignore.

    That is, before the garbage collector takes the loader's queues apart, and before multiprocessing, at the end of the
    program, waits for them.
    """
    iterator = loader._iterator
    if iterator is not None and os.getpid() == owner:  # a forked process has the same objects, but not the workers
        iterator._shutdown_workers()  # type: ignore[attr-defined]


_with_workers: "weakref.WeakSet[FaceLoader]" = weakref.WeakSet()


@atexit.register
def _end_all_workers() -> None:
    for loader in _with_workers:
        loader._end()
