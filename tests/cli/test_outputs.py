"""No command writes over one of its inputs, nor over another file without --force: every command, in a table."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.cli.app import app
from rtmo_deploy.convert.step import write_metadata
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.engine_file import sidecar_path
from rtmo_deploy.runtime.model_files import files_of
from rtmo_deploy.zoo import COCO_17

#: Command line; {} is the output. Then the suffix of the output's name, and inputs that must not be written over.
WRITERS = {
    "export": ("export m.pth -o {}", ".onnx", ["m.pth"]),
    "export-openvino": ("export m.onnx --format openvino -o {}", ".xml", ["m.onnx", "weights.onnx", "m.dcc.onnx"]),
    "cast": ("cast m.onnx --fp16 -o {}", ".onnx", ["m.onnx", "weights.onnx", "m.dcc.onnx"]),
    "quantize": ("quantize m.onnx -o {}", ".onnx", ["m.onnx", "weights.onnx", "m.dcc.onnx"]),
    "quantize-calib": ("quantize m.onnx --calib calib.json -o {}", ".onnx", ["calib.json"]),
    "quantize-plot": ("quantize m.onnx --max-ap-drop 0.1 --calib images --plot {}", ".png", ["images/001.png"]),
    "calibrate": ("calibrate m.onnx --images images -o {}", ".json", ["m.onnx", "weights.onnx", "images/001.png"]),
    "calibrate-ann": ("calibrate m.onnx --set coco-train2017 --ann ann.json --images images -o {}", ".json",
                      ["ann.json"]),
    "eval": ("eval m.onnx --ann ann.json --images images --skeleton s.json --save {}", ".json",
             ["ann.json", "m.onnx", "weights.onnx", "images/001.png", "s.json"]),
    "eval-engine": ("eval m.engine --ann ann.json --images images --save {}", ".json", ["m.engine", "m.engine.json"]),
    "bench-csv": ("bench m.onnx --baseline base.json --no-reference --csv {}", ".csv", ["base.json", "m.onnx"]),
    "bench-html": ("bench m.onnx --reference m.pth --html {}", ".html", ["m.pth", "weights.onnx"]),
    "bench-md": ("bench m.xml --images images --no-reference --md {}", ".md", ["m.xml", "m.bin", "images/001.png"]),
    "build-trt": ("build-trt m.onnx --fp32 -o {}", ".engine", ["m.onnx", "weights.onnx"]),
    "build-trt-calib": ("build-trt m.onnx --int8 --calib calib.json -o {}", ".engine", ["calib.json"]),
    "build-trt-cache": ("build-trt m.onnx --fp32 -o n.engine --timing-cache {}", ".cache", ["m.onnx", "weights.onnx"]),
    "predict-csv": ("predict m.onnx images --csv {}", ".csv", ["m.onnx", "weights.onnx", "images/001.png"]),
    "models-pack": ("models pack m.pth -o {}", ".pth", ["m.pth"]),
}  # fmt: skip
#: Not of an image in a folder, for a hard link of another name goes without it; nor of weights, which onnx refuses.
NO_HARD_LINK = ("images/001.png", "weights.onnx")
CLASHES = [
    pytest.param(*writer[:2], read, link, id=f"{name}-{read}-{link}")
    for name, writer in WRITERS.items()
    for read in writer[2]
    for link in ("symlink", *(() if read in NO_HARD_LINK else ("hardlink",)))
]


def write_model(path: Path) -> None:
    """An ONNX model with its weights in ``weights.onnx`` and a companion ``m.dcc.onnx``."""
    kernel = np.zeros((4, 3, 1, 1), np.float32).tobytes()
    raw = ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], [name]) for name in raw],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in raw],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], kernel, raw=True)],
    )
    companion = path.with_name("m.dcc.onnx")
    companion.write_bytes(b"companion")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    artifact = Artifact(
        path,
        Kind.ONNX,
        "rtmo-n",
        COCO_17,
        InputContract(64, 64),
        DecodeContract(DecodeMode.RAW),
        companion=Parent(companion.name, hashlib.sha256(b"companion").hexdigest()),
    )
    write_metadata(model, artifact)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.onnx", size_threshold=0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one file of each kind that commands read; commands run in it."""
    write_model(tmp_path / "m.onnx")
    for name in ("m.xml", "m.bin", "m.engine", "calib.json", "base.json"):
        (tmp_path / name).write_text(f"what {name} holds")
    torch.save({"weights": 1}, tmp_path / "m.pth")
    (tmp_path / "ann.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    sidecar_path(tmp_path / "m.engine").write_text("{}")
    (tmp_path / "s.json").write_text(json.dumps({"keypoints": ["a", "b"]}))
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "001.png"), np.zeros((4, 4, 3), np.uint8))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".rtmo" not in str(path)}


def refused(line: str, words: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize(("line", "suffix", "read", "link"), CLASHES)
def test_a_link_to_an_input(files: Path, line: str, suffix: str, read: str, link: str) -> None:
    output = files / f"link{suffix}"
    output.symlink_to(files / read) if link == "symlink" else output.hardlink_to(files / read)
    before = contents(files)
    refused(f"{line.format(output.name)} --force", "one of the inputs")
    refused(f"{line.format(output)} --force", "one of the inputs")
    assert contents(files) == before


@pytest.mark.parametrize(
    ("line", "read"),
    [(line, read) for line, suffix, reads in WRITERS.values() for read in reads if read.endswith(suffix)],
)
def test_an_input_itself(files: Path, line: str, read: str) -> None:
    before = contents(files)
    for name in (read, str(files / read), f"images/../{read}"):
        refused(f"{line.format(name)} --force", "one of the inputs")
    assert contents(files) == before


@pytest.mark.parametrize(
    "line", ["predict m.onnx images --vis-out-dir {}", "parity m.onnx m.onnx --images images --show {}"]
)
@pytest.mark.parametrize("out", ["images", "link", "deep/link", "images/../images"])
def test_a_folder_of_images(files: Path, line: str, out: str) -> None:
    (files / "deep").mkdir()
    (files / "link").symlink_to(files / "images")
    (files / "deep" / "link").symlink_to(files / "images")
    before = contents(files)
    refused(f"{line.format(out)} --force", "one of the inputs")
    assert contents(files) == before


@pytest.mark.parametrize(
    ("line", "output"),
    [
        *((line.format(f"new{suffix}"), f"new{suffix}") for line, suffix, _ in WRITERS.values() if suffix != ".cache"),
        ("export m.pth --decode raw -o new.onnx", "new.dcc.onnx"),
        ("export m.pth --dump-info -o new.onnx", "detail.json"),
        ("export m.pth --format openvino -o new.xml", "new.onnx"),
        ("export m.pth --format openvino -o new.xml", "new.bin"),
        ("export m.pth --format openvino --decode raw -o new.xml", "new.dcc.onnx"),
        ("export m.onnx --format openvino -o new.xml", "new.bin"),
        ("build-trt m.onnx --fp32 -o new.engine", "new.engine.json"),
        ("build-trt m.onnx --fp32 --keep-onnx -o new.engine", "new.onnx"),
        ("predict m.onnx images --vis-out-dir out", "out/001.png"),
        ("parity m.onnx m.onnx --show out", "out/index.html"),
        ("models init rtmo-n -o new.pth", "new.pth"),
    ],
)
def test_another_file_is_not_replaced_without_force(files: Path, line: str, output: str) -> None:
    (files / output).parent.mkdir(exist_ok=True)
    (files / output).write_text("somebody's")
    before = contents(files)
    refused(line, "exists already")
    assert contents(files) == before


def test_a_pipe_is_not_replaced(files: Path) -> None:
    os.mkfifo(files / "pipe.csv")
    refused("predict m.onnx images --csv pipe.csv --force", "a device or a pipe")
    assert (files / "pipe.csv").is_fifo()


def test_synthetic_data_is_not_written_among_other_files(files: Path) -> None:
    (files / "set" / "images").mkdir(parents=True)
    photo = files / "set" / "images" / "000000000001.jpg"
    photo.write_bytes(b"a photograph")
    refused("data synth set --images 1", "not empty")
    refused("data synth set --images 1 --force", "did not write")
    assert photo.read_bytes() == b"a photograph"


def test_the_files_of_a_model(files: Path) -> None:
    names = {path.name for path in files_of(files / "m.onnx", None, "rtmo-s", files / "m.xml", files / "m.engine")}
    assert names == {
        "m.onnx", "weights.onnx", "m.dcc.onnx", "rtmo-s", "m.xml", "m.bin", "m.engine", "m.engine.json"
    }  # fmt: skip
