"""The rows of a run, `metrics.jsonl`, as they are read. Light: nothing here imports torch."""

import contextlib
import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"  #: file of the rows inside a run
FINISHED = "finished"  #: kind of the last row of a run that came to its end


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl; none where there is no such file.

    Where the run goes on or was cut off the last row may be half written: what is no row is left out.
    """
    path = folder / METRICS
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]
