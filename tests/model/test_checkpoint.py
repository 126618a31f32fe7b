"""From a checkpoint file to a network: recognised from tensors, refused with a reason, nothing lost on the way."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import golden
import pytest
import torch

from rtmo_deploy.errors import CheckpointError, UsageError
from rtmo_deploy.model import NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17

SPEC = NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return golden.golden_model(SPEC, (-2, -1)).state_dict()


def saved(path: Path, state: dict[str, torch.Tensor], **more: object) -> Path:
    torch.save({"meta": {}, "state_dict": state, **more}, path)
    return path


def test_round_trip_keeps_weights_and_facts(tmp_path: Path) -> None:
    skeleton = Skeleton("five", ("a", "b", "c", "left_d", "right_d"), edges=((0, 1),), flip_pairs=((3, 4),))
    model = golden.golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 5), (-2, -1))
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"x{suffix}"
        save_checkpoint(path, model, skeleton=skeleton, input_hw=(192, 320), meta={"epoch": 3})
        loaded = load_checkpoint(path)
        assert loaded.skeleton == skeleton
        assert loaded.input_hw == (192, 320)
        assert loaded.spec.num_keypoints == 5
        assert loaded.contents.meta["rtmo_deploy"]["epoch"] == 3
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.model.state_dict().items())


def test_what_would_not_load_is_not_written(tmp_path: Path) -> None:
    path, model = tmp_path / "x.pth", golden.golden_model(SPEC, (-2, -1))
    save_checkpoint(path, model, skeleton=COCO_17)
    loaded = load_checkpoint(path)
    assert len(repr(loaded)) < 10_000
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"skeleton": Skeleton.generic(3)}, "3 keypoints, and the network 17"),
        (model, {"skeleton": COCO_17, "input_hw": (320,)}, "two whole numbers"),
        (model, {"skeleton": COCO_17, "input_hw": "320x320"}, "two whole numbers"),
        (model, {"skeleton": COCO_17, "input_hw": (33, 32)}, "multiples of 32"),
        (loaded, {"skeleton": COCO_17}, r"load_checkpoint\(path\)\.model"),
    ]
    for given, more, says in wrong:
        with pytest.raises(UsageError, match=says):
            save_checkpoint(tmp_path / "y.pth", given, **more)
    assert not (tmp_path / "y.pth").exists()


def test_the_file_loads_where_only_torch_is(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save_checkpoint(path, golden.golden_model(SPEC, (-2, -1)), skeleton=COCO_17)
    contents = torch.load(path, weights_only=True)
    assert list(contents) == ["meta", "state_dict"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_does_not_touch_the_constants(
    tmp_path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    loaded = load_checkpoint(saved(tmp_path / "x.pth", half))
    assert loaded.contents.stored_dtype == str(dtype).removeprefix("torch.")
    restored = loaded.model.state_dict()
    for key in ("head.dcc.spe.dim_t", "head.dcc.x_bins", "head.dcc.y_bins", "neck.sincos_pos_enc.dim_t"):
        assert torch.equal(restored[key], state[key]), key
    assert restored["backbone.stem.conv.conv.weight"].dtype == torch.float32
    assert all(tensor.dtype in {torch.float32, torch.int64} for tensor in restored.values())


def test_prefixes_and_ema(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    averaged = {f"module.{key}": value * 2 if value.is_floating_point() else value for key, value in state.items()}
    path = saved(tmp_path / "x.pth", {f"module.{k}": v for k, v in state.items()}, ema_state_dict=averaged)
    key = "head.dcc.gau.uv.weight"
    assert torch.equal(load_checkpoint(path).model.state_dict()[key], state[key])
    assert torch.equal(load_checkpoint(path, ema=True).model.state_dict()[key], 2 * state[key])


def remove(state: dict[str, torch.Tensor]) -> None:
    del state["head.dcc.gau.uv.weight"]


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["head.dcc.gau.uv.weight"] = state["head.dcc.gau.uv.weight"][:, :-1].clone()


def add(state: dict[str, torch.Tensor]) -> None:
    state["head.surprise.weight"] = torch.zeros(3)


def poison(state: dict[str, torch.Tensor]) -> None:
    state["head.dcc.gau.uv.weight"] = state["head.dcc.gau.uv.weight"].clone().fill_(float("nan"))


def no_stem(state: dict[str, torch.Tensor]) -> None:
    for key in [key for key in state if key.startswith("backbone.stem.")]:
        del state[key]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, ["1 tensor is missing", "head.dcc.gau.uv.weight"]),
        (reshape, ["of the wrong shape", "(640, 127) instead of (640, 128)"]),
        (add, ["1 tensor is unknown", "head.surprise.weight"]),
        (poison, ["head.dcc.gau.uv.weight"]),
        (no_stem, ["not the weights of an RTMO model", "backbone.stem.conv.conv.weight"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_state_dicts_are_refused_by_name(
    tmp_path: Path, state: dict[str, torch.Tensor], damage, words: list[str]
) -> None:
    damaged = dict(state)
    damage(damaged)
    path = saved(tmp_path / "bad.pth", damaged)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert all(word in text for word in ["bad.pth", *words]), text
    assert "\n" not in text
    assert caught.value.remedy
    assert caught.value.exit_code == 4


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "resnet.pth", {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)})
    with pytest.raises(CheckpointError, match="not the weights of an RTMO model"):
        load_checkpoint(path)


def test_real_files_of_the_reference(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "checkpoints").glob("*.xz"))
    assert len(files) == 2
    for packed in files:
        path = tmp_path / packed.name.removesuffix(".xz")
        path.write_bytes(lzma.decompress(packed.read_bytes()))
        loaded = load_checkpoint(path)
        assert loaded.architecture == "rtmo-t"
        assert loaded.input_hw == (416, 416)
        assert loaded.skeleton == COCO_17
        assert loaded.contents.has_ema == ("epoch_1" in path.name)
