"""What a loader's worker process does: read, square and augment the images of a batch, and return them as uint8."""

import os
import signal
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from coreface.data.augmentation import Augmentation
from coreface.data.source import FaceSource
from coreface.errors import ImageError
from coreface.images.load import fit_square


class Draw(NamedTuple):
    """One image of an epoch: its index, whether it is mirrored, and the number of the epoch."""

    image: int
    flip: bool
    epoch: int


class Pixels(NamedTuple):
    """A batch from a worker: uint8 (batch, size, size, 3), int64 (batch,), and the messages of unreadable images."""

    images: torch.Tensor
    identities: torch.Tensor
    unreadable: dict[int, str]


class BatchReader(Dataset[Any]):
    """Reads a batch at once, so that it is one array on its way between processes.

    Args:
        source: where the faces come from.
        image_size: side of the square images, in pixels.
        fill: put another image of the batch in the place of an unreadable one, so that every batch has its full size.
        augment: random changes besides the mirror; None makes none.
        seed: of the augmentation.
    """

    def __init__(
        self, source: FaceSource, image_size: int, fill: bool, augment: Augmentation | None, seed: int
    ) -> None:
        self._source = source
        self._image_size = image_size
        self._fill = fill
        self._augment = augment
        self._seed = seed

    def __getitems__(self, draws: list[Draw]) -> Pixels:
        size = self._image_size
        images = np.empty((len(draws), size, size, 3), dtype=np.uint8)
        identities: list[int] = []
        unreadable: dict[int, str] = {}
        if self._augment is not None:
            numbers = self._augment.draw(self._seed, draws[0].epoch, [draw.image for draw in draws])
        for row, draw in enumerate(draws):
            try:
                image, identity = self._source[draw.image]
            except ImageError as error:
                unreadable[draw.image] = str(error)
                continue
            try:
                image = fit_square(image, size)
            except ImageError as error:  # a strip too long to be padded to a square
                unreadable[draw.image] = f"{self._source.locate(draw.image)}: {error}"
                continue
            if self._augment is not None:
                image = self._augment.apply(image, numbers[row])
            images[len(identities)] = image[:, ::-1] if draw.flip else image
            identities.append(identity)
        read = len(identities)
        if self._fill and 0 < read < len(draws):
            again = np.arange(len(draws) - read) % read
            images[read:] = images[again]
            identities += [identities[index] for index in again]
        return Pixels(torch.from_numpy(images[: len(identities)]), torch.tensor(identities), unreadable)


def start_worker(_: int) -> None:
    """Give the training process priority, and leave it to that process when to stop."""
    # The training process has priority: decoding must not take time from a step, and OpenCV and torch must not start a
    # pool of threads in every worker.
    os.nice(19)
    # Ctrl-C, and SIGTERM to a whole service, reach the workers too. Only the training process decides when to stop, and
    # it still needs batches to finish the step. Workers end when it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
