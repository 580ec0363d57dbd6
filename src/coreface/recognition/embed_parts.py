"""Embeds photographs part by part: the job of a process, and the folder that keeps finished parts."""

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError, FaceError, ImageError, InputError
from coreface.files import write_atomically
from coreface.recognition.crops import Crop
from coreface.recognition.photograph_list import list_photographs
from coreface.recognition.pipeline import FacePipeline

PART = 64  #: photographs: what a worker takes at a time, and loses when it is cut off

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class EmbedSettings:
    """What determines an embedding: the arguments of `FacePipeline.from_pretrained`.

    Attributes:
        model: the encoder.
        detector: the detector.
        options: the other arguments.
        imports: modules that a worker imports first, for the names they register.
    """

    model: str = "sface"
    detector: str = "yunet"
    options: dict[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    def pipeline(self) -> FacePipeline:
        """Open the pipeline."""
        for module in self.imports:
            importlib.import_module(module)
        return FacePipeline.from_pretrained(self.model, self.detector, **self.options)


@dataclass(frozen=True)
class Embedded:
    """What a file of embeddings holds.

    Attributes:
        file: what was written.
        photographs: number of photographs.
        embedded: how many have an embedding.
        reasons: number of photographs without an embedding, by reason.
        done_before: number of photographs that an earlier call processed.
    """

    file: Path
    photographs: int
    embedded: int
    reasons: dict[str, int]
    done_before: int

    @classmethod
    def of(cls, file: Path, arrays: Arrays, done_before: int = 0) -> "Embedded":
        """Count what the arrays of a file hold."""
        names, reasons = arrays["names"], arrays["reasons"]
        failed = reasons[reasons != ""].tolist()
        embedded = len(set(names[reasons == ""].tolist()))
        counts = {reason: failed.count(reason) for reason in sorted(set(failed))}
        return cls(file, embedded + len(failed), embedded, counts, done_before)

    def require_some(self) -> None:
        """Raise `DataError` if no photograph could be embedded."""
        if not self.embedded:
            raise DataError(f"none of the {self.photographs} photographs can be embedded: {self.reasons}")


@dataclass(frozen=True)
class EmbedJob:
    """The work of one process on the photographs at paths.

    Attributes:
        settings: the pipeline.
        paths: as of `PhotographList.of`.
        size: photographs of a part.
    """

    settings: EmbedSettings
    paths: tuple[str, ...]
    size: int = PART

    def open(self) -> Callable[[int], tuple[int, Arrays]]:
        """Return the function that embeds the part that begins with a photograph, and returns that number with it.

        A part holds ``embeddings`` (R, D) float32, ``reasons`` (R,), ``photographs`` (R,) int64, which of the part
        each row shows, ``boxes`` (R, 4) and ``landmarks`` (R, 5, 2) float32. A photograph without an embedding has one
        row, with a reason; its numbers are 0 and NaN.
        """
        pipeline = self.settings.pipeline()
        photographs = [(some, k) for some in list_photographs(self.paths) for k in range(len(some.names))]

        def work(start: int) -> tuple[int, Arrays]:
            rows: list[tuple[int, Crop | str]] = []
            for number, (source, index) in enumerate(photographs[start : start + self.size]):
                try:
                    rows += [(number, crop) for crop in pipeline.cropper.crops(source.image(index))]
                except FaceError as error:
                    rows.append((number, error.reason))
                except ImageError as error:
                    rows.append((number, f"unreadable: {error}"))
            return start, _part(rows, pipeline)

        return work


def _part(rows: list[tuple[int, Crop | str]], pipeline: FacePipeline) -> Arrays:
    embeddings = np.zeros((len(rows), pipeline.encoder.embedding_size), np.float32)
    boxes = np.full((len(rows), 4), np.nan, np.float32)
    landmarks = np.full((len(rows), 5, 2), np.nan, np.float32)
    crops = {row: found for row, (_, found) in enumerate(rows) if isinstance(found, Crop)}
    if crops:
        images = [crop.image for crop in crops.values()]
        embeddings[list(crops)] = pipeline.encoder.embed(images, flip=pipeline.flip)
    for row, crop in crops.items():
        boxes[row] = crop.face.box
        if crop.face.landmarks is not None:
            landmarks[row] = crop.face.landmarks
    return {
        "embeddings": embeddings,
        "reasons": np.array(["" if isinstance(found, Crop) else found for _, found in rows]),
        "photographs": np.array([number for number, _ in rows], np.int64),
        "boxes": boxes,
        "landmarks": landmarks,
    }


class PartFolder:
    """Keeps the finished parts of one list of photographs and one pipeline.

    Args:
        folder: is created; parts of other photographs or of another pipeline are removed.
        contract: of the pipeline, JSON.
        names: of all photographs.

    Raises:
        DataError: the folder contains other files.
    """

    def __init__(self, folder: Path, contract: str, names: list[str]) -> None:
        digest = hashlib.sha256(json.dumps([contract, PART, names]).encode()).hexdigest()
        self.folder, owner = folder, folder / "digest"
        if folder.is_dir() and (not owner.is_file() or owner.read_text(encoding="utf-8") != digest):
            if any(entry.name != "digest" and entry.suffix != ".npz" for entry in folder.iterdir()):
                raise DataError(
                    f"{folder} contains other files than parts of embeddings: remove it, or choose another name"
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(owner, digest.encode())

    def has(self, start: int) -> bool:
        """Whether the part that begins with a photograph is finished."""
        return self._path(start).is_file()

    def keep(self, start: int, part: Arrays) -> None:
        """Store a part."""
        write_npz(self._path(start), part)

    def read(self, start: int) -> Arrays:
        """Return a part."""
        with np.load(self._path(start)) as part:
            return dict(part.items())

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:09}.npz"


def npz_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of a file of embeddings. Raises `InputError` if the name does not end in .npz."""
    path = Path(out)
    if path.suffix != ".npz":
        raise InputError(f"the output is {path}, expected a name that ends in .npz")
    return path


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays so that the name always holds a whole file."""
    temporary = path.with_name(f".{path.name}.tmp.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
