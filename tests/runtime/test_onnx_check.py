"""ONNX files made to hurt their reader: each is refused by a sentence before anything is computed of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.decode import open_coordinates
from rtmo_deploy.runtime.onnx_file import load_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def model() -> onnx.ModelProto:
    """A convolution and what follows, small enough to spoil many times."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Relu", ["b"], ["y"], name="last"),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(np.zeros((2, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [image], [out], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(folder: Path, made: onnx.ModelProto) -> Path:
    (folder / "x.onnx").write_bytes(made.SerializeToString())
    return folder / "x.onnx"


def adds(kind: str, *values: Any, **attributes: Any) -> Callable[[Any], None]:
    """A node whose inputs are the image, where a value is None, and constants."""

    def spoil(made: Any) -> None:
        names = ["input" if value is None else f"c{number}" for number, value in enumerate(values)]
        constants = [(n, v) for n, v in zip(names, values, strict=True) if v is not None]
        made.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in constants)
        made.graph.node.append(helper.make_node(kind, names, ["big"], name="big", **attributes))

    return spoil


def weight(**changes: Any) -> Callable[[Any], None]:
    def spoil(made: Any) -> None:
        tensor = made.graph.initializer[0]
        for name, value in changes.items():
            if name == "dims":
                tensor.dims[:] = value
            else:
                setattr(tensor, name, value)

    return spoil


def nested(made: Any) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "t")
    tensor.dims[0] = 2**40
    inner = helper.make_graph([helper.make_node("Constant", [], ["o"], value=tensor)], "i", [], [])
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    made.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


SPOILS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "too few bytes": (weight(raw_data=bytes(212)), "has not the 216 bytes"),
    "too many bytes": (weight(raw_data=bytes(220)), "has not the 216 bytes"),
    "no bytes": (lambda m: m.graph.initializer[0].ClearField("raw_data"), "has not the 216 bytes"),
    "bytes twice": (lambda m: m.graph.initializer[0].float_data.append(1), "has not the 216 bytes"),
    "type 99": (weight(data_type=99), "has the type 99"),
    "no type": (weight(data_type=0), "has the type 0"),
    "strings": (weight(data_type=8), "has the type 8"),
    "complex": (weight(data_type=14), "has the type 14"),
    "endless side": (weight(dims=[2**40, 3, 3, 3]), "has 1099511627776x3x3x3 numbers"),
    "overflow": (weight(dims=[2**62, 2**62]), "numbers"),
    "negative side": (weight(dims=[-2, 3, 3, 3]), "negative side"),
    "in a subgraph": (nested, "has 1099511627776 numbers"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no outputs"),
    "no inputs": (lambda m: m.graph.ClearField("input"), "'input' is used before it is computed"),
    "negative input": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", -1), "a side"),
    "endless input": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 2**50), "a side"),
    "a sequence": (lambda m: m.graph.input[0].type.sequence_type.elem_type.SetInParent(), "not a tensor"),
    "a cycle": (lambda m: m.graph.node[1].input.__setitem__(0, "y"), "'y' is used before"),
    "itself": (lambda m: m.graph.node[1].input.__setitem__(0, "b"), "'b' is used before"),
    "a name twice": (lambda m: m.graph.node[1].output.__setitem__(0, "a"), "'a' is computed twice"),
    "a weight twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "the same name"),
    "no such operator": (lambda m: setattr(m.graph.node[1], "op_type", "Magic"), r"its node relu \(Magic\)"),
    "no such domain": (lambda m: setattr(m.graph.node[1], "domain", "x.y"), "no operator set"),
    "too few inputs": (lambda m: m.graph.node[1].ClearField("input"), "has 0 inputs"),
    "opset 0": (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0;"),
    "opset 999": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999;"),
    "IR version": (lambda m: setattr(m, "ir_version", 2**40), "IR version"),
    "functions": (lambda m: m.functions.add(name="f"), "functions of its own"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "a loop": (adds("Loop", 2**60, True), "could run for ever"),
    "ConstantOfShape": (adds("ConstantOfShape", np.array([2**34])), "'big' would have 17179869184 numbers"),
    "Tile": (adds("Tile", None, np.array([1, 1, 4000, 4000])), "'big' would have"),
    "Expand": (adds("Expand", np.float32(1), np.array([2**20, 2**20])), "'big' would have"),
    "Range": (adds("Range", np.int64(0), np.int64(2**40), np.int64(1)), "'big' would have"),
    "Pad": (adds("Pad", None, np.array([0, 0, 2**16, 2**16] * 2)), "'big' would have"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_graph(tmp_path: Path, name: str) -> None:
    spoil, finding = SPOILS[name]
    made = model()
    assert load_onnx(written(tmp_path, made)).graph.node[0].name == "conv"
    spoil(made)
    with pytest.raises(ArtifactError, match=finding) as caught:
        load_onnx(written(tmp_path, made))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ({"location": "x" * 300}, "File name too long"),
        ({"location": "../w.bin"}, "not the name of a file"),
        ({"location": "a/../../w.bin"}, "not the name of a file"),
        ({"location": "/etc/passwd"}, "not the name of a file"),
        ({"location": "C:\\w.bin"}, "not the name of a file"),
        ({"location": ""}, "not the name of a file"),
        ({}, "not the name of a file"),
        ({"location": "a\0b"}, "not a file name"),
        ({"location": "missing"}, "No such file"),
        ({"location": "folder"}, "a folder"),
        ({"location": "fifo"}, "a FIFO"),
        ({"location": "zero"}, "a device"),
        ({"location": "outside"}, "leads out of"),
        ({"location": "w.bin", "length": "215"}, "does not hold the 216 bytes"),
        ({"location": "w.bin", "length": str(2**60)}, "does not hold the 216 bytes"),
        ({"location": "w.bin", "offset": "17"}, "does not hold the 216 bytes"),
        ({"location": "w.bin", "offset": "-1"}, "does not hold the 216 bytes"),
        ({"location": "w.bin", "offset": "x"}, "is not a number"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="has neither FIFOs nor /dev/zero")
def test_weights_in_other_files(tmp_path: Path, entries: dict[str, str], finding: str) -> None:
    folder = tmp_path / "m"
    (folder / "folder").mkdir(parents=True)
    os.mkfifo(folder / "fifo")
    (folder / "zero").symlink_to("/dev/zero")
    (tmp_path / "w.bin").write_bytes(bytes(500))
    (folder / "outside").symlink_to(tmp_path / "w.bin")
    (folder / "w.bin").write_bytes(bytes(232))
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="offset", value="16")
    assert load_onnx(written(folder, made)).graph.initializer[0].raw_data == bytes(216)
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(ArtifactError, match=finding):
        load_onnx(written(folder, made))


def test_a_companion_is_checked_as_the_model_is(tmp_path: Path) -> None:
    made = model()
    made.graph.initializer[0].dims[0] = 2**40
    for companion in (made.SerializeToString(), written(tmp_path, made)):
        with pytest.raises(ArtifactError, match=r"raw\.onnx: |x\.onnx: "):
            open_coordinates(companion, where=tmp_path / "raw.onnx" if isinstance(companion, bytes) else None)
