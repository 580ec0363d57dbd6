"""A cache of embeddings on disk: interrupted evaluations resume, and repeated ones need not embed again.

Each encoder (by content digest) and kind of embedding has a folder of parts. A part is one safetensors file whose name
is the SHA-256 of what it holds. A part that is damaged, cut off or of anything else is passed over and embedded
again: nothing but what the encoder said of exactly these bytes is ever given out. Parts are written whole or not at
all, and by any number of processes.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from coreface._version import __version__
from coreface.files import user_path, write_atomically

_PART = 512  # embeddings that an interruption may cost
_FORMAT = 1


def default_folder() -> Path:
    """Return where embeddings are kept unless another folder is asked for: the user's cache."""
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "coreface" / "embeddings"


class EmbeddingCache:
    """The kept embeddings of one encoder.

    Args:
        folder: under which every encoder has a folder of its own.
        digest: content digest of the encoder.
        description: what else decides an embedding, such as ``flip``.

    Attributes:
        folder: that of this encoder.
        hits: how many embeddings were found.
        error: why nothing is kept any more, because the folder cannot be written; None while it can.
    """

    def __init__(self, folder: Path, digest: str, description: str) -> None:
        # A change of this library may change what an encoder sees.
        name = hashlib.sha256(f"{_FORMAT}|{__version__}|{digest}|{description}".encode()).hexdigest()[:32]
        self.folder = Path(folder) / name
        self.hits = 0
        self.error: OSError | None = None
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        self._new: dict[bytes, NDArray[np.float32]] = {}
        if self.folder.is_dir():
            for part in sorted(self.folder.glob("*.safetensors")):
                self._rows.update(_read(part))

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """Return the embedding (embedding_size,) of the image whose content has the SHA-256 ``key``, or None."""
        row = self._rows.get(key)
        self.hits += row is not None
        return row

    def add(self, key: bytes, row: NDArray[np.float32]) -> None:
        """Keep an embedding; every 512 of them are written."""
        self._new[key] = row
        if len(self._new) >= _PART:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet. Where that fails, `error` says why: it is no reason to lose the embeddings."""
        if not self._new:
            return
        if self.error is None:
            try:
                self._write()
            except OSError as error:
                self.error = error
        self._rows.update(self._new)
        self._new.clear()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = save(
            {
                "keys": np.frombuffer(b"".join(self._new), np.uint8).reshape(-1, 32),
                "embeddings": np.stack(list(self._new.values())).astype(np.float32),
            }
        )
        write_atomically(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)


def _read(part: Path) -> dict[bytes, NDArray[np.float32]]:
    try:
        content = part.read_bytes()
        if hashlib.sha256(content).hexdigest() != part.stem:
            return {}
        arrays = load(content)
        keys, rows = arrays["keys"], arrays["embeddings"]
    except (OSError, SafetensorError, KeyError):
        return {}
    whole = keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == 32
    if not whole or rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != len(keys):
        return {}
    return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}
