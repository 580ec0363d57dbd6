"""Student's distribution against SciPy, against closed forms, and against a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coreface.errors import InputError
from coreface.studies.student import detectable_shift, power, two_sided_p, two_sided_quantile

FREEDOMS = [0.5, 1, 1.7, 2, 4, 7.31, 29.5, 412.2, 1e5]


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("level", [0.2, 0.05, 0.05 / 3, 1e-4])
def test_quantile_and_tail_agree_with_scipy(freedom, level):
    quantile = two_sided_quantile(level, freedom)
    assert quantile == pytest.approx(stats.t.isf(level / 2, freedom), rel=1e-8)
    assert two_sided_p(quantile, freedom) == pytest.approx(level, rel=1e-8)
    assert two_sided_p(-quantile, freedom) == two_sided_p(quantile, freedom)


@given(st.floats(-50, 50))
def test_tail_has_the_closed_forms_of_one_and_two_degrees(t):
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 * math.atan(abs(t)) / math.pi, rel=1e-9, abs=1e-12)
    assert two_sided_p(t, 2) == pytest.approx(1 - abs(t) / math.sqrt(2 + t * t), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("freedom", FREEDOMS)
@pytest.mark.parametrize("shift", [0, 0.6, 2.8, 5])
def test_power_agrees_with_the_noncentral_t_of_scipy(freedom, shift):
    threshold = stats.t.isf(0.025, freedom)
    expected = stats.nct.sf(threshold, freedom, shift) + stats.nct.cdf(-threshold, freedom, shift)
    assert power(shift, 0.05, freedom) == pytest.approx(expected, abs=1e-6)


def test_power_is_what_a_simulation_rejects():
    generator = np.random.default_rng(1)
    for freedom, shift in ((4, 3.0), (9.5, 2.0)):
        estimates = generator.normal(shift, 1, 200_000) / np.sqrt(generator.chisquare(freedom, 200_000) / freedom)
        rejected = np.mean(np.abs(estimates) > stats.t.isf(0.025, freedom))
        assert power(shift, 0.05, freedom) == pytest.approx(rejected, abs=0.005)


def test_detectable_shift_has_the_power_it_promises():
    for freedom in (2, 4, 17.3):
        assert power(detectable_shift(0.05, freedom), 0.05, freedom) == pytest.approx(0.8, abs=1e-9)
    # The textbook's 1.96 + 0.84.
    assert detectable_shift(0.05, 1e6) == pytest.approx(2.8016, abs=1e-3)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(InputError, match="degrees of freedom"):
        two_sided_p(1, 0)
    with pytest.raises(InputError, match="level is 1"):
        two_sided_quantile(1, 3)
    with pytest.raises(InputError, match=r"power is 0\.01"):
        detectable_shift(0.05, 3, 0.01)
