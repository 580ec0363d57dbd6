"""The best encoder of a run, by the people it held out, beside the last one. Light: nothing here imports torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coreface.files import write_atomically

if TYPE_CHECKING:
    from coreface.models.encoder import FaceEncoder

BEST_ENCODER = "encoder_best"  #: folder of the best encoder inside a run
_FACTS = "best.json"


class Best(NamedTuple):
    """The evaluation that the best encoder comes from: its step and epoch, and the equal error rate of the people."""

    step: int
    epoch: int
    eer: float


def read_best(run: Path) -> Best | None:
    """Return which evaluation the best encoder of a run comes from; None where there is no such encoder."""
    try:
        facts = json.loads((run / BEST_ENCODER / _FACTS).read_bytes())
        return Best(int(facts["step"]), int(facts["epoch"]), float(facts["eer"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_best(run: Path, encoder: "FaceEncoder", best: Best) -> None:
    """Save an encoder as the best of a run if no better one is there.

    Raises:
        OSError: it cannot be written.
    """
    before = read_best(run)
    if before is not None and before.eer <= best.eer:
        return
    # The file that says what it is goes first and comes last: without it the folder counts as none.
    (run / BEST_ENCODER / _FACTS).unlink(missing_ok=True)
    encoder.save_pretrained(run / BEST_ENCODER)
    write_atomically(run / BEST_ENCODER / _FACTS, json.dumps(best._asdict()).encode())


def forget_best_after(run: Path, step: int) -> None:
    """Take no account of a best encoder of a later step, which a resumed training comes to once more."""
    best = read_best(run)
    if best is not None and best.step > step:
        (run / BEST_ENCODER / _FACTS).unlink()
