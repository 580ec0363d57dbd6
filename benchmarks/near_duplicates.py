"""Images of a training set that are nearly those of a test set: the same photograph, cropped or compressed otherwise.

python benchmarks/near_duplicates.py fiw/train.rec lfw/images

Every image becomes 24 x 24 grey values of its middle, less their mean, of unit length; the likeness of two images is
the inner product, the correlation of their pixels. Each test image is compared with all training images and their
mirror images. On LFW, a photograph compared with itself halved in size and compressed reaches 0.99 and more, moved by
two pixels 0.91 (median; 5 % below 0.85), enlarged by 4 % 0.97; the most alike photographs of one person 0.55 (median;
5 % above 0.85). So what is above 0.98 is the same photograph, and what is above 0.9 is worth a look (--show).
"""

import argparse

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.data import open_faces
from coreface.data.source import FaceSource
from coreface.images.load import fit_square

SIDE, MARGIN = 24, 8  # pixels of the patch; of 112, what is cut off on every side
LIMITS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9)
_ROWS = 512


def patches(source: FaceSource) -> NDArray[np.float32]:
    """Return (n, SIDE * SIDE) unit vectors of the grey values of the middle of every image."""
    rows = np.empty((len(source), SIDE * SIDE), np.float32)
    for index in range(len(source)):
        image = cv2.cvtColor(fit_square(source[index][0], 112), cv2.COLOR_RGB2GRAY)
        middle = image[MARGIN:-MARGIN, MARGIN:-MARGIN]
        rows[index] = cv2.resize(middle, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def nearest(test: NDArray[np.float32], train: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the likeness of the most alike training image, or of its mirror image, to every test image, and which."""
    mirrored = train.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(len(train), -1)
    likeness = np.full(len(test), -1, np.float32)
    which = np.zeros(len(test), np.intp)
    for start in range(0, len(test), _ROWS):
        part = slice(start, start + _ROWS)
        for images in (train, mirrored):
            products = test[part] @ images.T
            best = products.argmax(axis=1)
            value = products[np.arange(len(best)), best]
            which[part] = np.where(value > likeness[part], best, which[part])
            likeness[part] = np.maximum(likeness[part], value)
    return likeness, which


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="the training faces")
    parser.add_argument("test", help="the test faces")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="list the N most alike pairs")
    options = parser.parse_args()
    train, test = open_faces(options.train), open_faces(options.test)
    likeness, which = nearest(patches(test), patches(train))
    print(f"{len(test)} test images against {len(train)} training images; likeness of the most alike")
    for limit in LIMITS:
        print(f"at least {limit:.2f}: {int((likeness >= limit).sum()):6} test images")
    for index in np.argsort(-likeness)[: options.show]:
        print(f"{likeness[index]:.4f}  {test.locate(int(index))}  {train.locate(int(which[index]))}")


if __name__ == "__main__":
    main()
