"""A photograph with its faces marked."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.files import write_atomically
from coreface.recognition.detection import Face

_BOX, _POINT = (40, 200, 60), (255, 80, 40)


def write_drawing(
    image: NDArray[np.uint8], faces: Sequence[Face], path: Path, labels: Sequence[str] | None = None
) -> None:
    """Write an image, uint8 RGB (H, W, 3), with boxes, landmarks and labels, as PNG or JPEG by the name.

    Labels are the scores of the detector where none are given; letters outside of ASCII are drawn as question marks.

    Raises:
        InputError: the name ends in neither.
        OSError: it cannot be written.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"the drawing is {path}, expected a name that ends in .png or .jpg")
    drawn = image.copy()
    width = max(1, round(max(image.shape) / 400))
    for number, face in enumerate(faces):
        left, top, right, bottom = (round(side) for side in face.box)
        cv2.rectangle(drawn, (left, top), (right, bottom), _BOX, width)
        for x, y in () if face.landmarks is None else face.landmarks.tolist():
            cv2.circle(drawn, (round(x), round(y)), 2 * width, _POINT, -1)
        place = left, max(12 * width, top - 3 * width)
        label = f"{face.score:.2f}" if labels is None else labels[number]
        cv2.putText(drawn, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * width, _BOX, width)
    encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1]
    write_atomically(path, encoded.tobytes())
