"""A checkpoint on disk: tensors written by torch.distributed.checkpoint, and a manifest that covers every byte.

One folder per checkpoint, ``step_<N>``: the ``.distcp`` files (one per process) and the ``.metadata`` of
torch.distributed.checkpoint, and our ``manifest.json``. A folder of that name is complete: it is written under a
temporary name, forced to the disk and renamed.

Nothing in a checkpoint is executed. The manifest is checked before anything else is read. The metadata is a pickle: it
may name only the classes that metadata consists of. The tensors are read by torch.load(weights_only=True).

Sharded tensors (DTensor) use the same format: their shards are chunks in the same metadata, written by every process
and read back by any number of them. Each process writes and hashes its own file.
"""

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
from coreface.training.checkpoint_facts import CheckpointFacts
from coreface.training.checkpoint_manifest import DTYPES, Files, Layout, Manifest, described

_METADATA = ".metadata"
_NAME = re.compile(r"step_(\d+)$")

# Everything that the metadata of tensors consists of. A pickle that names anything else is refused before the lookup.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("MetadataIndex", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *DTYPES},
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have all been checked.

    Attributes:
        folder: its folder.
        step: optimizer steps it was taken after.
        layout: name of every tensor -> its dtype and shape.
        facts: everything that is not a tensor.
    """

    folder: Path
    step: int
    layout: Layout
    facts: CheckpointFacts

    def read_into(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill tensors, in place, with those of the same names; the others in the checkpoint are not read.

        Args:
            tensors: of the shapes and types in `layout`; DTensors get their part, however the checkpoint was sharded.

        Raises:
            CheckpointError: there is no tensor of that name, shape and type, or a file is damaged.
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
        """Return tensors by name, on the CPU. Raises `CheckpointError` as `read_into` does."""
        tensors = {name: torch.empty(self.layout[name][1], dtype=self.layout[name][0]) for name in names}
        self.read_into(tensors)
        return tensors

    def read_under(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return all tensors whose names begin with ``prefix``, by the rest of their names, on the CPU."""
        tensors = self.read(name for name in self.layout if name.startswith(prefix))
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def write_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    facts: CheckpointFacts,
    processes: Processes | None = None,
) -> Path:
    """Write ``root / "step_<N>"`` completely or not at all. An existing folder of that name is replaced at the end.

    Args:
        root: the folder of the checkpoints, created if missing; the same for all processes.
        step: N.
        tensors: by name: shards on the CPU, tensors equal in all processes, and tensors of one process.
        facts: everything else; those of the leader are written.
        processes: those of the collective call; None writes from this process only.

    Raises:
        OSError: the disk is full or not writable. What was written so far is removed.
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
        layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        parts = processes.on_all(lambda: (_local_files(temporary, processes), layout))
        processes.on_leader(lambda: _finish(temporary, folder, step, facts, parts))
    except BaseException:
        if processes.is_leader:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _local_files(temporary: Path, processes: Processes) -> Files:
    """Describe the files of this process; the leader's include the metadata."""
    written = [*temporary.glob(f"__{processes.rank}_*.distcp")]
    if processes.is_leader:
        written += temporary.glob(_METADATA)
    return {path.name: described(path) for path in sorted(written)}


def _finish(
    temporary: Path, folder: Path, step: int, facts: CheckpointFacts, parts: list[tuple[Files, Layout]]
) -> None:
    """Write the manifest, and give the folder its name."""
    files: Files = {}
    layout: Layout = {}
    for part_files, part_layout in parts:
        files |= part_files
        layout |= part_layout
    if unseen := sorted(files.keys() - {path.name for path in temporary.iterdir()}):
        raise CheckpointError(
            f"{temporary / unseen[0]}: another process has written it, and it is not here: a run on several machines "
            "needs a folder that all of them share"
        )
    Manifest(step, layout, files, facts).write(temporary)
    force_to_disk(temporary)
    root = folder.parent
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
        CheckpointError: a file is missing, damaged or unknown; the message names the first one.
    """
    manifest = Manifest.read(folder)
    manifest.check_files(folder)
    return Checkpoint(folder, manifest.step, manifest.layout, manifest.facts)


def checkpoint_folders(root: Path) -> list[Path]:
    """Return the folders of complete checkpoints, newest first."""
    if not root.is_dir():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _NAME.match(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def remove_leftovers(root: Path) -> None:
    """Remove what a process left that died while writing. Only for the process that holds the lock of the run."""
    if not root.is_dir():
        return
    for path in root.glob(".step_*.replaced.tmp"):
        # The process died between two renames: the old folder is still the checkpoint of that step.
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
    """Turn torch's CheckpointException, a BaseException with all causes, into errors of this package."""
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
    """Find the OSError: torch.save fails again while cleaning up, and hides it behind a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _one_line(causes: list[BaseException]) -> str:
    return "; ".join(" ".join(f"{cause}".split()) or type(cause).__name__ for cause in causes)
