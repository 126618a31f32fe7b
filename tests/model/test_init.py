"""Untrained weights are distributed as the reference's own initialisation, and the same for a seed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from rtmo_deploy.model import RTMO, NetworkSpec, initial_checkpoint, initialise, load_checkpoint
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17, CROWDPOSE_14

STATISTICS = json.loads((Path(__file__).parent.parent / "data" / "golden" / "init_rtmo-s.json").read_text())


def test_statistics_are_the_references() -> None:
    model = RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-s"], 17))
    initialise(model, seed=3)
    state = model.state_dict()
    for key, (mean, std, low, high) in STATISTICS.items():
        values = state[key].double().flatten()
        count = len(values)
        # Standard errors of mean and deviation of a sample, five of them for each of the two samples.
        slack = 7 * max(std, 1e-9) / math.sqrt(count) + 1e-6
        assert float(values.mean()) == pytest.approx(mean, abs=slack), key
        if count > 50:
            assert float(values.std()) == pytest.approx(std, rel=7 / math.sqrt(count), abs=1e-6), key
        if count > 2000 and high < 2.2 * std:  # bounded: a uniform distribution
            assert float(values.max()) == pytest.approx(high, rel=0.01), key
            assert float(values.min()) == pytest.approx(low, rel=0.01), key


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    models = [RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17)) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(1000 + seed)  # the global generator must not matter
        torch.rand(7)
        initialise(model, seed)
    first, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["neck.input_proj.0.conv.weight"], other["neck.input_proj.0.conv.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14], ids=lambda s: s.name)
def test_an_initial_checkpoint_loads_as_what_it_is(tmp_path: Path, suffix: str, skeleton) -> None:
    path = initial_checkpoint(tmp_path / f"x{suffix}", ARCHITECTURES["rtmo-n"], skeleton=skeleton, seed=0)
    loaded = load_checkpoint(path)
    assert loaded.architecture == "rtmo-n"
    assert loaded.skeleton == skeleton
    assert loaded.input_hw == ARCHITECTURES["rtmo-n"].input_hw
    assert loaded.contents.meta["rtmo_deploy"]["trained"] is False
    assert not loaded.model.training


def test_an_initial_checkpoint_is_the_same_file_for_a_seed(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        initial_checkpoint(tmp_path / name, ARCHITECTURES["rtmo-n"], skeleton=COCO_17, seed=5)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
