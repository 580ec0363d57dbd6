"""Random changes of training images, each drawn from (seed, epoch, image) alone.

Sources: the kinds and strengths of crop, photometric and low_resolution follow Kim, Jain and Liu, "AdaFace" (CVPR
2022); erase follows Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), with one colour instead of noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.numerics.random_bits import random_bit_rows, random_bits, shifted

#: How many random numbers each kind takes. Every image draws all of them, so that one kind does not change another.
_COUNTS: Final = {"scale": 1, "rotate": 1, "shift": 2, "crop": 5, "photometric": 4, "low_resolution": 2, "erase": 8}
_ENDS: Final = np.cumsum(list(_COUNTS.values())).tolist()
_PLACES: Final = {name: slice(end - _COUNTS[name], end) for name, end in zip(_COUNTS, _ENDS, strict=True)}
_STREAM: Final = int.from_bytes(b"augment", "big")  # keeps these numbers apart from those of dropout

_CROP_AREA, _CROP_ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)
_ERASE_AREA, _ERASE_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
_PHOTOMETRIC = (0.5, 1.5)
_LOW_RESOLUTION = (0.2, 1.0)
_LUMA: Final = (0.299, 0.587, 0.114)  # of ITU-R BT.601
_TO_GREY, _SAME = np.tile(_LUMA, (3, 1)), np.eye(3)  # matrices of colours


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, in the order map, low_resolution, photometric, erase, crop.

    `scale`, `rotate` and `shift` are ranges that hold for every image and make one affine map; what it brings in from
    outside of the image repeats the nearest edge. The others are probabilities.

    Attributes:
        scale: the smallest and the largest factor by which the face grows.
        rotate: degrees in either direction, around the centre.
        shift: share of the side, in either direction along x and along y.
        crop: probability that all but a rectangle becomes black: 0.2 to 1 of the area, sides 3:4 to 4:3.
        photometric: probability that brightness, contrast and saturation change, each by a factor of 0.5 to 1.5.
        low_resolution: probability that the image is reduced to 0.2 to 1 of its side and enlarged again.
        erase: probability that a rectangle gets one random colour: 0.02 to 1/3 of the area, sides 3:10 to 10:3.

    Raises:
        InputError: a value is out of range.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    shift: float = 0.0
    crop: float = 0.0
    photometric: float = 0.0
    low_resolution: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(f"scale is {self.scale}, expected two rising factors above 0, such as (0.9, 1.1)")
        if not 0 <= self.rotate <= 180:
            raise InputError(f"rotate is {self.rotate}, expected 0 to 180 degrees")
        if not 0 <= self.shift < 1:
            raise InputError(f"shift is {self.shift}, expected a share of the side from 0 to below 1")
        for name in ("crop", "photometric", "low_resolution", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected a probability from 0 to 1")

    def draw(self, seed: int, epoch: int, images: Sequence[int]) -> NDArray[np.float64]:
        """Draw the random numbers of images in an epoch, each row from (seed, epoch, image) alone.

        Args:
            seed: any integer.
            epoch: number of the epoch.
            images: indices of the images in their source.

        Returns:
            (images, 23), 0 <= number < 1.
        """
        keys = random_bits(seed, _STREAM, epoch, torch.tensor(images, dtype=torch.int64))
        bits = shifted(random_bit_rows(keys, _ENDS[-1]), 11)
        return np.asarray(bits.double().mul_(2.0**-53).numpy(), np.float64)

    def affine(self, numbers: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Return the map (2, 3) from pixels (x, y) of a square image to where they go.

        A point p goes to c + scale * R (p - c) + shift * size, where c is the centre of the image. A positive angle
        turns clockwise. Centres of pixels have whole numbers.

        Args:
            numbers: (23,), of `draw`.
            size: side of the image in pixels.
        """
        scale, rotate, right, down = numbers[:4].tolist()  # in the order of _COUNTS
        factor = _between(self.scale, scale)
        angle = math.radians(self.rotate) * (2 * rotate - 1)
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        centre, reach = (size - 1) / 2, self.shift * size
        x = centre - (cos - sin) * centre + reach * (2 * right - 1)
        y = centre - (sin + cos) * centre + reach * (2 * down - 1)
        return np.array([[cos, -sin, x], [sin, cos, y]])

    def apply(self, image: NDArray[np.uint8], numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the image as training sees it, which is the image itself where nothing was drawn.

        Args:
            image: uint8 (size, size, 3), which stays as it is.
            numbers: (23,), of `draw`.

        Returns:
            uint8 (size, size, 3).
        """
        if self.scale != (1, 1) or self.rotate or self.shift:
            image = _warped(image, self.affine(numbers, len(image)))
        changes = (
            ("low_resolution", self.low_resolution, _reduced),
            ("photometric", self.photometric, _recoloured),
            ("erase", self.erase, _erased),
            ("crop", self.crop, _cropped),
        )
        values = numbers.tolist()
        for name, probability, change in changes:
            chance, *rest = values[_PLACES[name]]
            if chance < probability:
                image = change(image, rest)
        return image


def _warped(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    # OpenCV interpolates four channels in half of the time that it needs for three.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    warped = cv2.warpAffine(four, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), np.uint8)


def _reduced(image: NDArray[np.uint8], numbers: list[float]) -> NDArray[np.uint8]:
    size = len(image)
    side = max(1, round(size * _between(_LOW_RESOLUTION, numbers[0])))
    # A box as wide as the distance of two samples, odd so that it shifts nothing: a third of the time of INTER_AREA.
    box = 2 * round((size / side - 1) / 2) + 1
    blurred = cv2.blur(image, (box, box), borderType=cv2.BORDER_REPLICATE)
    small = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _recoloured(image: NDArray[np.uint8], numbers: list[float]) -> NDArray[np.uint8]:
    """Change brightness, contrast around the mean grey, and saturation, as one affine map of the colours."""
    brightness, contrast, saturation = (_between(_PHOTOMETRIC, number) for number in numbers)
    grey = sum(weight * mean for weight, mean in zip(_LUMA, cv2.mean(image), strict=False))
    matrix = np.empty((3, 4))
    matrix[:, :3] = (brightness * contrast * (1 - saturation)) * _TO_GREY
    matrix[:, :3] += (brightness * contrast * saturation) * _SAME
    matrix[:, 3] = brightness * (1 - contrast) * grey
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _erased(image: NDArray[np.uint8], numbers: list[float]) -> NDArray[np.uint8]:
    rows, columns = _rectangle(len(image), _ERASE_AREA, _ERASE_ASPECT, numbers[:4])
    out = image.copy()
    out[rows, columns] = [int(256 * number) for number in numbers[4:]]
    return out


def _cropped(image: NDArray[np.uint8], numbers: list[float]) -> NDArray[np.uint8]:
    rows, columns = _rectangle(len(image), _CROP_AREA, _CROP_ASPECT, numbers)
    out = np.zeros_like(image)
    out[rows, columns] = image[rows, columns]
    return out


def _rectangle(
    size: int, area: tuple[float, float], aspect: tuple[float, float], numbers: list[float]
) -> tuple[slice, slice]:
    """Return the rows and the columns of a rectangle; one that is longer than the image is cut to it."""
    whole = size * size * _between(area, numbers[0])
    ratio = math.exp(_between((math.log(aspect[0]), math.log(aspect[1])), numbers[1]))  # width to height
    height, width = (min(size, max(1, round(math.sqrt(side)))) for side in (whole / ratio, whole * ratio))
    top, left = int((size - height + 1) * numbers[2]), int((size - width + 1) * numbers[3])
    return slice(top, top + height), slice(left, left + width)


def _between(limits: tuple[float, float], number: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * number
