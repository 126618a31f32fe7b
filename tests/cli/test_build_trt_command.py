"""``rtmo-deploy build-trt``."""

from __future__ import annotations

import json

import onnx
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime.engine_file import read_record
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.trt_api import installed_backends

pytestmark = pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx")
RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(*arguments):
    return CliRunner().invoke(app, ["build-trt", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def raw(checkpoint_n, tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "n.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(decode="raw"), verify=False)
    return path


def test_a_dry_run_says_what_would_be_built(raw, tmp_path):
    result = run(raw, *RTX, "--dry-run", "--json", "--fp16", "--max", "2x640x640", "-o", tmp_path / "a.engine")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["command"] == "build-trt"
    assert document["dry_run"] is True
    assert document["steps"] == ["cast to fp16", "build with tensorrt-rtx, audit, write"]
    assert document["profiles"] == ["1x256x256 to 2x640x640, tuned for 1x256x256"]
    assert (document["precision"], document["possible"], document["problems"]) == ("fp16", True, [])
    assert not (tmp_path / "a.engine").exists()


def test_a_dry_run_where_it_cannot_be_built_exits_with_5(raw):
    if "tensorrt" in installed_backends():
        pytest.skip("TensorRT is installed here")
    result = run(raw, "--backend", "tensorrt", "--dry-run", "--json")
    assert result.exit_code == 5
    document = json.loads(result.stdout)
    assert document["possible"] is False
    assert "rtmo-deploy[trt]" in document["problems"][0]
    assert "possible here  no" in run(raw, "--backend", "tensorrt", "--dry-run").stdout


def test_a_dry_run_from_a_checkpoint(checkpoint_n):
    document = json.loads(run(checkpoint_n, *RTX, "--dry-run", "--json", "--bf16", "--decode", "raw").stdout)
    assert document["steps"] == ["export --decode raw", "cast to bf16", "build with tensorrt-rtx, audit, write"]
    assert document["output"].endswith("n.bf16.tensorrt-rtx.engine")
    for options, rest in ((("--int8",), "fp16"), (("--int8", "--bf16"), "bf16"), (("--int8", "--fp32"), None)):
        document = json.loads(run(checkpoint_n, *RTX, "--dry-run", "--json", *options).stdout)
        cast = [] if rest is None else [f"cast the rest to {rest}"]
        build = "build with tensorrt-rtx, audit, write"
        assert document["steps"] == ["export --decode fixed", "quantise to int8 and judge it", *cast, build]
        assert document["precision"] == ("int8" if rest is None else f"int8+{rest}")


def test_an_engine_is_built_and_remembered(raw, tmp_path):
    target = tmp_path / "n.engine"
    result = run(raw, *RTX, "--fp32", "-o", target, "--max", "1x192x192", "--timing-cache", tmp_path / "t", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(target)
    assert document["record"] == json.loads(target.with_name("n.engine.json").read_text())
    assert "has no timing cache" in document["record"]["notes"][0]
    assert not (tmp_path / "t").exists()
    assert "building ..." in result.stderr
    from rtmo_deploy.cli.workspace import Workspace
    from rtmo_deploy.file_kind import Kind

    assert Workspace().last([Kind.ENGINE])[0] == target


def test_without_a_model_it_is_what_was_made_here_last(raw):
    nothing = run("--dry-run", *RTX)
    assert nothing.exit_code == 2
    assert "rtmo-deploy export" in nothing.stderr
    from rtmo_deploy.cli.workspace import Workspace

    Workspace().record(read_artifact(raw), command="export")
    found = run("--dry-run", "--json", *RTX)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["model"] == str(raw)
    assert f"MODEL is {raw}" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--fp16", "--bf16", "--int8"), 2, "--fp16 and --bf16 were given"),
        (("--fp16", "--calib", "synthetic"), 2, "--calib was given without --int8"),
        (("--int8", "--calib", "nowhere"), 2, "no calibration set, no folder"),
        (("--max", "8x100x100"), 2, "--max 8x100x100 is not possible"),
        (("--min", "1x320"), 2, "'1x320' is no size"),
        (("--compute-capability", "9.0"), 2, "not for Hopper"),
        (("--compute-capability", "7.0"), 2, "TensorRT 10.4 with CUDA 12"),
        (("--version-compatible",), 2, "--version-compatible does not apply"),
        (("--decode", "fixed"), 2, "was exported with --decode raw"),
        (("--decode", "plugin"), 2, "takes no plugins"),
        (("-o", "model.onnx"), 2, "suffix .engine"),
        (("--opt-level", "9"), 2, "no optimisation level 9"),
    ],
)
def test_what_makes_no_sense_is_refused(raw, arguments, code, said):
    result = run(raw, *RTX, *arguments)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.stderr.split())
    assert not list(raw.parent.glob("*.engine*"))


def test_calibration_images_are_looked_for_before_the_checkpoint_is_read(tmp_path):
    result = run(tmp_path / "missing.pth", *RTX, "--int8", "--calib", "nowhere")
    assert result.exit_code == 2
    assert "'nowhere' is no calibration set" in result.stderr


def test_a_model_with_nms_is_refused_with_the_remedy(onnx_n):
    result = run(onnx_n, *RTX)
    assert result.exit_code == 4
    assert "(NonMaxSuppression) cannot be built" in result.stderr
    assert "export --decode fixed" in result.stderr


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pth"])
def test_a_model_that_is_not_there(name):
    assert run(name, *RTX).exit_code == 4


def test_a_checkpoint_that_is_no_model(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00\x01")
    assert run(broken, *RTX).exit_code == 4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_whole_chain_from_a_checkpoint(checkpoint_n, tmp_path, precision):
    target = tmp_path / "n.engine"
    result = run(
        checkpoint_n, *RTX, f"--{precision}", "--no-verify", "-k", "-o", target, "--max", "1x256x256", "--json"
    )
    assert result.exit_code == 0, result.output
    record = read_record(target)
    counts = record.precision["engine"]["convolutions"]
    assert counts[precision] > 0.9 * sum(counts.values())
    assert record.artifact.decode.mode.value == "fixed"
    assert record.artifact.parents[0].name == checkpoint_n.name
    kept = onnx.load(target.with_suffix(".onnx"))
    assert len(kept.graph.node) > 100
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("given", ["checkpoint", "raw"])
def test_int8_is_quantised_judged_cast_and_built(given, checkpoint_n, raw, pictures, tmp_path, monkeypatch):
    """At 256x256 alone: the engine's input layers are padded there, which is no convolution in FP32."""
    monkeypatch.setattr("rtmo_deploy.cli.quantize._JUDGE_COUNT", 2)
    source, rest = (checkpoint_n, "fp16") if given == "checkpoint" else (raw, "fp32")
    target = tmp_path / "n.engine"
    options = (*RTX, "--int8", "--calib", pictures[0].parent, "--max", "1x256x256", "--json")
    result = run(source, *options, *([] if rest == "fp16" else ["--fp32"]), "-k", "-o", target)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    made = "int8+fp16" if rest == "fp16" else "int8"
    assert document["record"]["artifact"]["precision"] == made
    counts = document["record"]["precision"]["engine"]["convolutions"]
    assert counts["int8"] == document["quantization"]["layers"] == 76
    assert not any("mixed" in kind for kind in counts)
    assert document["quantization"]["int8"]["against_fp32"]["matched"] > 0
    assert "synthetic images" not in result.stderr
    assert read_artifact(tmp_path / "n.onnx").precision == made
    assert read_record(target).artifact.precision == made
    again = run(tmp_path / "n.onnx", *options)
    assert again.exit_code == 2
    assert f"the model is {made} already" in again.stderr
