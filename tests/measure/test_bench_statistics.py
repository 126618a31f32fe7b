"""Percentiles and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.measure.bench.statistics import Ratio, Summary, independent_ratio, paired_ratio, student_t
from rtmo_deploy.plain import plain

TIMES = st.lists(st.floats(0.001, 1e5), min_size=1, max_size=200)


@given(TIMES)
def test_a_summary_is_what_numpy_says(times):
    found = Summary.of(times)
    assert found.n == len(times)
    assert found.min == min(times)
    assert found.mean == pytest.approx(np.mean(times))
    for share, least in ((50, 1), (90, 20), (95, 40), (99, 200)):
        value = getattr(found, f"p{share}")
        if len(times) < least:
            assert value is None  # of so few calls it says nothing
        else:
            assert value == pytest.approx(np.percentile(times, share))
    assert Summary(**plain(found)) == found


@pytest.mark.parametrize("times", [[], [1.0, math.nan], [math.inf]])
def test_no_summary_of_nothing(times):
    with pytest.raises(ValueError, match="finite"):
        Summary.of(times)


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of every table of Student's t
    [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (10, 2.228), (15, 2.131), (30, 2.042), (120, 1.980)],
)
def test_student(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, abs=6e-4)


def test_student_falls_without_a_step():
    values = [student_t(freedom) for freedom in range(1, 200)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1.972, abs=1e-3)


def test_no_interval_without_freedom():
    with pytest.raises(ValueError, match="degree"):
        student_t(0)


def test_a_paired_ratio_by_hand():
    found = paired_ratio([2.0, 4.0, 8.0], [1.0, 1.0, 2.0])
    logs = np.log([2.0, 4.0, 4.0])
    reach = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx((math.exp(logs.mean() - reach), math.exp(logs.mean() + reach)))


def test_what_slows_a_whole_round_cancels():
    reference = np.array([1.0, 3.0, 2.0, 9.0])
    found = paired_ratio((reference * 1.5).tolist(), reference.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_one_round_has_no_interval():
    assert paired_ratio([2.0], [1.0]) == Ratio(pytest.approx(2.0), None, None)
    assert independent_ratio([2.0], [1.0, 1.0]).low is None
    assert "no interval" in str(paired_ratio([2.0], [1.0]))


@pytest.mark.parametrize(("one", "other"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_no_ratio_of_such(one, other):
    with pytest.raises(ValueError, match=r"positive|rounds"):
        paired_ratio(one, other)


def share_of_hits(draw, truth, tries=400):
    hits = 0
    for seed in range(tries):
        found = draw(np.random.default_rng(seed))
        hits += found.low <= truth <= found.high
    return hits / tries


def test_a_paired_interval_holds_the_truth_as_often_as_it_says():
    def draw(rng):
        drift = np.exp(np.cumsum(rng.normal(0, 0.3, 10)))  # common to both
        mine, theirs = (drift * np.exp(rng.normal(0, 0.05, 10)) for _ in range(2))
        return paired_ratio((0.8 * mine).tolist(), theirs.tolist())

    assert 0.92 <= share_of_hits(draw, 0.8) <= 0.98


def test_an_independent_interval_holds_the_truth_as_often_as_it_says():
    def draw(rng):
        return independent_ratio(
            (1.2 * np.exp(rng.normal(0, 0.02, 6))).tolist(), np.exp(rng.normal(0, 0.1, 12)).tolist()
        )

    assert 0.92 <= share_of_hits(draw, 1.2) <= 0.98


@settings(max_examples=50)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=30), st.lists(st.floats(0.1, 10), min_size=2, max_size=30))
def test_the_other_way_round_is_the_inverse(one, other):
    there, back = independent_ratio(one, other), independent_ratio(other, one)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)
    assert there.low <= there.value * (1 + 1e-12)
    assert there.value <= there.high * (1 + 1e-12)
