"""``rtmo-deploy quantize`` as a user meets it."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.convert.quantize.judge import Verdict
from rtmo_deploy.measure import Figures
from rtmo_deploy.runtime.estimator import read_artifact

pytest.importorskip("onnxruntime")


def run(*arguments):
    return CliRunner().invoke(app, ["quantize", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(cache))


@pytest.fixture(scope="module")
def model(onnx_n, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(onnx_n.read_bytes())
    return path


def test_beside_the_model_and_the_json_document(model, cache):
    result = run(model, "--count", 1, "--max-images", 2, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    target = model.with_name("m.int8.onnx")
    assert (document["schema_version"], document["command"], document["path"]) == (1, "quantize", str(target))
    assert document["size"] == target.stat().st_size
    assert document["calibration"]["used"] == 1
    assert document["calibration"]["method"] == "mse"
    assert document["macs"]["int8_of_network"] > 0.95
    assert document["int8"]["against_fp32"]["oks"] <= 1
    assert document["kept_in_float32"] == []
    assert document["search"] is None
    assert len(list((cache / "calibration").iterdir())) == 1
    # The second time nothing is measured; and without a judge nothing is compared.
    again = run(model, "--count", 1, "--no-judge", "--threads", 1, "--force")
    target.unlink()  # other tests quantise this model too
    assert again.exit_code == 0, again.output
    assert "measuring" in result.stderr
    assert "measuring" not in again.stderr
    assert "not judged" in again.stdout
    assert "97." in again.stdout or "96." in again.stdout


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_each_target_with_and_without_its_runtime(model, tmp_path, monkeypatch, target):
    from rtmo_deploy.convert.quantize import judge

    output = tmp_path / "x.onnx"
    options = (model, "--target", target, "--count", 1, "--max-images", 1, "--threads", 1, "-o", output, "--force")
    first = run(*options, "--json")
    document = json.loads(first.stdout)
    assert document["target"] == target
    assert "was quantised for" not in first.stderr  # of the file that is judged: judged_in says it
    assert document["judged_in"].startswith("OpenVINO" if target == "openvino" else "ONNX Runtime")
    assert isinstance(document["native"], bool)
    assert read_artifact(output).target == target
    monkeypatch.setattr(judge, "find_spec", lambda _: None)
    missing = " ".join(run(*options).stdout.split())
    assert (f"{target}'s own AP is not measured." in missing) is (target != "onnxruntime" or not document["native"])
    assert ("OpenVINO is not installed" in missing) is (target == "openvino")


def figures(oks, ratio, px):
    return Figures(people_a=5, matched=5, oks_mean=oks, score_ratio=ratio, keypoint_px_mean=px)


class PretendedJudge:
    """Every block costs a point."""

    def __init__(self, *_, **__):
        self.baseline = Verdict(0.5, figures(1.0, 1.0, 0.0))
        self.how, self.native = "a pretended runtime", True

    def __call__(self, made):
        lost = sum(node.op_type == "QuantizeLinear" for node in made.graph.node) / 10
        return Verdict(0.5 - lost / 100, figures(max(0.0, 1 - lost / 50), 0.98, lost))


@pytest.fixture
def pretended(monkeypatch):
    import rtmo_deploy.convert.quantize as package

    monkeypatch.setattr(package, "Judge", PretendedJudge)


def test_a_budget_with_its_frontier_and_plot(model, tmp_path, pretended):
    pytest.importorskip("matplotlib")
    target, plot = tmp_path / "x.onnx", tmp_path / "f.png"
    result = run(model, "--count", 1, "--threads", 1, "--max-ap-drop", 0.07, "--plot", plot, "-o", target)
    assert result.exit_code == 0, result.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert target.is_file()
    assert "Frontier" in result.stdout
    assert "reverted to FP32" in result.stdout
    assert "median ratio INT8 / float32 0.9800" in result.stdout
    assert "/backbone" in result.stdout or "/neck" in result.stdout or "/head" in result.stdout


def test_a_budget_that_cannot_be_met(model, tmp_path, pretended):
    target = tmp_path / "x.onnx"
    result = run(model, "--count", 1, "--threads", 1, "--max-ap-drop", 0, "-o", target, "--json")
    assert result.exit_code == 6
    document = json.loads(result.stdout)
    assert document["path"] is None
    assert document["search"]["met"] is False
    assert len(document["search"]["frontier"]) > 20
    assert "Nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ann", "a.json"), "go together"),
        (("--no-judge", "--max-ap-drop", "0.01"), "Without a judge"),
        (("--plot", "x.png"), "only where a budget"),
        (("--plot", "x.jpg", "--max-ap-drop", "0.01"), "suffix .png"),
        (("-o", "x.engine"), "suffix .onnx"),
        (("--method", "guess"), "guess"),
        (("--target", "coreml"), "coreml"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_read(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rtmo_deploy.convert.quantize", None)
    result = run("nowhere.onnx", *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib(model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = run(model, "--max-ap-drop", 0.01, "--plot", tmp_path / "f.png")
    assert result.exit_code == 5
    assert "pip install 'rtmo-deploy[train]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_and_sets_that_are_none(model, tmp_path):
    assert run(tmp_path / "nowhere.onnx").exit_code == 4
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    assert run(tmp_path / "x.onnx").exit_code == 4
    assert run(model, "--calib", "nothing").exit_code == 2
    assert run(model, "--calib", "coco-train2017").exit_code == 2
    assert run(model, "--calib", tmp_path / "nowhere.json").exit_code == 3
    points = run(model, "--max-ap-drop", 0.5)
    assert points.exit_code == 2
    assert "one point of 100 is 0.01" in points.stderr


def test_annotations_that_are_given_fit_the_model(model, tmp_path):
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "annotations": [person | {"keypoints": [5, 5, 2] * 6, "num_keypoints": 6}],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "six.json").write_text(json.dumps(data))
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((64, 64, 3), np.uint8))
    target = tmp_path / "x.onnx"
    result = run(
        model, "--calib", tmp_path, "--ann", tmp_path / "six.json", "--images", tmp_path, "-o", target, "--count", 1
    )
    assert result.exit_code == 2, result.output
    assert "The model finds 17 keypoints" in " ".join(result.stderr.split())
    assert not target.exists()


def test_a_calibration_file_that_is_given_is_of_this_model_or_refused(model, tmp_path, monkeypatch):
    from rtmo_deploy.convert.quantize import Method, open_source
    from rtmo_deploy.convert.quantize.ranges import Range
    from rtmo_deploy.convert.quantize.record import Calibration, Source

    source = open_source(model)
    about = Source(
        source.sha256, {"name": "made up", "count": 3}, (192, 192), "center", Method.MINMAX, source.placement.target
    )
    path, target = tmp_path / "c.json", tmp_path / "x.onnx"
    Calibration(about, 3, (), dict.fromkeys(source.placement.edges, Range(-1, 8))).save(path)
    result = run(model, "--calib", path, "--no-judge", "-o", target)
    assert result.exit_code == 0, result.output
    assert "3 images of 'made up'" in result.stdout
    target.unlink()
    for target_name in ("tensorrt", "onnxruntime"):
        refused = run(model, "--calib", path, "--no-judge", "-o", target, "--target", target_name)
        assert refused.exit_code == 4
        assert f"is for openvino, and the model is quantised for {target_name}" in refused.stderr
    for arguments in (("--method", "mse"), ("--count", 5)):
        refused = run(model, "--calib", path, "--no-judge", "-o", target, *arguments)
        assert refused.exit_code == 2
        assert "was measured with" in refused.stderr
    other = tmp_path / "other.onnx"
    other.write_bytes(model.read_bytes() + b"\x00" * 0 + np.array([0x7A, 0x00], np.uint8).tobytes())
    refused = run(other, "--calib", path, "--no-judge", "-o", target)
    assert refused.exit_code == 4
    assert "another model" in refused.stderr
    document = json.loads(path.read_text())
    document["ranges"][next(iter(document["ranges"]))] = [0.0, 1.0]
    path.write_text(json.dumps(document))
    refused = run(model, "--calib", path, "--no-judge", "-o", target)
    assert refused.exit_code == 3
    assert "edited" in refused.stderr
    assert not target.exists()
