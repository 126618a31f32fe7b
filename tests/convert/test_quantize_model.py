"""A real network through calibration and quantisation: what is measured, what is written, and what is refused."""

from __future__ import annotations

import math
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("onnxruntime")

from rtmo_deploy.artifact import DecodeMode, InputContract, Target
from rtmo_deploy.convert import ExportOptions
from rtmo_deploy.convert.graph import GraphView
from rtmo_deploy.convert.quantize import (
    Calibration,
    Judge,
    Method,
    calibrate,
    open_source,
    quantize,
    quantize_onnx,
)
from rtmo_deploy.convert.quantize.calibrate import local_errors, measure_histograms, network_inputs
from rtmo_deploy.convert.quantize.placement import candidates, place
from rtmo_deploy.convert.quantize.ranges import Range, quantize_weight
from rtmo_deploy.convert.quantize.source_model import blocks_of
from rtmo_deploy.data import People, Sample
from rtmo_deploy.errors import ArtifactError, InputDataError, SetupError, UsageError
from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact
from rtmo_deploy.zoo import COCO_17

pytestmark = pytest.mark.slow

SIDE = 128


class Scenes:
    """Structured images as a calibration set; some cannot be read."""

    name = "scenes"

    def __init__(self, count=3, broken=()):
        self.count, self.broken, self.reads = count, broken, 0
        self.names = [f"scene-{index}" for index in range(count)]

    def read(self, index):
        self.reads += 1
        if index in self.broken:
            raise InputDataError("It is empty.", where=self.names[index])
        return structured_images(4, SIDE, SIDE)[index % 4].transpose(1, 2, 0).astype(np.uint8)

    def identity(self):
        return {"name": self.name, "count": self.count, "broken": sorted(self.broken)}


class Annotated:
    """Two structured images in which the given people are annotated; a ``PoseDataset``."""

    skeleton = COCO_17

    def __init__(self, people):
        self.people = people

    def __len__(self):
        return len(self.people)

    def __getitem__(self, index):
        return Sample(Scenes().read(index), self.people[index])


@pytest.fixture(scope="session")
def fixed_n(exported):
    return exported(ExportOptions(decode="fixed", imgsz=(SIDE, SIDE))).path


@pytest.fixture(scope="session")
def source(fixed_n):
    return open_source(fixed_n)


@pytest.fixture(scope="session")
def calibration(source):
    return calibrate(source, Scenes(4, broken={2}), threads=1)


@pytest.fixture(scope="session")
def judge(source):
    estimator = PoseEstimator.open(source.path, threads=1)
    found = estimator.predict([Scenes().read(index) for index in range(2)])
    people = [
        People(p.boxes, p.keypoints, np.full(p.keypoints.shape[:2], 2), (p.boxes[:, 2:] - p.boxes[:, :2]).prod(1))
        for p in found
    ]
    assert all(len(one) for one in people)
    return Judge(source.artifact, Annotated(people), Target.TENSORRT, threads=1)


def test_what_is_found_in_the_network(source):
    names = {source.view.label(at) for at in source.placement.layers}
    assert not [name for name in names if "/decode/" in name or "/out_" in name or "/encoder/" in name]
    convolutions = {node.name for node in source.model.graph.node if node.op_type == "Conv"}
    assert all("/out_" in name for name in convolutions - names)
    assert source.macs.of(source.placement.layers) > 0.95 * source.macs.network
    # Of the graph it is less: in fixed mode coordinates are computed for 100 rows, whoever is there.


def test_silu_is_never_split(source):
    for name in source.placement.edges:
        readers = {node.op_type for node in source.model.graph.node if name in node.input}
        maker = source.view.producer.get(name)
        assert "Sigmoid" not in readers
        assert maker is None or source.view.nodes[maker].op_type != "Sigmoid"


def test_concats_of_the_real_network_share_scales(source, calibration):
    concats = [node for node in source.model.graph.node if node.output[0] in calibration.ranges]
    concats = [node for node in concats if node.op_type == "Concat"]
    assert len(concats) >= 6
    for node in concats:
        shared = {calibration.ranges[name] for name in (*node.input, *node.output)}
        assert len(shared) == 1


def test_broken_pictures_are_skipped_by_name_and_counted(calibration, source):
    assert calibration.used == 3
    assert calibration.skipped == (("scene-2", "It is empty."),)
    assert calibration.ranges.keys() == source.placement.edges.keys()
    assert all(low == -high < 0 for low, high in calibration.ranges.values())
    assert calibration.source.model_sha256 == source.sha256
    assert calibration.noise_db.keys() == {source.view.label(at) for at in source.placement.layers}
    # Two convolutions read what shares its scale with 80 times larger values, in this untrained network.
    coarse = {value for name, value in calibration.noise_db.items() if "fpn_blocks.0" in name and "coarse" in name}
    assert 3 < min(coarse) < 15
    assert 20 < min(set(calibration.noise_db.values()) - coarse) < 60


def test_no_usable_picture_is_an_error(source):
    with pytest.raises(InputDataError, match="None of the 2 images of 'scenes' can be used: scene-0: It is empty"):
        calibrate(source, Scenes(2, broken={0, 1}), threads=1)


def test_the_written_file(source, calibration, judge, tmp_path):
    output = tmp_path / "sub" / "n.int8.onnx"
    result = quantize_onnx(source, calibration, output, judge=judge)
    artifact = read_artifact(output)
    assert (artifact.precision, artifact.target) == ("int8", Target.TENSORRT)
    assert artifact.decode.mode is DecodeMode.FIXED
    assert [(parent.name, parent.sha256) for parent in artifact.parents] == [(source.path.name, source.sha256)]
    assert set(artifact.versions) >= {"rtmo-deploy", "onnx", "onnxruntime"}
    assert artifact.verified["validation"]["ok"] is True
    numbers = artifact.verified["quantization"]
    assert (numbers["target"], numbers["native"]) == ("tensorrt", False)
    assert numbers["judged_in"] == "ONNX Runtime, in float32, rounded as in 8 bits"
    assert numbers["calibration"]["used"] == 3
    assert numbers["calibration"]["skipped"] == [{"name": "scene-2", "reason": "It is empty."}]
    assert numbers["macs"]["int8_of_network"] == result.of_network > 0.95
    assert numbers["qdq_pairs"] == result.pairs == len(source.placement.edges)
    assert numbers["int8"]["against_fp32"]["matched"] > 0
    assert result.size == output.stat().st_size < 0.8 * source.path.stat().st_size
    assert [path.name for path in output.parent.iterdir()] == ["n.int8.onnx"]
    assert judge.baseline.ap == pytest.approx(1)
    assert result.verdict.against_fp32.people_a == judge.baseline.against_fp32.matched
    assert result.verdict.against_fp32.oks > 0.5
    # It is what it is called: every 8-bit layer reads 8 bits.
    made = onnx.load(output)
    producers = {name: node.op_type for node in made.graph.node for name in node.output}
    small = [node for node in made.graph.node if node.op_type == "Conv" and "/out_" not in node.name]
    assert len(small) == result.layers
    assert all({producers[node.input[0]], producers[node.input[1]]} == {"DequantizeLinear"} for node in small)


def test_an_int8_model_is_not_quantised_again(source, calibration, tmp_path):
    output = tmp_path / "n.int8.onnx"
    quantize_onnx(source, calibration, output)
    with pytest.raises(ArtifactError, match="quantised already"):
        open_source(output)


def test_a_graph_of_an_opset_without_scales_for_channels_is_refused_at_once(tmp_path):
    make = onnx.helper
    outputs = {"dets": (5,), "keypoints": (17, 3)}  # as MMDeploy's graph has them, of opset 11
    nodes, weights = [], []
    for name, shape in outputs.items():
        weights += [
            numpy_helper.from_array(np.ones((math.prod(shape), 3, 1, 1), np.float32), f"{name}.weight"),
            numpy_helper.from_array(np.array([0, -1, *shape], np.int64), f"{name}.shape"),
        ]
        nodes.append(make.make_node("Conv", ["input", f"{name}.weight"], [f"{name}.map"], f"/{name}/Conv"))
        nodes.append(make.make_node("Reshape", [f"{name}.map", f"{name}.shape"], [name], f"/{name}/Reshape"))
    infos = [make.make_tensor_value_info(name, 1, ["batch", "people", *shape]) for name, shape in outputs.items()]
    size = make.make_tensor_value_info("input", 1, ["batch", 3, 64, 64])
    graph = make.make_graph(nodes, "old", [size], infos, weights)
    path = tmp_path / "end2end.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 11)], ir_version=7), path)
    with pytest.raises(ArtifactError, match="of opset 11"):
        open_source(path)


def test_the_companion_of_a_raw_graph_goes_along(exported, tmp_path):
    raw = open_source(exported(ExportOptions(decode="raw", imgsz=(SIDE, SIDE))).path)
    calibration = calibrate(raw, Scenes(1), threads=1)
    output = tmp_path / "other" / "n.int8.onnx"
    quantize_onnx(raw, calibration, output)
    assert {path.name for path in output.parent.iterdir()} == {"n.int8.onnx", raw.artifact.companion.name}
    how = {"threads": 1, "backend": "onnxruntime"}  # OpenVINO refuses it on a CPU without VNNI
    assert PoseEstimator.open(output, **how).predict([Scenes().read(0)])
    # Beside the model it is already there.
    beside = raw.path.with_name("again.int8.onnx")
    quantize_onnx(raw, calibration, beside)
    assert PoseEstimator.open(beside, **how)


def test_a_budget_that_cannot_be_met_writes_nothing(source, calibration, judge, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "blocks_of", lambda *args: blocks_of(*args)[:2])
    worthless = replace(calibration, ranges=dict.fromkeys(calibration.ranges, Range(-1e-3, 1e-3)))
    result = quantize_onnx(source, worthless, tmp_path / "x.onnx", max_ap_drop=0, judge=judge)
    assert result.artifact is None
    assert result.search is not None
    assert not result.search.met
    assert len(result.search.frontier) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_met_by_giving_the_bad_layer_back(source, calibration, judge, tmp_path):
    bad = {**calibration.ranges, "input": Range(-1e-3, 1e-3)}
    with pytest.MonkeyPatch.context() as patch:
        # Three blocks are enough: the stem, which is spoilt, and the two at the end.
        patch.setattr(quantize, "blocks_of", lambda *args: [blocks_of(*args)[at] for at in (0, -2, -1)])
        result = quantize_onnx(
            source,
            replace(calibration, ranges=bad),
            tmp_path / "x.onnx",
            max_ap_drop=0.2,
            judge=judge,
        )
    assert result.search is not None
    assert result.search.met
    assert result.kept == ("/backbone/stem",)
    assert result.artifact is not None
    assert result.verdict == result.search.frontier[-1].verdict
    stem = next(node for node in onnx.load(tmp_path / "x.onnx").graph.node if node.name == "/backbone/stem/conv/Conv")
    assert stem.input[0] == "input"


def negate(tensor):
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))


def shrink(tensor):
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(64), tensor.name))


@pytest.mark.parametrize(
    ("spoil", "tensor"),
    [(negate, "/backbone/stem/conv/Conv weight"), (shrink, "input_scale"), (None, "")],
    ids=["weight", "scale", "sound"],
)
def test_one_wrong_weight_or_scale_is_not_written(source, calibration, judge, tmp_path, monkeypatch, spoil, tensor):
    # One block in 8 bits, which has nothing to revert: the fault stays, and the judge must see it.
    real_blocks, real_insert = quantize.blocks_of, quantize.insert
    monkeypatch.setattr(quantize, "blocks_of", lambda *args: real_blocks(*args)[:1])

    def faulty(*args):
        made = real_insert(*args)
        if spoil is not None:
            stem = next(node for node in made.graph.node if node.name == "/backbone/stem/conv/Conv")
            held = next(node for node in made.graph.node if node.output[0] == stem.input[1])
            name = held.input[0] if "weight" in tensor else tensor
            spoil(next(one for one in made.graph.initializer if one.name == name))
        return made

    monkeypatch.setattr(quantize, "insert", faulty)
    output = tmp_path / "x.onnx"
    result = quantize_onnx(source, calibration, output, max_ap_drop=0.2, judge=judge)
    assert result.search.met is (result.artifact is not None) is output.exists() is (spoil is None)


def test_what_makes_no_sense(source, calibration, tmp_path):
    with pytest.raises(UsageError, match="replace the float32 model"):
        quantize_onnx(source, calibration, source.path)
    with pytest.raises(UsageError, match="somebody to judge"):
        quantize_onnx(source, calibration, tmp_path / "x.onnx", max_ap_drop=0.01)
    for odd in (-0.01, 0.5, 1, float("nan")):
        with pytest.raises(UsageError, match=r"outside 0 to 0\.2"):
            quantize_onnx(source, calibration, tmp_path / "x.onnx", max_ap_drop=odd)


def test_paths_are_read_first(source, calibration, tmp_path):
    for call, wanted in (
        (lambda: calibrate("model.onnx", Scenes(1)), r"open_source\(path\)"),
        (lambda: calibrate(source, tmp_path), r"folder_images\(path\)"),
        (lambda: quantize_onnx(source, "calibration.json", tmp_path / "x.onnx"), r"Calibration\.load\(path\)"),
    ):
        with pytest.raises(UsageError, match=wanted):
            call()


def test_results_are_short_in_a_console(source, calibration):
    assert len(repr(source)) < 5000
    assert len(repr(calibration)) < 2000


def test_a_calibration_of_another_model_is_refused(source, calibration, tmp_path):
    other = replace(calibration, source=replace(calibration.source, model_sha256="0" * 64))
    with pytest.raises(ArtifactError, match="another model"):
        quantize_onnx(source, other, tmp_path / "x.onnx")
    few = replace(calibration, ranges={})
    with pytest.raises(ArtifactError, match="no range for"):
        quantize_onnx(source, few, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_used_for_what_it_was_made_of_and_nothing_else(source, tmp_path):
    model = small_net()
    view = GraphView(model.graph)
    artifact = replace(source.artifact, input=InputContract(32, 32))
    small = replace(source, model=model, artifact=artifact, view=view, placement=place(view, candidates(view)))

    def measured(about=small, scenes=None, method=Method.MINMAX):
        scenes = scenes or Scenes(1)
        made = calibrate(about, scenes, cache=tmp_path, method=method, threads=1)
        return made, scenes.reads == 0

    first, known = measured()
    assert not known
    assert measured() == (first, True)
    assert measured(method="minmax") == (first, True)  # as text, it is the same method
    assert calibrate(small, Scenes(1), method="minmax", threads=1) == first
    with pytest.raises(UsageError, match="no method 'max'"):
        measured(method="max")
    assert not measured(scenes=Scenes(2))[1]
    assert not measured(method=Method.PERCENTILE)[1]
    assert not measured(about=replace(small, sha256="1" * 64))[1]
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    # A file under the right name that is edited, or of something else, is measured anew and replaced.
    path = next(file for file in files if Calibration.load(file) == first)
    path.write_text(path.read_text().replace("1", "2", 1))
    assert measured() == (first, False)
    stranger = next(file for file in files if file != path)
    shutil.copyfile(stranger, path)
    assert measured() == (first, False)
    assert Calibration.load(path) == first
    assert measured()[1]


def test_a_cache_that_is_no_folder_is_named_before_the_work(source, tmp_path):
    (tmp_path / "cache").write_text("")
    scenes = Scenes(1)
    with pytest.raises(SetupError, match="The cache cannot be used"):
        calibrate(source, scenes, cache=tmp_path / "cache")
    assert scenes.reads == 0


def broken_model(kind, path, model):
    data = path.read_bytes()
    if kind == "cut":
        return data[: len(data) // 2]
    if kind == "garbage":
        return b"garbage" * 1000
    if kind == "empty":
        return b""
    if kind == "no convolutions":
        for node in model.graph.node:
            node.name = f"/decode{node.name}"
    if kind == "a loop":
        model.graph.node[5].input[0] = model.graph.output[0].name
    if kind == "two inputs":
        model.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1, 3, 4, 4]))
    if kind == "an unknown weight":
        del model.graph.initializer[:]
    if kind == "half":
        for entry in model.metadata_props:
            if entry.key == "rtmo_deploy.precision":
                entry.value = '"fp16"'
    return model.SerializeToString()


@pytest.mark.parametrize(
    "kind", ["cut", "garbage", "empty", "no convolutions", "a loop", "two inputs", "an unknown weight", "half"]
)
def test_hostile_models(fixed_n, tmp_path, kind):
    path = tmp_path / "x.onnx"
    path.write_bytes(broken_model(kind, fixed_n, onnx.load(fixed_n)))
    with pytest.raises(ArtifactError) as caught:
        open_source(path)
    assert caught.value.remedy
    assert caught.value.where == str(path)


def test_weights_that_are_not_finite(fixed_n, tmp_path):
    model = onnx.load(fixed_n)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "backbone.stem.conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path = tmp_path / "x.onnx"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="not finite"):
        calibrate(open_source(path), Scenes(1), threads=1)


def small_net():
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(6, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.normal(size=6).astype(np.float32), "b"),
    ]
    node = onnx.helper.make_node("Conv", ["input", "w", "b"], ["y"], name="/conv", pads=[1, 1, 1, 1])
    entry = onnx.helper.make_tensor_value_info("input", 1, [None, 3, 32, 32])
    output = onnx.helper.make_tensor_value_info("y", 1, [None, 6, 32, 32])
    graph = onnx.helper.make_graph([node], "net", [entry], [output], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_the_measured_shift_is_the_mean_loss():
    import torch

    model = small_net()
    view = GraphView(model.graph)
    placement = place(view, candidates(view))
    rng = np.random.default_rng(3)
    # Most values fall into the lower half of a step, so that rounding them has a mean.
    images = [(rng.random((1, 3, 32, 32)) ** 8).astype(np.float32) * 40 for _ in range(3)]
    shifts, noise = local_errors(model, placement, {"input": Range(-127, 127)}, images, where="x")
    weight, bias = (numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer)
    small, scales = quantize_weight(weight)
    rough = small * scales[:, None, None, None]

    def conv(image, weight):
        found = torch.nn.functional.conv2d(
            torch.from_numpy(image).double(),
            torch.from_numpy(weight).double(),
            torch.from_numpy(bias).double(),
            padding=1,
        )
        return found.numpy()

    losses = [conv(image, weight) - conv(np.clip(np.rint(image), -128, 127), rough) for image in images]
    expected = np.mean([loss.mean(axis=(0, 2, 3)) for loss in losses], axis=0)
    np.testing.assert_allclose(shifts["/conv"], expected, atol=1e-4)
    signal = sum(np.square(conv(image, weight)).sum() for image in images)
    assert noise["/conv"] == pytest.approx(10 * np.log10(signal / np.square(losses).sum()), abs=0.02)
    assert np.abs(expected).max() > 0.05


def two_convolutions():
    model = small_net()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 6, 1, 1), np.float32), "v"))
    model.graph.node.append(onnx.helper.make_node("Conv", ["y", "v"], ["z"], name="/second"))
    return model


def peak_of(count):
    model = two_convolutions()
    view = GraphView(model.graph)
    placement = place(view, candidates(view))
    scenes, contract = Scenes(count), InputContract(32, 32)
    tracemalloc.start()
    try:
        histograms = measure_histograms(model, placement, network_inputs(scenes, contract, []), where="x", threads=1)
        again = network_inputs(scenes, contract, [])
        local_errors(model, placement, {"input": Range(-255, 255), "y": Range(-900, 900)}, again, where="x", threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert histograms["input"].counts.sum() == count * 3 * 32 * 32
    assert histograms["y"].counts.sum() == count * 6 * 32 * 32
    return peak


def test_memory_does_not_grow_with_the_pictures():
    peak_of(4)  # what is loaded and cached once
    few, many = peak_of(8), peak_of(32)
    # One more image of 32x32 in float32 that was kept would be 12 kB.
    assert many - few < 24 * 12_000 / 4


def test_a_network_of_one_layer_needs_no_tensor_but_its_input():
    model = small_net()
    view = GraphView(model.graph)
    inputs = network_inputs(Scenes(1), InputContract(32, 32), [])
    found = measure_histograms(model, place(view, candidates(view)), inputs, where="x")
    assert found.keys() == {"input"}


def test_a_fixed_batch_is_filled_with_the_picture():
    batches = list(network_inputs(Scenes(2), InputContract(64, 32, batch=3), []))
    assert [batch.shape for batch in batches] == [(3, 3, 64, 32)] * 2
    assert (batches[0][0] == batches[0][2]).all()


def poses(points, scores):
    points = np.asarray(points, np.float32)
    boxes = np.concatenate([points.min(1), points.max(1)], axis=1)
    return Poses(boxes, np.asarray(scores), points, np.ones(points.shape[:2]), COCO_17)


def test_figures_against_the_float32_model():
    def likeness(reference, other):
        return compare_people(reference, other, boxes=False)

    rng = np.random.default_rng(0)
    people = rng.random((3, 17, 2)) * 100 + np.array([[[0, 0]], [[500, 0]], [[0, 500]]])
    sigmas = COCO_17.sigmas
    one = poses(people, [0.9, 0.8, 0.4])
    same = likeness([one], [one])
    assert (same.matched, same.unmatched, same.oks, same.score_ratio, same.keypoint_px_mean) == (3, 0, 1, 1, 0)
    # Turned about, moved by 3 px, scores halved, one gone and two strangers.
    two = poses(np.concatenate([people[[1, 0]] + [3, 0], people[:2] + 3000]), [0.4, 0.45, 0.9, 0.9])
    found = likeness([one], [two])
    assert (found.matched, found.missed, found.extra) == (2, 1, 2)
    assert found.score_ratio == pytest.approx(0.5)
    assert found.keypoint_px_mean == pytest.approx(3, rel=1e-4)
    areas = 0.53 * (one.boxes[:2, 2:] - one.boxes[:2, :2]).prod(1)
    expected = np.exp(-9 / (2 * areas[:, None] * np.square(2 * np.array(sigmas)))).mean(1)
    assert found.oks == pytest.approx(expected.sum() / 3, rel=1e-4)
    nobody = Poses.empty(COCO_17)
    none = likeness([nobody], [nobody])
    assert none.oks is none.score_ratio is none.keypoint_px_mean is None
    assert likeness([nobody], [one]).extra == 3
    assert likeness([one], [nobody]).oks == 0


def test_a_judge_whose_annotations_do_not_fit_knows_no_ap(source):
    class Other(Annotated):
        skeleton = type(COCO_17).generic(3)

    found = Judge(source.artifact, Other([People.empty(3)]), Target.OPENVINO, threads=1)
    assert found.baseline.ap is None
    assert found.baseline.against_fp32.oks == 1
    with pytest.raises(UsageError, match="no image"):
        Judge(source.artifact, Annotated([]), Target.TENSORRT, threads=1)
