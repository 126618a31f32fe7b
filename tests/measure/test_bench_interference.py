"""Interference: a busy machine gives no ratio, a quiet one an interval that covers what was lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_results import ARTIFACT, entry, opened

from rtmo_deploy.machine import Ticks
from rtmo_deploy.measure.bench import BenchOptions, Case, Contender, run, worker
from rtmo_deploy.measure.bench.interference import OTHERS, Interference, Observer
from rtmo_deploy.measure.bench.plan import ImageSet
from rtmo_deploy.measure.bench.result import with_ratios
from rtmo_deploy.measure.bench.statistics import Ratio, paired_ratio

#: How many times as long B takes as A by construction: it does the same work so many times.
TRUE_RATIO = 2.0
BLOCK = bytes(1 << 19)
#: A load that comes and goes about as often as turns do.
PULSES = """
import time
while True:
    until = time.perf_counter() + 0.06
    while time.perf_counter() < until: pass
    time.sleep(0.06)
"""


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
        (observed(10, switches=500), "500 involuntary"),
        (observed(2, switches=500), ""),
        (observed(0, cpu=0.003), "waited for a core in 40%"),
    ],
)
def test_what_makes_a_machine_busy(found, word):
    assert found.others is not None
    assert (not found.reasons) if not word else any(word in reason for reason in found.reasons)


def test_a_system_that_tells_nothing_is_no_quiet_one():
    watch = Observer(lambda: None, lambda: [(0.005, None)])
    watch.begin()
    watch.end({})
    assert watch.result() == Interference()
    assert watch.result().others is None


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


class Work:
    """A worker in this process whose calls do a known amount of work."""

    def __init__(self, contender):
        self.times = 1 if contender.reference else int(TRUE_RATIO)

    def ask(self, command, *, timeout_s):
        assert timeout_s > 0
        if command["command"] == "open":
            facts = {"backend": "x", "device": "cpu", "input_hw": [64, 64]}
            return {"artifact": ARTIFACT, "sha256": "0" * 64, "facts": facts, "versions": {}, "open_s": 0.0}
        if command["command"] == "warm":
            return {}
        totals, cpu, until = [], time.process_time(), time.perf_counter() + command["seconds"]
        switches = worker._switches()
        while not totals or time.perf_counter() < until:
            started = time.perf_counter()
            for _ in range(self.times):
                hashlib.sha256(BLOCK).digest()
            totals.append(1000 * (time.perf_counter() - started))
        return {
            "stages": {"network": totals},
            "totals": totals,
            "found": dict.fromkeys(command["pictures"], 1),
            "memory": None,
            "cpu_s": time.process_time() - cpu,
            "switches": None if switches is None else worker._switches() - switches,
        }

    def close(self):
        pass


@pytest.fixture
def measured(monkeypatch):
    """Measures the ratio of two contenders whose true one is known, on this machine as it is."""
    planned = (Contender("A", "a", reference=True), Contender("B", "b"))
    monkeypatch.setattr(run, "plan_contenders", lambda _: (planned, (1,), []))
    monkeypatch.setattr(run, "image_sets", lambda *_: [ImageSet(None, (Path("a.jpg"),), "1 image")])

    def go():
        asked = BenchOptions(models=(Path("b"),), pictures=1, seconds=0.3, rounds=8)
        return run.run_bench(asked, start=Work).entries[1]

    return go


@pytest.mark.parametrize("rhythm", ["while True: pass", PULSES], ids=["always", "in pulses"])
def test_a_load_is_noticed_or_covered(measured, rhythm):
    """With a busy process for each core a ratio is refused, or its interval covers the quiet one."""
    with contextlib.ExitStack() as load:
        for _ in range(os.cpu_count() or 1):
            process = load.enter_context(subprocess.Popen([sys.executable, "-c", rhythm]))
            load.callback(process.kill)
        time.sleep(0.1)
        found = measured()
    if found.ratio is None:
        assert found.interference.reasons
    else:
        assert found.ratio.low <= TRUE_RATIO <= found.ratio.high, found


def test_intervals_cover_what_the_bounds_let_through():
    """Turns of a known ratio with quiet noise, and with as much taken from either as counts as not busy."""
    rng = np.random.default_rng(15)
    for others in (0.0, 0.02, OTHERS):
        covered = 0
        for _ in range(400):
            noise = rng.normal(0, 0.03, (2, 10))
            lost = rng.uniform(0, 2 * others) * np.array([[1.0], [0.0]])[:: rng.choice([-1, 1])]
            a, b = np.exp(noise) * np.array([[10.0], [10.0 * TRUE_RATIO]]) / (1 - lost)
            interference = Interference(others=others)
            assert not interference.reasons
            ratio = paired_ratio(b, a).widened(interference.lost)
            covered += ratio.low <= TRUE_RATIO <= ratio.high
        assert covered >= 0.93 * 400, (others, covered)


def test_a_turn_counts_all_of_its_own_core_time():
    """Also of the call that settles the caches: else it would count as other processes'."""
    spent = 0.01

    class Pipeline:
        def call(self, chosen):
            until = time.process_time() + spent
            while time.process_time() < until:
                pass
            return {"network": 1.0}, 1.0, [0] * len(chosen)

    one = worker.Worker()
    one._pipeline = Pipeline()
    command = {"command": "measure", "pictures": ["a.jpg"], "whole": True, "seconds": 0, "calls": 3, "start": 0}
    assert one.answer(command)["cpu_s"] >= (3 + worker.SETTLE) * spent
