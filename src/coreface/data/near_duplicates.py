"""Images that are the same photograph: equal pixels, or nearly equal ones after cropping, compression or mirroring.

The likeness of two images is the correlation of 24 x 24 grey values of their middles. A face photograph compared with
itself halved in size and compressed reaches 0.99 and more, moved by two pixels of 112 0.91 (median; 5 % below 0.85),
enlarged by 4 % 0.97; the most alike photographs of one person 0.55 (median; 5 % above 0.85). So two images above 0.98
are the same photograph, and those above 0.9 are worth a look.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.images.load import fit_square

PATCH_SIDE = 24  #: grey values a side of the patch that stands for an image
_MARGIN = 8  # pixels of 112 that are cut off on every side
_ROWS, _COLUMNS = 512, 8192  # of the block of products that is in memory at a time


class AlikePair(NamedTuple):
    """Two images by their numbers, the smaller first, and their likeness, which is 1 where the pixels are equal."""

    first: int
    second: int
    likeness: float
    exact: bool


def pixel_digest(image: NDArray[np.uint8]) -> bytes:
    """Return the SHA-256 of the shape and the pixels of an image."""
    return hashlib.sha256(str(image.shape).encode() + b"\0" + np.ascontiguousarray(image).tobytes()).digest()


def grey_patch(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the grey values of the middle of an image (H, W, 3), less their mean, as a unit vector (24 * 24,).

    An image of one colour gives zeros, which are like nothing.
    """
    grey = cv2.cvtColor(fit_square(image, 112), cv2.COLOR_RGB2GRAY)
    middle = grey[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    values = cv2.resize(middle, (PATCH_SIDE, PATCH_SIDE), interpolation=cv2.INTER_AREA).ravel().astype(np.float32)
    values -= values.mean()
    unit: NDArray[np.float32] = values / max(float(np.linalg.norm(values)), 1e-6)
    return unit


def mirror_patches(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the patches (n, 24 * 24) of the mirror images."""
    mirrored: NDArray[np.float32] = patches.reshape(-1, PATCH_SIDE, PATCH_SIDE)[:, :, ::-1].reshape(patches.shape)
    return np.ascontiguousarray(mirrored)


def require_likeness(least: float) -> None:
    """Raise `InputError` where the least likeness of near duplicates is not positive."""
    if not least > 0:
        raise InputError(f"least is {least!r}, expected a likeness above 0, such as 0.98")


def alike_across(
    digests: list[bytes], patches: NDArray[np.float32], identities: NDArray[np.int64], least: float = 0.98
) -> list[AlikePair]:
    """Return the pairs of images of different identities that are the same photograph, the most alike first.

    Of images with equal pixels each is paired with one of another identity, not with all of them, and one stands for
    all where near duplicates are searched. The time grows with the square of the number of images, the memory does not.

    Args:
        digests: (n) of the pixels, from `pixel_digest`.
        patches: (n, 24 * 24) from `grey_patch`; what they hold does not matter where equal pixels alone are searched.
        identities: (n,).
        least: likeness of a near duplicate, or of its mirror image; above 1 searches for equal pixels alone.

    Raises:
        InputError: the lengths differ, or ``least`` is not positive.
    """
    if not len(digests) == len(patches) == len(identities):
        raise InputError(
            f"{len(digests)} digests, {len(patches)} patches, {len(identities)} identities; expected as many"
        )
    require_likeness(least)
    groups: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    found = [pair for group in groups.values() if len(group) > 1 for pair in _exact(group, identities)]
    if least <= 1:
        found += _near(np.array([group[0] for group in groups.values()], np.int64), patches, identities, least)
    return sorted(found, key=lambda pair: (not pair.exact, -pair.likeness, pair.first, pair.second))


def _exact(group: list[int], identities: NDArray[np.int64]) -> Iterator[AlikePair]:
    first = group[0]
    other = next((index for index in group if identities[index] != identities[first]), None)
    if other is None:
        return
    for index in group[1:]:
        partner = first if identities[index] != identities[first] else other
        yield AlikePair(min(index, partner), max(index, partner), 1.0, True)


def _near(
    chosen: NDArray[np.int64], patches: NDArray[np.float32], identities: NDArray[np.int64], least: float
) -> Iterator[AlikePair]:
    for top in range(0, len(chosen), _ROWS):
        rows = chosen[top : top + _ROWS]
        for left in range(top, len(chosen), _COLUMNS):
            columns = chosen[left : left + _COLUMNS]
            likeness = np.maximum(
                patches[rows] @ patches[columns].T, mirror_patches(patches[rows]) @ patches[columns].T
            )
            one, other = np.nonzero((likeness >= least) & (identities[rows][:, None] != identities[columns]))
            for first, second in zip(one.tolist(), other.tolist(), strict=True):
                if top + first < left + second:  # each pair once
                    yield AlikePair(
                        int(rows[first]), int(columns[second]), min(float(likeness[first, second]), 1.0), False
                    )
