"""Embeds many photographs into one file, part by part, so that an interrupted call can resume."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from coreface.errors import DataError, InputError
from coreface.recognition.embed_parts import (
    PART,
    Arrays,
    Embedded,
    EmbedJob,
    EmbedSettings,
    PartFolder,
    npz_path,
    write_npz,
)
from coreface.recognition.embed_ray import run_on_ray
from coreface.recognition.embed_shards import Shard
from coreface.recognition.photograph_list import list_photographs
from coreface.recognition.workers import run_ordered

Engine: TypeAlias = Literal["processes", "ray"]
ENGINES: tuple[Engine, ...] = ("processes", "ray")


def embed_paths(
    paths: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: EmbedSettings | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    shard: Shard | None = None,
    engine: Engine = "processes",
) -> Embedded:
    """Embed photographs into a ``.npz`` with one row per photograph, in order.

    The file contains ``embeddings`` (N, D) float32, zeros if there is none; ``names`` (N,); ``reasons`` (N,), empty if
    there is an embedding; ``boxes`` (N, 4) and ``landmarks`` (N, 5, 2) float32, pixels, NaN where there is none;
    ``identities`` (N,), the folder or the label, if all paths have one; and ``contract``, JSON, the pipeline's
    contract. If the pipeline uses all faces, there is one row per face, and the names of photographs are repeated.

    Parts are kept in ``<out>.parts`` until the file is complete: an interrupted call resumes from them.

    Args:
        paths: images, folders of images or of people, RecordIO, tar shards, ``.txt`` files with one path per line.
        out: the ``.npz`` to write; a shard is written next to it, see `Shard.file`.
        settings: the pipeline.
        workers: number of processes, or of Ray's actors.
        progress: called with the number of finished photographs.
        shard: embed only this share of the photographs.
        engine: ``processes`` of this machine, or ``ray``.

    Raises:
        DataError: a path contains no images, or none of them can be embedded.
        ModelError: there is no such encoder or detector.
        InputError: ``out`` is not a ``.npz``, or there is no such engine.
        MissingExtraError: Ray is not installed.
        ProcessLostError: a worker died.
        OSError: it cannot be written.
    """
    target, settings = npz_path(out), settings or EmbedSettings()
    target = target if shard is None else shard.file(target)
    parts = target.with_name(f"{target.name}.parts")
    arrays, done_before = embed_photographs(
        paths, parts, settings, workers=workers, progress=progress, shard=shard, engine=engine
    )
    found = Embedded.of(target, arrays, done_before)
    if shard is None:
        found.require_some()
    write_npz(target, arrays)
    shutil.rmtree(parts)
    return found


def embed_photographs(
    paths: Iterable[str | os.PathLike[str]],
    parts: Path,
    settings: EmbedSettings,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
    shard: Shard | None = None,
    engine: Engine = "processes",
) -> tuple[Arrays, int]:
    """Embed photographs, and return the arrays that `embed_paths` writes, and how many were done before.

    Args:
        parts: the folder that keeps finished parts; it is not removed.
        paths, settings, workers, progress, shard, engine: as of `embed_paths`.

    Raises:
        DataError, ModelError, InputError, MissingExtraError, ProcessLostError, OSError: as `embed_paths` does.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    listed = list_photographs(paths)
    names = [name for some in listed for name in some.names]
    identities = [identity for some in listed for identity in some.identities]
    if not names:
        raise DataError("there are no photographs: give a folder, an image or a list")
    pipeline = settings.pipeline()
    contract = json.dumps(pipeline.contract, sort_keys=True)
    starts = range(0, len(names), PART)
    if shard is not None:
        starts = shard.share(starts)
    folder = PartFolder(parts, contract, names)
    waiting = [start for start in starts if not folder.has(start)]
    sizes = {start: min(PART, len(names) - start) for start in starts}
    done_before = sum(sizes.values()) - sum(sizes[start] for start in waiting)
    done = done_before
    job = EmbedJob(settings, tuple(os.fspath(path) for path in paths), PART)
    run = run_on_ray if engine == "ray" else run_ordered
    for start, part in run(job, waiting, workers):
        folder.keep(start, part)
        done += sizes[start]
        if progress:
            progress(done)
    arrays = _joined([(start, folder.read(start)) for start in starts], names, pipeline.encoder.embedding_size)
    arrays["contract"] = np.array(contract)
    if all(identities):
        whose = dict(zip(names, identities, strict=True))
        arrays["identities"] = np.array([whose[name] for name in arrays["names"].tolist()], np.str_)
    if shard is not None:
        arrays["shard"] = np.array(shard.described(names))
    return arrays, done_before


def count_photographs(paths: Iterable[str | os.PathLike[str]], shard: Shard | None = None) -> int:
    """Return how many photographs there are at paths, or in a shard of them. Raises `DataError` as `embed_paths`."""
    count = sum(len(some.names) for some in list_photographs(paths))
    starts = range(0, count, PART)
    return sum(min(PART, count - start) for start in (starts if shard is None else shard.share(starts)))


def _joined(parts: list[tuple[int, Arrays]], names: list[str], size: int) -> Arrays:
    empty: Arrays = {
        "embeddings": np.empty((0, size), np.float32),
        "reasons": np.empty(0, np.str_),
        "boxes": np.empty((0, 4), np.float32),
        "landmarks": np.empty((0, 5, 2), np.float32),
    }
    arrays = {name: np.concatenate([none, *(part[name] for _, part in parts)]) for name, none in empty.items()}
    shown = [names[start + number] for start, part in parts for number in part["photographs"].tolist()]
    return {**arrays, "names": np.array(shown, np.str_)}
