"""A detector that waits for permission, so that a test can kill the process in which it waits."""

import os
import time
from pathlib import Path
from typing import Any

from coreface.recognition.detection import WholeImage

_DEADLINE = 300.0  # seconds


class WaitingDetector(WholeImage):
    """Takes images as crops. On the first that is wider than high, it writes its process number, and waits.

    Args:
        folder: where ``pid`` is written, and ``go`` ends the waiting.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def contract(self) -> dict[str, Any]:
        return {"name": "waiting"}

    def detect(self, image):
        pid, go = self._folder / "pid", self._folder / "go"
        if image.shape[1] > image.shape[0] and not go.exists():
            temporary = self._folder / f"pid.{os.getpid()}"
            temporary.write_text(str(os.getpid()))
            temporary.replace(pid)
            end = time.monotonic() + _DEADLINE
            while not go.exists() and time.monotonic() < end:
                time.sleep(0.05)
        return super().detect(image)
