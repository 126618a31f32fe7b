"""Checkpoints to hand out: the weights alone, half the size, and the same people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.model.checkpoint import pack_checkpoint
from rtmo_deploy.poses import Poses
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.model import RTMO


@torch.no_grad()
def people(model: RTMO) -> list[Poses]:
    images = torch.from_numpy(structured_images(2, 128, 128))
    found = model.head.decode(model(images), (128, 128), score_thr=0.1, nms_thr=0.65)
    return [
        Poses(f.boxes.numpy(), f.scores.numpy(), f.keypoints.numpy(), f.keypoint_scores.numpy(), COCO_17) for f in found
    ]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_whole_precision_keeps_every_bit(checkpoint_n: Path, tmp_path: Path, suffix: str) -> None:
    loaded = load_checkpoint(checkpoint_n)
    output = tmp_path / f"packed{suffix}"
    pack_checkpoint(loaded, output)
    again = load_checkpoint(output)
    for key, tensor in loaded.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], tensor), key
    assert (again.input_hw, again.skeleton) == (loaded.input_hw, loaded.skeleton)


def test_another_input_size_is_recorded(checkpoint_n: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint_n)
    pack_checkpoint(loaded, tmp_path / "packed.pth", input_hw=(320, 192))
    assert load_checkpoint(tmp_path / "packed.pth").input_hw == (320, 192)
    with pytest.raises(UsageError, match="320x100"):
        pack_checkpoint(loaded, tmp_path / "odd.pth", input_hw=(320, 100))
    assert not (tmp_path / "odd.pth").exists()


def test_half_precision_is_half_the_size_and_finds_the_same_people(checkpoint_n: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint_n)
    output = tmp_path / "half.pth"
    pack_checkpoint(loaded, output, half=True)
    assert output.stat().st_size < 0.56 * checkpoint_n.stat().st_size
    again = load_checkpoint(output)
    for key, tensor in again.model.state_dict().items():
        assert tensor.dtype == loaded.model.state_dict()[key].dtype, key
        if tensor.ndim == 1:
            assert torch.equal(tensor, loaded.model.state_dict()[key]), key
    expected, found = people(loaded.model), people(again.model)
    assert sum(map(len, expected)) > 4
    errors = compare_people(expected, found)
    assert errors.missed + errors.extra <= 2
    assert errors.matched > 4


def test_the_state_of_a_training_stays_behind(checkpoint_n: Path, tmp_path: Path) -> None:
    contents = torch.load(checkpoint_n, weights_only=True)
    raw = {f"module.{key}": value + 1 for key, value in contents["state_dict"].items()} | {"steps": torch.tensor(7)}
    contents["meta"] |= {"epoch": 3, "iter": 70}
    contents["meta"]["rtmo_deploy"]["progress"] = {"step": 70, "history": [1.0] * 100}
    torch.save(contents | {"optimizer": {"state": {}}, "ema_state_dict": raw}, tmp_path / "last.pth")
    output = tmp_path / "packed.pth"
    pack_checkpoint(load_checkpoint(tmp_path / "last.pth"), output)
    packed = torch.load(output, weights_only=True)
    assert set(packed) == {"meta", "state_dict"}
    assert set(packed["meta"]["rtmo_deploy"]) == {"version", "skeleton", "input_hw", "trained", "domain"}
    assert (packed["meta"]["epoch"], packed["meta"]["iter"]) == (3, 70)


def test_what_float16_cannot_hold_is_refused(checkpoint_n: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint_n)
    key = next(name for name, tensor in loaded.model.state_dict().items() if tensor.ndim == 4)
    loaded.model.state_dict()[key].data.view(-1)[0] = 1e6
    output = tmp_path / "half.pth"
    with pytest.raises(CheckpointError, match=rf"'{key}' is 1e\+06"):
        pack_checkpoint(replace(loaded), output, half=True)
    assert not output.exists()
