"""Results of benchmarks that nobody has run, for what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rtmo_deploy.machine import Load, Machine
from rtmo_deploy.measure.bench import BenchOptions, BenchResult, Case, Contender, Entry, Summary
from rtmo_deploy.measure.bench.plan import ImageSet
from rtmo_deploy.measure.bench.result import Opened, with_ratios

ARTIFACT = {
    "kind": "onnx",
    "architecture": "rtmo-s",
    "variant": None,
    "precision": "fp32",
    "decode": {"mode": "onnx", "score_thr": 0.1, "nms_thr": 0.65},
    "skeleton": {"keypoints": ["k"] * 17},
}
MACHINE = Machine("A CPU", ("avx2",), 4, 8, 2**34, "Linux", None)
OTHER_MACHINE = Machine("B CPU", ("avx2",), 4, 8, 2**34, "Linux", None)


def opened(label="m.onnx (onnxruntime)", *, reference=False, facts=None, **artifact):
    facts = {"backend": "onnxruntime", "device": "cpu", "input_hw": [640, 640], **(facts or {})}
    contender = Contender(label, label.split()[0], reference=reference)
    return Opened(contender, {**ARTIFACT, **artifact}, "ab" * 32, facts, {"python": "3.11"}, 0.5)


def entry(one, case, times, *, found=3.0, stages=("decode file", "network+NMS+DCC", "draw")):
    """``times``: one list of totals a round, milliseconds."""
    totals = [time for turn in times for time in turn]
    parts = {name: Summary.of([time / len(stages) for time in totals]) for name in stages}
    return Entry(
        one, case, parts, Summary.of(totals), tuple(float(np.median(turn)) for turn in times), found, memory=2**28
    )


def noisy(middle, *, rounds=10, spread=0.02, seed=0):
    rng = np.random.default_rng([seed, int(middle * 1000)])
    return [(middle * np.exp(rng.normal(0, spread, 5))).tolist() for _ in range(rounds)]


def result(entries, *, machine=MACHINE, warnings=(), published=None, **options):
    return BenchResult(
        BenchOptions(models=(Path("m.onnx"),), **options),
        machine,
        Load(0.5, 0.02, 0.0),
        (ImageSet(None, (Path("a.jpg"),), "1 image"),),
        with_ratios(entries),
        tuple(warnings),
        "2026-01-02T03:04:05+00:00",
        published or {},
    )


def simple(middle=20.0, reference=40.0, *, machine=MACHINE, seed=0, case=None, spread=0.02, **changes):
    """A reference and a model."""
    case = case or Case()
    entries = [
        entry(
            opened("PyTorch (m.pth)", reference=True, kind="checkpoint"),
            case,
            noisy(reference, seed=seed, spread=spread),
            stages=("decode file", "network", "NMS+DCC", "draw"),
        ),
        entry(opened(**changes), case, noisy(middle, seed=seed + 1, spread=spread)),
    ]
    return result(entries, machine=machine)
