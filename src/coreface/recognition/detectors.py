"""The named detectors: YuNet, CenterFace, and none at all (``whole``)."""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import ModelError
from coreface.images.load import silent_opencv
from coreface.models import known
from coreface.models.onnx_file import read_onnx
from coreface.recognition.detection import MAX_SIDE, Detector, NetworkDetector, WholeImage

NAMES = ("yunet", "centerface", "whole")
_OVERLAP = 0.3  # intersection over union above which the less confident of two boxes is dropped
_CENTERFACE_OUTPUTS = ("537", "538", "539", "540")


class YuNet(NetworkDetector):
    """YuNet: 122 KB, the faster one, and reliable about orientation.

    Args:
        path: the file; None uses the known weights.
        max_side: longest side in pixels of its input.
        rotations: try the image in four orientations.

    Source: Wu, Peng and Yu, YuNet: a tiny millisecond-level face detector, Machine Intelligence Research 20, 2023.

    Raises:
        ModelError: the file is damaged or another network.
        MissingExtraError: the package that contains the weights is not installed. InputError: an argument is out of
            range.
    """

    def __init__(
        self, path: Path | None = None, *, max_side: int = MAX_SIDE, min_score: float = 0.7, rotations: bool = False
    ) -> None:
        content = known.read("yunet") if path is None else _read(path)
        super().__init__("yunet", hashlib.sha256(content).hexdigest(), max_side, min_score, rotations)
        model, none = np.frombuffer(content, np.uint8), np.empty(0, np.uint8)
        try:
            with silent_opencv():
                self._network = cv2.FaceDetectorYN.create("onnx", model, none, (64, 64), min_score, _OVERLAP, 5000)
        except cv2.error as error:
            raise ModelError(f"{path or 'yunet'}: OpenCV cannot load it as YuNet ({error.err})") from error

    def run(self, image: NDArray[np.uint8]) -> list[tuple[ArrayLike, ArrayLike, float]]:
        self._network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = self._network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return [
            ((row[0], row[1], row[0] + row[2], row[1] + row[3]), row[4:14].reshape(5, 2), float(row[14]))
            for row in (() if rows is None else rows)
        ]


class CenterFace(NetworkDetector):
    """CenterFace: 7.3 MB, from a file, or from a folder listed in the variable COREFACE_MODELS.

    Args: as `YuNet`.

    Source: Xu, Yan, Wang and others, CenterFace: joint face detection and alignment using face as point, Scientific
    Programming 2020.

    Raises:
        ModelError: the file is missing, damaged, or another network.
        InputError: an argument is out of range.
    """

    def __init__(
        self, path: Path | None = None, *, max_side: int = MAX_SIDE, min_score: float = 0.5, rotations: bool = False
    ) -> None:
        content = known.read("centerface") if path is None else _read(path)
        super().__init__("centerface", hashlib.sha256(content).hexdigest(), max_side, min_score, rotations)
        try:
            with silent_opencv():
                self._network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        except cv2.error as error:
            raise ModelError(f"{path or 'centerface'}: OpenCV cannot load it ({error.err})") from error

    def run(self, image: NDArray[np.uint8]) -> list[tuple[ArrayLike, ArrayLike, float]]:
        height, width = image.shape[:2]
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.uint8)
        padded[:height, :width] = image
        self._network.setInput(cv2.dnn.blobFromImage(padded))
        heat, scale, offset, landmarks = (np.asarray(out)[0] for out in self._network.forward(_CENTERFACE_OUTPUTS))
        return decode_centerface(heat[0], scale, offset, landmarks, self.min_score)


def decode_centerface(
    heat: NDArray[np.float32],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    min_score: float,
) -> list[tuple[ArrayLike, ArrayLike, float]]:
    """Turn CenterFace's maps into faces.

    Args:
        heat: (H, W), confidence of a face in each cell of 4 x 4 pixels.
        scale: (2, H, W), logarithms of height and width in cells.
        offset: (2, H, W), position of the centre within its cell, y and x.
        landmarks: (10, H, W), y and x of the five points relative to the box.
        min_score: cells with a lower confidence are ignored.
    """
    rows, columns = np.nonzero(heat > min_score)
    if not len(rows):
        return []
    heights, widths = 4 * np.exp(scale[:, rows, columns])
    middle_y = 4 * (rows + offset[0, rows, columns] + 0.5)
    middle_x = 4 * (columns + offset[1, rows, columns] + 0.5)
    left, top = middle_x - widths / 2, middle_y - heights / 2
    scores = heat[rows, columns]
    # The box is not clipped, since landmarks are relative to the whole box.
    points = landmarks[:, rows, columns]
    x, y = left + widths * points[1::2], top + heights * points[0::2]
    boxes = np.stack([left, top, widths, heights], axis=1)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), min_score, _OVERLAP)
    return [
        (
            (left[i], top[i], left[i] + widths[i], top[i] + heights[i]),
            np.stack([x[:, i], y[:, i]], axis=1),
            float(scores[i]),
        )
        for i in np.asarray(kept, np.int64).reshape(-1).tolist()
    ]


def open_detector(
    detector: str | Path | Detector,
    *,
    max_side: int = MAX_SIDE,
    rotations: bool = False,
    min_score: float | None = None,
) -> Detector:
    """Open a detector.

    Args:
        detector: ``yunet``, ``centerface``, ``whole`` for images that are already crops, the ONNX file of one of these
            networks, or a `Detector`, which is returned unchanged.
        max_side: longest side in pixels of a network's input.
        rotations: try photographs in four orientations.
        min_score: faces with a lower score are dropped; None uses the network's default.

    Raises:
        ModelError: the name is unknown, or a file is missing, damaged or another network.
        MissingExtraError: the package that brings the weights is not installed.
    """
    if not isinstance(detector, str | Path):
        return detector
    chosen: dict[str, Any] = {"max_side": max_side, "rotations": rotations}
    if min_score is not None:
        chosen["min_score"] = min_score
    if detector == "whole":
        return WholeImage()
    if detector == "yunet":
        return YuNet(**chosen)
    if detector == "centerface":
        return CenterFace(**chosen)
    path = Path(detector)
    if path.suffix.lower() != ".onnx":
        raise ModelError(f"there is no detector {str(detector)!r}, expected {', '.join(NAMES)} or an .onnx file")
    try:
        outputs = [tensor.name for tensor in read_onnx(_read(path)).outputs]
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if set(_CENTERFACE_OUTPUTS) <= set(outputs):
        return CenterFace(path, **chosen)
    if "kps_8" in outputs:
        return YuNet(path, **chosen)
    raise ModelError(f"{path}: its outputs are {', '.join(outputs)[:100]}, expected a YuNet or a CenterFace")


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}), expected the ONNX file of a detector") from error
