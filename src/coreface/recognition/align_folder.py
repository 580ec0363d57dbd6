"""Aligns the faces in a folder of photographs and writes a folder of crops, with a list of rejected photographs."""

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np

from coreface.data.convert import convert_faces
from coreface.data.crop_alignment import REJECTS, SAMPLES, write_alignment
from coreface.data.folder import FolderSource
from coreface.data.open import open_faces
from coreface.data.survey import sample_sheet
from coreface.errors import DataError, FaceError, ImageError, InputError
from coreface.files import escaped, write_atomically
from coreface.images.alignment import Alignment
from coreface.images.load import load_image
from coreface.recognition.crops import MIN_EYES, Choice, Cropper
from coreface.recognition.detection import MAX_SIDE
from coreface.recognition.detectors import open_detector
from coreface.recognition.quality import LimitsName, QualityLimits, quality_limits
from coreface.recognition.workers import run_ordered

Format: TypeAlias = Literal["jpg", "png", "recordio", "shards"]

_JOURNAL = ".aligned.jsonl"  # one line per finished photograph; hidden, so that it is not taken for an image
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class AlignSettings:
    """How crops are made; everything that determines them.

    Attributes:
        detector: ``yunet``, ``centerface``, or an ONNX file.
        face: which face of a photograph is used.
        min_eyes: pixels between the eyes of the smallest face that is used.
        size: side of a crop.
        alignment: template and border.
        max_side: longest side in pixels of the detector's input.
        rotations: try photographs in four orientations.
        format: how crops are stored.
        quality: limits of the faces that are used, by name or in full.
    """

    detector: str = "yunet"
    face: Choice = "largest"
    min_eyes: float = MIN_EYES
    size: int = 112
    alignment: Alignment = field(default_factory=Alignment)
    max_side: int = MAX_SIDE
    rotations: bool = False
    format: Format = "jpg"
    quality: LimitsName | QualityLimits = "off"

    def cropper(self) -> Cropper:
        """Open the detector."""
        detector = open_detector(self.detector, max_side=self.max_side, rotations=self.rotations)
        return Cropper(detector, self.alignment, self.size, self.face, self.min_eyes, self.quality)

    @property
    def suffix(self) -> str:
        """Suffix of the crop files; RecordIO and shards contain JPEG."""
        return ".png" if self.format == "png" else ".jpg"


@dataclass(frozen=True)
class Photograph:
    """A photograph, and the path of its crops without suffix."""

    path: str
    name: str
    target: str


@dataclass(frozen=True)
class Aligned:
    """The result of `align_folder`.

    Attributes:
        photographs: number of photographs.
        crops: number of crops.
        rejects: number of photographs without a crop, by reason.
        done_before: number of photographs that an earlier call processed.
    """

    photographs: int
    crops: int
    rejects: dict[str, int]
    done_before: int


def align_folder(
    photographs: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: AlignSettings | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Aligned:
    """Detect, align and store the faces in a folder of photographs.

    Crops keep the names of folders and photographs. ``rejects.csv`` lists the photographs without a crop,
    ``alignment.json`` records how the crops were made, ``samples.png`` shows some. An interrupted call resumes where it
    stopped, and only new or changed photographs are processed. The result does not depend on the number of workers.

    Args:
        photographs: a folder ``<identity>/<photograph>``.
        target: the folder to fill.
        settings: how crops are made.
        workers: number of processes.
        progress: called with the number of finished photographs.

    Raises:
        DataError: there are no photographs, none of them has a face, or ``target`` contains other files or crops that
            were made with other settings.
        ModelError: there is no such detector.
        ProcessLostError: a worker died.
        OSError: it cannot be written.
    """
    settings = settings or AlignSettings()
    if settings.format not in ("jpg", "png", "recordio", "shards"):
        raise InputError(f"format is {settings.format!r}, expected jpg, png, recordio or shards")
    todo = list_photographs(Path(photographs))
    folder = Path(target)
    stored = settings.format in ("recordio", "shards")
    if stored and folder.exists():
        raise DataError(f"{folder} exists already: choose another name, or remove it")
    crops = folder.with_name(f".{folder.name}.crops") if stored else folder
    about = _about(settings)
    journal = _Journal(crops, {**settings.alignment.to_dict(), **about, "format": settings.format})
    done_before = sum(journal.has(photograph, settings.suffix) for photograph in todo)
    waiting = [photograph for photograph in todo if not journal.has(photograph, settings.suffix)]
    for number, entry in enumerate(run_ordered(_AlignJob(settings, str(crops)), waiting, workers), done_before + 1):
        journal.add(entry)
        if progress:
            progress(number)
    journal.finish(todo)
    entries = [journal.entries[photograph.name] for photograph in todo]
    rejected = [entry for entry in entries if not entry["crops"]]
    found = sum(len(entry["crops"]) for entry in entries)
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _reasons(rejected).items())
        raise DataError(f"{photographs}: none of the {len(todo)} photographs has a face that can be used ({reasons})")
    if stored:
        convert_faces(FolderSource(crops), folder, "recordio" if settings.format == "recordio" else "shards")
    write_atomically(folder / REJECTS, _rejects_csv(rejected))
    write_alignment(folder, settings.alignment, about)
    write_atomically(folder / SAMPLES, sample_sheet(open_faces(folder)))
    if stored:
        shutil.rmtree(crops)
    return Aligned(len(todo), found, _reasons(rejected), done_before)


def list_photographs(folder: Path) -> list[Photograph]:
    """Return the photographs sorted by name, each with a unique name for its crops."""
    source = FolderSource(folder)
    paths = [Path(source.locate(index)) for index in range(len(source))]
    names = [path.relative_to(folder).as_posix() for path in paths]
    stems = Counter(name.rpartition(".")[0] for name in names)
    return [
        Photograph(str(path), name, stem if stems[stem] == 1 else name)
        for path, name, stem in zip(paths, names, (name.rpartition(".")[0] for name in names), strict=True)
    ]


@dataclass(frozen=True)
class _AlignJob:
    settings: AlignSettings
    folder: str

    def open(self) -> Callable[[Photograph], dict[str, Any]]:
        cropper = self.settings.cropper()

        def work(photograph: Photograph) -> dict[str, Any]:
            entry: dict[str, Any] = {"name": photograph.name, "state": _state(photograph.path), "crops": []}
            try:
                crops = cropper.crops(load_image(photograph.path))
            except FaceError as error:
                return {**entry, "reason": error.reason, "message": str(error)}
            except ImageError as error:
                return {**entry, "reason": "unreadable", "message": str(error)}
            for number, crop in enumerate(crops):
                name = f"{photograph.target}_{number}" if number else photograph.target
                path = Path(self.folder, name + self.settings.suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_image(crop.image, path)
                entry["crops"].append(name + self.settings.suffix)
            return entry

        return work


def _write_image(image: np.ndarray[Any, np.dtype[np.uint8]], path: Path) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def _state(path: str) -> list[int]:
    """Return size and time of modification of a file; an empty list if they cannot be read."""
    try:
        status = Path(path).stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _about(settings: AlignSettings) -> dict[str, Any]:
    cropper = settings.cropper()
    about = {"size": settings.size, "detector": cropper.detector.contract, "face": settings.face}
    about["min_eyes"] = settings.min_eyes
    limits = quality_limits(settings.quality).to_dict()
    # Left out where there are none, so that crops of earlier versions are continued.
    return {**about, "quality": limits} if limits else about


class _Journal:
    """The finished photographs, in a file that survives a kill: a line with the settings, then one per photograph.

    Raises:
        DataError: the folder contains other files, or crops that were made with other settings.
    """

    def __init__(self, folder: Path, made: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / _JOURNAL
        self._head = json.dumps(dict(made), sort_keys=True)
        self.entries: dict[str, dict[str, Any]] = {}
        lines = self._lines()
        if lines is None:
            if folder.is_dir() and any(folder.iterdir()):
                raise DataError(f"{folder} exists already and was not made by coreface align: choose another name")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, self._head.encode() + b"\n")
        elif lines[0] != self._head:
            raise DataError(
                f"{folder} contains crops that were made with other settings ({lines[0][:300]}; now {self._head[:300]}"
                "): choose another name, or remove it"
            )
        else:
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                    self.entries[entry["name"]] = entry
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a process that was killed
        self._file = self._path.open("a", encoding="ascii")
        self._file.write("\n")  # after a partial line of a process that was killed

    def _lines(self) -> list[str] | None:
        try:
            return [line for line in self._path.read_text(encoding="ascii", errors="replace").split("\n") if line]
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise DataError(
                f"{self._folder}: a file is in the way, expected a folder, or no file of that name"
            ) from error

    def has(self, photograph: Photograph, suffix: str) -> bool:
        entry = self.entries.get(photograph.name)
        if entry is None or entry["state"] != _state(photograph.path):
            return False
        if any(not name.startswith(photograph.target) or not name.endswith(suffix) for name in entry["crops"]):
            return False
        return all((self._folder / name).is_file() for name in entry["crops"])

    def add(self, entry: dict[str, Any]) -> None:
        self.entries[entry["name"]] = entry
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def finish(self, photographs: list[Photograph]) -> None:
        """Rewrite the lines in the order of the photographs; crops of deleted photographs are removed."""
        self._file.close()
        kept = {name for photograph in photographs for name in self.entries[photograph.name]["crops"]}
        for name in {photograph.name for photograph in photographs} ^ self.entries.keys():
            for crop in set(self.entries.pop(name)["crops"]) - kept:
                (self._folder / crop).unlink(missing_ok=True)
        lines = [self._head, *(json.dumps(self.entries[photograph.name]) for photograph in photographs)]
        write_atomically(self._path, "".join(line + "\n" for line in lines).encode("ascii"))


def _reasons(rejected: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(entry["reason"] for entry in rejected).most_common())


def _rejects_csv(rejected: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["photograph", "reason", "message"])
    writer.writerows([harmless(escaped(entry[name])) for name in ("name", "reason", "message")] for entry in rejected)
    return text.getvalue().encode()


def harmless(cell: str) -> str:
    """Return a cell that spreadsheets do not interpret as a formula."""
    return f"'{cell}" if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell
