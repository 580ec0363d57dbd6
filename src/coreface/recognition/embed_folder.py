"""Embeds many photographs into one file, part by part, so that an interrupted call can resume."""

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.data.open import open_faces
from coreface.data.source import FaceSource
from coreface.errors import DataError, FaceError, ImageError, InputError
from coreface.files import write_atomically
from coreface.images.load import load_image
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.workers import run_ordered

_PART = 64  # photographs: what a worker takes at a time, and loses when it is cut off


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
    """The result of `embed_paths`.

    Attributes:
        photographs: number of photographs.
        embedded: how many have an embedding.
        reasons: number of photographs without an embedding, by reason.
        done_before: number of photographs that an earlier call processed.
    """

    photographs: int
    embedded: int
    reasons: dict[str, int]
    done_before: int


def embed_paths(
    paths: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: EmbedSettings | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """Embed photographs into a ``.npz`` with one row per photograph, in order.

    The file contains ``embeddings`` (N, D) float32, zeros if there is none; ``names`` (N,); ``reasons`` (N,), empty if
    there is an embedding; ``identities`` (N,), the folder or the label, if all paths have one; and ``contract``, JSON,
    the pipeline's contract. Parts are kept in ``<out>.parts`` until the file is complete: an interrupted call resumes
    from them.

    Args:
        paths: images, folders of images or of people, RecordIO, tar shards, ``.txt`` files with one path per line.
        out: the ``.npz`` to write.
        settings: the pipeline.
        workers: number of processes.
        progress: called with the number of finished photographs.

    Raises:
        DataError: a path contains no images, or none of them can be embedded.
        ModelError: there is no such encoder or detector.
        InputError: ``out`` is not a ``.npz``, or the pipeline uses all faces.
        ProcessLostError: a worker died.
        OSError: it cannot be written.
    """
    settings, target = settings or EmbedSettings(), Path(out)
    if target.suffix != ".npz":
        raise InputError(f"the output is {target}, expected a name that ends in .npz")
    if settings.options.get("face") == "all":
        raise InputError("face is 'all', expected largest, centre or only: each photograph has one row")
    sources = [_Listed.of(os.fspath(path)) for path in paths]
    names = [name for source in sources for name in source.names]
    identities = [identity for source in sources for identity in source.identities]
    if not names:
        raise DataError("there are no photographs: give a folder, an image or a list")
    pipeline = settings.pipeline()
    contract = json.dumps(pipeline.contract, sort_keys=True)
    size = pipeline.encoder.embedding_size
    parts = target.with_name(f"{target.name}.parts")
    _claim(parts, hashlib.sha256(json.dumps([contract, _PART, names]).encode()).hexdigest())
    starts = list(range(0, len(names), _PART))
    waiting = [start for start in starts if not _part(parts, start).is_file()]
    done_before = sum(min(_PART, len(names) - start) for start in starts if start not in set(waiting))
    done = done_before
    for count in run_ordered(
        _EmbedJob(settings, tuple(os.fspath(path) for path in paths), str(parts)), waiting, workers
    ):
        done += count
        if progress:
            progress(done)
    embeddings, reasons = np.zeros((len(names), size), np.float32), []
    for start in starts:
        with np.load(_part(parts, start)) as part:
            embeddings[start : start + _PART] = part["embeddings"]
            reasons += part["reasons"].tolist()
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons) - {""})}
    good = reasons.count("")
    if not good:
        raise DataError(f"none of the {len(names)} photographs can be embedded: {counts}")
    arrays: dict[str, NDArray[Any]] = {
        "embeddings": embeddings,
        "names": np.array(names),
        "reasons": np.array(reasons),
        "contract": np.array(contract),
    }
    if all(identities):
        arrays["identities"] = np.array(identities)
    _write_npz(target, arrays)
    shutil.rmtree(parts)
    return Embedded(len(names), good, counts, done_before)


def count_photographs(paths: Iterable[str | os.PathLike[str]]) -> int:
    """Return how many photographs there are at paths. Raises `DataError` as `embed_paths` does."""
    return sum(len(_Listed.of(os.fspath(path)).names) for path in paths)


@dataclass(frozen=True)
class _Listed:
    """The photographs at a path: a source of faces, or files."""

    names: list[str]
    identities: list[str]
    source: FaceSource | None

    @classmethod
    def of(cls, path: str) -> "_Listed":
        where = Path(path)
        if where.suffix.lower() == ".txt" and where.is_file():
            lines = where.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            files = [str(where.parent / line) for line in lines if line.strip()]
            return cls(files, [""] * len(files), None)
        if where.is_file() and where.suffix.lower() in IMAGE_SUFFIXES:
            return cls([path], [""], None)
        flat = sorted(str(file) for file in where.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if where.is_dir() and flat and not any(where.glob("*.rec")) and not any(where.glob("*.tar")):
            return cls(flat, [""] * len(flat), None)
        source = open_faces(path)
        names = [source.locate(index) for index in range(len(source))]
        return cls(names, [source.identity_names[k] for k in source.identities], source)

    def image(self, index: int) -> NDArray[np.uint8]:
        return load_image(self.names[index]) if self.source is None else self.source[index][0]


@dataclass(frozen=True)
class _EmbedJob:
    settings: EmbedSettings
    paths: tuple[str, ...]
    folder: str

    def open(self) -> Callable[[int], int]:
        pipeline = self.settings.pipeline()
        photographs = [(source, k) for source in map(_Listed.of, self.paths) for k in range(len(source.names))]

        def work(start: int) -> int:
            some = photographs[start : start + _PART]
            embeddings = np.zeros((len(some), pipeline.encoder.embedding_size), np.float32)
            reasons = [""] * len(some)
            crops, rows = [], []
            for row, (source, index) in enumerate(some):
                try:
                    crops.append(pipeline.cropper.crops(source.image(index))[0].image)
                    rows.append(row)
                except FaceError as error:
                    reasons[row] = error.reason
                except ImageError as error:
                    reasons[row] = f"unreadable: {error}"
            if rows:
                embeddings[rows] = pipeline.encoder.embed(crops, flip=pipeline.flip)
            _write_npz(_part(Path(self.folder), start), {"embeddings": embeddings, "reasons": np.array(reasons)})
            return len(some)

        return work


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:09}.npz"


def _claim(folder: Path, digest: str) -> None:
    """Create the folder of parts, and remove parts of other photographs or of another pipeline."""
    owner = folder / "digest"
    if folder.is_dir() and (not owner.is_file() or owner.read_text(encoding="utf-8") != digest):
        if any(entry.name != "digest" and entry.suffix != ".npz" for entry in folder.iterdir()):
            raise DataError(
                f"{folder} contains other files than parts of embeddings: remove it, or choose another name"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(owner, digest.encode())


def _write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    temporary = path.with_name(f".{path.name}.tmp.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
