"""Readers of checkpoint files: the file's tensors and facts, and the network that is built from them."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import torch
from driver import Reader, register

from rtmo_deploy.model import NetworkSpec, load_checkpoint
from rtmo_deploy.model.files import write_checkpoint
from rtmo_deploy.model.reader import read_checkpoint
from rtmo_deploy.model.rtmo import RTMO

_CFG = (
    "model = dict(backbone=dict(act_cfg=dict(type='ReLU')), data_preprocessor=dict(mean=[123.675, 116.28, 103.53], "
    "std=[58.395, 57.12, 57.375], bgr_to_rgb=True), test_cfg=dict(input_size=(96, 96), score_thr=0.3, nms_thr=0.3))\n"
)
_META: dict[str, Any] = {
    "epoch": 3,
    "iter": 70,
    "seed": 7,
    "mmengine_version": "0.10.1",
    "cfg": _CFG,
    "dataset_meta": {
        "dataset_name": "two",
        "num_keypoints": 2,
        "keypoint_id2name": {0: "left", 1: "right"},
        "flip_pairs": [(0, 1)],
        "sigmas": [0.05, 0.05],
    },
    "rtmo_deploy": {"version": "1", "input_hw": [96, 96], "trained": True},
}


def _torch_file(content: object, *, legacy: bool) -> bytes:
    packed = io.BytesIO()
    torch.save(content, packed, _use_new_zipfile_serialization=not legacy)
    return packed.getvalue()


def _content(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(8)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"meta": _META, "optimizer": optimizer, "state_dict": state}


def _few() -> dict[str, torch.Tensor]:
    weight = torch.arange(108.0).reshape(4, 3, 3, 3)
    return {
        "neck.conv.weight": weight,
        "neck.view.weight": weight[:, :2].transpose(0, 1),
        "head.half": torch.ones(4, dtype=torch.float16),
        "head.bfloat": torch.ones(4, dtype=torch.bfloat16),
        "bn.num_batches_tracked": torch.tensor(9),
    }


def _safetensors(folder: Path, state: dict[str, torch.Tensor]) -> bytes:
    write_checkpoint(folder / "x.safetensors", state, json.loads(json.dumps(_META)))
    return (folder / "x.safetensors").read_bytes()


def _small(_folder: Path) -> list[bytes]:
    content = _content(_few())
    return [_torch_file(content, legacy=False), _torch_file(content, legacy=True)]


def _network() -> dict[str, torch.Tensor]:
    """The smallest network: some 300 kB."""
    torch.manual_seed(0)
    return RTMO(NetworkSpec(0.1, 0.0625, 2, 32)).state_dict()


_DTYPES = (
    torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.int64, torch.uint16,
    torch.bool, torch.complex64,
)  # fmt: skip


def edit_state(data: bytes, rng: random.Random) -> bytes:
    """Change tensors of a state dict: type, shape, values, name; or wrap it."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content["state_dict"]
    keys = list(state)
    chosen = keys if rng.random() < 0.1 else rng.sample(keys, rng.choice((1, 1, 2, 10)))
    edit, dtype, size = rng.randrange(8), rng.choice(_DTYPES), rng.choice((0, 1, 3, 7, 40))
    for key in chosen:
        tensor = state[key]
        match edit:
            case 0:
                state[key] = tensor.to(dtype)
            case 1 if tensor.ndim:
                state[key] = tensor[:1].expand(size, *tensor.shape[1:])
            case 2:
                state[key] = tensor.reshape(rng.choice(((-1,), (1, *tensor.shape), (*tensor.shape, 1))))
            case 3:
                state[key] = torch.full_like(
                    tensor, rng.choice((0, -1, 100, 1e30 if tensor.is_floating_point() else 9))
                )
            case 4:
                del state[key]
            case 5:
                state[rng.choice((rng.choice(keys), key + "x", "a." + key, "\ud800", ""))] = state.pop(key)
            case 6:
                state[key] = rng.choice((None, 1, [tensor], {"x": tensor}, tensor.to_sparse(), tensor.to("meta")))
            case _:
                prefix = rng.choice(("module.", "_orig_mod.", "model.", "a.b."))
                state[prefix + key] = state.pop(key)
    return _torch_file(rng.choice((content, state, {"model": state}, {"ema": state, "x": 1})), legacy=False)


register(Reader("checkpoint", ".pth", _small, read_checkpoint))
register(
    Reader("checkpoint-safetensors", ".safetensors", lambda folder: [_safetensors(folder, _few())], read_checkpoint)
)
register(
    Reader(
        "network",
        ".pth",
        lambda _: [_torch_file(_content(_network()), legacy=False)],
        load_checkpoint,
        mutators=(edit_state, edit_state),
        weight=0.05,
    ),
)
