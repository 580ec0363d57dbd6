"""The manifest of a checkpoint: its contents, and the size and SHA-256 of every file including itself."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coreface.errors import CheckpointError
from coreface.training.checkpoint_facts import CheckpointFacts

MANIFEST = "manifest.json"
DTYPES = frozenset(
    ["float64", "float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"]
)  #: of torch, by name: those that a checkpoint may hold
_FORMAT = 2
_SEAL = "sha256"
_ADVICE = "an older checkpoint may be intact"
_CHUNK = 1 << 22  # bytes read at a time

Layout = dict[str, tuple[torch.dtype, torch.Size]]
Files = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    Attributes:
        step: optimizer steps the checkpoint was taken after.
        layout: name of every tensor -> its dtype and shape.
        files: name of every other file -> its size and SHA-256.
        facts: everything that is not a tensor.
    """

    step: int
    layout: Layout
    files: Files
    facts: CheckpointFacts

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder, forced to the disk."""
        layout = {
            name: (str(dtype).removeprefix("torch."), list(shape)) for name, (dtype, shape) in self.layout.items()
        }
        values = {"format": _FORMAT, "step": self.step, **self.facts.to_json(), "layout": layout, "files": self.files}
        with (folder / MANIFEST).open("wb") as file:
            file.write(sealed(values))
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a folder and check its seal.

        Raises:
            CheckpointError: it is missing, damaged, of another version, or not a manifest.
        """
        path = folder / MANIFEST
        values = _read_sealed(path)
        if (version := values.get("format")) != _FORMAT:
            raise CheckpointError(f"{path}: has format {version!r}, expected {_FORMAT}: it is of another version")
        try:
            layout = {
                str(name): (_dtype(dtype), torch.Size(shape)) for name, (dtype, shape) in values["layout"].items()
            }
            files = {name: (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
            return cls(int(values["step"]), layout, files, CheckpointFacts.from_json(values))
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # the seal is right, so coreface did not write it
            raise CheckpointError(f"{path}: is not the manifest of a checkpoint ({error!r}); {_ADVICE}") from error

    def check_files(self, folder: Path) -> None:
        """Check every byte of the other files.

        Raises:
            CheckpointError: a file is missing, damaged or unknown; the message names the first one.
        """
        present = {path.name for path in folder.iterdir()} - {MANIFEST}
        for name in sorted(present - self.files.keys()):
            raise CheckpointError(f"{folder / name}: does not belong to this checkpoint; {_ADVICE}")
        for name, (size, digest) in self.files.items():
            path = folder / name
            try:
                found_size, found_digest = described(path)
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
            if found_size != size:
                raise CheckpointError(f"{path}: cut short or swapped: {found_size} bytes, expected {size}; {_ADVICE}")
            if found_digest != digest:
                raise CheckpointError(f"{path}: damaged: its SHA-256 differs from the one that was written; {_ADVICE}")


def described(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def sealed(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON whose last entry is the SHA-256 of everything before it."""
    digest = hashlib.sha256(json.dumps(values, allow_nan=False).encode()).hexdigest()
    return json.dumps({**values, _SEAL: digest}, indent=1, allow_nan=False).encode()


def _read_sealed(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        state = "" if path.parent.is_dir() else "no such folder; "
        raise CheckpointError(f"{path}: missing; {state}expected a folder step_<N> of a run") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
    try:
        values = {key: value for key, value in json.loads(content).items() if key != _SEAL}
        expected = sealed(values)
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: it is not the JSON that was written; {_ADVICE}") from error
    if content != expected:  # exact: even a changed space counts
        raise CheckpointError(f"{path}: damaged: its SHA-256 differs from the one that was written; {_ADVICE}")
    return values


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"there is no dtype {name!r}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
