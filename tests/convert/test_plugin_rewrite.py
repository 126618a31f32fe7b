"""A fixed graph with the plugin in it finds the same people; any other graph is refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from plugin_graph import PluginGraph, session
from plugin_host import select
from test_decode import Alone, longest_chain, make_scene

from rtmo_deploy.artifact import DecodeContract, DecodeMode
from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert import trace as tracing
from rtmo_deploy.convert.decode import FixedDecode
from rtmo_deploy.convert.plugins.rewrite import check_plugin_node, insert_plugin, plugin_node, plugin_onnx
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure import structured_images
from rtmo_deploy.runtime.onnx_file import onnx_artifact
from rtmo_deploy.runtime.plugins.kernel import DecodeFields

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exported_graphs import Exported

    from rtmo_deploy.model import RTMO

DYNAMIC = ExportOptions(decode="fixed")
EXPORTS = {
    "dynamic": DYNAMIC,
    "other thresholds": ExportOptions(
        decode="fixed", pre_topk=30, max_dets=20, score_thr=0.3, nms_thr=0.5, rounds=8, batch=2, opset=18
    ),
    "static": ExportOptions(decode="fixed", static=True, imgsz=(128, 160)),
    "static, more cells than candidates": ExportOptions(
        decode="fixed", pre_topk=30, max_dets=20, static=True, batch=2, imgsz=(128, 160)
    ),
}


def assert_same_people(plugin: list[Any], fixed: list[Any]) -> int:
    """The same rows in the same order; how many people."""
    (dets, keypoints), (fixed_dets, fixed_keypoints) = plugin, fixed
    assert dets.shape == fixed_dets.shape
    assert keypoints.shape == fixed_keypoints.shape
    np.testing.assert_array_equal(dets[..., 4] > 0, fixed_dets[..., 4] > 0)
    np.testing.assert_allclose(dets, fixed_dets, rtol=2e-6, atol=1e-4)
    # The network in front runs in another session, and its last bits with it: pixels as in test_decode.py.
    np.testing.assert_allclose(keypoints, fixed_keypoints, atol=0.02)
    return int((dets[..., 4] > 0).sum())


@pytest.mark.parametrize("name", EXPORTS)
def test_the_same_people(exported: Callable[..., Exported], name: str) -> None:
    options = EXPORTS[name]
    graph = exported(options).graph
    rewritten = insert_plugin(graph)
    assert len(rewritten.graph.node) < len(graph.graph.node) - 60
    plugin, fixed = PluginGraph(rewritten), session(graph)
    batch = options.fixed_batch or 3
    for height, width in [(128, 160)] if options.static else [(128, 160), (32, 32), (96, 224)]:
        images = structured_images(batch, height, width)
        people = assert_same_people(plugin.run({"input": images}), fixed.run(None, {"input": images}))
        assert people > 0 or height == 32


def test_the_graph_keeps_its_face(exported: Callable[..., Exported]) -> None:
    graph = exported(DYNAMIC).graph
    before = graph.SerializeToString()
    rewritten = insert_plugin(graph)
    assert graph.SerializeToString() == before
    assert list(rewritten.graph.input) == list(graph.graph.input)
    assert list(rewritten.graph.output) == list(graph.graph.output)
    assert check_plugin_node(rewritten) == DecodeFields(100, float(np.float32(0.1)), float(np.float32(0.65)), 300)
    node = plugin_node(rewritten)
    assert node is not None
    described = {value.name for value in rewritten.graph.value_info}
    assert {*node.input, *node.output} <= described
    assert sum(n.op_type in {"TopK", "Sigmoid"} for n in rewritten.graph.node) == sum(
        (n.op_type == "Sigmoid" and "/people/" in n.name) or (n.op_type == "Sigmoid" and "/decode/" not in n.name)
        for n in graph.graph.node
    )
    # Nothing is left that no output needs.
    needed = {value.name for value in rewritten.graph.output} | {n for node in rewritten.graph.node for n in node.input}
    assert all(set(n.output) & needed for n in rewritten.graph.node)
    assert all(tensor.name in needed for tensor in rewritten.graph.initializer)


@pytest.fixture(scope="module")
def alone(model: RTMO) -> tuple[Any, PluginGraph, DecodeContract]:
    """The fixed decoder without its network, and the same with the plugin."""
    contract = DecodeContract(DecodeMode.FIXED, 0.1, 0.65, max_dets=20, pre_topk=60, nms_rounds=16)
    channels = model.spec.pose_channels
    shapes: dict[str, tuple[int | str, ...]] = {
        "maps": ("batch", 5 + channels, "cells"),
        "images": ("batch", 3, "height", "width"),
        "dets": ("batch", 20, 5),
        "keypoints": ("batch", 20, 17, 3),
    }
    inputs = (torch.zeros(3, 5 + channels, tracing.cells_of(96, 128)), torch.zeros(3, 3, 96, 128))
    module = Alone(FixedDecode(model, contract, pad=60), channels)
    graph = tracing._finish(tracing._trace(module, inputs, ("maps", "images"), shapes, 17), shapes)
    return session(graph), PluginGraph(insert_plugin(graph)), contract


def scenes(
    alone: tuple[Any, PluginGraph, DecodeContract], model: RTMO, count: int, kinds: tuple[str, ...]
) -> tuple[int, int]:
    """Compare plugin, fixed and NumPy on scenes; how many images and people."""
    fixed, plugin, contract = alone
    rng = np.random.default_rng(0)
    pictures = people = 0
    for seed in range(count):
        some = [str(kind) for kind in rng.choice(kinds, rng.integers(1, 4))]
        height, width = (int(side) for side in rng.choice([32, 64, 96, 160], 2))
        scene = make_scene(model, (height, width), some, seed)
        feeds = {"maps": scene.maps(), "images": scene.images()}
        found = plugin.run(feeds)
        assert plugin.rows is not None
        for image in range(len(some)):
            scores, corners = np.abs(plugin.rows.work[image, 0]), plugin.rows.work[image, 1:].T
            assert plugin.rows.people(image)[0] == select(scores, corners, plugin.fields)
        # Past its rounds the fixed suppression keeps more.
        if longest_chain(scene, contract) <= 16:
            people += assert_same_people(found, fixed.run(None, feeds))
            pictures += len(some)
    return pictures, people


KINDS = ("empty", "one", "few", "ties", "together", "crowd")


def test_the_same_people_on_made_up_maps(alone: tuple[Any, PluginGraph, DecodeContract], model: RTMO) -> None:
    pictures, people = scenes(alone, model, 60, KINDS)
    assert pictures > 80
    assert people > 300


@pytest.mark.long
def test_the_same_people_on_a_thousand_made_up_maps(
    alone: tuple[Any, PluginGraph, DecodeContract], model: RTMO
) -> None:
    pictures, people = scenes(alone, model, 1000, KINDS)
    assert pictures > 1500
    assert people > 5000


def test_a_file(exported: Callable[..., Exported], tmp_path: Path) -> None:
    source, output = exported(DYNAMIC).path, tmp_path / "plugin.onnx"
    artifact = plugin_onnx(source, output)
    assert artifact.decode == DecodeContract(DecodeMode.PLUGIN, 0.1, 0.65, max_dets=100, pre_topk=300)
    assert artifact.parents[0].name == source.name
    assert artifact.parents[0].sha256 == sha256_of(source)
    assert artifact.parents[1:] == exported(DYNAMIC).result.artifact.parents
    assert artifact.verified is None
    assert onnx_artifact(output, onnx.load(output)) == artifact
    with pytest.raises(ArtifactError, match="decode mode is plugin"):
        plugin_onnx(output, tmp_path / "twice.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["plugin.onnx"]


def test_metadata_that_contradicts_the_graph(exported: Callable[..., Exported], tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(exported(DYNAMIC).graph.SerializeToString())
    entry = next(entry for entry in model.metadata_props if entry.key == "rtmo_deploy.decode")
    entry.value = entry.value.replace('"nms_thr": 0.65', '"nms_thr": 0.5')
    source = tmp_path / "changed.onnx"
    onnx.save(model, source)
    with pytest.raises(ArtifactError, match=r"nms_thr is 0\.5, its graph 0\.6499"):
        plugin_onnx(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("decode", ["onnx", "raw"])
def test_other_modes_are_refused(exported: Callable[..., Exported], tmp_path: Path, decode: Any) -> None:
    options = ExportOptions(decode=decode)
    with pytest.raises(ArtifactError, match="not select detections as --decode fixed does"):
        insert_plugin(exported(options).graph)
    with pytest.raises(ArtifactError, match="Export the checkpoint with --decode fixed"):
        plugin_onnx(exported(options).path, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def named(graph: onnx.GraphProto, op: str, number: int = 0) -> onnx.NodeProto:
    """A node of the decoder's own scope, by operator."""
    return [n for n in graph.node if n.op_type == op and n.name.count("/") == 2 and "/decode/" in n.name][number]


def set_constant(graph: onnx.GraphProto, name: str, value: Any) -> None:
    fresh = graph.initializer.add()
    fresh.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), f"{name}_changed"))
    for node in graph.node:
        for place, source in enumerate(node.input):
            if source == name:
                node.input[place] = fresh.name


def _twice(graph: onnx.GraphProto) -> None:
    insert = graph.node.add()
    insert.op_type, insert.domain = "RTMODecode", "trt.plugins"


def _smallest(graph: onnx.GraphProto) -> None:
    named(graph, "TopK").attribute.append(onnx.helper.make_attribute("largest", 0))
    named(graph, "TopK").attribute.remove(
        next(a for a in named(graph, "TopK").attribute if a.name == "largest" and a.i == 1)
    )


def _renamed(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.name = node.name.replace("/decode/", "/somewhere/")


def _half(graph: onnx.GraphProto) -> None:
    node = named(graph, "Sigmoid")
    cast = onnx.helper.make_node("Cast", [node.input[0]], ["half"], to=10)
    back = onnx.helper.make_node("Cast", ["half_scores"], [node.output[0]], to=1)
    node.input[0], node.output[0] = "half", "half_scores"
    place = list(graph.node).index(node)
    graph.node.insert(place, cast)
    graph.node.insert(place + 2, back)


def _half_logits(graph: onnx.GraphProto) -> None:
    split = named(graph, "Split")
    cast = onnx.helper.make_node("Cast", [split.input[0]], ["half"], to=10)
    split.input[0] = "half"
    graph.node.insert(list(graph.node).index(split), cast)


def _other_use(graph: onnx.GraphProto) -> None:
    graph.node.append(
        onnx.helper.make_node("Identity", [named(graph, "Min").output[0]], ["spare"], name="/decode/spare")
    )


def _other_threshold(graph: onnx.GraphProto) -> None:
    set_constant(graph, named(graph, "Greater").input[1], np.array([0.5, 0.6], np.float32))


def _other_union(graph: onnx.GraphProto) -> None:
    set_constant(graph, named(graph, "Clip").input[1], np.float32(1e-3))


def _other_operator(graph: onnx.GraphProto) -> None:
    named(graph, "ReduceProd").op_type = "ReduceSum"


def _other_pad(graph: onnx.GraphProto) -> None:
    set_constant(graph, named(graph, "Pad").input[2], np.float32(1))


def _box_order(graph: onnx.GraphProto) -> None:
    node = next(n for n in graph.node if n.op_type == "Concat" and n.input[0] == named(graph, "Add").output[0])
    first, second = node.input
    node.input[0], node.input[1] = second, first


def _malformed(graph: onnx.GraphProto) -> None:
    graph.node.insert(0, graph.node[-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_twice, "has a RTMODecode node already|No Op registered|not well formed"),
        (_smallest, "does not sort the best"),
        (_renamed, "0 TopK nodes under /decode/"),
        (_half, "not a Sigmoid's"),
        (_half_logits, "FLOAT16, not FLOAT|not well formed"),
        (_other_use, "used for something else"),
        (_other_threshold, "not a float32 constant"),
        (_other_union, "another bound"),
        (_other_operator, "not part of the suppression|not well formed"),
        (_other_pad, "scores below zero"),
        (_box_order, "join centre and size"),
        (_malformed, "not well formed"),
    ],
)
def test_a_graph_that_was_changed_is_refused(
    exported: Callable[..., Exported], change: Callable[[onnx.GraphProto], None], reason: str
) -> None:
    model = onnx.ModelProto.FromString(exported(DYNAMIC).graph.SerializeToString())
    change(model.graph)
    with pytest.raises(ArtifactError, match=reason):
        insert_plugin(model)


def _attribute(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = plugin_node(model)
        assert node is not None
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def _set(what: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(plugin_node(model), what, value)


def _fewer_outputs(model: onnx.ModelProto) -> None:
    node = plugin_node(model)
    assert node is not None
    del node.output[-1]


def _no_domain(model: onnx.ModelProto) -> None:
    kept = [opset for opset in model.opset_import if opset.domain != "trt.plugins"]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _another(model: onnx.ModelProto) -> None:
    node = plugin_node(model)
    assert node is not None
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_attribute("plugin_version", "2"), "plugin_version is '2', not '1'"),
        (_attribute("plugin_version", None), "plugin_version is None"),
        (_attribute("plugin_version", 1), "plugin_version is 1"),
        (_attribute("plugin_namespace", ""), "plugin_namespace is '', not 'rtmo'"),
        (_attribute("plugin_namespace", "trt"), "plugin_namespace is 'trt'"),
        (_set("op_type", "RTMODecode2"), "no RTMODecode node"),
        (_set("domain", "ai.onnx"), "domain is 'ai.onnx'"),
        (_no_domain, "does not import its domain"),
        (_fewer_outputs, "4 outputs, not 5"),
        (_another, "2 RTMODecode nodes"),
        (_attribute("max_dets", None), "missing or unknown: max_dets"),
        (_attribute("max_dets", 0), "max_dets of the plugin RTMODecode is 0"),
        (_attribute("max_dets", 7.0), "max_dets is 7.0, not a int"),
        (_attribute("score_thr", 0.0), "score_thr of the plugin RTMODecode is 0.0"),
        (_attribute("score_thr", float("nan")), "score_thr of the plugin RTMODecode is nan"),
        (_attribute("sigma", 0.5), "missing or unknown: sigma"),
    ],
)
def test_a_node_that_is_not_ours_is_refused(
    exported: Callable[..., Exported], change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = insert_plugin(exported(DYNAMIC).graph)
    change(model)
    with pytest.raises(ArtifactError, match=reason):
        check_plugin_node(model)
