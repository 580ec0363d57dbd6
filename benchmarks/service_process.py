"""A service in a process of its own, and photographs for it: shared by the programs that measure one."""

import re
import subprocess
import sys
import threading

import cv2
import numpy as np
from numpy.typing import NDArray


def serve(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Start `coreface serve` on a free port, and return the process and the URL."""
    command = [sys.executable, "-m", "coreface", "serve", *words, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"coreface: (http\S+) ", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
            return process, found[1]
    raise SystemExit("the service has not started")


def photograph(face: NDArray[np.uint8] | None) -> bytes:
    """Return a JPEG of 320 x 240 that shows a face, or none."""
    picture = np.full((240, 320, 3), 110, np.uint8)
    if face is not None:
        picture[40:200, 60:220] = cv2.resize(face, (160, 160))
    return bytes(cv2.imencode(".jpg", picture[..., ::-1])[1])
