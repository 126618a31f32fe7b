"""The registry of backends, and what a backend answers to what it cannot do."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtmo_deploy.artifact import Target
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure import structured_images
from rtmo_deploy.runtime.backends import BACKENDS, choose_backend, open_backend, parse_device
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import open_session


@pytest.fixture(scope="module")
def artifacts(checkpoint_n, onnx_n):
    return {"torch": read_artifact(checkpoint_n), "onnxruntime": read_artifact(onnx_n)}


@pytest.fixture(scope="module")
def opened(artifacts):
    return {name: open_backend(artifact) for name, artifact in artifacts.items()}


def test_each_artifact_finds_its_backend(artifacts, opened):
    assert {record.name for record in BACKENDS if record.name not in {"tensorrt", "openvino"}} == set(opened)
    for name, backend in opened.items():
        assert backend.device == "cpu"
        assert backend.artifact is artifacts[name]
        assert type(backend).__module__ == next(record.module for record in BACKENDS if record.name == name)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("target", [None, *Target])
def test_what_was_quantised_for_openvino_runs_there_where_it_is(monkeypatch, target, installed):
    whole = importlib.util.find_spec("onnxruntime")

    def find_spec(name):
        return None if name == "openvino" and not installed else whole

    monkeypatch.setattr("importlib.util.find_spec", find_spec)

    def chosen(device="cpu", backend=None):
        return choose_backend(Kind.ONNX, device, backend=backend, target=target).name

    expected = "openvino" if target is Target.OPENVINO and installed else "onnxruntime"
    assert chosen() == chosen(backend="auto") == expected
    assert chosen("cuda:0") == chosen(backend="onnxruntime") == "onnxruntime"


@pytest.mark.parametrize("shape", [(1, 256, 256), (3, 96, 192), (2, 32, 32)])
def test_backends_agree(opened, shape):
    images = structured_images(*shape)
    one, two = (opened[name](images) for name in ("torch", "onnxruntime"))
    assert set(one) == set(two) == {"dets", "keypoints"}
    assert one["dets"].shape[1] > 0
    assert {value.dtype for value in (*one.values(), *two.values())} == {np.dtype("float32")}
    for name, tolerance in (("dets", 0.01), ("keypoints", 0.05)):
        assert one[name].shape == two[name].shape
        assert np.abs(one[name] - two[name]).max() < tolerance
    assert np.abs(one["dets"][..., 4] - two["dets"][..., 4]).max() < 1e-5


def test_nobody_found_is_no_row(opened, monkeypatch):
    black = np.zeros((2, 3, 64, 64), np.float32)
    for name, backend in opened.items():
        if name == "torch":
            monkeypatch.setattr(backend, "artifact", with_score_thr(backend.artifact, 1.0))
            assert [value.shape for value in backend(black).values()] == [(2, 0, 5), (2, 0, 17, 3)]


def with_score_thr(artifact, value):
    from dataclasses import replace

    return replace(artifact, decode=replace(artifact.decode, score_thr=value))


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 100, 128), np.float32),
        np.zeros((1, 4, 128, 128), np.float32),
        np.zeros((3, 128, 128), np.float32),
        np.zeros((1, 3, 128, 128), np.float64),
        np.zeros((0, 3, 128, 128), np.float32),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}",
)
def test_a_wrong_input_is_refused(opened, artifacts, name, images):
    with pytest.raises(ArtifactError, match="does not run on") as caught:
        opened[name](images)
    assert caught.value.where == str(artifacts[name].path)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu"), ("cuda:1", "gpu")])
def test_a_missing_package_is_answered_with_the_line_that_installs_it(artifacts, monkeypatch, device, extra):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        open_backend(artifacts["onnxruntime"], device)
    assert str(caught.value).endswith(f"Install it with: pip install 'rtmo-deploy[{extra}]'")
    assert caught.value.exit_code == 5
    assert (caught.value.package, caught.value.extra) == ("onnxruntime", extra)


@pytest.mark.parametrize("name", ["tensorrt", "", "ONNXRUNTIME", "torch"])
def test_an_unknown_or_unfitting_backend(artifacts, name):
    with pytest.raises(UsageError, match=r"Those that do: onnxruntime, openvino\.$"):
        open_backend(artifacts["onnxruntime"], backend=name)


@pytest.mark.parametrize(
    "device", ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "cuda:²", "mps", "cuda 0"]
)
def test_an_unknown_device(artifacts, device, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # said before anything is looked for
    with pytest.raises(UsageError, match="There is no device"):
        open_backend(artifacts["onnxruntime"], device)


@pytest.mark.parametrize(
    ("given", "meant"), [("cpu", "cpu"), ("CPU", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3"), ("CUDA:1", "cuda:1")]
)
def test_devices(given, meant):
    assert parse_device(given) == meant


def test_pytorch_does_not_take_the_cpu_for_a_gpu(artifacts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match="sees no CUDA device, so cuda:0 cannot be used"):
        open_backend(artifacts["torch"], "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SetupError, match="sees 2 CUDA devices, so there is no cuda:2"):
        open_backend(artifacts["torch"], "cuda:2")


def test_onnx_runtime_does_not_take_the_cpu_for_a_gpu(artifacts, monkeypatch):
    import onnxruntime as ort

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SetupError, match=r"has no CUDA provider, so cuda:1 cannot be used.*rtmo-deploy\[gpu\]"):
        open_backend(artifacts["onnxruntime"], "cuda:1")
    # A build that has it, on a machine where it does not load: ONNX Runtime goes on with the CPU.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    asked = []

    def session(source, options, providers):
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.raises(SetupError, match="fell back to the CPU"):
        open_backend(artifacts["onnxruntime"], "cuda:1")
    assert asked == [[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]]


def test_threads_are_handed_on(artifacts, monkeypatch):
    before = torch.get_num_threads()
    try:
        open_backend(artifacts["torch"], threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    session = open_session(artifacts["onnxruntime"].path, threads=1, where="x")
    assert session.get_session_options().intra_op_num_threads == 1


def test_a_model_onnx_runtime_refuses(artifacts):
    with pytest.raises(ArtifactError, match="does not accept it") as caught:
        open_session(b"\x08\x08", where="some.onnx")
    assert str(caught.value).startswith("some.onnx: ONNX Runtime ")
