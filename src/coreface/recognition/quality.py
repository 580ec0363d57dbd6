"""The quality of a face in a photograph: measures with units, and limits that say why a face is not used.

Sharpness, exposure and contrast are those of grey levels (0.299 R + 0.587 G + 0.114 B) of the inner face: columns 28 to
84 and rows 34 to 101 of an aligned crop of 112 x 112 pixels, whatever size the encoder takes. Outside of the photograph
the crop repeats the photograph's edge. docs/quality.md says which measures predict errors.
"""

from dataclasses import asdict, dataclass, fields, replace
from math import atan, atan2, degrees
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.images.alignment import TEMPLATE_SIZE, TEMPLATES, align, similarity
from coreface.images.load import fit_square
from coreface.recognition.detection import Face

_TEMPLATE: Final = "arcface"
_ROWS, _COLUMNS = slice(34, 102), slice(28, 85)
_NOSE_DEPTH = 0.5  # how far the tip of a nose stands out, in distances between the eyes
_NOSE_PLACE = 0.557  # between the eyes (0) and the corners of the mouth (1)


@dataclass(frozen=True)
class Quality:
    """The measures of one face; None if unknown, for example of a crop without landmarks.

    Attributes:
        eyes: distance between the eyes, in pixels of the photograph.
        sharpness: standard deviation of the Laplacian (four neighbours less four times the pixel) over the contrast,
            which removes the effect of light; no unit. It falls with blur and with small faces, which the crop
            enlarges, and rises with noise. 0 for a face of one grey level.
        exposure: mean grey level, 0 to 255.
        contrast: standard deviation of the grey levels.
        yaw: degrees to the side, 0 for a frontal face, positive if the nose points to the right of the picture. An
            approximation: the arc tangent of d / (e / 2), with d the distance of the nose from the line between the
            centres of the eyes and of the mouth, e the distance between the eyes, and e / 2 the depth of the nose.
        pitch: degrees, positive downwards; the same with the distance along that line from 0.557 of its length, the
            median position of the nose with yunet (375 people).
        roll: degrees of the line between the eyes, positive clockwise; alignment undoes it.
        score: the detector's confidence, 0 to 1.
        residual: mean distance of the aligned landmarks to the template, in pixels of a crop of 112.
        length: of the embedding before it is normalised, the mean over the crop and its mirror image where both are
            embedded; in units of the encoder.
    """

    eyes: float | None = None
    sharpness: float | None = None
    exposure: float | None = None
    contrast: float | None = None
    yaw: float | None = None
    pitch: float | None = None
    roll: float | None = None
    score: float | None = None
    residual: float | None = None
    length: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return the measures, rounded to what they resolve."""
        plain: dict[str, float | None] = asdict(self)
        return {name: None if value is None else round(value, 4) for name, value in plain.items()}


#: The unit of each measure.
UNITS: Final[dict[str, str]] = {
    "eyes": "pixels",
    "sharpness": "",
    "exposure": "grey levels",
    "contrast": "grey levels",
    "yaw": "degrees",
    "pitch": "degrees",
    "roll": "degrees",
    "score": "",
    "residual": "pixels of 112",
    "length": "of the encoder",
}


@dataclass(frozen=True)
class QualityLimits:
    """Requirements of a face. None is no limit; an unknown measure fulfils every limit.

    Attributes:
        min_eyes: least pixels between the eyes; the larger of this and a pipeline's ``min_eyes`` counts.
        min_sharpness: least sharpness.
        min_exposure: darkest mean grey level.
        max_exposure: brightest mean grey level.
        min_contrast: least contrast.
        max_yaw: most degrees to either side.
        max_pitch: most degrees upwards or downwards.
        max_roll: most degrees of rotation in the picture.
        min_score: least confidence of the detector.
        max_residual: largest residual of the alignment.
    """

    min_eyes: float | None = None
    min_sharpness: float | None = None
    min_exposure: float | None = None
    max_exposure: float | None = None
    min_contrast: float | None = None
    max_yaw: float | None = None
    max_pitch: float | None = None
    max_roll: float | None = None
    min_score: float | None = None
    max_residual: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value >= 0:
                raise InputError(f"{field.name} is {value}, expected 0 or more, or None for no limit")

    def to_dict(self) -> dict[str, float]:
        """Return the limits that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def reasons(self, quality: Quality) -> dict[str, str]:
        """Return a short name and a sentence for each limit that a face fails; empty if it fulfils all."""
        found = {}
        for limit, (name, text, unit) in _REASONS.items():
            allowed, value = getattr(self, limit), getattr(quality, limit.partition("_")[2])
            if allowed is None or value is None:
                continue
            least = limit.startswith("min")
            if value < allowed if least else abs(value) > allowed:
                expected = "at least" if least else "at most"
                found[name] = f"{text.format(f'{value:.3g}{unit}')}, expected {expected} {allowed:g}"
        return found


_REASONS: Final[dict[str, tuple[str, str, str]]] = {
    "min_eyes": ("small face", "the face has {} between the eyes", " pixels"),
    "min_score": ("doubtful face", "the detector's confidence is {}", ""),
    "max_residual": ("odd landmarks", "the landmarks are {} off the template", " pixels"),
    "min_sharpness": ("blurred", "the sharpness is {}", ""),
    "min_exposure": ("dark", "the mean of the face is {}", " grey levels"),
    "max_exposure": ("bright", "the mean of the face is {}", " grey levels"),
    "min_contrast": ("low contrast", "the contrast is {}", " grey levels"),
    "max_yaw": ("turned to the side", "the yaw is {}", " degrees"),
    "max_pitch": ("turned up or down", "the pitch is {}", " degrees"),
    "max_roll": ("tilted", "the roll is {}", " degrees"),
}

LimitsName: TypeAlias = Literal["off", "standard", "strict"]

#: The named limits: the measures whose error-versus-discard curves fall for sface with yunet on photographs of the web.
#: ``standard`` refuses about 5 % of such photographs, ``strict`` about 20 % (docs/quality.md).
LIMITS: Final[dict[LimitsName, QualityLimits]] = {
    "off": QualityLimits(),
    "standard": QualityLimits(min_eyes=20, min_sharpness=0.2, max_yaw=50, max_pitch=25, min_score=0.88, max_residual=8),
    "strict": QualityLimits(min_eyes=30, min_sharpness=0.3, max_yaw=40, max_pitch=20, min_score=0.91, max_residual=6),
}


def quality_limits(quality: LimitsName | QualityLimits) -> QualityLimits:
    """Return the limits of a name, or limits as they are.

    Raises:
        InputError: there are no limits of that name.
    """
    if isinstance(quality, QualityLimits):
        return quality
    if quality not in LIMITS:
        raise InputError(f"quality is {quality!r}, expected {', '.join(LIMITS)} or QualityLimits")
    return LIMITS[quality]


def measure_quality(image: NDArray[np.uint8], face: Face) -> Quality:
    """Measure a face in its photograph.

    Args:
        image: uint8 RGB (H, W, 3).
        face: its place.

    Raises:
        ImageError: the landmarks cannot be aligned, or are outside of the image.
        InputError: the image has another shape or dtype.
    """
    if face.landmarks is None:
        return Quality(None, *_grey_measures(fit_square(image, TEMPLATE_SIZE)))
    crop = align(image, face.landmarks, TEMPLATE_SIZE, _TEMPLATE, "replicate")
    return Quality(
        face.eye_distance,
        *_grey_measures(crop),
        *pose(face.landmarks),
        face.score,
        alignment_residual(face.landmarks),
    )


def judge(image: NDArray[np.uint8], face: Face, limits: QualityLimits) -> dict[str, str]:
    """Return the reasons against a face, as `QualityLimits.reasons`; only what the limits need is measured.

    Raises:
        ImageError, InputError: as `measure_quality`.
    """
    small = limits.reasons(Quality(face.eye_distance))
    if small or replace(limits, min_eyes=None) == LIMITS["off"]:
        return small
    return limits.reasons(measure_quality(image, face))


def higher_is_better(quality: Quality) -> dict[str, float]:
    """Return the known measures such that each rises with quality, as error-versus-discard curves need them.

    Yaw, pitch, roll and the residual become negative absolute values, exposure the negative distance to the middle of
    the grey levels.
    """
    known = {name: value for name, value in asdict(quality).items() if value is not None}
    for name in ("yaw", "pitch", "roll", "residual"):
        if name in known:
            known[name] = -abs(known[name])
    if "exposure" in known:
        known["exposure"] = -abs(known["exposure"] - 127.5)
    return known


def pose(landmarks: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return yaw, pitch and roll in degrees from landmarks (5, 2), as `Quality` defines them."""
    left, right, nose, *mouth = landmarks
    eyes, lips = (left + right) / 2, (mouth[0] + mouth[1]) / 2
    across = right - left
    width, height = float(np.hypot(*across)), float(np.hypot(*(lips - eyes)))
    if width == 0 or height == 0:
        return 90.0, 90.0, 0.0  # both eyes in one place
    down = (lips - eyes) / height
    beside = float(down[1] * (nose - eyes)[0] - down[0] * (nose - eyes)[1])
    along = float(down @ (nose - eyes)) - _NOSE_PLACE * height
    depth = _NOSE_DEPTH * width
    return degrees(atan(beside / depth)), degrees(atan(along / depth)), degrees(atan2(across[1], across[0]))


def alignment_residual(landmarks: NDArray[np.float64]) -> float:
    """Return the mean distance of aligned landmarks (5, 2) to the template, in pixels of a crop of 112.

    Raises:
        ImageError: the landmarks cannot be aligned.
    """
    matrix = similarity(landmarks, TEMPLATE_SIZE, _TEMPLATE)
    places = landmarks @ matrix[:, :2].T + matrix[:, 2]
    return float(np.linalg.norm(places - TEMPLATES[_TEMPLATE], axis=1).mean())


def _grey_measures(crop: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Return sharpness, exposure and contrast of a crop (112, 112, 3)."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_64F, ksize=1)[_ROWS, _COLUMNS]
    inner = grey[_ROWS, _COLUMNS].astype(np.float64)
    contrast = float(inner.std())
    return float(laplacian.std()) / contrast if contrast else 0.0, float(inner.mean()), contrast
