"""IJB-B and IJB-C from their official lists: faces cut out by five landmarks, pooled into templates.

The folder holds ``meta/`` with the lists and ``loose_crop/`` with the images, as the sets are handed out:
``ijbc_name_5pts_score.txt`` (image, ten landmark coordinates, detector score), ``ijbc_face_tid_mid.txt`` (image,
template, medium); for 1:1 ``ijbc_template_pair_label.txt`` (template, template, 1 for one person); for 1:N
``ijbc_1N_gallery_G1.csv``, ``..._G2.csv`` and ``ijbc_1N_probe_mixed.csv`` (a heading, then template, subject and more,
one line an image). Likewise for ``ijbb``, whose galleries are called S1 and S2.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError, ImageError
from coreface.images.alignment import align, checked_landmarks
from coreface.images.load import load_image

_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True, eq=False)
class TemplateImages:
    """The images of templates. Implements `coreface.evaluation.embedding.Photographs` with aligned faces.

    Attributes:
        folder: folder of the images.
        names: of the N images.
        landmarks: (N, 5, 2) float64, pixels.
        detection: (N,) float64, detector scores.
        templates: (N,) int64.
        media: (N,) int64.
    """

    folder: Path
    names: tuple[str, ...]
    landmarks: NDArray[np.float64]
    detection: NDArray[np.float64]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return an aligned face, uint8 RGB (112, 112, 3).

        Raises:
            ImageError: the image cannot be read, or the list has a failed detection: a score of 0 or less, or landmarks
                that do not form a face.
        """
        self._check_detection(index)
        return align(load_image(self.folder / self.names[index]), self.landmarks[index])

    def content(self, index: int) -> bytes:
        """Return what determines the pixels: the file and the landmarks. Raises `ImageError` as `image` does."""
        self._check_detection(index)
        path = self.folder / self.names[index]
        try:
            stored = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        landmarks: bytes = self.landmarks[index].tobytes()
        return b"aligned\0" + landmarks + hashlib.sha256(stored).digest()

    def locate(self, index: int) -> str:
        return str(self.folder / self.names[index])

    def relative_path(self, index: int) -> str:
        """Return the name of an image in the lists."""
        return self.names[index]

    def _check_detection(self, index: int) -> None:
        if not self.detection[index] > 0:
            raise ImageError(
                f"{self.locate(index)}: the detector's score is {self.detection[index]:g}, expected more than 0: no "
                "face was found there"
            )
        try:
            checked_landmarks(self.landmarks[index])
        except ImageError as error:
            raise ImageError(f"{self.locate(index)}: {error}") from error


class TemplatePairList(NamedTuple):
    """The pairs of a 1:1 protocol: both templates, (P,) int64 each, and whether they are of one person, (P,) bool."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


class Enrolment(NamedTuple):
    """Templates of a gallery or of the probes, and their people: (T,) int64 each, with unique templates."""

    templates: NDArray[np.int64]
    subjects: NDArray[np.int64]


def read_images(folder: Path, name: str) -> TemplateImages:
    """Read the lists of images of ``ijbb`` or ``ijbc``.

    Raises:
        DataError: a list is missing or damaged, or the two lists do not match; the message has file and line.
    """
    meta = folder / "meta"
    images, landmarks = _table(meta / f"{name}_name_5pts_score.txt", 11, named=True)
    again, places = _table(meta / f"{name}_face_tid_mid.txt", 2, named=True)
    if images != again:
        line = next((i for i, (a, b) in enumerate(zip(images, again, strict=False)) if a != b), len(again)) + 1
        raise DataError(
            f"{meta}: the lists of landmarks ({len(images)} images) and of templates ({len(again)}) differ at line "
            f"{line}, expected the same images in the same order"
        )
    return TemplateImages(
        folder / "loose_crop",
        tuple(images),
        landmarks[:, :10].reshape(-1, 5, 2),
        landmarks[:, 10],
        places[:, 0].astype(np.int64),
        places[:, 1].astype(np.int64),
    )


def read_pairs(folder: Path, name: str) -> TemplatePairList:
    """Read the 1:1 list of ``ijbb`` or ``ijbc``. Raises `DataError` as `read_images` does."""
    path = folder / "meta" / f"{name}_template_pair_label.txt"
    _, pairs = _table(path, 3, named=False)
    same = pairs[:, 2]
    if not np.isin(same, (0, 1)).all():
        line = int(np.flatnonzero(~np.isin(same, (0, 1)))[0]) + 1
        raise DataError(f"{path}, line {line}: label {same[line - 1]:g}, expected 0 or 1")
    return TemplatePairList(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64), same == 1)


def read_searches(folder: Path, name: str) -> tuple[Enrolment, Enrolment, Enrolment]:
    """Read the 1:N lists of ``ijbb`` or ``ijbc``: both galleries, and the probes that are searched in each.

    Raises:
        DataError: a list is missing or damaged; the message has file and line.
    """
    one, two = _GALLERIES[name]
    paths = [folder / "meta" / f"{name}_1N_{part}.csv" for part in (f"gallery_{one}", f"gallery_{two}", "probe_mixed")]
    first, second, probes = (_enrolment(path) for path in paths)
    if both := set(first.subjects.tolist()) & set(second.subjects.tolist()):
        raise DataError(
            f"{paths[1]}: person {min(both)} is in the other gallery as well, expected galleries of different people"
        )
    return first, second, probes


def _table(path: Path, numbers: int, *, named: bool) -> tuple[list[str], NDArray[np.float64]]:
    """Read lines of a name, if ``named``, and ``numbers`` numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a list of the protocol") from error
    if not lines:
        raise DataError(f"{path} is empty, expected a list of the protocol")
    names, rows = [], np.empty((len(lines), numbers))
    for index, line in enumerate(lines):
        words = line.split()
        values = words[1:] if named else words
        try:
            if len(values) != numbers:
                raise ValueError(f"{len(words)} words")
            rows[index] = values
        except ValueError as error:
            what = f"an image and {numbers} numbers" if named else f"{numbers} numbers"
            raise DataError(f"{path}, line {index + 1}: {error}, expected {what}") from None
        if not np.isfinite(rows[index]).all():
            raise DataError(f"{path}, line {index + 1}: a number is not finite")
        names.append(words[0] if named else "")
    return names, rows


def _enrolment(path: Path) -> Enrolment:
    """Read template and subject from the first two columns, below a heading; a template has one line per image."""
    subject_of: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows, None)
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                try:
                    template, subject = int(row[0]), int(row[1])
                except (ValueError, IndexError):
                    raise DataError(f"{where}: {','.join(row)[:80]!r}, expected template,subject,...") from None
                if subject_of.setdefault(template, subject) != subject:
                    raise DataError(
                        f"{where}: template {template} belongs to subject {subject_of[template]} in an earlier line"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a list of the protocol") from error
    if not subject_of:
        raise DataError(f"{path} is empty, expected a list of the protocol")
    return Enrolment(np.array(list(subject_of), np.int64), np.array(list(subject_of.values()), np.int64))
