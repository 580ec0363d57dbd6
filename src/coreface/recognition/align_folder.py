"""Aligns the faces in a folder of photographs and writes a folder of crops, with a list of rejected photographs."""

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable
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
from coreface.recognition.align_consistent import Photograph, Pick, pick_faces
from coreface.recognition.align_journal import Journal, state_of
from coreface.recognition.crops import MIN_EYES, Choice, Cropper
from coreface.recognition.detection import MAX_SIDE
from coreface.recognition.detectors import open_detector
from coreface.recognition.embed_parts import EmbedSettings
from coreface.recognition.quality import LIMITS, LimitsName, QualityLimits, quality_limits
from coreface.recognition.workers import run_ordered

Format: TypeAlias = Literal["jpg", "png", "recordio", "shards"]

_JOURNAL = ".aligned.jsonl"  # one line per finished photograph; hidden, so that it is not taken for an image
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class AlignSettings:
    """How crops are made; everything that determines them.

    Attributes:
        detector: ``yunet``, ``centerface``, or an ONNX file.
        face: which face of a photograph is used; ``consistent`` is the one that resembles the person's others, see
            `coreface.recognition.consistent_faces`.
        min_eyes: pixels between the eyes of the smallest face that is used.
        size: side of a crop.
        alignment: template and border.
        max_side: longest side in pixels of the detector's input.
        rotations: try photographs in four orientations.
        format: how crops are stored.
        quality: limits of the faces that are used, by name or in full.
        model: the encoder that finds the consistent face; None for every other ``face``.
        imports: modules that a worker imports first, for the names they register.

    Raises:
        InputError: a model is given or missing.
    """

    detector: str = "yunet"
    face: Choice | Literal["consistent"] = "largest"
    min_eyes: float = MIN_EYES
    size: int = 112
    alignment: Alignment = field(default_factory=Alignment)
    max_side: int = MAX_SIDE
    rotations: bool = False
    format: Format = "jpg"
    quality: LimitsName | QualityLimits = "off"
    model: str | None = None
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.face == "consistent") != (self.model is not None):
            raise InputError(
                f"face is {self.face!r} and the model {self.model}: the consistent face needs a model (--model), and "
                "no other does"
            )

    def cropper(self) -> Cropper:
        """Open the detector. With the consistent face, the cropper cuts out all faces."""
        face: Choice = "all" if self.face == "consistent" else self.face
        detector = open_detector(self.detector, max_side=self.max_side, rotations=self.rotations)
        return Cropper(detector, self.alignment, self.size, face, self.min_eyes, self.quality)

    @property
    def embedding(self) -> EmbedSettings:
        """How faces are embedded to find the consistent one."""
        options: dict[str, Any] = {"face": "all", "min_eyes": self.min_eyes, "quality": self.quality}
        options |= {"alignment": self.alignment.template, "max_side": self.max_side, "rotations": self.rotations}
        return EmbedSettings(self.model or "sface", self.detector, options, self.imports)

    @property
    def suffix(self) -> str:
        """Suffix of the crop files; RecordIO and shards contain JPEG."""
        return ".png" if self.format == "png" else ".jpg"


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
        progress: called with the number of finished photographs; with the consistent face every one counts twice, when
            its faces are found and when one is cut out.

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
    journal = Journal(crops / _JOURNAL, {**settings.alignment.to_dict(), **about, "format": settings.format})
    picks: dict[str, Pick] = {}
    if settings.face == "consistent":
        picks = pick_faces(todo, crops, settings.embedding, workers, progress)
    waiting = [photo for photo in todo if not _is_done(journal, photo, crops, settings, picks.get(photo.name))]
    done = done_before = len(todo) - len(waiting)
    items = ((photograph, picks.get(photograph.name)) for photograph in waiting)
    for entry in run_ordered(_AlignJob(settings, str(crops)), items, workers):
        before = journal.entries.get(entry["name"], {})
        entry["replaced"] = [*before.get("crops", ()), *before.get("replaced", ())]
        journal.add(entry)
        done += 1
        if progress:
            progress(len(todo) + done if picks else done)
    _remove_stale(journal, {photograph.name for photograph in todo}, crops)
    journal.finish(photograph.name for photograph in todo)
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
        Photograph(str(path), name, stem if stems[stem] == 1 else name, source.identity_names[source.identities[index]])
        for index, (path, name) in enumerate(zip(paths, names, strict=True))
        for stem in [name.rpartition(".")[0]]
    ]


def _remove_stale(journal: Journal, names: set[str], folder: Path) -> None:
    """Remove the crops of photographs that are gone, or that changed and have other crops, or none, now."""
    stale = {crop for entry in journal.entries.values() for crop in entry.pop("replaced", ())}
    stale |= {crop for name, entry in journal.entries.items() if name not in names for crop in entry["crops"]}
    # Another photograph may have a crop of that name now.
    for crop in stale.difference(*(journal.entries[name]["crops"] for name in names)):
        (folder / crop).unlink(missing_ok=True)


@dataclass(frozen=True)
class _AlignJob:
    settings: AlignSettings
    folder: str

    def open(self) -> Callable[[tuple[Photograph, Pick | None]], dict[str, Any]]:
        cropper = self.settings.cropper()

        def work(item: tuple[Photograph, Pick | None]) -> dict[str, Any]:
            photograph, pick = item
            entry: dict[str, Any] = {"name": photograph.name, "state": state_of(photograph.path), "crops": []}
            if pick is not None:
                entry["mark"] = pick.mark
            try:
                if pick is None:
                    crops = cropper.crops(load_image(photograph.path))
                elif pick.face is None:
                    return {**entry, "reason": pick.reason, "message": pick.message}
                else:
                    crops = [cropper.crop(load_image(photograph.path), pick.face)]
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


def _is_done(
    journal: Journal, photograph: Photograph, folder: Path, settings: AlignSettings, pick: Pick | None
) -> bool:
    entry = journal.entries.get(photograph.name)
    if entry is None or entry["state"] != state_of(photograph.path):
        return False
    if pick is not None and (
        entry.get("mark") != pick.mark or (pick.face is None and entry.get("message") != pick.message)
    ):
        return False
    if any(not name.startswith(photograph.target) or not name.endswith(settings.suffix) for name in entry["crops"]):
        return False
    return all((folder / name).is_file() for name in entry["crops"])


def _about(settings: AlignSettings) -> dict[str, Any]:
    cropper = settings.cropper()
    about = {"size": settings.size, "detector": cropper.detector.contract, "face": settings.face}
    about["min_eyes"] = settings.min_eyes
    if settings.model is not None:
        about["encoder"] = settings.embedding.pipeline().contract["encoder"]
    if quality_limits(settings.quality) == LIMITS["off"]:  # so that crops of earlier versions are continued
        return about
    return {**about, "quality": cropper.limits.to_dict()}


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
