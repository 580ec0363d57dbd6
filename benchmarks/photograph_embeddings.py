"""Embeddings of folders of photographs through a pipeline, kept in a file: what the programs beside this one share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data.folder import IMAGE_SUFFIXES
from coreface.recognition.pipeline import FacePipeline


@dataclass(frozen=True)
class Embedded:
    """Rows of ``names`` that could be embedded, and the reason for every other."""

    names: NDArray[np.str_]
    embeddings: NDArray[np.float32]
    failures: dict[str, str]

    @property
    def people(self) -> NDArray[np.str_]:
        """The folder of each photograph, or its own name where it lies in none."""
        return np.array([name.split("/")[0] for name in self.names])


def embed_folder(pipeline: FacePipeline, folder: Path, kept: Path) -> Embedded:
    """Embed every photograph below a folder, or read what an earlier call kept."""
    if not kept.is_file():
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        names = [str(path.relative_to(folder)) for path in paths]
        found = pipeline.embed(paths, on_error="record")
        reasons = {names[index]: getattr(error, "reason", "unreadable") for index, error in found.failures.items()}
        np.savez(
            kept,
            names=np.array([names[index] for index in found.indices]),
            embeddings=found.embeddings,
            failed=np.array(list(reasons), dtype=np.str_),
            reasons=np.array(list(reasons.values()), dtype=np.str_),
        )
    with np.load(kept) as arrays:
        failures = dict(zip(arrays["failed"].tolist(), arrays["reasons"].tolist(), strict=True))
        return Embedded(arrays["names"], arrays["embeddings"], failures)
