"""Reads the rows of a run, `metrics.jsonl`. This module does not import torch."""

import contextlib
import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"  #: file of the rows inside a run
FINISHED = "finished"  #: kind of the last row of a finished run


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl; none if there is no such file.

    While a run trains, or if it was interrupted, the last line may be incomplete: lines that are not rows are left out.
    """
    path = folder / METRICS
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]
