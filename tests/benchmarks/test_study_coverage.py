"""Intervals of a study hold a known truth as often as they say, where plain resampling of few seeds does not."""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "study_coverage.py"


@pytest.fixture(scope="module")
def benchmark_module():
    specification = importlib.util.spec_from_file_location("study_coverage", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_few_seeds_that_differ_much_are_accounted_for(benchmark_module):
    found = benchmark_module.coverage(benchmark_module.SPREADS["seeds"], 3, 150)
    assert found["study"][0] > 0.9
    assert found["plain bootstrap"][0] < 0.88


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["seeds", "mixed", "people", "people in a seed"])
def test_intervals_hold_the_truth_as_often_as_they_say(benchmark_module, spread):
    for seeds in (3, 10):
        held, _ = benchmark_module.coverage(benchmark_module.SPREADS[spread], seeds, 400)["study"]
        assert 0.92 <= held <= 0.99
    corrected, uncorrected = benchmark_module.false_alarms(benchmark_module.SPREADS[spread], 5, 200)
    assert corrected <= 20
    assert corrected <= uncorrected
