"""Exported graphs: what they compute, how they are made, and what they know of themselves."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported_graphs import Exported
from golden import golden_model
from onnx import numpy_helper
from typer.testing import CliRunner

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, DecodeMode
from rtmo_deploy.cli.app import app
from rtmo_deploy.convert import (
    ExportOptions,
    export_onnx,
)
from rtmo_deploy.convert.sdk_info import dump_sdk_info
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure import compare_people, structured_images, validate_model
from rtmo_deploy.model import RTMO, NetworkSpec, initial_checkpoint, initialise, load_checkpoint, save_checkpoint
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.runtime.decode import open_coordinates, outputs_to_poses
from rtmo_deploy.runtime.letterbox import Placement, letterbox
from rtmo_deploy.runtime.onnx_file import read_onnx_artifact, signature
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17, skeleton_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.model import LoadedCheckpoint
    from rtmo_deploy.poses import Poses

    Export = Callable[..., Exported]
    Predict = Callable[..., list[Poses]]

DECODES = ("onnx", "fixed", "raw")
#: Of the graph that a decoder of each mode makes, names of the outputs.
OUTPUTS = {
    "onnx": {"dets": ["batch", "people", 5], "keypoints": ["batch", "people", 17, 3]},
    "fixed": {"dets": ["batch", 100, 5], "keypoints": ["batch", 100, 17, 3]},
    "raw": {
        "cls_scores": ["batch", "cells", 1],
        "bbox_preds": ["batch", "cells", 4],
        "kpt_vis": ["batch", "cells", 17],
        "pose_vecs": ["batch", "cells", 128],
    },
}


def found_by(one: Exported, images: NDArray[np.float32]) -> list[Poses]:
    """People that ONNX Runtime finds."""
    outputs = run_session(open_session(one.path, where=one.path), {"input": images}, where=one.path)
    companion = one.result.artifact.companion
    coordinates = open_coordinates(one.path.with_name(companion.name)) if companion else None
    return outputs_to_poses(outputs, images.shape[2:], one.result.artifact, coordinates)


def assert_same_people(model: RTMO, predict: Predict, one: Exported, shape: tuple[int, int, int]) -> None:
    images = structured_images(*shape, seed=3)
    expected = predict(model, images)
    errors = compare_people(expected, found_by(one, images))
    assert errors.matched == sum(map(len, expected)) > 0
    assert (errors.missed, errors.extra) == (0, 0)
    assert errors.in_order
    assert errors.keypoint_px_max < 0.2  # made-up weights amplify rounding
    assert errors.box_px_max < 0.01
    assert max(errors.score_max, errors.keypoint_score_max) < 1e-5


# What it computes


@pytest.mark.parametrize("opset", [17, *(pytest.param(n, marks=pytest.mark.long) for n in (18, 19)), 20])
@pytest.mark.parametrize("mode", DECODES)
def test_dynamic_graph_in_every_mode_and_opset(
    exported: Export, model: RTMO, predict: Predict, mode: str, opset: int
) -> None:
    one = exported(ExportOptions(decode=mode, opset=opset))
    assert [entry.version for entry in one.graph.opset_import if entry.domain in {"", "ai.onnx"}] == [opset]
    assert signature(one.graph).inputs[0].shape == ("batch", 3, "height", "width")
    shapes = [(1, 256, 256), (3, 128, 352)] if opset == 17 else [(2, 320, 192)]
    for shape in shapes:
        assert_same_people(model, predict, one, shape)


SIZES = {
    "static": ({"static": True}, (1, 256, 256), (1, 3, 256, 256)),
    "static-wide": ({"static": True, "imgsz": (160, 288)}, (1, 160, 288), (1, 3, 160, 288)),
    "static-batch": ({"static": True, "batch": 3, "imgsz": (192, 128)}, (3, 192, 128), (3, 3, 192, 128)),
    "batch-2": ({"batch": 2}, (2, 224, 160), (2, 3, "height", "width")),
    "batch-1": ({"batch": 1}, (1, 224, 320), (1, 3, "height", "width")),
}
#: Every size in one mode and every mode in three sizes; the others with ``-m long``.
ENOUGH = {("static-wide", "fixed"), ("static-batch", "onnx"), ("static-batch", "raw"), ("batch-2", "fixed")}
ENOUGH |= {("batch-2", "raw"), ("batch-1", "onnx"), *(("static", mode) for mode in DECODES)}


@pytest.mark.parametrize(
    ("mode", "options", "shape", "dims"),
    [
        pytest.param(mode, *case, id=f"{name}-{mode}", marks=[] if (name, mode) in ENOUGH else pytest.mark.long)
        for name, case in SIZES.items()
        for mode in DECODES
    ],
)
def test_baked_in_sizes(
    exported: Export,
    model: RTMO,
    predict: Predict,
    mode: str,
    options: dict[str, object],
    shape: tuple[int, int, int],
    dims: tuple[int | str, ...],
) -> None:
    one = exported(ExportOptions(decode=mode, **options))
    assert signature(one.graph).inputs[0].shape == dims
    for output in signature(one.graph).outputs:
        assert output.shape[0] == shape[0]
    contract = one.result.artifact.input
    assert contract.batch == shape[0]
    assert contract.dynamic_hw == ("static" not in options)
    assert_same_people(model, predict, one, shape)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("mode", DECODES)
def test_tiny_inputs(exported: Export, model: RTMO, predict: Predict, mode: str, static: bool) -> None:
    # Five cells: fewer than the candidates of fixed mode.
    options = ExportOptions(decode=mode, static=static, imgsz=(32, 32) if static else None)
    images = structured_images(1, 32, 32, seed=1)
    thresholds = {"score_thr": 0.1}
    errors = compare_people(predict(model, images, **thresholds), found_by(exported(options), images))
    assert errors.matched > 0
    assert (errors.missed, errors.extra) == (0, 0)
    assert errors.keypoint_px_max < 0.01


@pytest.mark.parametrize("mode", ["onnx", "fixed"])
def test_thresholds_and_limits_are_baked_in(exported: Export, model: RTMO, predict: Predict, mode: str) -> None:
    one = exported(ExportOptions(decode=mode, score_thr=0.12, nms_thr=0.3, max_dets=4, pre_topk=50))
    images = structured_images(2, 256, 256, seed=3)
    everybody = predict(model, images, score_thr=0.12, nms_thr=0.3)
    assert max(map(len, everybody)) > 4
    errors = compare_people([people[slice(0, 4)] for people in everybody], found_by(one, images))
    assert (errors.missed, errors.extra) == (0, 0)
    assert errors.keypoint_px_max < 0.05
    contract = one.result.artifact.decode
    assert (contract.score_thr, contract.nms_thr, contract.max_dets, contract.pre_topk) == (0.12, 0.3, 4, 50)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("mode", ["onnx", "fixed"])
def test_nobody_is_no_row(exported: Export, mode: str, static: bool) -> None:
    one = exported(ExportOptions(decode=mode, score_thr=1.0, static=static))
    session = open_session(one.path, where=one.path)
    for batch in (1,) if static else (1, 3):
        outputs = run_session(session, {"input": structured_images(batch, 256, 256)}, where=one.path)
        rows = 0 if mode == "onnx" else 100
        assert outputs["dets"].shape == (batch, rows, 5)
        assert outputs["keypoints"].shape == (batch, rows, 17, 3)
        assert not outputs["dets"].any()
        assert not outputs["keypoints"].any()


def test_nobody_crashes_no_older_onnxruntime(exported: Export) -> None:
    # Before 1.27, OneHot divides by the size of the axes before the new one: by 0 where nobody was found.
    axes = [{a.name: a.i for a in node.attribute} for node in exported().nodes if node.op_type == "OneHot"]
    assert axes == [{"axis": 0}]


def test_rows_beyond_a_pictures_people_are_zero(exported: Export) -> None:
    one = exported()
    images = structured_images(3, 256, 256, seed=3)
    images[1] = 0
    outputs = run_session(open_session(one.path, where=one.path), {"input": images}, where=one.path)
    scores = outputs["dets"][..., 4]
    counts = (scores > 0).sum(axis=1)
    assert len(set(counts.tolist())) > 1
    assert outputs["dets"].shape[1] == counts.max()
    for picture, count in enumerate(counts):
        assert (scores[picture, :count] > 0.1).all()
        assert (np.diff(scores[picture, :count]) <= 0).all()
        assert not outputs["dets"][picture, count:].any()
        assert not outputs["keypoints"][picture, count:].any()


def test_boxes_are_clipped_and_keypoints_are_not(
    as_checkpoint: Callable[..., LoadedCheckpoint], tmp_path: Path
) -> None:
    wide = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(-2, -1))
    for conv in wide.head.head_module.out_bbox:
        conv.bias.data[2:] += 1.5
    path = tmp_path / "wide.onnx"
    export_onnx(as_checkpoint(wide), path, verify=False)
    outputs = run_session(open_session(path, where=path), {"input": structured_images(1, 192, 256)}, where=path)
    boxes, points = outputs["dets"][0, :, :4], outputs["keypoints"][0, ..., :2]
    limits = np.array([256, 192, 256, 192])
    assert (boxes >= 0).all()
    assert (boxes <= limits).all()
    assert (boxes == limits).any()
    assert (points < 0).any() or (points > limits[:2]).any()


def test_other_keypoint_counts(
    as_checkpoint: Callable[..., LoadedCheckpoint], predict: Predict, tmp_path: Path
) -> None:
    for joints in (14, 5):
        network = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], joints), bias=(-2, -1))
        path = tmp_path / f"{joints}.onnx"
        result = export_onnx(as_checkpoint(network), path, verify=False)
        assert signature(onnx.load(path)).outputs[1].shape == ("batch", "people", joints, 3)
        images = structured_images(1, 256, 192)
        outputs = run_session(open_session(path, where=path), {"input": images}, where=path)
        errors = compare_people(predict(network, images), outputs_to_poses(outputs, (256, 192), result.artifact))
        assert errors.matched > 3
        assert (errors.missed, errors.extra) == (0, 0)
        assert errors.keypoint_px_max < 0.05


def test_the_network_is_untouched(exported: Export, model: RTMO, checkpoint: LoadedCheckpoint) -> None:
    for mode in DECODES:
        exported(ExportOptions(decode=mode))
    state = checkpoint.model.state_dict()
    assert all(np.array_equal(state[key].numpy(), value.numpy()) for key, value in model.state_dict().items())
    assert not any(module.training for module in checkpoint.model.modules())


# How it is made


@pytest.fixture(params=[*DECODES, *(f"{mode}-static" for mode in DECODES)])
def any_graph(request: pytest.FixtureRequest, exported: Export) -> tuple[str, bool, Exported]:
    """Mode, whether static, and the export."""
    mode, _, static = request.param.partition("-")
    return mode, bool(static), exported(ExportOptions(decode=mode, static=bool(static)))


def downstream(one: Exported) -> list[onnx.NodeProto]:
    """Nodes that depend on the head's joined maps."""
    heads = [n for n in one.nodes if n.op_type == "Concat" and n.name.startswith("/head/") and len(n.input) == 2]
    assert len(heads) == 1
    reached = set(heads[0].output)
    after = []
    for node in one.nodes:
        if reached & set(node.input):
            reached |= set(node.output)
            after.append(node)
    return after


def test_every_node_after_the_head_is_named_after_the_decoder(any_graph: tuple[str, bool, Exported]) -> None:
    _, _, one = any_graph
    after = downstream(one)
    assert after
    assert [node.name for node in after if not node.name.startswith("/decode/")] == []
    outputs = {output.name for output in one.graph.graph.output}
    assert outputs <= {name for node in after for name in node.output}


def test_every_other_node_is_named_after_its_part_of_the_network(any_graph: tuple[str, bool, Exported]) -> None:
    _, static, one = any_graph
    names = [node.name for node in one.nodes]
    assert len(set(names)) == len(names)
    scopes = {name.split("/")[1] for name in names if name.startswith("/")}
    assert all(name.startswith("/") for name in names)
    assert scopes == {"backbone", "neck", "head", "decode"} | (set() if static else {"grid"})
    # What does not depend on the head's maps and is in the decoder: shapes, and the grid's centres.
    early = {n.op_type for n in one.nodes if n.name.startswith("/decode/")} - {n.op_type for n in downstream(one)}
    assert not early & {"Conv", "MatMul", "Gemm", "Sigmoid", "Softmax"}


def test_order_of_the_graph_is_topological_and_complete(any_graph: tuple[str, bool, Exported]) -> None:
    _, _, one = any_graph
    known = {"", *(value.name for value in one.graph.graph.input), *(t.name for t in one.graph.graph.initializer)}
    for node in one.nodes:
        assert set(node.input) <= known, node.name
        known |= set(node.output)
    used = {name for node in one.nodes for name in node.input}
    assert {tensor.name for tensor in one.graph.graph.initializer} <= used
    assert validate_model(one.graph, one.path).ok


def test_operators(any_graph: tuple[str, bool, Exported]) -> None:
    mode, static, one = any_graph
    ops = one.ops
    assert {node.domain for node in one.nodes} <= {"", "ai.onnx"}
    assert not ops & {"BatchNormalization", "Identity", "Dropout", "Loop", "If", "Scan", "NonZero", "Constant"}
    assert ("NonMaxSuppression" in ops) == (mode == "onnx")
    norms = [node for node in one.nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 2
    assert not ops & {"ReduceMean", "Pow", "Sqrt"}
    assert sum(node.op_type == "Erf" for node in one.nodes) == 1
    if static:
        allowed = {"Shape"} if mode == "onnx" else set()
        assert not ops & ({"Range", "NonZero", "ConstantOfShape", "Shape"} - allowed)
    if static and mode == "raw":
        assert not ops & {"Sin", "Cos"}
        assert not any(node.name.startswith("/grid") for node in one.nodes)


def test_topk_stays_within_what_tensorrt_takes(any_graph: tuple[str, bool, Exported]) -> None:
    mode, _, one = any_graph
    constants = {t.name: numpy_helper.to_array(t) for t in one.graph.graph.initializer}
    tops = [node for node in one.nodes if node.op_type == "TopK"]
    if mode == "onnx":
        return
    assert len(tops) == (2 if mode == "fixed" else 0)
    assert all(constants[node.input[1]].item() <= 3840 for node in tops)


def test_largest_number_of_candidates() -> None:
    assert ExportOptions("fixed", pre_topk=3840).pre_topk == 3840
    with pytest.raises(UsageError, match="3840"):
        ExportOptions("fixed", pre_topk=3841)


@pytest.mark.parametrize("mode", DECODES)
def test_ranges_are_whole_numbers_then_cast(exported: Export, mode: str) -> None:
    one = exported(ExportOptions(decode=mode))
    inferred = onnx.shape_inference.infer_shapes(one.graph, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    ranges = [node for node in one.nodes if node.op_type == "Range"]
    assert len(ranges) == 2
    for node in ranges:
        assert types[node.output[0]] == onnx.TensorProto.INT64
        after = {n.op_type for n in one.nodes if node.output[0] in n.input}
        assert after == {"Cast"}


@pytest.mark.parametrize("mode", DECODES)
def test_names_of_dimensions(exported: Export, mode: str) -> None:
    one = exported(ExportOptions(decode=mode))
    assert {spec.name: list(spec.shape) for spec in signature(one.graph).outputs} == OUTPUTS[mode]
    static = exported(ExportOptions(decode=mode, static=True))
    numbers = {"batch": 1, "cells": 16 * 16 + 8 * 8}
    expected = {name: [numbers.get(side, side) for side in dims] for name, dims in OUTPUTS[mode].items()}
    assert {spec.name: list(spec.shape) for spec in signature(static.graph).outputs} == expected


@pytest.mark.parametrize("mode", DECODES)
def test_proxy_regression_of_training_is_gone(exported: Export, model: RTMO, mode: str) -> None:
    one = exported(ExportOptions(decode=mode))
    proxies = [tuple(conv.weight.shape) for conv in model.head.head_module.out_kpt_reg]
    shapes = [tuple(tensor.dims) for tensor in one.graph.graph.initializer]
    # 2 * 17 columns of 48 channels; nothing else in the network has this shape.
    assert proxies == [(34, 72, 1, 1)] * 2
    assert not set(proxies) & set(shapes)
    assert not any("kpt_reg" in name for node in one.nodes for name in (node.name, *node.input))


@pytest.mark.slow
def test_rtmo_s_is_a_small_graph_that_decodes_survivors_only(
    as_checkpoint: Callable[..., LoadedCheckpoint], tmp_path: Path
) -> None:
    network = RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-s"], 17))
    initialise(network, 0)
    path = tmp_path / "s.onnx"
    result = export_onnx(as_checkpoint(network.eval()), path, verify=False)
    nodes = list(onnx.load(path).graph.node)
    # 64 % of what is left of MMDeploy's graph after onnxsim, 673.
    assert result.nodes == len(nodes) <= 426
    order = [node.op_type for node in nodes]
    suppression = order.index("NonMaxSuppression")
    names = [node.name for node in nodes]
    decoders = [i for i, name in enumerate(names) if name.startswith("/decode/people/")]
    assert decoders
    tail = {
        output for node in nodes[: suppression + 1] for output in node.output if node.op_type == "NonMaxSuppression"
    }
    for node in nodes[suppression + 1 :]:
        if tail & set(node.input):
            tail |= set(node.output)
    heavy = {"MatMul", "Gemm", "Softmax", "Sin", "Cos"}
    for i in decoders:
        if nodes[i].op_type in heavy:
            assert i > suppression
            assert tail & set(nodes[i].input), names[i]


def test_the_same_export_twice_is_the_same_file(exported: Export, checkpoint: LoadedCheckpoint, tmp_path: Path) -> None:
    for mode in DECODES:
        first = exported(ExportOptions(decode=mode)).path
        again = tmp_path / mode / first.name
        again.parent.mkdir()
        export_onnx(checkpoint, again, ExportOptions(decode=mode), verify=False)
        files = {path.name: sha256_of(path) for path in again.parent.iterdir()}
        assert files == {path.name: sha256_of(path) for path in first.parent.iterdir()}, mode
        assert len(files) == (2 if mode == "raw" else 1)


# What it knows of itself


@pytest.fixture(scope="module")
def verified(checkpoint: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Verified exports of each mode."""

    made = {}
    for mode in DECODES:
        path = tmp_path_factory.mktemp("verified") / f"{mode}.onnx"
        told: list[str] = []
        result = export_onnx(checkpoint, path, ExportOptions(decode=mode), progress=told.append)
        assert told[0] == "tracing and simplifying"
        assert told[-1] == "writing"
        made[mode] = Exported(path, onnx.load(path), result)
    return made


@pytest.mark.parametrize("mode", DECODES)
def test_metadata_is_read_back_as_it_was_written(
    verified: dict[str, Exported], checkpoint: LoadedCheckpoint, mode: str
) -> None:
    one = verified[mode]
    written = one.result.artifact
    metadata = {entry.key: entry.value for entry in one.graph.metadata_props}
    read = Artifact.from_metadata(one.path, metadata)
    assert read is not None
    assert json.loads(json.dumps(read.to_dict())) == json.loads(json.dumps(written.to_dict()))
    assert read.decode.mode is DecodeMode(mode)
    assert read.architecture == "rtmo-n"
    assert read.variant is None
    assert read.skeleton == checkpoint.skeleton
    assert (read.input.height, read.input.width, read.input.placement) == (256, 256, Placement.CENTER)
    assert [(p.name, p.sha256) for p in read.parents] == [(checkpoint.path.name, sha256_of(checkpoint.path))]
    assert read.versions["rtmo-deploy"] == __version__
    assert {"python", "torch", "onnx", "onnxsim"} <= set(read.versions)
    assert (one.graph.producer_name, one.graph.producer_version) == ("rtmo-deploy", __version__)


@pytest.mark.parametrize("mode", DECODES)
def test_what_was_verified_is_written_down(verified: dict[str, Exported], mode: str) -> None:
    one = verified[mode]
    result = one.result
    assert result.validation is not None
    assert result.verification is not None
    assert result.artifact.verified == {
        "validation": result.validation.to_dict(),
        "parity": result.verification.to_dict(),
    }
    parity = result.artifact.verified["parity"]
    assert parity["ok"]
    shapes = {tuple(case["input"]) for case in parity["cases"] if case["people"]}
    assert shapes == {(1, 3, 256, 256), (2, 3, 192, 320), (5, 3, 256, 128)}
    assert all(case["people"]["matched"] > 5 for case in parity["cases"] if case["people"])
    assert {"cls_scores", "bbox_preds"} <= {name for case in parity["cases"] for name in case["tensors"]}
    assert result.validation.ok
    assert (result.nodes, result.size) == (len(one.nodes), one.path.stat().st_size)


def test_unverified_says_so(exported: Export) -> None:
    result = exported().result
    assert (result.validation, result.verification, result.artifact.verified) == (None, None, None)


@pytest.mark.parametrize(
    ("options", "batch", "size"),
    [(ExportOptions(), 1, [256, 256]), (ExportOptions(static=True, batch=3, imgsz=(192, 128)), 3, [192, 128])],
)
def test_keys_that_ultralytics_reads(exported: Export, options: ExportOptions, batch: int, size: list[int]) -> None:
    metadata = {entry.key: entry.value for entry in exported(options).graph.metadata_props}
    assert metadata["task"] == "pose"
    # How its readers take the values: numbers by int(), containers by literal_eval.
    assert int(metadata["stride"]) == 32
    assert int(metadata["batch"]) == batch
    assert int(metadata["channels"]) == 3
    assert ast.literal_eval(metadata["imgsz"]) == size
    assert ast.literal_eval(metadata["names"]) == {0: "person"}
    assert ast.literal_eval(metadata["kpt_shape"]) == [17, 3]
    names = ast.literal_eval(metadata["kpt_names"])
    assert list(names) == [0]
    assert len(names[0]) == 17
    assert names[0][0] == "nose"


def test_placement_is_recorded(exported: Export) -> None:
    one = exported(ExportOptions(letterbox="top-left"))
    assert PoseEstimator.open(one.path).artifact.input.placement == "top-left"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"opset": 16}, "Opset 16"),
        ({"opset": 21}, "Opset 21"),
        ({"batch": 0}, "batch"),
        ({"imgsz": (250, 256)}, "250x256"),
        ({"imgsz": (256, 0)}, "256x0"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"imgsz": (4096, 4096)}, {"static": True, "batch": 4096}],
)
def test_a_model_that_no_command_would_read_is_not_exported(
    checkpoint: LoadedCheckpoint, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="No such model can be exported"):
        export_onnx(checkpoint, tmp_path / "m.onnx", ExportOptions(**wrong))
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "n.pth"
    initial_checkpoint(file, ARCHITECTURES["rtmo-n"], skeleton=COCO_17, seed=0)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="one of the inputs"):
        export_onnx(load_checkpoint(file), file, verify=False)
    assert file.read_bytes() == before


def test_a_path_is_not_a_loaded_checkpoint(tmp_path: Path) -> None:
    path: Any = tmp_path / "n.pth"
    with pytest.raises(UsageError, match=r"load_checkpoint\(path\)"):
        export_onnx(path, tmp_path / "n.onnx")


def test_names_that_metadata_cannot_hold(checkpoint: LoadedCheckpoint, tmp_path: Path) -> None:
    named = replace(checkpoint, path=Path("run\\3\nbest.pth"))
    output = tmp_path / "m\n.onnx"
    export_onnx(named, output, ExportOptions(imgsz=(64, 64)), verify=False)
    assert read_onnx_artifact(output).parents[0].name == "run_3_best.pth"
    with pytest.raises(UsageError, match="No model can name a companion"):
        export_onnx(checkpoint, output, ExportOptions(imgsz=(64, 64), decode=DecodeMode.RAW), verify=False)


@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize(
    "wrong", [{"score_thr": -0.1}, {"score_thr": 1.1}, {"nms_thr": 1.5}, {"nms_thr": float("nan")}]
)
def test_thresholds_that_make_no_sense(decode: str, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ExportOptions(decode, **wrong)


# Raw graphs and their second file


def picture(height: int = 240, width: int = 320) -> NDArray[np.uint8]:
    return np.ascontiguousarray(structured_images(1, height, width, seed=7)[0].transpose(1, 2, 0)).astype(np.uint8)


@pytest.fixture
def raw_copy(verified: dict[str, Exported], tmp_path: Path) -> tuple[Path, Path]:
    """A raw graph and its companion, in a folder of their own."""
    source = verified["raw"].path
    name = f"{source.stem}.dcc.onnx"
    for file in (source, source.with_name(name)):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / source.name, tmp_path / name


def test_companion_is_written_named_and_hashed(raw_copy: tuple[Path, Path], verified: dict[str, Exported]) -> None:
    _, companion = raw_copy
    recorded = verified["raw"].result.artifact.companion
    assert recorded is not None
    assert (recorded.name, recorded.sha256) == ("raw.dcc.onnx", sha256_of(companion))
    inputs = {spec.name: spec.shape for spec in signature(onnx.load(companion)).inputs}
    assert inputs == {"pose_vecs": ("people", 128), "boxes": ("people", 4), "priors": ("people", 2)}
    for mode in ("onnx", "fixed"):
        assert verified[mode].result.artifact.companion is None
        assert [p.name for p in verified[mode].path.parent.iterdir()] == [f"{mode}.onnx"]


def test_all_modes_and_the_checkpoint_find_the_same_people(
    raw_copy: tuple[Path, Path], verified: dict[str, Exported], checkpoint: LoadedCheckpoint
) -> None:
    image = picture()
    expected = PoseEstimator.open(checkpoint.path)(image)
    assert len(expected) > 5
    for path in (raw_copy[0], verified["onnx"].path, verified["fixed"].path):
        errors = compare_people([expected], [PoseEstimator.open(path)(image)])
        assert (errors.matched, errors.missed, errors.extra) == (len(expected), 0, 0)
        assert errors.keypoint_px_max < 0.05


def test_missing_companion_is_refused(raw_copy: tuple[Path, Path]) -> None:
    path, companion = raw_copy
    companion.unlink()
    with pytest.raises(ArtifactError, match=r"raw\.dcc\.onnx beside it, which cannot be read") as caught:
        PoseEstimator.open(path)
    assert caught.value.exit_code == 4


def test_changed_companion_is_refused(raw_copy: tuple[Path, Path]) -> None:
    path, companion = raw_copy
    content = bytearray(companion.read_bytes())
    content[len(content) // 2] ^= 1
    companion.write_bytes(content)
    with pytest.raises(ArtifactError, match="not the file it was exported with"):
        PoseEstimator.open(path)


# MMDeploy's SDK files


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("mode", ["onnx", "fixed"])
def test_sdk_files(exported: Export, mode: str, static: bool, tmp_path: Path) -> None:
    artifact = replace(
        exported(ExportOptions(decode=mode, static=static, letterbox="top-left")).result.artifact,
        path=tmp_path / "model.onnx",
    )
    written = dump_sdk_info(artifact)
    assert [path.name for path in written] == ["deploy.json", "pipeline.json", "detail.json"]
    deploy, pipeline, detail = (json.loads(path.read_text(encoding="utf-8")) for path in written)
    assert deploy["version"] == detail["version"] == "1.3.1"
    assert deploy["task"] == "PoseDetector"
    (net,) = deploy["models"]
    assert (net["net"], net["backend"], net["precision"]) == ("model.onnx", "onnxruntime", "FP32")
    assert (net["batch_size"], net["dynamic_shape"]) == (1, not static)
    first, second, third = pipeline["pipeline"]["tasks"]
    steps = {step["type"]: step for step in first["transforms"]}
    assert steps["Resize"]["size"] == steps["Pad"]["size"] == [256, 256]
    assert steps["Resize"]["keep_ratio"] is True
    assert steps["Pad"]["pad_val"]["img"] == [114] * 3
    assert (steps["Normalize"]["mean"], steps["Normalize"]["std"]) == ([0, 0, 0], [1, 1, 1])
    assert steps["Normalize"]["to_rgb"] is False
    # Each task reads what an earlier one, or the pipeline's input, provides.
    known = set(pipeline["pipeline"]["input"])
    for task in (first, second, third):
        assert set(task["input"]) <= known
        known |= set(task["output"])
    assert set(pipeline["pipeline"]["output"]) <= known
    assert second["name"] == net["name"]
    assert second["input_map"] == {"img": "input"}
    assert third["component"] == "YOLOXPose"
    assert third["params"] == {"score_thr": 0.1, "nms_thr": 0.65}
    config = detail["onnx_config"]
    assert config["output_names"] == ["dets", "keypoints"]
    assert config["input_shape"] == ([256, 256] if static else None)
    expected = {} if static else {"0": "batch", "2": "height", "3": "width"}
    assert config["dynamic_axes"]["input"] == expected
    assert config["dynamic_axes"]["dets"].get("1") == ("people" if mode == "onnx" else None)
    assert detail["codebase_config"]["post_processing"]["keep_top_k"] == artifact.decode.max_dets


def test_sdk_files_replace_older_ones(exported: Export, tmp_path: Path) -> None:
    artifact = replace(exported().result.artifact, path=tmp_path / "model.onnx")
    (tmp_path / "deploy.json").write_text("old")
    dump_sdk_info(artifact)
    assert json.loads((tmp_path / "deploy.json").read_text())["task"] == "PoseDetector"
    assert {path.name for path in tmp_path.iterdir()} == {"deploy.json", "pipeline.json", "detail.json"}


def test_sdk_cannot_decode_raw_graphs(exported: Export, tmp_path: Path) -> None:
    artifact = replace(exported(ExportOptions(decode="raw")).result.artifact, path=tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="raw"):
        dump_sdk_info(artifact)
    assert list(tmp_path.iterdir()) == []


def test_sdk_preprocessing_is_the_top_left_letterbox(exported: Export, tmp_path: Path) -> None:
    # The transforms by hand, as MMDeploy's SDK runs them, against the letterbox under that name.
    artifact = replace(exported(ExportOptions(letterbox="top-left")).result.artifact, path=tmp_path / "model.onnx")
    pipeline = json.loads(dump_sdk_info(artifact)[1].read_text())["pipeline"]["tasks"][0]["transforms"]
    steps = {step["type"]: step for step in pipeline}
    # A size that scales to whole pixels: the two round others differently.
    image = picture(320, 240)
    height, width = steps["Resize"]["size"]
    scale = min(height / 320, width / 240)
    small = cv2.resize(image, (int(240 * scale + 0.5), int(320 * scale + 0.5)))
    canvas = np.full((height, width, 3), steps["Pad"]["pad_val"]["img"], np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    ours, _ = letterbox(image, (256, 256), Placement.TOP_LEFT)
    assert np.array_equal(canvas, ours)


# The command


def test_command_writes_beside_the_checkpoint(model: RTMO, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    save_checkpoint(path, model, skeleton=skeleton_for(17))
    result = CliRunner().invoke(app, ["export", str(path), "--no-verify", "--dump-info", "--json"])
    assert result.exit_code == 0, result.output
    assert {file.name for file in tmp_path.iterdir()} == {
        "mine.pth",
        "mine.onnx",
        "deploy.json",
        "pipeline.json",
        "detail.json",
    }
    assert json.loads(result.stdout)
    assert json.loads((tmp_path / "deploy.json").read_text())["models"][0]["net"] == "mine.onnx"


def test_no_session_warnings(exported: Export, capfd: pytest.CaptureFixture[str]) -> None:
    # What ONNX Runtime says of a graph it dislikes (unused initializers, wrong shapes) goes to stderr.
    options = ort.SessionOptions()
    options.log_severity_level = 2
    for mode in DECODES:
        one = exported(ExportOptions(decode=mode))
        session = ort.InferenceSession(one.path, options, providers=["CPUExecutionProvider"])
        session.run(None, {"input": structured_images(2, 96, 64)})
    captured = capfd.readouterr()
    assert captured.err == ""
