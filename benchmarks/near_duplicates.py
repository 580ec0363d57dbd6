"""Images of a training set that are nearly those of a test set: the same photograph, cropped or compressed otherwise.

python benchmarks/near_duplicates.py fiw/train.rec lfw/images

Each test image is compared with all training images and their mirror images. The likeness is that of
`coreface.data.near_duplicates`: above 0.98 it is the same photograph, and above 0.9 worth a look (--show).
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from coreface.data import open_faces
from coreface.data.near_duplicates import grey_patch, mirror_patches
from coreface.data.source import FaceSource

LIMITS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.9)
_ROWS = 512


def patches(source: FaceSource) -> NDArray[np.float32]:
    """Return (n, 24 * 24) patches of all images."""
    return np.stack([grey_patch(source[index][0]) for index in range(len(source))])


def nearest(test: NDArray[np.float32], train: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the likeness of the most alike training image, or of its mirror image, to every test image, and which."""
    mirrored = mirror_patches(train)
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
