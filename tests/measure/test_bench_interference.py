"""Interference: a busy machine gives no ratio, a quiet one an interval that covers what was lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_results import entry, opened

from rtmo_deploy.measure.bench import Case
from rtmo_deploy.measure.bench.interference import Interference, Observer
from rtmo_deploy.measure.bench.machine import Ticks
from rtmo_deploy.measure.bench.result import with_ratios
from rtmo_deploy.measure.bench.statistics import Ratio


def observed(others, *, steal=0, switches=0, own=1.0, cpu=0.005):
    """Ten turns of a second on two cores."""
    ticks = iter([Ticks(0, 0, 0), Ticks(200, round(100 * own) + others + steal, steal)] * 10)
    watch = Observer(lambda: next(ticks), lambda: [(0.005, cpu)] * 2)
    for _ in range(10):
        watch.begin()
        watch.end({"cpu_s": own, "switches": switches})
    return watch.result()


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (observed(2), ""),
        (observed(40), "other processes used 20%"),
        (observed(0, steal=10), "a hypervisor took 5%"),
        (observed(0, switches=500), "500 involuntary"),
        (observed(0, cpu=0.003), "waited for a core in 40%"),
    ],
)
def test_what_makes_a_machine_busy(found, word):
    assert found.observed
    assert (not found.reasons) if not word else any(word in reason for reason in found.reasons)


def test_a_system_that_tells_nothing_is_no_quiet_one():
    watch = Observer(lambda: None, lambda: [(0.005, None)])
    watch.begin()
    watch.end({})
    assert watch.result() == Interference()
    assert not watch.result().observed


def test_a_busy_case_has_no_ratio_and_a_quiet_one_a_wider_interval():
    times = [[10.0], [10.5], [9.8]]
    pair = [entry(opened("ref", reference=True), Case(), times), entry(opened(), Case(), times)]

    def ratio(interference):
        return with_ratios([replace(one, interference=interference) for one in pair])[1].ratio

    assert ratio(Interference(others=0.5)) is None
    assert ratio(Interference(others=0.0)) == Ratio(1.0, 1.0, 1.0)
    wide = ratio(Interference(others=0.05))
    assert wide.low == pytest.approx(0.9)
    assert wide.high == pytest.approx(1 / 0.9)
