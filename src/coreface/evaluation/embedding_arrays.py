"""The arrays in a ``.npz`` of embeddings that another program made, as numbers and texts that can be trusted."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coreface.errors import DataError

_MISSING = frozenset({"", "none", "nan", "null", "na"})  # how other programs write an unknown identity
_SHOWN = 5


class EmbeddingArrays(NamedTuple):
    """Embeddings (N, D) float32 or float64; names and identities (N,), None where the file has none."""

    embeddings: NDArray[np.floating[Any]]
    names: NDArray[np.str_] | None
    identities: NDArray[np.generic] | None


def read_arrays(path: Path) -> EmbeddingArrays:
    """Read ``embeddings``, ``names`` and ``identities``; rows with a text in ``reasons`` are left out.

    float16 and int8 become float32. Names and identities may be bytes, which are UTF-8.

    Raises:
        DataError: it cannot be read, does not hold this, or an identity is missing: NaN, empty, None, or -1 beside
            others. Nothing in the file is run.
    """
    found = _read(path)
    if "embeddings" not in found:
        raise DataError(f"{path} holds {', '.join(sorted(found)) or 'nothing'}; expected embeddings (N, D)")
    embeddings = found["embeddings"]
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fi":
        kind = " (unsigned: subtract the zero point first)" if embeddings.dtype.kind == "u" else ""
        raise DataError(
            f"{path}: embeddings are {embeddings.dtype} {embeddings.shape}{kind}, expected floats (N, D), "
            "or signed integers"
        )
    count = len(embeddings)
    for name in ("names", "identities", "reasons"):
        if name in found and found[name].shape != (count,):
            raise DataError(f"{path}: {name} have shape {found[name].shape}, expected ({count},)")
    kept = np.ones(count, np.bool_)
    if "reasons" in found:  # `coreface embed` keeps a row for every image, and says why one has no embedding
        kept = _texts(found["reasons"]) == ""
    if embeddings.dtype.kind == "i" or embeddings.dtype.itemsize < 4:
        embeddings = embeddings.astype(np.float32)
    names, identities = found.get("names"), found.get("identities")
    rows = np.flatnonzero(kept)
    return EmbeddingArrays(
        embeddings[rows],
        None if names is None else _texts(names)[rows],
        None if identities is None else _known(identities[rows], rows, path),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("one array without a name")
        with arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; expected a .npz with embeddings (N, D)") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        hint = ""
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            hint = "; a column of Python objects is not opened, save it as text: names.astype(str)"
        raise DataError(f"{path} cannot be read ({error}); expected a .npz with embeddings (N, D){hint}") from error


def _texts(values: NDArray[Any]) -> NDArray[np.str_]:
    if values.dtype.kind == "S":
        return np.array([value.decode("utf-8", "surrogateescape") for value in values.tolist()], np.str_)
    return values.astype(np.str_)


def _known(identities: NDArray[Any], rows: NDArray[np.intp], path: Path) -> NDArray[np.generic]:
    """Return identities as they are once each says who it is; bytes become text."""
    if identities.dtype.kind == "S":
        identities = _texts(identities)
    if identities.dtype.kind == "f":
        missing = ~np.isfinite(identities)
        stand_in = (identities == -1) & (identities >= 0).any()
    elif identities.dtype.kind == "U":
        words = np.char.lower(np.char.strip(identities))
        missing = np.isin(words, list(_MISSING))
        stand_in = (words == "-1") & (words != "-1").any()
    elif identities.dtype.kind in "iu":
        missing = np.zeros(len(identities), np.bool_)
        stand_in = (identities == -1) & (identities >= 0).any() if identities.dtype.kind == "i" else missing
    else:
        raise DataError(f"{path}: identities are {identities.dtype}, expected numbers or texts")
    if (bad := missing | stand_in).any():
        places = rows[bad].tolist()
        shown = ", ".join(map(str, places[:_SHOWN])) + (" ..." if len(places) > _SHOWN else "")
        what = "no identity" if missing.any() else "the identity -1"
        raise DataError(
            f"{path}: {len(places)} of {len(identities)} rows have {what} (rows {shown}, from 0), and would count as "
            "one person: leave those rows out, or give each person a label"
        )
    return identities
