"""Alignment: a similarity maps five landmarks to fixed points of a square crop."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import ImageError, InputError

Border: TypeAlias = Literal["black", "replicate"]

#: Positions of the eyes, the nose and the corners of the mouth, (5, 2) in pixels (x, y) of a square of `TEMPLATE_SIZE`.
#: The order is that of the picture: the eye on its left, on its right, nose, left and right corner of the mouth.
TEMPLATES: Final[dict[str, NDArray[np.float64]]] = {
    "arcface": np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
}
TEMPLATE_SIZE: Final = 112
UNKNOWN: Final = "unknown"  #: the template of crops whose alignment was not recorded

_BORDERS: Final = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
_LEAST_EXPLAINED = 0.5  # frontal faces reach 0.98, profiles 0.8, exchanged sides 0.05
_LARGEST_SHRINK = 2.0  # bilinear interpolation uses two pixels per row: beyond this it skips some
_LONGEST_WARPED = 2**15 - 2  # OpenCV's warp counts pixels in 16 bits


@dataclass(frozen=True)
class Alignment:
    """How crops were made. It is stored with the crops, and with the encoder that is trained on them.

    Attributes:
        template: a name of `TEMPLATES`, or ``unknown``.
        border: how to fill the area outside of the photograph: ``black``, as the public sets and weights saw it, or its
            ``replicate``-d edge.
    """

    template: str = "arcface"
    border: Border = "black"

    def __post_init__(self) -> None:
        if self.template not in (*TEMPLATES, UNKNOWN):
            raise InputError(f"the alignment is {self.template!r}, expected {', '.join(TEMPLATES)} or {UNKNOWN}")
        if self.border not in _BORDERS:
            raise InputError(f"the border is {self.border!r}, expected {' or '.join(_BORDERS)}")

    @property
    def known(self) -> bool:
        """Whether the template is known, so that crops can be made."""
        return self.template != UNKNOWN

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return asdict(self)


def align(
    image: NDArray[np.uint8], landmarks: ArrayLike, size: int = 112, template: str = "arcface", border: Border = "black"
) -> NDArray[np.uint8]:
    """Cut out a face with the similarity that maps its landmarks closest to the template.

    A photograph that shrinks by more than 2 is first reduced by averaging to twice the size, so that no pixel is
    skipped, before a single bilinear warp.

    Args:
        image: uint8 (H, W, 3).
        landmarks: (5, 2), pixels (x, y): the eye on the left of the picture, on its right, nose, left and right corner
            of the mouth.
        size: side of the crop in pixels.
        template: a name of `TEMPLATES`.
        border: what fills the crop outside of the photograph.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: the landmarks do not form a face, or are outside of the image.
        InputError: another shape or dtype, an unknown template or border, or ``size`` below 1.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"the image is {shape}, expected uint8 (height, width, 3): load_image makes that of any file")
    if border not in _BORDERS:
        raise InputError(f"the border is {border!r}, expected {' or '.join(_BORDERS)}")
    points = checked_landmarks(landmarks, template)
    height, width = image.shape[:2]
    if not ((points >= 0) & (points < (width, height))).all(axis=1).any():
        raise ImageError(f"all five landmarks lie outside of the image of {width} x {height} pixels")
    matrix = similarity(points, size, template)
    image, matrix = _reduced(image, matrix, size)
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border])
    return np.asarray(warped, np.uint8)


def similarity(landmarks: ArrayLike, size: int = 112, template: str = "arcface") -> NDArray[np.float64]:
    """Return the least-squares similarity (2, 3) that maps landmarks (5, 2) to a template.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 13, 1991;
    without reflections.

    Raises:
        ImageError: the landmarks are those of no face.
        InputError: another shape, an unknown template, or ``size`` below 1.
    """
    points = _complex(checked_landmarks(landmarks, template))
    if size < 1:
        raise InputError(f"size is {size}, expected at least 1 pixel")
    places = _complex(TEMPLATES[template]) * (size / TEMPLATE_SIZE)
    # A similarity of the plane is one complex factor and a shift: least squares have a closed form.
    centred = points - points.mean()
    factor = np.vdot(centred, places - places.mean()) / np.vdot(centred, centred)
    shift = places.mean() - factor * points.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def checked_landmarks(landmarks: ArrayLike, template: str = "arcface") -> NDArray[np.float64]:
    """Return landmarks as (5, 2) float64 after checking that they can form a face.

    The best similarity must explain half of the landmarks' variance. Frontal faces reach 98 %, a full profile 80 %.
    With left and right exchanged it is 5 %, which is recognised because the mirrored points then fit.

    Raises:
        ImageError: they are not finite, coincide, are mirrored, or do not form a face.
        InputError: another shape, or an unknown template.
    """
    if template not in TEMPLATES:
        raise InputError(f"the alignment is {template!r}, expected {' or '.join(TEMPLATES)}")
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise InputError(f"landmarks have shape {points.shape}, expected (5, 2): eyes, nose, corners of the mouth")
    if not np.isfinite(points).all():
        raise ImageError("a landmark is not finite, expected eyes, nose and corners of the mouth")
    plane, places = _complex(points), _complex(TEMPLATES[template])
    centred, expected = plane - plane.mean(), places - places.mean()
    spread = float(np.vdot(centred, centred).real)
    if spread < 1e-6:
        raise ImageError("the five landmarks are one point, expected eyes, nose and corners of the mouth")
    whole = spread * float(np.vdot(expected, expected).real)
    if abs(np.vdot(centred, expected)) ** 2 / whole < _LEAST_EXPLAINED:
        if abs(np.vdot(centred.conj(), expected)) ** 2 / whole >= _LEAST_EXPLAINED:
            raise ImageError(
                "left and right are exchanged in the five landmarks, expected the eye and the corner of the mouth on "
                "the left of the picture first"
            )
        raise ImageError("the five landmarks are no face, expected eyes, nose and corners of the mouth")
    return points


def _complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]


def _reduced(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the part of the image that the crop needs, reduced to about twice the crop's scale, and its matrix."""
    shrink = 1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink <= _LARGEST_SHRINK and max(image.shape) <= _LONGEST_WARPED:
        return image, matrix
    # Only the part that the crop needs, including neighbours for the interpolation at its edges.
    left, top, right, bottom = _needed(matrix, size, image.shape[1], image.shape[0], margin=2 * shrink)
    part = image[top:bottom, left:right]
    factor = min(1.0, _LARGEST_SHRINK / shrink)
    width, height = (max(1, round(side * factor)) for side in (right - left, bottom - top))
    smaller = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    # From pixels of the reduced part to pixels of the image; pixel centres are at integer coordinates.
    x, y = (right - left) / width, (bottom - top) / height
    back = np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5], [0, 0, 1]])
    return np.asarray(smaller, np.uint8), matrix @ back


def _needed(
    matrix: NDArray[np.float64], size: int, width: int, height: int, margin: float
) -> tuple[int, int, int, int]:
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ inverse.T
    low, high = np.floor(corners.min(axis=0) - margin), np.ceil(corners.max(axis=0) + margin)
    left, top = (int(np.clip(value, 0, side - 1)) for value, side in zip(low, (width, height), strict=True))
    right, bottom = (int(np.clip(value, 1, side)) for value, side in zip(high, (width, height), strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)
