"""The best encoder of a run by its held-out people, kept next to the last one. This module does not import torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coreface.files import write_atomically

if TYPE_CHECKING:
    from coreface.models.encoder import FaceEncoder

BEST_ENCODER = "encoder_best"  #: folder of the best encoder inside a run
_FACTS = "best.json"


class Best(NamedTuple):
    """The evaluation of the best encoder: step, epoch, and the equal error rate on the held-out people."""

    step: int
    epoch: int
    eer: float


def read_best(run: Path) -> Best | None:
    """Return the evaluation of the best encoder of a run; None if there is none."""
    try:
        facts = json.loads((run / BEST_ENCODER / _FACTS).read_bytes())
        return Best(int(facts["step"]), int(facts["epoch"]), float(facts["eer"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_best(run: Path, encoder: "FaceEncoder", best: Best) -> None:
    """Save an encoder as the best of a run unless there is a better one.

    Raises:
        OSError: it cannot be written.
    """
    before = read_best(run)
    if before is not None and before.eer <= best.eer:
        return
    # The description is removed first and written last: without it the folder does not count.
    (run / BEST_ENCODER / _FACTS).unlink(missing_ok=True)
    encoder.save_pretrained(run / BEST_ENCODER)
    write_atomically(run / BEST_ENCODER / _FACTS, json.dumps(best._asdict()).encode())


def forget_best_after(run: Path, step: int) -> None:
    """Discard a best encoder of a later step, which a resumed training will reach again."""
    best = read_best(run)
    if best is not None and best.step > step:
        (run / BEST_ENCODER / _FACTS).unlink()
