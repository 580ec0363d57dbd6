"""Where the calibration of a model is stored, and where it is searched."""

import os
from collections.abc import Iterator
from pathlib import Path

from coreface.errors import ModelError
from coreface.evaluation.calibration import CALIBRATION
from coreface.models.known import KNOWN

SHIPPED = Path(__file__).parent / "calibrations"  #: calibrations of known weights, numbers only


def calibration_place(model: str | os.PathLike[str]) -> Path:
    """Return the path of a new calibration of a model.

    Raises:
        ModelError: the model is known weights, whose folder must not be changed.
    """
    path = Path(model)
    if os.fspath(model) in KNOWN:
        raise ModelError(f"{model} is part of a package: give the calibration file with --out FILE")
    if not path.is_dir():
        return path.with_suffix(f".{CALIBRATION}")
    return (path / "encoder" if (path / "encoder").is_dir() else path) / CALIBRATION


def calibration_places(model: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the paths where the calibration of a model may be; the first that fits a pipeline is used."""
    text, path = os.fspath(model), Path(model)
    if text in KNOWN:
        yield from sorted(SHIPPED.glob(f"{text}_*.json"))
    elif path.is_dir():
        yield path / CALIBRATION
        yield path / "encoder" / CALIBRATION
    else:
        yield path.with_suffix(f".{CALIBRATION}")
