"""What an index costs in memory, by the record: a set of many millions must open beside a training."""

import runpy
import tracemalloc
from pathlib import Path

import pytest

from coreface.data import RecordReader, RecordSource

MAKE = Path(__file__).parents[3] / "benchmarks" / "open_index.py"
RECORDS = 600_000  # enough for the ways of the large sets
BLOCKS = 2**24  # bytes that do not grow with the file: text, headers and tables being worked on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "described", "each"),
    [
        (RecordReader, True, 8),  # an offset
        (RecordSource, True, 8 + 8 + 4),  # an offset, an identity, a label
        (RecordSource, False, 8 + 8 + 4),
    ],
)
def test_memory_by_the_record(tmp_path, kind, described, each):
    runpy.run_path(str(MAKE))["write_set"](tmp_path, RECORDS, described=described)
    tracemalloc.start()
    try:
        opened = kind(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(opened) > RECORDS * 0.9
    assert RECORDS * 8 < most < RECORDS * each + BLOCKS
