"""The tests with damaged files once more, with thousands of cases each, in a process whose memory is measured."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support.fuzzing import VARIABLE

TESTS = Path(__file__).parents[1]
CASES = 2500
MOST_MEMORY = 1.5  # GiB, of which torch, OpenCV and pytest take the half


@pytest.mark.slow
def test_thousands_of_damaged_files():
    """RecordIO twice, `.bin` with planted pickles, tar, image files, and JPEG the quick way: 15 000 cases in all.

    And 12 500 of folders, shards and lists whose names, labels and encodings are drawn.
    """
    names = [
        "data/recordio/test_fuzzed.py::test_flipped_bits_and_cut_ends",
        "data/pairs/test_bin.py::test_flipped_bits_and_cut_ends",
        "data/test_tar_shards.py::test_flipped_bits_and_cut_ends",
        "images/test_load.py::test_flipped_bits_give_an_image_or_a_typed_error",
        "data/test_nothing_is_lost.py",
        "images/test_fast_jpeg.py::test_what_is_taken_is_complete_by_the_long_way_too",
    ]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *(str(TESTS / name) for name in names)]
    environment = {**os.environ, VARIABLE: str(CASES)}
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment, cwd=TESTS.parent, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "11 passed" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < MOST_MEMORY * 2**20
