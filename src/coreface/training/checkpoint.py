"""A checkpoint on disk: tensors written by torch.distributed.checkpoint, and a manifest that vouches for every byte.

One folder a checkpoint, ``step_<N>``: the ``.distcp`` files and the ``.metadata`` of torch.distributed.checkpoint, one
file a process, and our ``manifest.json``. A folder of that name is whole: it is written under a temporary name, forced
to the disk and renamed. The manifest lists size and SHA-256 of every file, and ends with its own. Reading checks all of
them before anything else is done, and lets the metadata, a pickle, name nothing but what metadata consists of; the
tensors themselves are read by torch.load(weights_only=True).

Sharded tensors (DTensor) need no other format: their shards are chunks in the same metadata, written by every process
and read back by any other number of them. Each process writes and digests its own file, and a share of what all have.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from coreface.distributed.processes import Processes
from coreface.errors import CheckpointError
from coreface.files import force_to_disk

MANIFEST = "manifest.json"
_METADATA = ".metadata"
_FORMAT = 2
_NAME = re.compile(r"step_(\d+)$")
_SEAL = "sha256"
_ADVICE = "an older checkpoint may be whole"
_CHUNK = 1 << 22

# All that the metadata of tensors is made of; whatever else a pickle asks for is refused before it is looked up.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("MetadataIndex", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {
        *("Size", "float64", "float32", "float16", "bfloat16", "bool"),
        *("uint8", "int8", "int16", "int32", "int64"),
    },
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have all been checked.

    Attributes:
        folder: where it lies.
        step: optimizer steps it was taken after.
        layout: name of every tensor -> its dtype and shape.
        facts: what is no tensor: counters, recipe, versions; plain JSON values.
    """

    folder: Path
    step: int
    layout: dict[str, tuple[torch.dtype, torch.Size]]
    facts: dict[str, Any]

    def read_into(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill tensors, in place, with those of the same names; the others in the checkpoint are not read.

        Args:
            tensors: of the shapes and types in `layout`; DTensors get their part, however the checkpoint was sharded.

        Raises:
            CheckpointError: there is no tensor of that name, shape and type, or the files are not as they should be.
        """
        for name, tensor in tensors.items():
            if name not in self.layout:
                raise CheckpointError(f"{self.folder}: holds no {name}: it is of another recipe or other faces")
            (dtype, shape), wanted = self.layout[name], (tensor.dtype, tensor.shape)
            if (dtype, shape) != wanted:
                raise CheckpointError(
                    f"{self.folder}: {name} is {dtype} {tuple(shape)}, expected {wanted[0]} {tuple(wanted[1])}: it is "
                    "of another recipe or other faces"
                )
        if not tensors:
            return
        with _errors_of_torch(self.folder):
            load_tensors(
                dict(tensors),
                storage_reader=_Reader(self.folder),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                no_dist=True,
            )

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return tensors by name, on the processor. Raises `CheckpointError` as `read_into` does."""
        tensors = {name: torch.empty(self.layout[name][1], dtype=self.layout[name][0]) for name in names}
        self.read_into(tensors)
        return tensors


def write_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    processes: Processes | None = None,
) -> Path:
    """Write ``root / "step_<N>"``, whole or not at all. What lay there under that name is replaced at the end.

    Args:
        root: the folder of the checkpoints; made where it is missing. All processes see the same one.
        step: N.
        tensors: by name: shards on the processor, what all processes have alike, and what one of them has alone.
        facts: counters and the like, plain JSON values; the leader's count.
        processes: a collective call over these; None writes from this process alone.

    Raises:
        OSError: the disk is full, or may not be written. What was written so far is removed.
        CheckpointError: the processes do not see the same folder.
    """
    processes = processes or Processes()
    folder = root / f"step_{step}"
    temporary = root / processes.on_leader(lambda: f".{folder.name}.{os.getpid()}.tmp")
    try:
        processes.on_leader(lambda: temporary.mkdir(parents=True))
        with _errors_of_torch(temporary):
            save_tensors(
                dict(tensors),
                storage_writer=_Writer(temporary, sync_files=True, overwrite=True),
                planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=processes.group,
                no_dist=processes.world_size == 1,
            )
        layout = {name: (_dtype_name(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items()}
        parts = processes.on_all(lambda: (_own_files(temporary, processes), layout))
        processes.on_leader(lambda: _finish(temporary, folder, parts, {"format": _FORMAT, "step": step, **facts}))
    except BaseException:
        if processes.is_leader:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


_Files = dict[str, tuple[int, str]]
_Layout = dict[str, tuple[str, list[int]]]


def _own_files(temporary: Path, processes: Processes) -> _Files:
    """Describe what this process has written, and the leader also what holds it together."""
    own = [*temporary.glob(f"__{processes.rank}_*.distcp"), *(temporary.glob(_METADATA) if processes.is_leader else ())]
    return {path.name: _described(path) for path in sorted(own)}


def _finish(temporary: Path, folder: Path, parts: list[tuple[_Files, _Layout]], manifest: dict[str, Any]) -> None:
    """Write the manifest, and give the folder its name."""
    files: _Files = {}
    layout: _Layout = {}
    for described, laid_out in parts:
        files |= described
        layout |= laid_out
    if unseen := sorted(files.keys() - {path.name for path in temporary.iterdir()}):
        raise CheckpointError(
            f"{temporary / unseen[0]}: another process has written it, and it is not here: a run of several machines "
            "needs a folder that all of them share"
        )
    root = folder.parent
    with (temporary / MANIFEST).open("wb") as file:
        file.write(_sealed({**manifest, "layout": layout, "files": files}))
        file.flush()
        os.fsync(file.fileno())
    force_to_disk(temporary)
    if folder.exists():
        replaced = root / f".{folder.name}.replaced.tmp"
        folder.replace(replaced)
        temporary.replace(folder)
        shutil.rmtree(replaced)
    else:
        temporary.replace(folder)
    force_to_disk(root)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check every byte of a checkpoint and return it. Nothing in it is executed.

    Raises:
        CheckpointError: a file is missing, damaged or not mentioned; the message names the first such file.
    """
    manifest = _read_manifest(folder)
    try:
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in manifest.pop("files").items()}
        layout = {
            str(name): (_dtype(dtype), torch.Size(shape)) for name, (dtype, shape) in manifest.pop("layout").items()
        }
        checkpoint = Checkpoint(folder, int(manifest.pop("step")), layout, manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # sealed, but not by us
        raise CheckpointError(f"{folder / MANIFEST}: is no manifest of a checkpoint ({error!r}); {_ADVICE}") from error
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(present - files.keys()):
        raise CheckpointError(f"{folder / name}: is no part of this checkpoint; {_ADVICE}")
    for name, (size, digest) in files.items():
        path = folder / name
        try:
            found = _described(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
        if found[0] != size:
            raise CheckpointError(f"{path}: cut short or swapped: has {found[0]} bytes, expected {size}; {_ADVICE}")
        if found[1] != digest:
            raise CheckpointError(f"{path}: damaged (its SHA-256 is another than when it was written); {_ADVICE}")
    return checkpoint


def checkpoint_folders(root: Path) -> list[Path]:
    """Return the folders of checkpoints that were written to their end, newest first."""
    if not root.is_dir():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _NAME.match(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def remove_leftovers(root: Path) -> None:
    """Remove what a process that died in the middle of writing left behind; only for whoever owns the run."""
    if not root.is_dir():
        return
    for path in root.glob(".step_*.replaced.tmp"):
        # The process died between two renames: the old one is still the whole checkpoint of that step.
        if not (kept := root / path.name.removeprefix(".").removesuffix(".replaced.tmp")).exists():
            path.replace(kept)
    for path in root.glob(".step_*.tmp"):
        shutil.rmtree(path)


class _Writer(FileSystemWriter):
    def storage_meta(self) -> StorageMeta | None:
        return None  # would hold the path of this machine


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _METADATA).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}, expected the metadata of tensors")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        for info in (metadata.storage_data or {}).values():
            if Path(info.relative_path).name != info.relative_path:
                raise pickle.UnpicklingError(f"it names the file {info.relative_path!r}, which is none of its own")
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of the metadata of tensors")
        return super().find_class(module, name)


@contextmanager
def _errors_of_torch(folder: Path) -> Iterator[None]:
    """Turn what torch.distributed.checkpoint raises, a BaseException with all causes inside, into our own errors."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, KeyboardInterrupt | SystemExit | MemoryError):
                raise cause from error
            if (disk := _os_error_behind(cause)) is not None:
                raise disk from error
        raise CheckpointError(f"{folder / _METADATA}: {_one_line(causes)}") from error


def _os_error_behind(error: BaseException) -> OSError | None:
    """Find the full disk: torch.save fails once more on its way out, and hides it behind a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _one_line(causes: list[BaseException]) -> str:
    return "; ".join(" ".join(f"{cause}".split()) or type(cause).__name__ for cause in causes)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name) if name in _ALLOWED["torch"] else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"there is no type of numbers {name!r}")
    return dtype


def _described(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as JSON whose last entry is the SHA-256 of all before it."""
    digest = hashlib.sha256(json.dumps(manifest, allow_nan=False).encode()).hexdigest()
    return json.dumps({**manifest, _SEAL: digest}, indent=1, allow_nan=False).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        state = "" if folder.is_dir() else "no such folder; "
        raise CheckpointError(f"{path}: missing; {state}expected a folder step_<N> of a run") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
    try:
        manifest = json.loads(content)
        whole = {key: value for key, value in manifest.items() if key != _SEAL}
        sealed = _sealed(whole)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged (it is not the JSON that was written); {_ADVICE}") from error
    if content != sealed:  # to the byte: a changed space is a changed file
        raise CheckpointError(f"{path}: damaged (its SHA-256 is another than when it was written); {_ADVICE}")
    if (version := whole.pop("format", None)) != _FORMAT:
        raise CheckpointError(f"{path}: has format {version!r}, expected {_FORMAT}: it is of another version")
    return whole
