"""Switches on synthetic videos, by bars and against the package trackers where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rtmo_deploy.data.synthetic.video import SyntheticVideo

_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "tracking.py"
_SPEC = importlib.util.spec_from_file_location("tracking_benchmark", _SCRIPT)
tracking = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = tracking
_SPEC.loader.exec_module(tracking)

RUNS = [("cross", False), ("meet", False), ("hide", False), ("leave", False), ("crowd", False), ("crowd", True)]


@cache
def video(scene, variable, seed):
    frames = list(SyntheticVideo(scene, seed=seed, variable=variable))
    return frames, tracking.detections(frames, seed, scene, None, None)


def switches(scene, variable, name, seeds=(21, 22)):
    """How often the id of somebody who is found changes, by OKS of at least 0.5; an id that stays is preferred."""
    count = 0
    for seed in seeds:
        frames, found = video(scene, variable, seed)
        update, last = tracking.COMPARED[name](), {}
        for frame, poses in zip(frames, found, strict=True):
            ids = update(poses, frame.time_s, frame.sample.image)
            alike = np.where(ids >= 0, tracking.oks(frame.sample.people, poses), 0)
            for who, row in zip(frame.track_ids.tolist(), alike, strict=True):
                good = ids[row >= 0.5]
                if len(good) and last.get(who) not in good:
                    count += who in last
                    last[who] = ids[row.argmax()]
    return count


@pytest.mark.parametrize(("scene", "variable"), RUNS)
def test_few_switches(scene, variable):
    assert switches(scene, variable, "this project") <= {"cross": 0, "meet": 0, "hide": 3, "leave": 2}.get(scene, 4)


@pytest.mark.parametrize(("scene", "variable"), RUNS)
def test_fewer_switches_than_others(scene, variable):
    pytest.importorskip("trackers", reason="pip install --no-deps trackers")
    best = min(switches(scene, variable, name) for name in ("SORT", "ByteTrack", "OC-SORT", "C-BIoU"))
    ours = switches(scene, variable, "this project")
    assert ours < best or ours == best == 0
