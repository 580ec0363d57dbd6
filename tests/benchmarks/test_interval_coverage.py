"""Intervals hold a known truth as often as they say, and those that take pairs for independent do not."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    specification = importlib.util.spec_from_file_location("interval_coverage", BENCHMARK)
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    trials = 150
    found = benchmark.coverage(100, trials, replicates=150)
    for name in benchmark.STATISTICS:
        assert 0.88 <= found[name, "ours"].held / trials <= 1.0
    assert found["FMR at a threshold", "independent pairs"].held / trials < 0.5
    assert found["TAR at FAR 0.01", "independent pairs"].held / trials < 0.85
