"""Where two networks part: by tensors, by modules, against PyTorch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure import structured_images
from rtmo_deploy.measure.agreement import BOUNDS, compare_layers, layers
from rtmo_deploy.measure.agreement.intermediate import layer_path
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.zoo import COCO_17

FP32 = BOUNDS["fp32"].layer_snr_db
IMAGES = structured_images(1, 64, 96)
DEPTH = 4


def toy(path, *, change=(), amount=0.05, producer="rtmo-deploy", act="act"):
    """Convolutions with an activation, one after the other, and a choice at the end."""
    rng = np.random.default_rng(5)
    nodes, weights, before = [], [], "input"
    for number in range(DEPTH):
        scope = f"/backbone/stage{number}/stage{number}.0"
        weight = rng.normal(0, 0.3, (4, 3 if number == 0 else 4, 3, 3)).astype(np.float32) / (100 if not number else 1)
        if number in change:
            weight[0, 0, 1, 1] += amount * np.abs(weight).max()
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        conv, gate, out = f"{scope}/conv/Conv", f"{scope}/{act}/Sigmoid", f"{scope}/{act}/Mul"
        nodes += [
            helper.make_node("Conv", [before, f"w{number}"], [f"{conv}_0"], name=conv, pads=[1] * 4, strides=[2, 2]),
            helper.make_node("Sigmoid", [f"{conv}_0"], [f"{gate}_0"], name=gate),
            helper.make_node("Mul", [f"{conv}_0", f"{gate}_0"], [f"{out}_0"], name=out),
        ]
        before = f"{out}_0"
    weights += [
        numpy_helper.from_array(np.array([-1]), "flat"),
        numpy_helper.from_array(np.array([3]), "k"),
    ]
    nodes += [
        helper.make_node("Reshape", [before, "flat"], ["scores"], name="/decode/Reshape"),
        helper.make_node("TopK", ["scores", "k"], ["best", "which"], name="/decode/TopK"),
        helper.make_node("Neg", ["best"], ["dets"], name="/decode/Neg"),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("dets", TensorProto.FLOAT, [3])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Artifact(
        path=path,
        kind=Kind.ONNX,
        architecture="toy",
        skeleton=COCO_17,
        input=InputContract(64, 96),
        decode=DecodeContract(DecodeMode.FIXED),
        producer=producer,
    )


def compare(one, two, **kwargs):
    report = compare_layers(one, two, IMAGES, image="x", **{"threshold_db": FP32, **kwargs})
    json.dumps(report.to_dict(), allow_nan=False)
    return report


@pytest.mark.parametrize("place", range(DEPTH))
def test_the_nudged_convolution_is_named(tmp_path, place):
    report = compare(toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx", change=[place]))
    assert report.first.name == f"/backbone/stage{place}/stage{place}.0/conv/Conv"
    assert report.by == "tensor names"
    assert report.losses[0] is report.first or place == 0  # nothing is known of what comes before the first
    before = [layer.error.noise for layer in report.layers[: 3 * place]]
    assert before == [0] * 3 * place


def test_the_first_of_two_is_named(tmp_path):
    report = compare(toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx", change=[1, 3]))
    assert report.first.name == "/backbone/stage1/stage1.0/conv/Conv"
    assert {"/backbone/stage1/stage1.0/conv/Conv", "/backbone/stage3/stage3.0/conv/Conv"} <= {
        layer.name for layer in report.losses
    }


def test_equal_graphs_do_not_part(tmp_path):
    report = compare(toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx"))
    assert report.first is None
    assert report.losses == []
    assert [layer.error.noise for layer in report.layers] == [0] * (3 * DEPTH + 3)


def test_a_high_threshold_finds_what_a_low_one_lets_pass(tmp_path):
    one, two = toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx", change=[2])
    assert compare(one, two, threshold_db=0).first is None
    assert compare(one, two, threshold_db=200).first.name.endswith("stage2.0/conv/Conv")


def test_few_tensors_at_a_time_give_the_same(tmp_path, monkeypatch):
    one, two = toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx", change=[2])
    whole = compare(one, two)
    said = []
    monkeypatch.setattr(layers, "BUDGET", 4000)
    parts = compare(one, two, progress=said.append)
    assert parts.to_dict() == whole.to_dict()
    assert len(said) > 4


def test_what_follows_another_choice_is_not_compared(tmp_path):
    """A change upstream turns candidates round; that is no error of the layers behind."""
    one, two = toy(tmp_path / "a.onnx"), toy(tmp_path / "b.onnx", change=range(DEPTH), amount=3)
    report = compare(one, two, threshold_db=-1000)
    named = {layer.name: layer for layer in report.layers}
    assert named["/decode/Reshape"].error is not None
    assert {named[name].why for name in ("/decode/TopK", "/decode/Neg")} == {
        "the two chose other candidates, or in another order"
    }


def test_a_graph_of_another_origin_is_compared_by_modules(tmp_path):
    other = toy(tmp_path / "b.onnx", change=[2], producer="mmdeploy", act="activate")
    report = compare(toy(tmp_path / "a.onnx"), other)
    assert report.by == "modules"
    assert report.first.name == "/backbone/stage2/stage2.0/act/Mul"
    assert len(report.layers) == DEPTH


def test_a_half_graph_of_the_same_names(tmp_path):
    """Types differ, casts stand in between; names are kept."""
    one = toy(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            value = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    first = model.graph.node[0]
    first.input[0] = "input.fp16"
    casts = [
        helper.make_node("Cast", ["input"], ["input.fp16"], name="/Cast_to_fp16", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["dets.fp16"], ["dets"], name="/Cast_to_fp32", to=TensorProto.FLOAT),
    ]
    model.graph.node[-1].output[0] = "dets.fp16"
    model.graph.node.insert(0, casts[0])
    model.graph.node.append(casts[1])
    onnx.save(model, tmp_path / "h.onnx")
    half = replace(one, path=tmp_path / "h.onnx", precision="fp16")
    report = compare(one, half, threshold_db=BOUNDS["fp16"].layer_snr_db)
    assert report.first is None
    assert 45 < min(layer.error.snr_db for layer in report.layers if layer.error) < 80
    assert compare(one, half).first.name == "/backbone/stage0/stage0.0/conv/Conv"


def test_what_cannot_be_looked_into(tmp_path):
    one = toy(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="kind engine"):
        compare(one, replace(one, kind=Kind.ENGINE))
    fixed = [replace(one, input=replace(one.input, batch=batch)) for batch in (1, 2)]
    with pytest.raises(UsageError, match="batch"):
        compare(*fixed)
    model = onnx.load(tmp_path / "a.onnx")
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "n.onnx")
    with pytest.raises(UsageError, match="share no layer"):
        compare(one, replace(one, path=tmp_path / "n.onnx", producer="mmdeploy"))


def test_a_fixed_batch(tmp_path):
    one = toy(tmp_path / "a.onnx")
    two = replace(toy(tmp_path / "b.onnx", change=[1]), input=replace(one.input, batch=3))
    assert compare(one, two).first.name == "/backbone/stage1/stage1.0/conv/Conv"


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("/backbone/stem/conv/Conv", "backbone.stem"),
        ("/backbone/stem/conv/activate/Mul", "backbone.stem"),
        ("/backbone/stage1/stage1.1/blocks/blocks.0/conv1/act/Mul", "backbone.stage1.1.blocks.0.conv1"),
        ("/neck/fpn_blocks.0/bottlenecks/bottlenecks.0/conv_reparam/Conv", "neck.fpn_blocks.0.bottlenecks.0"),
        ("/neck/encoder/norms.1/LayerNormalization", "neck.encoder.0.layers.0.norms.1"),
        ("/neck/encoder.0/layers.0/norms.1/Add", "neck.encoder.0.layers.0.norms.1"),
        ("/head/conv_cls.0/conv_cls.0.1/act/Mul", "head.head_module.conv_cls.0.1"),
        ("/head/head_module/out_cls.1/Conv", "head.head_module.out_cls.1"),
        ("/head_module/out_cls.1/Conv", "head.head_module.out_cls.1"),
        ("/neck/projector/cls.0/Conv", "neck.projector.cls.0"),
    ],
)
def test_names_of_layers(node, layer):
    assert layer_path(node) == layer


def test_a_node_without_such_a_name():
    assert layer_path("Conv_12") is None


@pytest.fixture(scope="module")
def nudged_n(onnx_n, tmp_path_factory):
    """``onnx_n`` with one filter of one convolution changed, and the name of that convolution."""
    model = onnx.load(onnx_n)
    node = next(node for node in model.graph.node if node.name == "/neck/pan_blocks.0/conv1/conv/Conv")
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    value = numpy_helper.to_array(tensor).copy()
    value[0] *= 1.1
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    path = tmp_path_factory.mktemp("nudged") / "nudged.onnx"
    onnx.save(model, path)
    return path, node.name


def test_a_nudged_network(onnx_n, nudged_n):
    path, name = nudged_n
    report = compare(read_artifact(onnx_n), read_artifact(path))
    assert report.first.name == name
    assert all(layer.error.noise == 0 for layer in report.layers[: report.layers.index(report.first)])


def test_a_nudged_network_against_pytorch(checkpoint_n, nudged_n):
    report = compare(read_artifact(checkpoint_n), read_artifact(nudged_n[0]))
    assert (report.first.name, report.by) == ("neck.pan_blocks.0.conv1", "modules")


def test_an_export_against_pytorch(checkpoint_n, onnx_n):
    report = compare(read_artifact(checkpoint_n), read_artifact(onnx_n))
    assert report.first is None
    names = {layer.name for layer in report.layers}
    assert all(layer.error is not None for layer in report.layers)
    assert {"backbone.stem", "neck.encoder.0.layers.0.norms.1", "neck.projector.pose.1"} <= names
    assert {f"head.head_module.{name}.{level}" for name in ("out_cls", "out_bbox") for level in (0, 1)} <= names
    assert min(layer.error.snr_db for layer in report.layers) > FP32 + 5
    # The same from the other side.
    back = compare(read_artifact(onnx_n), read_artifact(checkpoint_n))
    assert back.first is None
    assert len(back.layers) == len(report.layers)


def test_a_raw_export_against_pytorch(checkpoint_n, tmp_path):
    """Its head is another one: visibilities and pose vectors in one convolution, boxes in strides."""
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.model import load_checkpoint

    path = Path(tmp_path) / "raw.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(decode="raw"), verify=False)
    report = compare(read_artifact(checkpoint_n), read_artifact(path))
    assert report.first is None
    names = {layer.name for layer in report.layers}
    assert {f"head.head_module.{name}.{level}" for name in ("out_dense", "out_bbox") for level in (0, 1)} <= names
