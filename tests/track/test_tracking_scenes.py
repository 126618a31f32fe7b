"""Switches on synthetic videos, by bars and against the package trackers where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from rtmo_deploy.data.synthetic.video import SyntheticVideo

_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tracking.py"
_SPEC = importlib.util.spec_from_file_location("tracking_benchmark", _SCRIPT)
tracking = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = tracking
_SPEC.loader.exec_module(tracking)

#: No constant was chosen by these seeds.
SEEDS = [201, 202]
RUNS = [("cross", False), ("meet", False), ("hide", False), ("leave", False), ("crowd", False), ("crowd", True)]


@cache
def video(scene, variable, seed):
    frames = list(SyntheticVideo(scene, seed=seed, variable=variable))
    return frames, tracking.detections(frames, seed, scene, None, None)


def switches(scene, variable, name, seed):
    """How often the id of somebody changes: pairs by OKS of at least 0.5, those of the last frame first."""
    count, last = 0, {}
    frames, found = video(scene, variable, seed)
    update = tracking.COMPARED[name]()
    for frame, poses in zip(frames, found, strict=True):
        ids = update(poses, frame.time_s, frame.sample.image)
        people = frame.track_ids.tolist()
        alike = np.where(ids >= 0, tracking.oks(frame.sample.people, poses), 0)
        worth = alike + 10 * (np.array([last.get(who, 0) for who in people])[:, None] == ids)
        for who, row in zip(*linear_sum_assignment(-np.where(alike >= 0.5, worth, 0)), strict=True):
            if alike[who, row] >= 0.5:
                count += last.get(people[who], ids[row]) != ids[row]
                last[people[who]] = ids[row]
    return count


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scene", "variable"), RUNS)
def test_few_switches(scene, variable, seed):
    assert switches(scene, variable, "this project", seed) <= {"crowd": 3, "leave": 4, "hide": 3}.get(scene, 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("scene", "variable"), RUNS)
def test_no_more_switches_than_others(scene, variable, seed):
    pytest.importorskip("trackers", reason="pip install --no-deps trackers")
    names = ("this project", "SORT", "ByteTrack")
    ours, *others = (switches(scene, variable, name, seed) for name in names)
    assert ours < min(others) or ours == 0
