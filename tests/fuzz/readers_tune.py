"""Readers of recipes, of a training's state and log, and of a release's records."""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import yaml
from driver import Reader, register
from mutators import edit_value

from rtmo_deploy.cli.workspace import Workspace
from rtmo_deploy.release.gates import _baseline
from rtmo_deploy.release.graph import Step
from rtmo_deploy.release.integrity import MANIFEST, verify_release
from rtmo_deploy.release.publish import _written_before
from rtmo_deploy.release.record import Outcome
from rtmo_deploy.release.schema import load_release
from rtmo_deploy.release.store import RECORD, Store
from rtmo_deploy.train.distributed import Group
from rtmo_deploy.train.log import read_log
from rtmo_deploy.train.loop import RunOptions, Trainer
from rtmo_deploy.train.recipe import Recipe, load_recipe, with_settings
from rtmo_deploy.train.start import load_state

_TRAIN: dict[str, Any] = {
    "name": "toy",
    "epochs": 4,
    "batch": 2,
    "input": [64, 64],
    "grow": [[0, 0.5], [1, 1.0]],
    "model": {"deepen": 0.1, "widen": 0.0625, "hidden_dim": 32},
    "data": {
        "train": [{"type": "synthetic", "images": 4, "size": [64, 64], "people": [1, 2]}],
        "val": {"type": "coco", "annotations": "val.json", "images": "images"},
        "flip_pairs": [["left_eye", "right_eye"]],
        "sigmas": [0.05] * 17,
    },
    "augment": {"preset": "coco", "plain_epochs": 0, "multi_scale": [64, 96], "hsv": [5, 30, 30]},
    "optimizer": {"lr": 1e-3},
    "schedule": {"warmup": 1, "switch": 2, "constant": 0},
    "loss": {"heatmap": 1.0},
}
_RELEASE: dict[str, Any] = {
    "schema_version": 2,
    "name": "toy",
    "source": "ckpt.pth",
    "artifacts": {
        "onnx": {"make": "export"},
        "fixed": {"make": "export", "decode": "fixed"},
        "int8": {"make": "quantize", "from": "fixed", "count": 8},
    },
    "accuracy": {
        "data": {"synthetic": {"images": 4}},
        "gates": [{"artifact": "int8", "against": "onnx", "ap_min": 0.5, "ap_drop_max": 0.02}],
    },
    "parity": [{"a": "source", "b": "onnx", "synthetic": 2}],
    "latency": [
        {
            "name": "cpu",
            "contenders": ["source", "onnx"],
            "people": [1, 10],
            "gates": [{"artifact": "onnx", "against": "source", "max_ratio": 1.0}, {"artifact": "onnx", "p95_ms": 50}],
        }
    ],
}


def _texts(values: dict[str, Any]) -> list[bytes]:
    """A recipe in YAML's two styles."""
    return [yaml.safe_dump(values, sort_keys=False, default_flow_style=flow).encode() for flow in (False, True)]


def edit_yaml(data: bytes, rng: random.Random) -> bytes:
    """Edit a value of a YAML document."""
    return yaml.safe_dump(edit_value(yaml.safe_load(data), rng), sort_keys=False).encode("utf-8", "surrogatepass")


def _set(path: Path) -> Recipe:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return with_settings(Recipe.model_validate(_trained()), text.split("\n"))


register(Reader("train-recipe", ".yaml", lambda _: _texts(_TRAIN), load_recipe, mutators=(edit_yaml,)))
register(Reader("release-recipe", ".yaml", lambda _: _texts(_RELEASE), load_release, mutators=(edit_yaml,)))
register(
    Reader(
        "train-set",
        ".txt",
        lambda _: [b"optimizer.lr=0.01", b"data.train.0.people=[1, 3]\nname=other", b"model.init='a.pth'"],
        _set,
    )
)


# -- a training's state and log


def _trained() -> dict[str, Any]:
    data = {"train": _TRAIN["data"]["train"]}
    return {**_TRAIN, "data": data, "augment": {"preset": "none", "multi_scale": None}}


def _trainer(folder: Path) -> Trainer:
    options = RunOptions(folder, workers=0, log_every=1, stop_after=0.0)
    return Trainer(Recipe.model_validate(_trained()), options, Group(0, 1, torch.device("cpu")))


@cache
def _stopped() -> tuple[bytes, bytes]:
    """The state and the log of a run that stopped after a step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _trainer(folder).run()
        return (folder / "last.pth").read_bytes(), (folder / "log.csv").read_bytes()


_TRAINERS: dict[Path, Trainer] = {}


def _resume(path: Path) -> None:
    """What resuming does, without building a network for each case."""
    _TRAINERS[path.parent]._restore(load_state(path), path)


def _prepare(folder: Path) -> None:
    _TRAINERS[folder] = _trainer(folder)


def _states(_folder: Path) -> list[bytes]:
    return [_stopped()[0]]


def _logs(_folder: Path) -> list[bytes]:
    head, row, *_ = _stopped()[1].splitlines(keepends=True)
    return [head + row * 3]


def spoil_tensor(optimizer: dict[str, Any], rng: random.Random) -> None:
    """Give a moment another type, shape or values."""
    moments = optimizer["state"][rng.randrange(20)]
    tensor = moments[key := rng.choice(list(moments))]
    spoiled = (tensor.int(), tensor.double(), tensor * float("nan"), tensor[None], tensor.reshape(-1)[:0], -tensor - 1)
    moments[key] = rng.choice(spoiled)


def edit_state(data: bytes, rng: random.Random) -> bytes:
    """Edit a value of the record, of the optimizer or of the whole."""
    contents = torch.load(io.BytesIO(data), weights_only=True)
    if rng.random() < 0.3:
        spoil_tensor(contents["optimizer"], rng)
    else:
        edit_value(rng.choice((contents, contents["meta"]["rtmo_deploy"], contents["optimizer"])), rng)
    packed = io.BytesIO()
    torch.save(contents, packed)
    return packed.getvalue()


def _log(path: Path) -> None:
    for row in read_log(path):
        assert int(row["step"]) >= 0
        assert all(isfinite(float(value)) for value in row.values() if value)


register(Reader("state", ".pth", _states, _resume, _prepare, (edit_state, edit_state)))
register(Reader("log", ".csv", _logs, _log))


# -- a release's records

_STEP = Step("onnx", "export")
_KEY = "0" * 64


def _toys() -> Any:
    folder = str(Path(__file__).parent.parent / "release")
    if folder not in sys.path:
        sys.path.append(folder)
    import release_toys

    return release_toys


def _released(folder: Path) -> Path:
    out = folder / "out"
    if not out.exists():
        _toys().make(folder)
    return out


def _verify(path: Path) -> None:
    out = _released(path.parent / "release")
    (out / MANIFEST).write_bytes(path.read_bytes())
    assert all(".." not in name for name in _written_before(out))
    verify_release(out)


def _record(folder: Path) -> list[bytes]:
    store = Store(folder)
    with store.working(_KEY) as work:
        (work / "a.onnx").write_bytes(b"model")
        store.keep(_STEP, _KEY, work, Outcome(("a.onnx",), {"ap": 0.5, "causes": ["x"]}), {"torch": "2"}, 1.0)
    return [(folder / _KEY / RECORD).read_bytes()]


def _find(path: Path) -> None:
    """A record that is damaged is none."""
    folder = path.parent / "seeds" / _KEY
    (folder / RECORD).write_bytes(path.read_bytes())
    found = Store(folder.parent).find(_STEP, _KEY)
    assert found is None or found.facts == {"ap": 0.5, "causes": ["x"]}


_MADE = {
    "path": "a.onnx", "kind": "onnx", "precision": "fp32", "decode": "onnx", "sha256": "0" * 64, "size": 3,
    "command": "export", "made": "2026-01-01T00:00:00+00:00", "version": "1", "parents": ["1" * 64], "source": "a.pth",
}  # fmt: skip


def _workspace(path: Path) -> None:
    workspace = Workspace(path.parent)
    workspace.file.parent.mkdir(exist_ok=True)
    workspace.file.write_bytes(path.read_bytes())
    for entry in workspace.entries():
        (path.parent / entry.path).is_file()


def _latency() -> bytes:
    entries = [
        {
            "artifact": "onnx",
            "case": {"batch": 1, "threads": None, "people": people},
            "rounds_ms": [20.0, 21.0, 19.5],
            "interference": {"lost": 0.01, "busy": []},
        }
        for people in (1, 10)
    ]
    return json.dumps({"protocol": "1", "machine": {"fingerprint": "toy"}, "entries": entries}).encode()


def _compare(path: Path) -> None:
    facts = {"protocol": "1", "machine": {"fingerprint": "toy"}}
    entries, why = _baseline(path, "onnx", facts)
    assert why or all(min(entry["rounds_ms"]) > 0 for entry in entries)


register(Reader("manifest", ".json", lambda folder: [(_released(folder) / MANIFEST).read_bytes()], _verify))
register(Reader("step-record", ".json", _record, _find))
register(
    Reader(
        "workspace",
        ".json",
        lambda _: [json.dumps({"schema_version": 1, "made": [_MADE, {**_MADE, "path": "b.onnx"}]}).encode()],
        _workspace,
    )
)
register(Reader("baseline", ".json", lambda _: [_latency()], _compare))
