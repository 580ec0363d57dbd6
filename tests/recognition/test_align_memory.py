"""Aligning many photographs of many sizes takes no more memory than aligning some."""

import subprocess
import sys

import cv2
import pytest

PROGRAM = """
import sys
from coreface.images.load import load_image
from coreface.recognition.align_folder import AlignSettings, list_photographs
from pathlib import Path

def resident():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

cropper = AlignSettings().cropper()
photographs = list_photographs(Path(sys.argv[1]))
for number in range(400):
    cropper.crops(load_image(photographs[number % len(photographs)].path))
    if number == 99:
        before = resident()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_photographs_of_mixed_sizes(photograph, tmp_path):
    for number in range(25):
        width = 160 + 97 * number % 1500
        picture = cv2.resize(photograph([(number, 0, 60, 40, 160)], 320, 240), (width, width * 3 // 4))
        (tmp_path / f"p{number:02}").mkdir()
        cv2.imwrite(str(tmp_path / f"p{number:02}" / "0.jpg"), picture[..., ::-1])
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MiB; one of the larger photographs takes 6
