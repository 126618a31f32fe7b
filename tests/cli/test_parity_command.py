"""``rtmo-deploy parity``."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.parity import parity

SMALL = ("--imgsz", 128, 128)


def run(*arguments):
    return CliRunner().invoke(app, ["parity", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


def document_of(result, code=0):
    assert result.exit_code == code, result.output
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["schema_version"] == 1
    assert document["command"] == "parity"
    return document


@pytest.fixture(scope="module")
def scenes(pictures, tmp_path_factory):
    """Two of the images, with somebody in them."""
    folder = tmp_path_factory.mktemp("scenes")
    for path in pictures[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def edited(onnx_n, tmp_path_factory):
    """Makes a copy of ``onnx_n`` whose weights of one convolution are changed."""

    def make(name, change):
        model = onnx.load(onnx_n)
        node = next(node for node in model.graph.node if node.name == name)
        index = 2 if name.startswith("/head/out_cls") else 1
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[index]]
        value = np.array(change(numpy_helper.to_array(tensor)))
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        path = tmp_path_factory.mktemp("edited") / "edited.onnx"
        onnx.save(model, path)
        return path

    return make


def nudged(weight):
    weight = weight.copy()
    weight[0, 0, 0, 0] += 0.5 * np.abs(weight).max()
    return weight


def test_the_same_file(onnx_n, scenes):
    result = run(onnx_n, onnx_n, "--images", scenes, *SMALL)
    assert result.exit_code == 0, result.output
    assert "They agree" in result.stdout
    assert re.search(r"keypoints, px +mean 0, median 0, 99 % 0", result.stdout)
    assert "Worst images" not in result.stdout
    assert "Note: Both are the same file." in result.stderr


def test_the_json_document(checkpoint_n, onnx_n, scenes):
    document = document_of(run(checkpoint_n, onnx_n, "--images", scenes, *SMALL, "--json"))
    assert set(document) == {
        *(
            "schema_version",
            "command",
            "verdict",
            "ok",
            "failures",
            "checks",
            "causes",
            "notes",
            "a",
            "b",
            "input",
            "source",
        ),
        *("bounds", "people", "pictures", "not_finite", "tensors", "layers", "page"),
    }
    assert (document["verdict"], document["ok"], document["failures"]) == ("agree", True, [])
    assert (document["a"]["backend"], document["b"]["backend"]) == ("torch", "onnxruntime")
    assert document["input"] == [3, 128, 128]
    assert document["people"]["matched"] == document["people"]["people_a"] > 0
    assert document["people"]["keypoint_px_max"] < 0.05
    assert sorted(picture["name"] for picture in document["pictures"]) == ["picture_0.png", "picture_1.png"]
    assert document["layers"] is document["page"] is None


def test_a_nudged_weight_is_found(onnx_n, edited, scenes, tmp_path):
    name = "/backbone/stage3/stage3.0/conv/Conv"
    result = run(onnx_n, edited(name, nudged), "--images", scenes, *SMALL, "--layers", "--show", tmp_path / "seen")
    assert result.exit_code == 6, result.output
    assert f"The first layer below the bound is {name}" in " ".join(result.stdout.split())
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: edited.onnx differs from n.onnx by more than a bound: ")
    assert f"The first layer below the bound is {name} (Conv; " in error
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["001.png", "002.png", "index.html"]
    assert name in (tmp_path / "seen" / "index.html").read_text(encoding="utf-8")


def test_a_network_made_for_rgb(onnx_n, edited, scenes):
    path = edited("/backbone/stem/conv/Conv", lambda weight: weight[:, ::-1])
    document = document_of(run(onnx_n, path, "--images", scenes, *SMALL, "--json"), 6)
    assert document["verdict"] == "differ"
    assert any("channels reversed (RGB), else" in cause for cause in document["causes"])


def test_other_bounds(onnx_n, edited, scenes):
    path = edited("/backbone/stage3/stage3.0/conv/Conv", nudged)
    strict = document_of(run(onnx_n, path, "--images", scenes, *SMALL, "--json"), 6)
    assert strict["people"]["missed"] == strict["people"]["extra"] == 0
    assert not any("Bounds set" in note for note in strict["notes"])
    wide = run(onnx_n, path, "--images", scenes, *SMALL, "--json", "--bound-px", 1000, "--bound-score", 1)
    loosened = document_of(wide)
    assert loosened["verdict"] == "agree"
    assert any("mean OKS: none (usually 0.9999: looser)" in note for note in loosened["notes"])
    half = run(onnx_n, path, "--images", scenes, *SMALL, "--json", "--bound-px", 1000)
    assert [failure.split(" ")[2] for failure in document_of(half, 6)["failures"]] == ["score"]


def test_nobody_found(edited, tmp_path):
    path = edited("/head/out_cls.0/Conv", lambda bias: bias - 50)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.name == "/head/out_cls.1/Conv":
            (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[2]]
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - 50, bias.name))
    onnx.save(model, path)
    result = run(path, path, "--synthetic", 2, *SMALL)
    assert result.exit_code == 3
    assert "They agree" not in result.stdout
    assert "no people were compared" in result.stdout
    assert "Neither model found anybody on 2 images: no people were compared." in result.stderr
    assert "An untrained model finds nobody" in result.stderr
    document = document_of(run(path, path, "--synthetic", 1, *SMALL, "--json"), 3)
    assert (document["verdict"], document["ok"]) == ("nobody found", False)


def test_what_makes_no_sense(onnx_n, scenes, tmp_path):
    for arguments in (
        ("--images", scenes, "--synthetic", 3),
        ("--synthetic", 0),
        ("--imgsz", 100, 100),
        ("--bound-px", "nan"),
        ("--bound-score", "inf"),
        ("--device", "tpu"),
        ("--backend-b", "torch"),
        ("--show", onnx_n),
    ):
        result = run(onnx_n, onnx_n, *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert result.stdout == ""


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 50])
def test_a_hostile_file(onnx_n, tmp_path, content):
    if content is not None:
        (tmp_path / "x.onnx").write_bytes(content)
    for pair in ((onnx_n, tmp_path / "x.onnx"), (tmp_path / "x.onnx", onnx_n)):
        result = run(*pair, "--json", "--show", tmp_path / "seen")
        assert result.exit_code == 4
        assert json.loads(result.stdout)["error"]["where"] == str(tmp_path / "x.onnx")
        assert f"Error: {tmp_path / 'x.onnx'}: " in result.stderr
    assert not (tmp_path / "seen").exists()


def test_pictures_that_cannot_be_read(onnx_n, scenes, tmp_path):
    assert run(onnx_n, onnx_n, "--images", tmp_path).exit_code == 3
    (tmp_path / "a.png").write_bytes(b"no image")
    result = run(onnx_n, onnx_n, "--images", tmp_path)
    assert result.exit_code == 3
    assert "a.png" in result.stderr


def test_help_says_what_it_exits_with():
    text = re.sub(r"\s+", " ", run("--help").stdout)
    assert "Exit 6 if a bound is not met, 3 if no people were compared." in text
    assert typer.main.get_command(app).commands["parity"].callback.__doc__ == parity.__doc__
