"""``rtmo-deploy tune``, and precision ``auto`` of the commands that take it, on a small model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.measure.tune import run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = ["--threads", "1", "--imgsz", "128"]


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "UNSTEADY", 1000.0)


def call(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result


def test_it_measures_and_the_others_take_it(
    onnx_n: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "n.onnx"
    model.write_bytes(onnx_n.read_bytes())
    samples = tmp_path / "samples"
    samples.mkdir()
    for path in pictures[:2]:
        (samples / path.name).write_bytes(path.read_bytes())
    document = json.loads(call("tune", model, *SIZE, "--images", samples, "--json").stdout)
    first = document["trials"][0]
    assert (first["backend"], first["precision"], first["oks"], first["speedup"]) == ("onnxruntime", "fp32", 1.0, 1.0)
    assert first["people"] == first["matched"]
    assert document["input_hw"] == [128, 128]
    assert document["chosen"] is not None
    assert {trial["verdict"] for trial in document["trials"]} <= {"chosen", "accepted", "refused", "not available"}
    assert [trial["reason"] for trial in document["trials"] if trial["precision"] == "int8"]

    monkeypatch.setattr(run, "_measure", None)  # it is not done again
    shown = call("tune", model, *SIZE, "--images", samples).stdout
    assert "chosen" in shown
    assert "2 images" in shown
    assert document["measured"] in shown
    chosen = document["chosen"]
    result = call("predict", model, pictures[0], *SIZE, "--precision", "auto", "--json")
    assert json.loads(result.stdout)["backend"] == chosen["backend"]
    line = f"Note: Runs in {chosen['backend']}, {chosen['precision']} (n.onnx): "
    assert result.stderr.count(line) == 1
    result = call("predict", model, pictures[0], *SIZE, "--precision", "auto", "--backend", "onnxruntime", "--json")
    assert json.loads(result.stdout)["backend"] == "onnxruntime"


def test_nothing_accepted(onnx_n: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run.Trial("onnxruntime", "fp32", onnx_n.name, verdict="refused", reason="it is wrong")
    monkeypatch.setattr(run, "_measure", lambda *_: ((refused,), {"notes": []}))
    result = call("tune", onnx_n, *SIZE, code=4)
    assert "refused: it is wrong" in result.stdout
    assert "Nothing was accepted" in result.stderr


def test_what_it_does_not_take(checkpoint_n: Path, onnx_n: Path, tmp_path: Path) -> None:
    assert "It is a PyTorch checkpoint" in call("tune", checkpoint_n, code=4).stderr
    assert call("tune", onnx_n, "--images", tmp_path / "nothing", code=3).stderr


def test_bench_and_parity_have_no_such_precision(onnx_n: Path) -> None:
    for command in ("bench", "parity", "validate"):
        assert "No such option" in call(command, onnx_n, "--precision", "auto", code=2).stderr
