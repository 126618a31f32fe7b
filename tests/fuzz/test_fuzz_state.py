"""Mutated states and logs of a training: it goes on, or refuses by a sentence."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import sweep
from mutators import edit_value
from readers_tune import _stopped, _trainer, spoil_tensor

from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.train.start import load_state


@pytest.mark.parametrize(("name", "count"), [("state", 4), ("log", 100)])
def test_mutated_files(tmp_path: Path, name: str, count: int) -> None:
    counts = sweep(name, tmp_path, count)
    assert counts["refused"] > count / 4


def copied(value: Any) -> Any:
    """Containers anew, tensors shared: an edit puts another value in a container's place."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


def test_edited_values(tmp_path: Path) -> None:
    """What a file that can be read may hold: every edit is refused, or leaves finite moments behind."""
    path = tmp_path / "last.pth"
    path.write_bytes(_stopped()[0])
    state, run = load_state(path), _trainer(tmp_path)
    outcomes = {"read": 0, "refused": 0}
    for index in range(150):
        rng = random.Random(f"values:{index}")
        progress, parts = copied(state.progress), copied(state.parts)
        with contextlib.suppress(TypeError, ValueError):  # a tensor, or a list in itself, is no JSON
            if rng.random() < 0.3:
                spoil_tensor(parts["optimizer"], rng)
            else:
                edit_value(progress if rng.random() < 0.6 else parts, rng)
        try:
            run._restore(replace(state, progress=progress, parts=parts), path)
        except RtmoDeployError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert 0 <= run.step <= run.steps
        assert all(torch.isfinite(one["exp_avg"]).all() for one in run.optimizer.state.values())
    assert outcomes["refused"] > 50
    assert outcomes["read"] > 0
