"""``rtmo-deploy inspect``."""

from __future__ import annotations

import hashlib
import json
import lzma

import onnx
import pytest
import torch
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.zoo import COCO_17


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


def document_of(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["schema_version"] == 1
    assert document["command"] == "inspect"
    return document


def facts_of(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in result.stdout.splitlines()}


def test_a_checkpoint(checkpoint_n):
    document = document_of(checkpoint_n)
    content = checkpoint_n.read_bytes()
    assert document["path"] == str(checkpoint_n)
    assert (document["sha256"], document["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    expected = {
        "kind": "checkpoint",
        "producer": "checkpoint",
        "architecture": "rtmo-n",
        "variant": None,
        "num_keypoints": 17,
        "skeleton": "coco-17",
        "input_hw": [256, 256],
        "deepen": 0.33,
        "widen": 0.25,
        "hidden_dim": 128,
        "weights_from": "state_dict",
        "has_ema": False,
        "stored_dtype": "float32",
    }
    assert {key: document[key] for key in expected} == expected
    assert 2e6 < document["parameters"] < 3e6
    facts = facts_of(checkpoint_n)
    assert (facts["architecture"], facts["input hw"], facts["has ema"]) == (
        "rtmo-n",
        "256x256 (record)",
        "no",
    )
    assert document["settings"]["input_hw"] == {"value": [256, 256], "source": "record"}
    assert document["settings"]["backbone_act"] == {"value": "SiLU", "source": "default"}
    assert facts["parameters"] == f"{document['parameters']:,}"


def test_the_averaged_weights(checkpoint_n, tmp_path):
    result = run(checkpoint_n, "--ema")
    assert result.exit_code == 4
    assert "ema" in result.stderr
    state = torch.load(checkpoint_n, weights_only=True)["state_dict"]
    ema = {f"module.{key}": value for key, value in state.items()}
    torch.save({"state_dict": state, "ema_state_dict": ema}, tmp_path / "x.pth")
    assert document_of(tmp_path / "x.pth", "--ema")["weights_from"] == "ema_state_dict"
    assert document_of(tmp_path / "x.pth")["has_ema"] is True


def test_the_keypoints_and_what_is_known_of_them(checkpoint_n, onnx_n):
    for file in (checkpoint_n, onnx_n):
        document, facts = document_of(file), facts_of(file)
        assert (document["skeleton"], document["keypoints"][:2]) == ("coco-17", ["nose", "left_eye"])
        assert (document["edges"][0], document["flip_pairs"][0]) == (list(COCO_17.edges[0]), [1, 2])
        assert document["sigmas"] == list(COCO_17.sigmas)
        assert facts["keypoints"].startswith("nose; left_eye; right_eye")
        assert facts["flip pairs"].startswith("1-2; 3-4; 5-6")


def test_an_onnx_model(onnx_n, checkpoint_n):
    document = document_of(onnx_n)
    expected = {
        "kind": "onnx",
        "producer": "rtmo-deploy",
        "architecture": "rtmo-n",
        "input_hw": [256, 256],
        "inputs": ["input float32 [batch, 3, height, width]"],
        "outputs": ["dets float32 [batch, people, 5]", "keypoints float32 [batch, people, 17, 3]"],
        "nodes": len(onnx.load(onnx_n).graph.node),
        "opset": {"ai.onnx": 17},
        "batch": None,
        "dynamic_hw": True,
        "letterbox": "center",
        "precision": "fp32",
        "target": None,
        "companion": None,
        "parents": [{"name": "n.pth", "sha256": hashlib.sha256(checkpoint_n.read_bytes()).hexdigest()}],
        "verified": None,
    }
    assert {key: document[key] for key in expected} == expected
    assert document["decode"]["mode"] == "onnx"
    assert document["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    facts = facts_of(onnx_n)
    assert facts["inputs"] == "input float32 [batch, 3, height, width]"  # brackets are not swallowed
    assert facts["verified"] == "-"


@pytest.mark.parametrize(("ok", "word"), [(True, "passed"), (False, "failed")])
def test_what_was_verified(onnx_n, tmp_path, ok, word):
    model = onnx.load(onnx_n)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    metadata["rtmo_deploy.verified"] = json.dumps({"validation": {"ok": True}, "parity": {"ok": ok}})
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "x.onnx")
    assert facts_of(tmp_path / "x.onnx")["verified"] == word


def test_a_training_file_of_mmengine(shared, tmp_path):
    packed = shared / "checkpoints" / "rtmo-t-mmengine-epoch_1.pth.xz"
    path = tmp_path / "epoch_1.pth"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    document = document_of(path)
    assert (document["architecture"], document["num_keypoints"], document["has_ema"]) == ("rtmo-t", 17, True)
    assert document["input_hw"] == [416, 416]
    assert document["meta"]["epoch"] == 1
    assert document_of(path, "--ema")["weights_from"] == "ema_state_dict"


def test_a_model_mmdeploy_made(shared, tmp_path):
    path = tmp_path / "peer.onnx"
    path.write_bytes(lzma.decompress((shared / "peers" / "mmdeploy-rtmo-t.onnx.xz").read_bytes()))
    document = document_of(path)
    assert (document["producer"], document["architecture"]) == ("mmdeploy", "unknown")
    assert (document["input_hw"], document["dynamic_hw"], document["batch"]) == ([416, 416], False, None)
    assert document["opset"] == {"ai.onnx": 11}
    assert (document["decode"]["score_thr"], document["decode"]["nms_thr"]) == (0.1, 0.65)
    assert document["nodes"] == 977


@pytest.mark.parametrize("name", ["x.onnx", "x.pth", "x.safetensors", "x.txt", "x"])
@pytest.mark.parametrize("content", [None, b"", b"\x80garbage" * 50])
def test_garbage(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for option in ((), ("--json",)):
        result = run(tmp_path / name, *option)
        assert result.exit_code == 4
        assert bool(result.stdout) is bool(option)
        if option:
            assert json.loads(result.stdout)["error"]["where"] == str(tmp_path / name)
        assert result.stderr.startswith(f"Error: {tmp_path / name}: ")
        assert len(result.stderr.splitlines()) == 1
