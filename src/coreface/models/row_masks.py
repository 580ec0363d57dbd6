"""Random masks that depend only on the image and the step, not on how a batch is split over processes."""

import hashlib
from typing import NamedTuple

import torch

from coreface.errors import InputError
from coreface.numerics.random_bits import random_bit_rows, random_bits, shifted


class RowMasks(NamedTuple):
    """The key of the dropout masks: each mask is a hash of (seed, step, view, row, feature).

    The same images therefore get the same masks in any order, however the batch is split over processes.

    Attributes:
        seed: any whole number.
        step: number of the training step; a scalar int64 tensor if it is kept on the device.
        rows: (batch,), int64, on the device of the batch: the number of each image in the step's whole batch.
    """

    seed: int
    step: int | torch.Tensor
    rows: torch.Tensor

    def check(self, batch: torch.Tensor) -> None:
        """Check that ``rows`` fits a batch.

        Raises:
            InputError: ``rows`` has the wrong shape, dtype or device.
        """
        rows = self.rows
        if rows.shape != batch.shape[:1] or rows.dtype != torch.int64 or rows.device != batch.device:
            raise InputError(
                f"masks.rows is {rows.dtype} {tuple(rows.shape)} on {rows.device}, expected torch.int64 "
                f"({len(batch)},) on {batch.device}: the number of each image in the step's whole batch"
            )

    def dropped(self, features: torch.Tensor, rate: float, view: int) -> torch.Tensor:
        """Drop features of one view.

        Args:
            features: (batch, features).
            rate: dropout probability, 0 <= rate < 1, kept to 2**-32.
            view: number of the view.

        Returns:
            (batch, features): 0, or the feature divided by 1 - rate, in the type of the features.
        """
        if rate == 0:
            return features
        size = features.shape[1]
        keys = random_bits(self.seed, self.step, view, self.rows)
        bits = random_bit_rows(keys, (size + 1) // 2).view(torch.int32)[:, :size]
        # The bits are signed and start at -2**31: a fraction ``rate`` of the 2**32 values is below the bound.
        kept = bits >= int(rate * 2**32) - 2**31
        return features * kept.to(features.dtype).div_(1 - rate)

    def bits(self, draw: str) -> torch.Tensor:
        """Return 64 random bits for every image from (seed, step, draw, row), (batch,), int64.

        Args:
            draw: what they are for. Each draw of a step has a different name.
        """
        # The numbers of views are small, so no draw has the same key as a view.
        stream = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:7], "big") | 1 << 32
        return random_bits(self.seed, self.step, stream, self.rows)

    def uniform(self, draw: str, count: int) -> torch.Tensor:
        """Draw uniform numbers for every image, for a trunk that drops parts at random.

        Args:
            draw: what the numbers are for, as in `bits`.
            count: how many numbers per image.

        Returns:
            (batch, count), float32, 0 <= number < 1.
        """
        return shifted(random_bit_rows(self.bits(draw), count), 40).float() * 2.0**-24
