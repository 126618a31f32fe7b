"""Precision ``auto``: what was measured decides what is opened, and what is named restricts it."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path

import onnxruntime
import pytest
from int8_files import stamped_int8

from rtmo_deploy import RTMO
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime import choice
from rtmo_deploy.runtime.choice import Decision, Trial, choose, is_measured, keep_decision, key_of, read_decisions
from rtmo_deploy.runtime.estimator import read_artifact

AUTO = {"device": "cpu", "threads": 1, "precision": "auto"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(onnx_n, tmp_path):
    path = tmp_path / "n.onnx"
    path.write_bytes(onnx_n.read_bytes())
    stamped_int8(path, tmp_path / "n.int8.onnx", parent=path)
    return path


def trials(model, **ms):
    """ONNX Runtime in FP32 and INT8, and OpenVINO, with these times; 0 is refused."""
    names = {
        "fp32": ("onnxruntime", model.name),
        "int8": ("onnxruntime", "n.int8.onnx"),
        "bf16": ("openvino", "n.onnx"),
    }
    return tuple(
        Trial(
            backend,
            name,
            file,
            "bf16" if name == "bf16" else None,
            "accepted" if ms[name] else "refused",
            "",
            ms[name] or None,
        )
        for name, (backend, file) in names.items()
    )


def decide(model, threads=1, input_hw=None, **ms):
    keep_decision(key_of(read_artifact(model), threads=threads, input_hw=input_hw), Decision("s", trials(model, **ms)))


def test_the_file_that_was_fastest_runs(model, caplog):
    decide(model, fp32=10.0, bf16=0, int8=4.0)
    with caplog.at_level(logging.INFO, "rtmo_deploy"):
        opened = RTMO(model, **AUTO)
    assert opened.artifact.path.name == "n.int8.onnx"
    assert "RTMO('n.int8.onnx', backend='onnxruntime'" in repr(opened)
    told = [record.getMessage() for record in caplog.records if record.name == "rtmo_deploy"]
    line = "Runs in onnxruntime, int8 (n.int8.onnx): 2.5 times as fast as onnxruntime fp32 here; 'rtmo-deploy tune' "
    assert told == [line + "shows the table."]
    assert pickle.loads(pickle.dumps(opened)).artifact.path == opened.artifact.path


def test_what_is_named_restricts_it(model):
    decide(model, fp32=10.0, bf16=2.0, int8=4.0)
    artifact = read_artifact(model)
    found = {
        (backend, precision): choose(artifact, backend=backend, precision=precision, threads=1)[1:3]
        for backend, precision in [("auto", "auto"), ("onnxruntime", "auto"), ("auto", "fp32"), ("auto", "int8")]
    }
    assert list(found.values()) == [
        ("openvino", "bf16"),
        ("onnxruntime", None),
        ("onnxruntime", None),
        ("onnxruntime", None),
    ]
    assert choose(artifact, backend="onnxruntime", threads=1).path.name == "n.int8.onnx"
    assert RTMO(model, device="auto", threads=1, precision="fp32").artifact.path == model
    with pytest.raises(ArtifactError, match=r"Nothing that was asked for can run it here .* no candidate"):
        choose(artifact, backend="openvino", precision="int8", threads=1)


def test_nothing_accepted(model):
    decide(model, fp32=10.0, bf16=0, int8=4.0)
    with pytest.raises(ArtifactError, match="openvino bf16: refused"):
        RTMO(model, backend="openvino", **AUTO)


def test_it_is_measured_once(model, monkeypatch):
    asked = []

    def tune(artifact, threads, input_hw):
        asked.append((artifact.path, threads, input_hw))
        decide(artifact.path, threads, input_hw, fp32=10.0, bf16=0, int8=20.0)

    monkeypatch.setattr(choice, "_tune", tune)
    for size in (None, None, (128, 128), (128, 128)):
        assert RTMO(model, input_hw=size, **AUTO).artifact.path == model
    assert asked == [(model, 1, None), (model, 1, (128, 128))]
    with monkeypatch.context() as patch:
        patch.setattr(choice, "read_cpu", lambda: ("another", ()))
        RTMO(model, **AUTO)
    assert len(asked) == 3
    (model.parent / "n.int8.onnx").unlink()
    RTMO(model, **AUTO)
    assert len(asked) == 4


def test_a_tuning_that_fails_is_an_error(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(choice, "_tune", lambda *_: None)
        with pytest.raises(SetupError, match="the decision was not found"):
            RTMO(model, **AUTO)
    for code, kind in ((4, ArtifactError), (1, SetupError)):
        script = f"import sys; sys.stderr.write('getting ready ...\\nError: it is broken.'); sys.exit({code})"
        monkeypatch.setattr(choice, "python_command", lambda *_, script=script: (sys.executable, "-c", script))
        with pytest.raises(kind, match=r"It could not be tuned: it is broken\."):
            RTMO(model, **AUTO)


def test_a_cache_that_is_no_folder_is_named(model, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(SetupError, match="The cache cannot be used") as raised:
        RTMO(model, **AUTO)
    assert tmp_path / "cache" in Path(raised.value.where).parents


def test_what_is_not_measured(model, checkpoint_n, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(choice, "_tune", never)
    assert RTMO(checkpoint_n, **AUTO).backend.name == "torch"
    assert RTMO(model, device="cpu", threads=1).artifact.path == model
    with pytest.raises(UsageError, match="cannot be asked for bf16"):
        RTMO(model, device="cpu", backend="onnxruntime", precision="bf16")
    assert not is_measured(Kind.ENGINE, "auto", "auto")
    assert not is_measured(Kind.ONNX, "auto", None)
    assert not is_measured(Kind.ONNX, None, "bf16")
    assert is_measured(Kind.OPENVINO, None, "auto")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(SetupError, match="cuda:0 cannot be used"):
            RTMO(model, device="cuda:0", precision="auto")


def test_the_newest_decisions_are_kept(model):
    key = key_of(read_artifact(model), threads=1, input_hw=None)
    for number in range(choice.KEPT + 3):
        keep_decision(key, Decision(str(number), trials(model, fp32=1.0, bf16=0, int8=0)))
    assert [one.samples for one in read_decisions(key)] == [str(number) for number in range(3, choice.KEPT + 3)]
