"""Checks with a detector, on a sample of crops, that they are aligned to the template they claim."""

from dataclasses import dataclass

import numpy as np

from coreface.data.pairs.pair_set import PairSet
from coreface.data.source import FaceSource
from coreface.errors import ImageError
from coreface.images.alignment import TEMPLATE_SIZE, TEMPLATES
from coreface.recognition.detection import Detector

_SAMPLE = 48
_FAR = 6.0  # in pixels of 112; aligned crops have a median of 2 to 4


@dataclass(frozen=True)
class CropCheck:
    """What a detector found in crops.

    Attributes:
        looked_at: how many crops were checked, evenly spaced over the source.
        found: how many of them contain a face.
        distance: median distance of their landmarks from the template's points, in pixels of 112; None if no face was
            found.
    """

    looked_at: int
    found: int
    distance: float | None

    @property
    def message(self) -> str | None:
        """What is wrong; None if the crops fit the template."""
        if self.distance is None or self.found < self.looked_at / 2:
            return (
                f"a face was found in only {self.found} of {self.looked_at} crops: they do not look like aligned "
                "crops; make them of the photographs with coreface align"
            )
        if self.distance > _FAR:
            return (
                f"eyes, nose and mouth are {self.distance:.1f} pixels (of 112) away from the alignment's points: "
                "the crops were aligned differently; make them again with coreface align"
            )
        return None


def check_crops(crops: FaceSource | PairSet, template: str, detector: Detector) -> CropCheck:
    """Check some crops of a source, or of a set of pairs.

    Args:
        crops: the crops.
        template: the template they should be aligned to.
        detector: finds their landmarks.
    """
    count = crops.num_images if isinstance(crops, PairSet) else len(crops)
    looked_at = found = 0
    distances = []
    for index in np.unique(np.linspace(0, count - 1, _SAMPLE, dtype=np.int64)).tolist():
        try:
            image = crops.image(index) if isinstance(crops, PairSet) else crops[index][0]
        except ImageError:
            continue
        looked_at += 1
        faces = detector.detect(image)
        if not faces or faces[0].landmarks is None:
            continue
        found += 1
        points = (faces[0].landmarks + 0.5) * (TEMPLATE_SIZE / np.array(image.shape[1::-1])) - 0.5
        distances.append(np.linalg.norm(points - TEMPLATES[template], axis=1).mean())
    return CropCheck(looked_at, found, float(np.median(distances)) if distances else None)
