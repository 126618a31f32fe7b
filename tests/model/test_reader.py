"""Checkpoint files: the official layouts, the damaged ones, and the ones that are something else."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import gzip
import io
import json
import lzma
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rtmo_deploy.errors import CheckpointError, SetupError, UsageError
from rtmo_deploy.model.files import write_checkpoint
from rtmo_deploy.model.reader import check_finite, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

HISTORY_BUFFER = """
class HistoryBuffer:
    def __init__(self, values):
        self._log_history = values
        self._statistics_methods = {"min": HistoryBuffer.min, "mean": HistoryBuffer.mean}
    def min(self): ...
    def max(self): ...
    def mean(self): ...
    def current(self): ...
class ConfigDict(dict): ...
"""
NAMES = ["nose", "left_eye", "right_eye"]
FACTS = {
    "epoch": 600,
    "iter": 1234,
    "time": "20231211_000000",
    "seed": 7,
    "experiment_name": "rtmo-t_test",
    "mmengine_version": "0.10.1",
    "dataset_meta": {
        "dataset_name": "coco",
        "num_keypoints": 3,
        "keypoint_names": NAMES,
        "keypoint_colors": [[255, 255, 255]] * 3,
        "sigmas": [0.026, 0.025, 0.025],
    },
}


@contextlib.contextmanager
def fake_mmengine() -> Iterator[types.ModuleType]:
    """As much of mmengine as pickle needs to write its objects' names; gone before anything is read."""
    names = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    assert not any(name in sys.modules for name in names)
    modules = {name: types.ModuleType(name) for name in names}
    history = modules[names[-1]]
    exec(HISTORY_BUFFER, history.__dict__)
    sys.modules.update(modules)
    try:
        yield history
    finally:
        for name in names:
            del sys.modules[name]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "neck.conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "backbone.stem.bn.running_mean": torch.randn(4, generator=generator),
        "backbone.stem.bn.num_batches_tracked": torch.tensor(9 + seed),
        "head.bias": torch.randn(2, generator=generator),
    }


def official(
    path: Path,
    state: Mapping[str, Any] | None = None,
    *,
    ema: Mapping[str, Any] | None = None,
    legacy: bool = False,
    **meta: Any,
) -> Path:
    """A training checkpoint as MMEngine writes it, HistoryBuffer, numpy, optimizer and all."""
    state_dict = collections.OrderedDict(weights() if state is None else state)
    state_dict._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    with fake_mmengine() as mmengine:
        content: dict[str, Any] = {
            "meta": {
                **{key: value for key, value in FACTS.items() if key != "dataset_meta"},
                "cfg": "model = dict()\n" * 50,
                "hooks": mmengine.ConfigDict(a=mmengine.ConfigDict()),
                "dataset_meta": {
                    "dataset_name": "coco",
                    "num_keypoints": np.int64(3),
                    "keypoint_id2name": {2: NAMES[2], 0: NAMES[0], 1: NAMES[1]},
                    "keypoint_colors": np.full((3, 3), 255, dtype=np.uint8),
                    "sigmas": np.array([0.026, 0.025, 0.025]),
                    "flip_pairs": {(0, 1), (1, 0)},
                },
                "odd": [
                    pathlib.PurePosixPath("/x"),
                    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
                ],
                "range": slice(0, 3),
                **meta,
            },
            "message_hub": {
                "log_scalars": collections.OrderedDict(loss=mmengine.HistoryBuffer(np.arange(300.0))),
                "counts": collections.defaultdict(list, a=[np.float32(1.5)]),
                "recent": collections.deque([1, 2], maxlen=5),
            },
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.full((64,), 5.0)}}, "param_groups": []},
            "param_schedulers": [{"last_step": 3}],
            "state_dict": state_dict,
        }
        if ema is not None:
            content["ema_state_dict"] = collections.OrderedDict(ema)
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left
    )


both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# -- what official files hold


@both_formats
def test_an_official_checkpoint_is_read_whole(tmp_path: Path, legacy: bool) -> None:
    path = official(tmp_path / "x.pth", legacy=legacy)
    with pytest.raises(pickle.UnpicklingError):  # the reason this reader exists
        torch.load(path, weights_only=True)
    contents = read_checkpoint(path)
    assert same(contents.tensors, weights())
    assert contents.source == "state_dict"
    assert contents.stored_dtype == "float32"
    assert not contents.has_ema
    assert contents.meta == FACTS
    assert json.loads(json.dumps(contents.meta)) == FACTS


@both_formats
def test_ema_weights_are_read_when_asked_for(tmp_path: Path, legacy: bool) -> None:
    raw = {"steps": torch.tensor(5), **{f"module.{key}": value for key, value in weights(1).items()}}
    path = official(tmp_path / "x.pth", ema=raw, legacy=legacy)
    assert same(read_checkpoint(path).tensors, weights())
    contents = read_checkpoint(path, ema=True)
    assert same(contents.tensors, weights(1))
    assert contents.source == "ema_state_dict"
    assert contents.has_ema
    assert contents.meta == FACTS


def test_ema_weights_without_a_prefix_lose_their_counter_too(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pth", ema={"steps": torch.tensor(5), **weights(1)})
    assert same(read_checkpoint(path, ema=True).tensors, weights(1))


def test_ema_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no ema_state_dict.*published checkpoints hold the averaged"):
        read_checkpoint(official(tmp_path / "x.pth"), ema=True)
    torch.save(weights(), tmp_path / "root.pth")
    with pytest.raises(CheckpointError, match="no ema_state_dict"):
        read_checkpoint(tmp_path / "root.pth", ema=True)
    save_file(weights(), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no ema_state_dict"):
        read_checkpoint(tmp_path / "x.safetensors", ema=True)


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_wrappers_prefixes_are_removed(tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in weights().items()}
    assert same(read_checkpoint(official(tmp_path / "x.pth", state)).tensors, weights())
    save_file(state, tmp_path / "x.safetensors")
    assert set(read_checkpoint(tmp_path / "x.safetensors").tensors) == set(weights())


def test_a_module_inside_a_name_stays(tmp_path: Path) -> None:
    state = {"a.module.b": torch.ones(1), "modules.c": torch.ones(1)}
    assert list(read_checkpoint(official(tmp_path / "x.pth", state)).tensors) == list(state)


def test_one_name_twice_is_an_error(tmp_path: Path) -> None:
    state = {"a": torch.ones(1), "module.a": torch.zeros(1)}
    save_file(state, tmp_path / "x.safetensors")
    for path in (official(tmp_path / "x.pth", state), tmp_path / "x.safetensors"):
        with pytest.raises(CheckpointError, match="'a' is there twice"):
            read_checkpoint(path)


@both_formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights().items()}
    contents = read_checkpoint(official(tmp_path / "x.pth", stored, legacy=legacy))
    wide = {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    assert same(contents.tensors, wide)
    assert contents.stored_dtype == str(dtype).removeprefix("torch.")
    save_file(stored, tmp_path / "x.safetensors")
    contents = read_checkpoint(tmp_path / "x.safetensors")
    assert same(contents.tensors, {key: wide[key] for key in contents.tensors})
    assert contents.stored_dtype == str(dtype).removeprefix("torch.")


@both_formats
def test_tensors_of_every_shape_and_kind(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "view": base[3:9],
        "transposed": base.reshape(4, 6).t(),
        "tied": base,
        "tied again": base,
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "broadcast": torch.ones(1).expand(5),
        "half view": torch.arange(9, dtype=torch.float16)[1::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "bool": torch.tensor([True, False]),
        "int8": torch.tensor([-1, 5], dtype=torch.int8),
        "uint8": torch.tensor([255], dtype=torch.uint8),
        "int32": torch.tensor([1 << 30], dtype=torch.int32),
        "float8": torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    }
    if legacy:
        del state["float8"]
    tensors = read_checkpoint(official(tmp_path / "x.pth", state, legacy=legacy)).tensors
    wide = {key: value.detach().float() if value.is_floating_point() else value for key, value in state.items()}
    assert same(tensors, wide)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors.values())
    pointers = [tensor.data_ptr() for tensor in tensors.values() if tensor.numel()]
    assert len(set(pointers)) == len(pointers)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors.values())


@both_formats
def test_a_bare_state_dict(tmp_path: Path, legacy: bool) -> None:
    torch.save(weights(), tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    contents = read_checkpoint(tmp_path / "x.pth")
    assert same(contents.tensors, weights())
    assert (contents.source, contents.meta) == ("root", {})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@both_formats
def test_every_protocol_of_pickle(tmp_path: Path, protocol: int, legacy: bool) -> None:
    content = {"state_dict": weights(), "meta": {"epoch": 3, "x": b"abc", "big": 1 << 80, "s": {1, 2}}}
    path = tmp_path / "x.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    contents = read_checkpoint(path)
    assert same(contents.tensors, weights())
    assert contents.meta == {"epoch": 3}


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """The optimizer's numbers are spoiled in the file; whoever reads them notices by their check sum."""
    path = official(tmp_path / "x.pth", ema={f"module.{key}": value for key, value in weights(1).items()})
    data = path.read_bytes()
    spoiled = data.replace(torch.full((64,), 5.0).numpy().tobytes(), b"\x01" * 256)
    assert spoiled != data
    path.write_bytes(spoiled)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert same(read_checkpoint(path).tensors, weights())


def test_a_file_without_check_sums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        path = official(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert same(read_checkpoint(path).tensors, weights())


@pytest.mark.parametrize(
    ("meta", "facts"),
    [
        ({"epoch": float("nan"), "iter": [1], "time": "x" * 2000, "seed": None}, {}),
        ({"epoch": np.int64(3), "seed": np.float64(0.5)}, {"epoch": 3, "seed": 0.5}),
        ({"dataset_meta": {"keypoint_id2name": {0: "a", 2: "b"}}}, {}),
        ({"dataset_meta": {"keypoint_id2name": {0: 5}}}, {}),
        ({"dataset_meta": {"keypoint_names": ("a", "b")}}, {"dataset_meta": {"keypoint_names": ["a", "b"]}}),
        ({"dataset_meta": "coco"}, {}),
        ({"rtmo_deploy": {"a": (1, None), 3: 0.5}}, {"rtmo_deploy": {"a": [1, None], "3": 0.5}}),
        ({"rtmo_deploy": "x"}, {}),
        ([1], {}),
    ],
)
def test_only_facts_of_the_right_kind_are_kept(tmp_path: Path, meta: Any, facts: dict[str, Any]) -> None:
    torch.save({"meta": meta, "state_dict": weights()}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").meta == facts


def test_safetensors_of_others(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(weights(), path, metadata={"format": "pt", "epoch": "12", "bad": "NaN", "deep": "[" * 100_000})
    contents = read_checkpoint(path)
    assert same(contents.tensors, {key: weights()[key] for key in contents.tensors})
    assert set(contents.tensors) == set(weights())
    assert (contents.source, contents.has_ema) == ("safetensors", False)
    assert contents.meta == {"format": "pt", "epoch": 12, "bad": "NaN", "deep": "[" * 100_000}
    path.rename(tmp_path / "misnamed.pth")
    assert read_checkpoint(tmp_path / "misnamed.pth").source == "safetensors"


def test_safetensors_are_not_a_window_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(4096)}, path)
    tensors = read_checkpoint(path).tensors
    with path.open("rb+") as stream:
        stream.seek(-4096 * 4, os.SEEK_END)
        stream.write(bytes(4096 * 4))
    assert tensors["w"].sum() == 4096


# -- weights that are no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = weights()
    state["backbone.stem.bn.running_mean"][1:3] = value
    state["head.bias"][0] = value
    save_file(state, tmp_path / "x.safetensors")
    for path in (official(tmp_path / "x.pth", state), tmp_path / "x.safetensors"):
        with pytest.raises(CheckpointError, match=r"3 weights .* 2 tensors, .*'backbone.stem.bn.running_mean'"):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match="3 weights"):
        check_finite(state)
    check_finite(weights())


def test_a_double_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pth", {"w": torch.tensor([1e300], dtype=torch.float64)})
    with pytest.raises(CheckpointError, match="1 weights are NaN or Inf"):
        read_checkpoint(path)


# -- files that are something else


def _zip_of(records: dict[str, str | bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"))
    return buffer.getvalue()


def _torchscript() -> bytes:
    return _zip_of({"x/data.pkl": b"N.", "x/code/__torch__.py": "", "x/constants.pkl": b"N."})


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


PICKLED_NONE = pickle.dumps(None, protocol=2)
OTHERS: dict[str, tuple[str, bytes]] = {
    "empty": ("It is an empty file", b""),
    "text": ("a YAML file", b"epoch: 3\n"),
    "json": ("a JSON file", b'{"message": "Not Found"}'),
    "html": ("an HTML page", b"\n<!DOCTYPE html><html></html>"),
    "s3 error": ("an XML file", b'\xef\xbb\xbf<?xml version="1.0"?><Error/>'),
    "lfs": ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "gzip": ("gzip archive", gzip.compress(_tar())),
    "xz": ("xz archive", lzma.compress(b"x")),
    "tar": ("tar archive", _tar()),
    "onnx": ("ONNX model", b"\x08\x08\x12\x07pytorch\x1a\x051.8.0"),
    "noise": ("table of contents", bytes(range(129, 256)) * 8),
    "npz": ("0 records named data.pkl", _npz()),
    "two in one": ("2 records named data.pkl", _zip_of({"a/data.pkl": b"N.", "b/data.pkl": b"N."})),
    "torchscript": ("TorchScript", _torchscript()),
    "repacked": ("compressed", _zip_of({"x/data.pkl": b"N." * 50}, zipfile.ZIP_DEFLATED)),
    "big-endian": ("big-endian", _zip_of({"x/data.pkl": b"N.", "x/byteorder": "big"})),
    "pickle": ("not one that torch.save wrote", pickle.dumps({"state_dict": {}})),
    "one byte": ("a text file", b"P"),
    "none": ("pickled NoneType", _saved(None)),
    "tensor": ("pickled TensorRef", _saved(torch.ones(1))),
    "whole model": ("pickled torch.nn.modules.linear.Linear", _saved(torch.nn.Linear(2, 2))),
    "no state_dict": (
        "no state_dict in this file; it has 'model', 'epoch'",
        _saved({"model": {}, "epoch": 3}),
    ),
    "nothing": ("it has nothing", _saved({})),
    "list": ("Its state_dict is a list", _saved({"state_dict": [torch.ones(1)]})),
    "empty state": ("Its state_dict is empty", _saved({"state_dict": {}})),
    "number in state": ("entry 'lr' .* a float", _saved({"state_dict": {"w": torch.ones(1), "lr": 0.1}})),
    "dict in state": ("entry 'w' .* a dict", _saved({"state_dict": {"w": {"x": torch.ones(1)}}})),
    "nameless": ("entry of type int", _saved({"state_dict": {0: torch.ones(1)}})),
    "escape codes": (r"entry '\\x1b\[31m", _saved({"state_dict": {"\x1b[31m": 1}})),
    "sparse": ("entry 'w' .* a sparse tensor", _saved({"state_dict": {"w": torch.ones(2).to_sparse()}})),
    "bare legacy header": ("ends in the middle", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)),
    "legacy of big-endian": (
        "big-endian",
        b"".join(pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False})),
    ),
    "legacy of another version": (
        "header",
        b"".join(pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1002, {"little_endian": True})),
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_something_else_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    expected, content = OTHERS[name]
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.finding.endswith(".")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"not a header", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 7 + b"\x7f{}", b"\x08\0\0\0\0\0\0\0{nothing"],
    ids=["text", "no tensors", "endless header", "no json"],
)
def test_safetensors_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64", "U16", "BOOL", "X9"])
def test_safetensors_of_rare_types_are_read_or_refused(tmp_path: Path, dtype: str) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with contextlib.suppress(CheckpointError):
        assert list(read_checkpoint(path).tensors) == ["w"]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing.pth: There is no such file"):
        read_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="It is a folder"):
        read_checkpoint(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pth")
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_checkpoint(tmp_path / "pipe.pth")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error"), "Input/output"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    path = official(tmp_path / "x.pth")

    def refuse(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("rtmo_deploy.model.reader.open_regular", refuse)
    with pytest.raises(SetupError, match=expected):
        read_checkpoint(path)


# -- damage


def _sample(kind: str, folder: Path) -> bytes:
    if kind == "safetensors":
        write_checkpoint(folder / "x.safetensors", weights(), FACTS)
        return (folder / "x.safetensors").read_bytes()
    return official(folder / "x.pth", legacy=kind == "legacy").read_bytes()


@pytest.fixture(scope="module", params=["zip", "legacy", "safetensors"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    return request.param, _sample(request.param, tmp_path_factory.mktemp("sample"))


damaging = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@damaging
@given(data=st.data())
def test_a_file_cut_short_is_an_error(sample: tuple[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    kind, content = sample
    cut = data.draw(st.integers(0, len(content) - 1) | st.integers(1, 200).map(lambda back: len(content) - back))
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    path.write_bytes(content[:cut])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.remedy


@damaging
@given(data=st.data())
def test_a_flipped_bit_never_gets_another_error_out(
    sample: tuple[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    kind, content = sample
    spoiled = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        # Half of the time near the end, where an archive has its table of contents.
        near = data.draw(st.booleans())
        place = data.draw(st.integers(max(0, len(content) - 1500) if near else 0, len(content) - 1))
        spoiled[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    path.write_bytes(spoiled)
    try:
        tensors = read_checkpoint(path).tensors
    except CheckpointError:
        return
    if kind == "zip":  # the only one with check sums
        assert same(tensors, weights())


def _nested_zip(depth: int) -> bytes:
    """An archive whose records lie inside each other, so that together they are larger than the file."""
    body, directory = bytes(1000), b""
    names = [f"x/{level}".encode() for level in range(depth)] + [b"x/data.pkl"]
    heads: list[tuple[bytes, bytes, int]] = []
    for name in names:
        sizes = struct.pack("<IIIHH", 1, len(body), len(body), len(name), 0)
        head = struct.pack("<HHHHH", 20, 0, 0, 0, 33) + sizes
        body = b"PK\x03\x04" + head + name + body
        heads.append((name, head, len(body)))
    for name, head, length in heads:
        place = struct.pack("<HHHII", 0, 0, 0, 0, len(body) - length)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + place + name
    end = struct.pack("<HHHHIIH", 0, 0, len(heads), len(heads), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


@pytest.mark.parametrize(("depth", "expected"), [(5, "records are larger than the file"), (0, "check sum")])
def test_an_archive_cannot_be_larger_inside_than_outside(tmp_path: Path, depth: int, expected: str) -> None:
    (tmp_path / "x.pth").write_bytes(_nested_zip(depth))
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(tmp_path / "x.pth")


def test_an_archive_with_more_records_than_any_checkpoint(tmp_path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(42)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 20_001, 20_001, len(entry) * 20_001, 4, 0)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04" + entry * 20_001 + end)
    with pytest.raises(CheckpointError, match="more than 20,000 records"):
        read_checkpoint(tmp_path / "x.pth")


def test_an_encrypted_archive_is_called_so(tmp_path: Path) -> None:
    content = bytearray(_zip_of({"x/data.pkl": b"N."}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_storage_that_many_tensors_share_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.arange(100.0)
    path = official(tmp_path / "x.pth", {str(at): base[at : at + 1] for at in range(100)})
    reads: list[int] = []
    frombuffer = torch.frombuffer

    def count(data: Any, *, dtype: torch.dtype) -> torch.Tensor:
        reads.append(len(data))
        return frombuffer(data, dtype=dtype)

    monkeypatch.setattr(torch, "frombuffer", count)
    assert [float(value) for value in read_checkpoint(path).tensors.values()] == list(range(100))
    assert reads == [400]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_one_name_twice_is_an_error(tmp_path: Path) -> None:
    path = official(tmp_path / "x.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", b"")
    with pytest.raises(CheckpointError, match="two records have the same name"):
        read_checkpoint(path)


# -- writing


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new folder" / f"x{suffix}"
    meta = {
        **FACTS,
        "rtmo_deploy": {"variant": "rtmo-t", "input": [416, 416], "note": "Überprüft ✓", "none": None},
    }
    write_checkpoint(path, weights(), meta)
    contents = read_checkpoint(path)
    assert contents.meta == meta
    assert set(contents.tensors) == set(weights())
    assert same(contents.tensors, {key: weights()[key] for key in contents.tensors})
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_a_written_pth_has_the_official_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write_checkpoint(path, weights(), {"epoch": 3, "dataset_meta": {"keypoint_id2name": {0: "nose"}}, "t": (1, 2)})
    content = torch.load(path, weights_only=True)
    assert list(content) == ["meta", "state_dict"]
    assert content["meta"] == {"epoch": 3, "dataset_meta": {"keypoint_id2name": {0: "nose"}}, "t": [1, 2]}
    assert isinstance(content["state_dict"], collections.OrderedDict)
    assert same(content["state_dict"], weights())


def test_a_written_safetensors_file_has_json_for_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_checkpoint(tmp_path / "x.safetensors", weights(), {"epoch": 3, "time": "12", "a": {"b": [None]}})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"epoch": "3", "time": '"12"', "a": '{"b": [null]}'}
    assert read_checkpoint(tmp_path / "x.safetensors").meta == {"epoch": 3, "time": "12", "a": {"b": [None]}}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_views_and_parameters_are_written_as_they_look(tmp_path: Path, suffix: str) -> None:
    base = torch.nn.Parameter(torch.randn(100_000))
    state = {"a": base[:3], "b": base[:4].reshape(2, 2).t(), "tied": base[:3], "half": torch.ones(2).half()}
    state["whole"] = state["whole again"] = torch.randn(5)
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, state, {})
    assert path.stat().st_size < 5000
    tensors = read_checkpoint(path).tensors
    assert same(tensors, {key: state[key].detach().float() for key in tensors})
    assert set(tensors) == set(state)


WRITER = """
import sys, torch
from pathlib import Path
from rtmo_deploy.model.files import write_checkpoint
name = "".join(["ti", "me"])
meta = {name: "time", "k": {name: [name, "time"], **{f"k{i}": i for i in range(9)}}, "l": 1, "m": 2, "n": 3}
tensors = {"time": torch.arange(4.0), "w": torch.ones(3, dtype=torch.int64)}
for suffix in ("pth", "safetensors"):
    write_checkpoint(Path(sys.argv[1]) / f"{sys.argv[2]}.{suffix}", tensors, meta)
"""


def _python(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    _python(WRITER, tmp_path, "other", PYTHONHASHSEED="1")
    meta = {
        "time": "time",
        "k": {"time": ["time", "time"], **{f"k{i}": i for i in range(9)}},
        "l": 1,
        "m": 2,
        "n": 3,
    }
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"this.{suffix}"
        tensors = {"time": torch.arange(4.0), "w": torch.ones(3, dtype=torch.int64)}
        write_checkpoint(path, tensors, meta)
        assert path.read_bytes() == (tmp_path / f"other.{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["x.pt", "x", "x.onnx", "x.PTH"])
def test_another_suffix_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.pth or \.safetensors"):
        write_checkpoint(tmp_path / name, weights(), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.float64(1), float("nan"), {1.5: 2}, {"x": object()}, torch.ones(1)])
def test_facts_that_are_not_plain_are_a_usage_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="not plain data"):
        write_checkpoint(tmp_path / "x.pth", weights(), {"fact": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, weights(), {})
    before = path.read_bytes()

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("rtmo_deploy.model.files.save_file", full)
    with pytest.raises(SetupError, match="No space left"):
        write_checkpoint(path, weights(1), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys, torch
from pathlib import Path
from rtmo_deploy.errors import SetupError
from rtmo_deploy.model.files import write_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for name in sys.argv[1:]:
    try:
        write_checkpoint(Path(name), {"w": torch.ones(100_000)}, {})
    except SetupError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes to hit")
def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    paths = [tmp_path / "x.pth", tmp_path / "x.safetensors"]
    for path, said in zip(paths, _python(FULL, *paths).splitlines(), strict=True):
        assert said.startswith(f"{path}: The file could not be written: ")
        assert "File too large" in said
    assert list(tmp_path.iterdir()) == []


# -- without MMEngine, and on real files

READER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mmengine", "mmpose", "mmcv", "mmdet"):
            raise AssertionError(f"{name} was asked for")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from rtmo_deploy.model.reader import read_checkpoint
print(len(read_checkpoint(Path(sys.argv[1])).tensors))
assert not [name for name in sys.modules if name.startswith("mm") and name != "mmap"]
"""


def test_neither_mmengine_nor_mmpose_is_needed_or_imported(tmp_path: Path) -> None:
    assert _python(READER, official(tmp_path / "x.pth")) == "4\n"


@pytest.mark.parametrize(
    "name", ["rtmo-t-mmengine-epoch_1.pth", "rtmo-t_8xb32-600e_body7-416x416-e1575038_20261122.pth"]
)
def test_real_files_agree_with_torch_load(shared: Path, tmp_path: Path, name: str) -> None:
    packed = shared / "checkpoints" / f"{name}.xz"
    if not packed.exists():
        pytest.skip(f"no {packed.name} here")
    path = tmp_path / name
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    with fake_mmengine():
        theirs = torch.load(path, weights_only=False)
    contents = read_checkpoint(path)
    assert len(contents.tensors) == 514
    assert same(contents.tensors, theirs["state_dict"])
    assert contents.meta["epoch"] == theirs["meta"]["epoch"]
    assert contents.meta["dataset_meta"]["keypoint_names"][0] == "nose"
    assert len(contents.meta["dataset_meta"]["keypoint_names"]) == 17
    assert contents.has_ema == ("ema_state_dict" in theirs) == ("mmengine" in name)
    if contents.has_ema:
        raw = {key.removeprefix("module."): value for key, value in theirs["ema_state_dict"].items()}
        del raw["steps"]
        assert same(read_checkpoint(path, ema=True).tensors, raw)
        assert not same(raw, contents.tensors)
