"""``rtmo-deploy export``."""

from __future__ import annotations

import json
import sys

import onnx
import pytest
import torch
from typer.testing import CliRunner

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.export import _print_parity
from rtmo_deploy.measure.bounds import CASTS, EXACT, ROUNDED
from rtmo_deploy.measure.verify import VerificationReport
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.zoo import VARIANTS


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")


def run(*arguments):
    return CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


def document_of(result):
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["schema_version"] == 1
    assert document["command"] == "export"
    return document


@pytest.fixture(scope="module")
def small(checkpoint_n, tmp_path_factory):
    """One small verified export, with everything beside it, and what was printed."""
    folder = tmp_path_factory.mktemp("small")
    arguments = ("--static", "--imgsz", 64, 96, "--decode", "fixed", "--max-dets", 20, "--pre-topk", 40)
    thresholds = ("--score-thr", 0.2, "--nms-thr", 0.5, "--opset", 18, "--letterbox", "top-left")
    target = folder / "new" / "small.onnx"
    return run(checkpoint_n, "-o", target, *arguments, *thresholds, "--dump-info", "--json"), target


def test_the_json_document(small, checkpoint_n):
    result, target = small
    document = document_of(result)
    facts = {"path", "nodes", "size", "seconds", "artifact", "info_files", "from_cfg", "notes"}
    assert set(document) == {"schema_version", "command"} | facts
    assert document["path"] == str(target)
    assert document["size"] == target.stat().st_size
    assert document["seconds"] > 0
    model = onnx.load(target)
    assert document["nodes"] == len(model.graph.node)
    artifact = document["artifact"]
    assert artifact == json.loads(json.dumps(Artifact.from_metadata(target, metadata_of(model)).to_dict()))
    assert (artifact["kind"], artifact["architecture"], artifact["precision"]) == ("onnx", "rtmo-n", "fp32")
    assert artifact["input"] == {
        "height": 64,
        "width": 96,
        "batch": 1,
        "dynamic_hw": False,
        "placement": "top-left",
        "pad": 114,
        "multiple": 32,
    }
    decode = artifact["decode"]
    assert (decode["mode"], decode["score_thr"], decode["nms_thr"]) == ("fixed", 0.2, 0.5)
    assert (decode["max_dets"], decode["pre_topk"]) == (20, 40)
    assert artifact["parents"][0]["name"] == checkpoint_n.name
    assert artifact["verified"]["validation"]["ok"] is True
    assert artifact["verified"]["parity"]["ok"] is True
    assert model.opset_import[0].version == 18


def metadata_of(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def test_beside_it_lie_the_files_asked_for_and_no_others(small):
    result, target = small
    names = {"deploy.json", "pipeline.json", "detail.json"}
    assert {path.name for path in target.parent.iterdir()} == names | {"small.onnx"}
    assert {path.rsplit("/", 1)[-1] for path in document_of(result)["info_files"]} == names


def test_progress_goes_to_stderr(small):
    result, _ = small
    lines = result.stderr.splitlines()
    assert lines[0] == "reading the checkpoint ..."
    assert "writing ..." in lines
    assert all(line.endswith(" ...") for line in lines)


def test_the_table(checkpoint_n, tmp_path, small):
    target = tmp_path / "t.onnx"
    result = run(checkpoint_n, "-o", target, "--static", "--imgsz", 32, 64)
    assert result.exit_code == 0, result.output
    facts = {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in result.stdout.splitlines()}
    assert facts["file"].startswith(f"{target} (")
    assert facts["model"] == "rtmo-n, coco-17"
    assert facts["input"] == "32x64 only; batch 1"
    assert facts["decode"] == "onnx; score_thr 0.1, nms_thr 0.65"
    assert facts["validation"].startswith("passed: ")
    assert "Parity with PyTorch" in result.stdout
    assert "1x3x32x64" in result.stdout
    assert "reading the checkpoint" not in result.stdout
    assert str(target) not in result.stderr


CONFIG = """
model = dict(
    backbone=dict(act_cfg=dict(type='ReLU')),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    test_cfg=dict(input_size=(960, 640), score_thr=0.3, nms_thr=0.3))
"""


@pytest.fixture
def with_config(checkpoint_n, tmp_path):
    state = load_checkpoint(checkpoint_n).model.state_dict()
    torch.save({"state_dict": state, "meta": {"cfg": CONFIG}}, tmp_path / "c.pth")
    return tmp_path / "c.pth"


def test_the_config_is_followed_and_said(with_config):
    document = document_of(run(with_config, "--json", "--no-verify"))
    assert document["from_cfg"] == {
        "backbone_act": "ReLU",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "rgb": True,
        "input_hw": [640, 960],
        "score_thr": 0.3,
        "nms_thr": 0.3,
    }
    artifact = document["artifact"]
    assert (artifact["input"]["height"], artifact["input"]["width"]) == (640, 960)
    assert (artifact["decode"]["score_thr"], artifact["decode"]["nms_thr"]) == (0.3, 0.3)


def test_the_config_is_ignored_if_asked_and_only_then(with_config):
    artifact = document_of(run(with_config, "--json", "--no-verify", "--ignore-cfg"))["artifact"]
    assert (artifact["input"]["height"], artifact["decode"]["score_thr"]) == (352, 0.1)
    assert load_checkpoint(with_config).input_hw == (640, 960)


def test_a_config_that_cannot_be_followed(with_config):
    contents = torch.load(with_config)
    contents["meta"]["cfg"] = "model = dict(neck=dict(type='YOLOXPAFPN'))"
    torch.save(contents, with_config)
    result = run(with_config)
    assert result.exit_code == 4
    message = " ".join(result.stderr.split())
    assert "model.neck.type is 'YOLOXPAFPN'" in message
    assert "--ignore-cfg" in message


def test_beside_the_checkpoint_and_unverified_if_asked(checkpoint_n, tmp_path):
    (tmp_path / "my.model.pth").write_bytes(checkpoint_n.read_bytes())
    document = document_of(run(tmp_path / "my.model.pth", "--no-verify", "--batch", 3, "--decode", "raw", "--json"))
    assert document["path"] == str(tmp_path / "my.model.onnx")
    assert document["artifact"]["verified"] is None
    assert document["artifact"]["input"]["batch"] == 3
    assert document["artifact"]["companion"]["name"] == "my.model.dcc.onnx"
    assert {path.name for path in tmp_path.iterdir()} == {
        ".rtmo-deploy",
        "my.model.pth",
        "my.model.onnx",
        "my.model.dcc.onnx",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--imgsz", "100", "128"), "multiples of 32"),
        (("--imgsz", "0", "32"), "is not a size"),
        (("--imgsz", "64x"), "is not a size"),
        (("--opset", "16"), "Opset 16"),
        (("--opset", "21"), "Opset 21"),
        (("--batch", "0"), "batch is 0"),
        (("--score-thr", "1.5"), "score_thr is 1.5"),
        (("--score-thr", "nan"), "score_thr is nan"),
        (("--nms-thr", "-0.1"), "nms_thr is -0.1"),
        (("--max-dets", "0"), "max_dets is 0"),
        (("--decode", "fixed", "--pre-topk", "3841"), "pre_topk is 3841"),
        (("--decode", "fixed", "--max-dets", "301"), "max_dets is 301"),
        (("--decode", "raw", "--max-dets", "5"), "--max-dets does not apply to --decode raw"),
        (("--decode", "raw", "--pre-topk", "5"), "--pre-topk does not apply to --decode raw"),
        (("--decode", "raw", "--dump-info"), "--dump-info does not apply to --decode raw"),
        (("--decode", "magic"), "magic"),
        (("--format", "tflite"), "tflite"),
        (("--letterbox", "left"), "left"),
        (("-o", "x.txt"), "Give it the suffix .onnx"),
        (("-o", "x"), "Give it the suffix .onnx"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_read(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rtmo_deploy.convert.export", None)  # reading it would fail
    result = run("nowhere.pth", *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert "reading" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path):
    result = run(tmp_path / "nowhere.pth")
    assert result.exit_code == 4
    assert f"{tmp_path / 'nowhere.pth'}: There is no such file." in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    result = run(tmp_path / "x.pth")
    assert result.exit_code == 4
    assert str(tmp_path / "x.pth") in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_folder_that_cannot_be_written_to(checkpoint_n, tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    result = run(checkpoint_n, "-o", tmp_path / "file" / "x.onnx", "--no-verify", "--static", "--imgsz", 32, 32)
    assert result.exit_code == 5
    assert f"{tmp_path / 'file' / 'x.onnx'}: The file could not be written" in result.stderr
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_no_half_file_is_left_where_parity_fails(checkpoint_n, tmp_path, monkeypatch):
    from rtmo_deploy.measure import Figures, verify

    (tmp_path / "x.onnx").write_bytes(b"what stood there before")
    monkeypatch.setattr(verify, "compare_people", lambda *_, **__: Figures(people_a=4, matched=3, missed=1))
    result = run(checkpoint_n, "-o", tmp_path / "x.onnx", "--static", "--imgsz", 32, 32, "--force")
    assert result.exit_code == 6
    assert "detections: 1 of 4 missed and 0 extra, bound 0 (input 1x3x32x32)" in result.stderr
    assert "Nothing was written" in result.stderr
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_bytes() == b"what stood there before"


def test_a_published_model_offline(tmp_path):
    result = run("rtmo-s", "-o", tmp_path / "s.onnx")
    assert result.exit_code == 5
    assert "RTMO_DEPLOY_OFFLINE forbids the network" in result.stderr
    assert VARIANTS["rtmo-s-body7"].url in result.stderr
    assert str(tmp_path / "cache" / VARIANTS["rtmo-s-body7"].file_name) in result.stderr
    assert not (tmp_path / "s.onnx").exists()


def test_without_onnx_runtime(checkpoint_n, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(checkpoint_n, "-o", tmp_path / "x.onnx")
    assert result.exit_code == 5
    assert "pip install 'rtmo-deploy[cpu]'" in result.stderr
    assert "tracing" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (EXACT, "0.05 px, scores 0.0001, tensors 0.001 of their size."),
        (ROUNDED, "8 px, scores 0.02, tensors 0.05 of their size, 5% of people unmatched."),
        (
            CASTS["int8+fp16"],
            "keypoints 25 px on average, 200 px, scores 0.15, of keypoints 1, 40% of people unmatched.",
        ),
    ],
)
def test_the_bounds_of_every_conversion_are_printed(bounds, said, capsys):
    _print_parity(VerificationReport("ONNX Runtime", (), bounds, ()))
    assert f"Bounds: {said}" in capsys.readouterr().out
