"""``rtmo-deploy bench``."""

from __future__ import annotations

import csv
import errno
import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from rtmo_deploy.cli.app import _ErrorsToExitCodes
from rtmo_deploy.cli.bench import bench
from rtmo_deploy.measure.bench.interference import Interference

app = typer.Typer(cls=_ErrorsToExitCodes)
app.command()(bench)


@app.callback()
def _root():
    pass


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])


@pytest.fixture
def model(tmp_path):
    """A file that is never opened."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not looked at")
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch", "0"), "--batch"),
        (("--batch", "1,x"), "--batch"),
        (("--people", "61"), "--people"),
        (("--threads", "0"), "--threads"),
        (("--max-slowdown", "5%"), "--baseline FILE.json"),
        (("--max-slowdown", "x", "--baseline", "b.json"), "is no share"),
        (("--protocol", "v100", "--people", "1"), "does not sweep people"),
        (("--protocol", "v100", "--batch", "2"), "is at batch 1"),
        (("--protocol", "v200"), "v200"),
        (("--images", "d", "--people", "1"), "--people makes its own"),
        (("--duration", "0"), "duration of 0"),
        (("--duration", "nan"), "seconds is nan"),
        (("--rounds", "0"), "--rounds"),
        (("--no-reference", "--compile"), "leaves PyTorch out"),
        (("--spinning", "wild"), "wild"),
        (("--baseline", "nowhere.json"), "The baseline cannot be read"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(model, arguments, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmo_deploy.measure.bench.run", None)
    result = run(model, *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_nobody_reads_stdout(model, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "")

    monkeypatch.setattr("rtmo_deploy.measure.bench.run_bench", lambda *_, **__: None)
    monkeypatch.setattr("rtmo_deploy.measure.bench.report.to_markdown", lambda *_: "measured")
    monkeypatch.setattr("rtmo_deploy.cli.bench.find_model", lambda *_: model)
    monkeypatch.setattr("rtmo_deploy.cli.bench._show", broken)
    assert run(model, "--md", tmp_path / "b.md").exit_code == 1
    assert (tmp_path / "b.md").read_text() == "measured"


def test_with_no_model_and_nothing_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run()
    assert result.exit_code == 2, result.output
    assert "No model was made in this directory" in result.stderr


def test_with_no_model_it_is_what_was_last_built(model, tmp_path, monkeypatch):
    from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
    from rtmo_deploy.cli.workspace import Workspace
    from rtmo_deploy.file_kind import Kind
    from rtmo_deploy.zoo import COCO_17

    monkeypatch.chdir(tmp_path)
    artifact = Artifact(model, Kind.ONNX, "rtmo-n", COCO_17, InputContract(64, 64), DecodeContract(DecodeMode.ONNX))
    Workspace().record(artifact, command="export")
    result = run()
    assert result.exit_code == 4, result.output  # it was found, and then looked into
    assert "this is about m.onnx, made by 'export'" in result.stderr
    model.write_bytes(b"other")
    result = run()
    assert "It was changed since 'export' made it" in " ".join(result.stderr.split())


def test_a_file_that_is_no_model(model):
    result = run(model)
    assert result.exit_code == 4
    assert str(model) in result.stderr


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_not_replaced(onnx_n, tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there may be a GPU")
    result = run(onnx_n, "--device", "cuda:0", "--no-reference")
    assert result.exit_code == 5, result.output
    assert "cuda:0 cannot be used" in result.stderr
    assert result.stdout == ""


TINY = ("--imgsz", 64, 64, "--duration", 0.2, "--warmup", 0, "--rounds", 3, "--threads", 1)


@pytest.mark.slow
def test_a_real_run_and_its_gate(checkpoint_n, onnx_n, tmp_path, monkeypatch):
    """Two processes, two numbers of people; what is written, and what is said of a slower one."""
    # As on a quiet machine, whatever else this one does.
    monkeypatch.setattr("rtmo_deploy.measure.bench.interference.Observer.result", lambda _: Interference())
    files = {kind: tmp_path / "new" / f"r.{kind}" for kind in ("csv", "html", "md")}
    outputs = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    result = run(onnx_n, "--reference", checkpoint_n, "--people", "0,3", *TINY, "--json", *outputs)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["command"], document["protocol"]) == (1, "bench", "e2e")
    labels = [entry["contender"]["label"] for entry in document["entries"]]
    assert labels == ["PyTorch (n.pth)", "n.onnx (onnxruntime)"] * 2
    assert [entry["case"]["people"] for entry in document["entries"]] == [0, 0, 3, 3]
    torch, ort = document["entries"][:2]
    assert list(torch["stages_ms"]) == [
        *("decode file", "letterbox", "network", "NMS+DCC", "rows to people", "un-letterbox", "draw")
    ]
    assert list(ort["stages_ms"]) == [
        *("decode file", "letterbox", "network+NMS+DCC", "rows to people", "un-letterbox", "draw")
    ]
    assert len(ort["rounds_ms"]) == 3
    assert ort["total_ms"]["n"] >= 3
    assert ort["ratio"]["low"] <= ort["ratio"]["value"] <= ort["ratio"]["high"]
    # Each averages over the calls it had time for, which are not the same images.
    assert torch["found"] == pytest.approx(ort["found"], abs=4)
    assert ort["memory"] > 2**24
    assert ort["contender"]["config"]["session.intra_op.allow_spinning"] == "1"
    assert {"onnxruntime", "rtmo-deploy", "python"} <= set(ort["versions"])
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert "## From the file to the poses" in files["md"].read_text()
    with files["csv"].open(newline="") as stream:
        assert {row["stage"] for row in csv.DictReader(stream)} >= {"network", "network+NMS+DCC", "total"}

    for entry in document["entries"]:  # as if it had been a hundred times as fast
        entry["rounds_ms"] = [value / 100 for value in entry["rounds_ms"]]
    (tmp_path / "base.json").write_text(json.dumps(document))
    gated = (onnx_n, "--no-reference", "--people", "0", *TINY, "--baseline", tmp_path / "base.json")
    result = run(*gated)
    assert result.exit_code == 6, result.output
    assert "Slower than the baseline by more than 5.0%" in result.stderr
    assert "SLOWER" in result.stdout
    other = run(*gated, "--protocol", "v100")
    assert other.exit_code == 2


@pytest.mark.slow
def test_the_protocol_of_mmdeploys_profiler(onnx_n):
    result = run(onnx_n, "--no-reference", "--protocol", "v100", "--imgsz", 64, 64, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["entries"]
    assert list(entry["stages_ms"]) == ["network+NMS+DCC"]
    assert entry["total_ms"]["n"] == 100
    assert entry["total_ms"] == entry["stages_ms"]["network+NMS+DCC"]
