"""Readers of exported models: ONNX by metadata and by graph, OpenVINO, and the records of engines."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from driver import FOLDER, Reader, register
from mutators import edit_json, edit_text
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.cli.inspect import inspect
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.runtime.engine_file import engine_artifact
from rtmo_deploy.runtime.openvino_file import openvino_artifact
from rtmo_deploy.zoo import COCO_17

sys.path.insert(0, str(FOLDER.parent / "cli"))
from model_files import PLAN, engine_record, write_openvino

IMAGE = np.zeros((40, 50, 3), np.uint8)
ODD = (-1, 0, 1, 2, 7, 99, 2**20, 2**31, 2**40, 2**62)


def little() -> onnx.ModelProto:
    """The brightest pixel in both rows of people, and a convolution beside it."""
    tensors = {
        "axes": np.array([1, 2, 3]),
        "last": np.array([3]),
        "five": np.full((1, 2, 5), 0.5, np.float32),
        "points": np.ones((1, 2, 17, 3), np.float32),
        "w": np.full((2, 3, 3, 3), 0.1, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("ReduceMax", ["c"], ["top"], name="top", axes=[1, 2, 3]),
        helper.make_node("Squeeze", ["top", "last"], ["flat"], name="flat"),
        helper.make_node("Mul", ["flat", "five"], ["dets"], name="dets"),
        helper.make_node("Mul", ["top", "points"], ["keypoints"], name="keypoints"),
    ]
    shapes = {"dets": ["n", 2, 5], "keypoints": ["n", 2, 17, 3]}
    made = helper.make_graph(
        nodes,
        "little",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name != "axes"],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = Artifact(
        Path("little.onnx"),
        Kind.ONNX,
        "little",
        COCO_17,
        InputContract(64, 64),
        DecodeContract(DecodeMode.FIXED, max_dets=2),
        versions={"onnx": "1"},
    )
    helper.set_model_props(model, artifact.to_metadata())
    return model


def edit_metadata(data: bytes, rng: random.Random) -> bytes:
    """Edit the JSON of one field of this project's metadata."""
    model = onnx.ModelProto.FromString(data)
    entry = rng.choice([entry for entry in model.metadata_props if entry.key.startswith("rtmo_deploy.")])
    edit = edit_json if entry.value[:1] in "[{" and rng.random() < 0.8 else edit_text
    entry.value = edit(entry.value.encode(), rng).decode("utf-8", "replace")
    return model.SerializeToString()


def edit_graph(data: bytes, rng: random.Random) -> bytes:
    """Change a number, a type or a name anywhere in a graph; drop or repeat a node, a tensor, an input or an output."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    match rng.randrange(9):
        case 0:
            tensor = rng.choice(graph.initializer)
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(ODD)
        case 1:
            rng.choice(graph.initializer).data_type = rng.randrange(-1, 30)
        case 2:
            value = rng.choice([*graph.input, *graph.output]).type.tensor_type
            rng.choice(value.shape.dim).dim_value = rng.choice(ODD)
        case 3:
            rng.choice([*graph.input, *graph.output]).type.tensor_type.elem_type = rng.randrange(-1, 30)
        case 4:
            names = [name for node in graph.node for name in (*node.input, *node.output)]
            side = rng.choice([part for node in graph.node for part in (node.input, node.output) if part])
            side[rng.randrange(len(side))] = rng.choice([*names, "", "x" * 3000])
        case 5:
            others = ("", "Magic", "If", "ConstantOfShape", "Expand", "Tile", "Range", "Resize", "NonZero", "Conv")
            rng.choice(graph.node).op_type = rng.choice((*others, rng.choice(graph.node).op_type))
        case 6:
            attribute = rng.choice([a for node in graph.node for a in node.attribute])
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(ODD)
        case 7:
            parts: Any = rng.choice((graph.node, graph.initializer, graph.input, graph.output, model.opset_import))
            at = rng.randrange(len(parts))
            parts.append(parts[at]) if rng.random() < 0.5 else parts.pop(at)
        case _:
            model.opset_import[0].version = rng.choice((*ODD, 11, 13, 18, 22))
    return model.SerializeToString()


def edit_xml(data: bytes, rng: random.Random) -> bytes:
    """Change the value of an attribute, or drop or repeat a line."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    parts = lines[at].split(b'"')
    if len(parts) > 2 and rng.random() < 0.7:
        where = rng.randrange(len(parts) // 2) * 2 + 1
        parts[where] = rng.choice([str(rng.choice(ODD)).encode(), b"", b"Magic", b"f16", parts[where][::-1], b"1,2"])
        lines[at] = b'"'.join(parts)
    else:
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2))
    return b"\n".join(lines)


def _inspect(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        inspect(path, as_json=True)
        inspect(path)


def _run(path: Path) -> None:
    _inspect(path)
    PoseEstimator.open(path)(IMAGE)


def _record(path: Path) -> None:
    engine = path.with_suffix("")
    _inspect(engine)
    engine_artifact(engine)


def _openvino(path: Path) -> None:
    _inspect(path)
    openvino_artifact(path)


def _openvino_seeds(folder: Path) -> list[bytes]:
    write_openvino(folder / "little.xml")
    return [(folder / "little.xml").read_bytes()]


def _weights(folder: Path) -> None:
    (folder / "case.bin").write_bytes((folder / "seeds" / "little.bin").read_bytes())


def _onnx_seeds(_folder: Path) -> list[bytes]:
    return [little().SerializeToString()]


register(Reader("onnx-metadata", ".onnx", _onnx_seeds, _run, mutators=(edit_metadata,) * 4))
register(Reader("onnx-graph", ".onnx", _onnx_seeds, _run, mutators=(edit_graph,)))
register(Reader("openvino", ".xml", _openvino_seeds, _openvino, _weights, (edit_xml,) * 2))
register(
    Reader(
        "engine-record",
        ".engine.json",
        lambda folder: [json.dumps(engine_record(folder / "case.engine").to_dict()).encode()],
        _record,
        lambda folder: (folder / "case.engine").write_bytes(PLAN),
    )
)
