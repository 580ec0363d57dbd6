"""Groups the faces of photographs into people, in a folder that later calls add to."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.errors import DataError, InputError
from coreface.evaluation.metrics.groupings import PairwiseAgreement, pairwise_agreement
from coreface.recognition.cluster_files import read_names, write_lists
from coreface.recognition.clustering import GroupingThresholds, group_faces
from coreface.recognition.embed_folder import embed_photographs
from coreface.recognition.embed_parts import Arrays, EmbedSettings
from coreface.recognition.face_table import FaceTable, stamp_of, table_rows
from coreface.recognition.gallery_contract import differences
from coreface.recognition.photograph_list import PhotographList
from coreface.recognition.pipeline import FacePipeline

STATE, NEW = "faces.npz", "faces.new"  #: files in the folder: all faces, and those that are being embedded
FMR = 1e-5  #: default false match rate of two single faces


@dataclass(frozen=True, eq=False)
class Clusters:
    """The result of `cluster_photographs`.

    Attributes:
        table: the faces with their groups.
        added: number of photographs that this call has embedded, or taken from a file.
        agreement: of the groups with the folders or labels of photographs, by their largest faces.
    """

    table: FaceTable
    added: int
    agreement: PairwiseAgreement


def cluster_photographs(
    paths: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: EmbedSettings | None = None,
    *,
    fmr: float = FMR,
    threshold: float | None = None,
    once: bool = False,
    regroup: bool = False,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Clusters:
    """Group the faces of photographs, and write the groups into a folder.

    A folder that an earlier call has written is continued: photographs that it knows are not embedded again, faces that
    have a group stay in it, and groups keep their numbers and names. New faces, and those that were alone, join groups
    or form new ones. Groups to which the user has given the same name become one.

    The folder contains ``faces.npz``, a `FaceTable`; ``groups.csv``, whose column ``name`` is for the user to fill in;
    and ``faces.csv``.

    Args:
        paths: folders, searched to any depth; images; ``.txt`` files with one path per line; RecordIO; tar shards;
            ``.npz`` files of `embed_paths`.
        out: the folder.
        settings: the pipeline; None for sface with yunet and all faces.
        fmr: false match rate of two single faces, for which the calibration has the thresholds.
        threshold: a cosine to use instead.
        once: whether faces of one photograph are never one person.
        regroup: dissolve the groups without a name first.
        workers: number of processes that embed.
        progress: called with the number of embedded photographs.

    Raises:
        DataError: there are no photographs, or the folder is not one of these, or damaged.
        ModelError: there is no such encoder or detector, or no calibration and no threshold.
        InputError: the pipeline or the way of grouping is another than before, or an argument is out of range.
        ProcessLostError: a worker died.
        OSError: it cannot be written.
    """
    folder, settings = Path(out), settings or EmbedSettings(options={"face": "all"})
    pipeline = settings.pipeline()
    thresholds = _thresholds(pipeline, fmr, threshold)
    grouping = {"threshold": thresholds.single, "fmr": thresholds.fmr, "once": once}
    table = _opened(folder, pipeline)
    if table.grouping not in ({}, grouping) and not regroup:
        before = "; ".join(differences(table.grouping, grouping, of=str(folder)))
        raise InputError(f"{before}: use the same, or dissolve the groups without a name with --regroup")
    table = replace(table, people=read_names(folder, table))
    files = [os.fspath(path) for path in paths]
    table, added = _with_photographs(table, files, folder, settings, pipeline, workers, progress)
    table = replace(_grouped(table, thresholds, once, regroup, changed=added > 0), grouping=grouping)
    table.save(folder / STATE)
    shutil.rmtree(folder / NEW, ignore_errors=True)
    write_lists(table, folder)
    shown = table.largest
    agreement = pairwise_agreement(table.rows["groups"][shown], table.rows["identities"][shown])
    return Clusters(table, added, agreement)


def count_new(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> int:
    """Return how many photographs `cluster_photographs` would embed. Raises `DataError` as it does."""
    state = Path(out) / STATE
    known = _stamps(FaceTable.load(state).rows) if state.is_file() else {}
    return sum(len(PhotographList.of(path).names) for path in _new_paths([os.fspath(path) for path in paths], known))


def _thresholds(pipeline: FacePipeline, fmr: float, threshold: float | None) -> GroupingThresholds:
    if threshold is not None:
        return GroupingThresholds.given(threshold)
    return GroupingThresholds.calibrated(pipeline.require_calibration(), fmr)


def _opened(folder: Path, pipeline: FacePipeline) -> FaceTable:
    contract = json.loads(json.dumps({**pipeline.contract, "face": pipeline.cropper.face}))
    state = folder / STATE
    if state.is_file():
        table = FaceTable.load(state)
        if table.contract != contract:
            what = "; ".join(differences(table.contract, contract, of=str(folder)))
            raise InputError(f"{folder} belongs to another pipeline ({what}): use the same, or another folder")
        return table
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file is in the way, expected a folder, or a new name")
    if folder.is_dir() and any(entry.name != NEW for entry in folder.iterdir()):
        raise DataError(f"{folder} contains other files, but no {STATE}: choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return FaceTable.empty(contract, pipeline.encoder.embedding_size)


def _with_photographs(
    table: FaceTable,
    paths: list[str],
    folder: Path,
    settings: EmbedSettings,
    pipeline: FacePipeline,
    workers: int,
    progress: Callable[[int], None] | None,
) -> tuple[FaceTable, int]:
    """Add the photographs at paths that the table does not have, or that have changed."""
    more: list[Arrays] = []
    for path in paths:
        if path.endswith(".npz"):
            more.append(_embedded_rows(Path(path), pipeline))
    new = _new_paths(paths, _stamps(table.rows))
    if new:
        arrays, _ = embed_photographs(new, folder / NEW, settings, workers=workers, progress=progress)
        more.append(table_rows(arrays))
    added = 0
    for rows in more:
        known = _stamps(table.rows)
        stamps = _stamps(rows)
        fresh = np.array([known.get(name) != stamps[name] for name in rows["names"].tolist()], np.bool_)
        rows = {name: array[fresh] for name, array in rows.items()}
        names = set(rows["names"].tolist())
        added += len(names)
        table = table.only(~np.isin(table.rows["names"], list(names))).with_rows(rows)
    if not len(table.faces):
        raise DataError(f"none of the {len(set(table.rows['names'].tolist()))} photographs has a face that can be used")
    return table, added


def _new_paths(paths: list[str], known: dict[str, tuple[int, int]]) -> list[str]:
    """Return the photographs that are not known, and the sources of faces that hold some."""
    found: dict[str, None] = {}
    for path in paths:
        if path.endswith(".npz"):
            continue
        files = _images_below(path)
        if files is None:
            listed = PhotographList.of(path)
            files = listed.names if listed.source is None else []
            if listed.source is not None and not known.keys() >= set(listed.names):
                found[path] = None
        absolute = (os.path.abspath(file) for file in files)  # noqa: PTH100 (links are not followed)
        found.update({file: None for file in absolute if known.get(file) != stamp_of(file)})
    return list(found)


def _images_below(path: str) -> list[str] | None:
    """Return the images in a folder, at any depth, without hidden ones; None if it has none, or stores faces."""
    if any(Path(path).glob("*.rec")) or any(Path(path).glob("*.tar")):
        return None
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = [name for name in sorted(files) if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in here if Path(name).suffix.lower() in IMAGE_SUFFIXES]  # noqa: PTH118
    return found or None


def _stamps(rows: Arrays) -> dict[str, tuple[int, int]]:
    stamps = map(tuple, rows["stamps"].tolist())
    return dict(zip(rows["names"].tolist(), stamps, strict=True))


def _embedded_rows(path: Path, pipeline: FacePipeline) -> Arrays:
    """Read a file of `embed_paths`."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content.items())
        contract = json.loads(str(arrays["contract"]))
        rows = table_rows(arrays)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} cannot be used ({error}): expected a file of coreface embed") from error
    mine: dict[str, Any] = json.loads(json.dumps(pipeline.contract))
    if contract != mine:
        what = "; ".join(differences(mine, contract, of="the pipeline"))
        raise DataError(f"{path} was made by another pipeline ({what}): their scores are not comparable")
    return rows


def _grouped(table: FaceTable, thresholds: GroupingThresholds, once: bool, regroup: bool, changed: bool) -> FaceTable:
    groups = table.rows["groups"].copy()
    people: dict[int, str] = {}
    first: dict[str, int] = {}
    for number, name in sorted(table.people.items()):  # groups of one name become one, the first
        groups[groups == number] = first.setdefault(name, number)
        people[first[name]] = name
    if regroup:
        groups[~np.isin(groups, list(people))] = 0
    if changed or regroup or len(people) < len(table.people):
        faces = table.faces
        names = np.unique(table.rows["names"][faces], return_inverse=True)[1] if once else None
        before = groups[faces]
        found = group_faces(table.rows["embeddings"][faces], thresholds, groups=before, photographs=names)
        known = np.isin(found, np.append(before, 0))
        found[~known] += table.highest - before.max(initial=0)  # a number is never used again
        groups[faces] = found
    highest = max(table.highest, int(groups.max(initial=0)))
    return replace(table, rows={**table.rows, "groups": groups}, people=people, highest=highest)
