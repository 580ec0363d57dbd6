"""Statistics of a source of faces (`survey_faces`) and a check for faults (`check_faces`)."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource, Notice
from coreface.errors import CoreFaceError, InputError
from coreface.images.load import fit_square

_LOOKED_AT = 200  # number of images that a survey decodes
_SAMPLES, _SAMPLE_SIDE = 32, 112
_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_CHUNK = 64


@dataclass(frozen=True)
class Survey:
    """Statistics of a source, from its index and some of its images.

    Attributes:
        images: number of images.
        identities: number of identities.
        images_per_identity: fewest, median and most.
        histogram: (from, to, identities) rows: how many identities have from .. to images.
        looked_at: how many images were decoded for the attributes below, evenly spaced over the source.
        unreadable: how many of those could not be decoded.
        sizes: "width x height" -> how many of those looked at.
        grey: how many of those looked at are grey, all three channels alike.
    """

    images: int
    identities: int
    images_per_identity: tuple[int, float, int]
    histogram: tuple[tuple[int, int, int], ...]
    looked_at: int
    unreadable: int
    sizes: dict[str, int]
    grey: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """The faults of a source; every list is empty if there are none. Notices are faults only if they lose faces.

    Attributes:
        images: number of images, all decoded.
        identities: number of identities.
        unreadable: messages, each with the place.
        duplicates_within: groups of images with equal pixels, all of one identity.
        duplicates_across: such groups with several identities, of which at most one can be right.
        small: (name, images) of the identities with fewer images than ``least``.
        other_sizes: (place, "width x height") of the images that differ from the most common size.
        size: the most common size.
        notices: notices of the storage: stray files, folders without images, labels without images.
    """

    images: int
    identities: int
    unreadable: tuple[str, ...]
    duplicates_within: tuple[tuple[str, ...], ...]
    duplicates_across: tuple[tuple[str, ...], ...]
    small: tuple[tuple[str, int], ...]
    other_sizes: tuple[tuple[str, str], ...]
    size: str | None
    notices: tuple[Notice, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        found = (self.unreadable, self.duplicates_within, self.duplicates_across, self.small, self.other_sizes)
        return not any(found) and not any(notice.loses for notice in self.notices)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"good": self.good, **asdict(self)}


def survey_faces(source: FaceSource) -> Survey:
    """Describe a source. Some of its images are decoded, at most 200."""
    counts = np.bincount(source.identities, minlength=source.num_identities)
    bounds = [*(bound for bound in _BOUNDS if bound <= counts.max()), int(counts.max()) + 1]
    bounds = sorted(set(bounds))
    rows = [(low, high - 1, int(((counts >= low) & (counts < high)).sum())) for low, high in itertools.pairwise(bounds)]
    looked_at = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT, dtype=np.int64)).tolist()
    sizes: Counter[str] = Counter()
    grey = unreadable = 0
    for index in looked_at:
        try:
            image = source[index][0]
        except CoreFaceError:
            unreadable += 1
            continue
        sizes[_size(image)] += 1
        grey += bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
    spread = (int(counts.min()), float(np.median(counts)), int(counts.max()))
    return Survey(
        len(source),
        source.num_identities,
        spread,
        tuple(rows),
        len(looked_at),
        unreadable,
        dict(sizes.most_common()),
        grey,
    )


def sample_sheet(source: FaceSource) -> bytes:
    """Return a PNG of the first images, eight per row; an image that cannot be read is black."""
    tiles = np.zeros((min(_SAMPLES, len(source) + -len(source) % 8), _SAMPLE_SIDE, _SAMPLE_SIDE, 3), np.uint8)
    for index in range(min(_SAMPLES, len(source))):
        try:
            tiles[index] = fit_square(source[index][0], _SAMPLE_SIDE)
        except CoreFaceError:
            continue
    rows = [np.concatenate(list(row), axis=1) for row in tiles.reshape(-1, 8, *tiles.shape[1:])]
    return bytes(cv2.imencode(".png", np.concatenate(rows)[:, :, ::-1])[1])


def check_faces(source: FaceSource, *, least: int = 2, progress: Callable[[int], None] | None = None) -> Check:
    """Decode every image of a source and list what is wrong.

    Args:
        source: the faces.
        least: images an identity should have.
        progress: called with the number of images done.

    Raises:
        InputError: ``least`` is below 1.
    """
    if least < 1:
        raise InputError(f"least is {least}, expected at least 1 image")
    unreadable: list[str] = []
    places: dict[bytes, list[int]] = {}
    sizes: dict[str, list[int]] = {}
    for done, (index, found) in enumerate(_decoded(source), 1):
        if isinstance(found, str):
            unreadable.append(found)
        else:
            digest, size = found
            places.setdefault(digest, []).append(index)
            sizes.setdefault(size, []).append(index)
        if progress and done % _CHUNK == 0:
            progress(done)
    groups = [group for group in places.values() if len(group) > 1]
    across = [group for group in groups if len(set(source.identities[group].tolist())) > 1]
    within = [group for group in groups if group not in across]
    counts = np.bincount(source.identities, minlength=source.num_identities).tolist()
    usual = max(sizes, key=lambda size: len(sizes[size])) if sizes else None
    others = sorted((index, size) for size, indices in sizes.items() if size != usual for index in indices)
    return Check(
        images=len(source),
        identities=source.num_identities,
        unreadable=tuple(unreadable),
        duplicates_within=_located(source, within),
        duplicates_across=_located(source, across),
        small=tuple((source.identity_names[i], count) for i, count in enumerate(counts) if count < least),
        other_sizes=tuple((source.locate(index), size) for index, size in others),
        size=usual,
        notices=tuple(source.storage_notices()),  # identities of a single image are among `small`
    )


def _decoded(source: FaceSource) -> Iterator[tuple[int, str | tuple[bytes, str]]]:
    """Yield for each image its error, or a digest of its pixels and its size; decoding uses all CPU cores."""

    def look(index: int) -> str | tuple[bytes, str]:
        try:
            image = source[index][0]
        except CoreFaceError as error:
            return str(error)
        digest = hashlib.blake2b(image.tobytes(), digest_size=16)
        digest.update(str(image.shape).encode())
        return digest.digest(), _size(image)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source), _CHUNK):
            part = range(start, min(start + _CHUNK, len(source)))
            yield from zip(part, pool.map(look, part), strict=True)


def _located(source: FaceSource, groups: list[list[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(source.locate(index) for index in group) for group in groups)


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
