"""Writers of a gallery killed at random moments, in both stores; benchmarks/kill_gallery.py does it a hundred times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kill_gallery.py"


@pytest.mark.slow
def test_nothing_is_half_there_lost_or_found_again(new_place):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(new_place()), "--kills", "8"],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "8 of 8 as promised" in done.stdout, done.stdout
