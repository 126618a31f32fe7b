"""The verification lets no damage out, and does not cry wolf."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from golden import golden_model
from onnx import numpy_helper

from rtmo_deploy.convert import (
    ExportOptions,
    decode,
    export,
    export_onnx,
)
from rtmo_deploy.convert.trace import trace_network
from rtmo_deploy.convert.verify import verify_export
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, ParityError
from rtmo_deploy.model import RTMO, NetworkSpec, initialise
from rtmo_deploy.zoo import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.model import LoadedCheckpoint

DECODES = ("onnx", "fixed", "raw")


def assert_refused(checkpoint: LoadedCheckpoint, folder: Path, mode: str, tensor: str, static: bool = False) -> None:
    """The export fails, naming a tensor; what stood at its path before stays, and nothing comes beside it."""
    path = folder / "model.onnx"
    path.write_bytes(b"an older export")
    with pytest.raises(ParityError, match=tensor) as caught:
        export_onnx(checkpoint, path, ExportOptions(decode=mode, static=static))
    assert caught.value.exit_code == 6
    assert "Nothing was written" in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"an older export"
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]


# Damage to the network that is traced. Each takes the network and changes it.


def one_weight(model: RTMO) -> None:
    weight = model.backbone.get_submodule("stage3.0.conv").weight
    weight[0, 0, 1, 1] += 3.0


def colours_swapped(model: RTMO) -> None:
    weight = model.backbone.stem.conv.conv.weight
    weight.copy_(weight.unflatten(1, (4, 3)).flip(2).flatten(1, 2))


def one_bias(model: RTMO) -> None:
    model.head.head_module.out_bbox[1].bias[2] += 0.02


def one_norm(model: RTMO) -> None:
    model.neck.encoder_layer.norms[0].weight[3] *= 1.5


def keypoints_swapped(model: RTMO) -> None:
    linear, norm = model.head.dcc.pose_to_kpts
    for tensor in (linear.weight, linear.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        rows = tensor.unflatten(0, (17, -1)).clone()
        rows[[5, 6]] = rows[[6, 5]]
        tensor.copy_(rows.flatten(0, 1))


def visibility_of_another_level(model: RTMO) -> None:
    model.head.head_module.out_kpt_vis[1].bias.add_(0.01)


def pose_of_another_level(model: RTMO) -> None:
    levels = model.head.head_module.out_pose
    levels[1].weight.copy_(levels[0].weight)


def pose_of_the_fine_level(model: RTMO) -> None:
    levels = model.head.head_module.out_pose
    levels[0].weight.copy_(levels[1].weight)


def visibility_of_the_fine_level(model: RTMO) -> None:
    model.head.head_module.out_kpt_vis[0].bias.add_(0.01)


DAMAGE = [
    (one_weight, "onnx", "cls_scores|bbox_preds|the worst"),
    (colours_swapped, "onnx", "cls_scores|bbox_preds|the worst|detections"),
    (one_bias, "onnx", "the worst box"),
    (one_norm, "fixed", "cls_scores|bbox_preds|the worst|detections"),
    (keypoints_swapped, "onnx", "the worst keypoint is"),
    (visibility_of_another_level, "onnx", "the worst keypoint score"),
    (visibility_of_another_level, "raw", "kpt_vis"),
    (pose_of_another_level, "fixed", "the worst keypoint is"),
    (pose_of_another_level, "raw", "pose_vecs"),
    (pose_of_the_fine_level, "fixed", "the worst keypoint is"),
    (visibility_of_the_fine_level, "onnx", "the worst keypoint score"),
]


@pytest.mark.parametrize(("damage", "mode", "tensor"), DAMAGE, ids=[f"{d.__name__}-{m}" for d, m, _ in DAMAGE])
def test_damaged_network_is_not_let_out(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: LoadedCheckpoint,
    tmp_path: Path,
    damage: Callable[[RTMO], None],
    mode: str,
    tensor: str,
) -> None:
    def trace(model: RTMO, artifact: Artifact, opset: int) -> onnx.ModelProto:
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            damage(damaged)
        return trace_network(damaged, artifact, opset)

    monkeypatch.setattr(export, "trace_network", trace)
    # One size is enough here: the first case stands for all sizes.
    assert_refused(checkpoint, tmp_path, mode, tensor, static=damage is not one_weight)


def test_damaged_companion_is_not_let_out(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path
) -> None:
    original = export.trace_coordinates

    def trace(model: RTMO, opset: int) -> onnx.ModelProto:
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            keypoints_swapped(damaged)
        return original(damaged, opset)

    monkeypatch.setattr(export, "trace_coordinates", trace)
    assert_refused(checkpoint, tmp_path, "raw", "the worst keypoint is")


@pytest.mark.parametrize(
    ("mode", "knobs", "tensor"),
    [
        pytest.param("onnx", {"nms_thr": 0.3}, "detections", marks=pytest.mark.long),
        ("fixed", {"nms_thr": 0.95}, "detections"),
        ("onnx", {"score_thr": 0.12}, "detections"),
    ],
    ids=["lower-nms", "higher-nms", "score"],
)
def test_other_thresholds_than_recorded_are_not_let_out(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: LoadedCheckpoint,
    tmp_path: Path,
    mode: str,
    knobs: dict[str, float],
    tensor: str,
) -> None:
    def trace(model: RTMO, artifact: Artifact, opset: int) -> onnx.ModelProto:
        return trace_network(model, replace(artifact, decode=replace(artifact.decode, **knobs)), opset)

    monkeypatch.setattr(export, "trace_network", trace)
    assert_refused(checkpoint, tmp_path, mode, tensor)


@pytest.mark.parametrize("mode", ["onnx", "fixed"])
def test_priors_off_by_half_a_stride_are_not_let_out(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path, mode: str
) -> None:
    right = decode.GridPriors.forward

    def shifted(self: decode.GridPriors, grid: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return right(self, (grid[0] + 8, grid[1] + 16))

    monkeypatch.setattr(decode.GridPriors, "forward", shifted)
    assert_refused(checkpoint, tmp_path, mode, "the worst|detections: ")


# Damage to the graph that was made.


def edit_initializer(graph: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], None]) -> None:
    (tensor,) = [t for t in graph.graph.initializer if t.name == name]
    values = numpy_helper.to_array(tensor).copy()
    edit(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def node_of(graph: onnx.ModelProto, prefix: str, op: str) -> onnx.NodeProto:
    return next(node for node in graph.graph.node if node.op_type == op and node.name.startswith(prefix))


def break_graph(monkeypatch: pytest.MonkeyPatch, edit: Callable[[onnx.ModelProto], None]) -> None:
    def trace(model: RTMO, artifact: Artifact, opset: int) -> onnx.ModelProto:
        graph = trace_network(model, artifact, opset)
        edit(graph)
        return graph

    monkeypatch.setattr(export, "trace_network", trace)


def test_corrupt_weight_in_the_graph(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path
) -> None:
    def edit(graph: onnx.ModelProto) -> None:
        conv = node_of(graph, "/backbone/", "Conv")

        def flip(values: np.ndarray) -> None:
            values.flat[7] += 0.5

        edit_initializer(graph, conv.input[1], flip)

    break_graph(monkeypatch, edit)
    assert_refused(checkpoint, tmp_path, "onnx", "cls_scores|bbox_preds|the worst|detections")


@pytest.mark.parametrize("mode", ["onnx", "raw"])
def test_nan_in_a_weight(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path, mode: str
) -> None:
    def edit(graph: onnx.ModelProto) -> None:
        prefix = "/decode/people/" if mode == "onnx" else "/head/out_bbox"
        node = node_of(graph, prefix, "Gemm" if mode == "onnx" else "Conv")
        edit_initializer(graph, node.input[1], lambda values: values.flat.__setitem__(0, np.nan))

    break_graph(monkeypatch, edit)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older export")
    # The checks of the file alone, which come first, notice already.
    with pytest.raises((ArtifactError, ParityError), match=r"not finite: (keypoints|bbox_preds)"):
        export_onnx(checkpoint, path, ExportOptions(decode=mode))
    assert path.read_bytes() == b"an older export"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_nan_is_no_match_for_the_comparison(checkpoint: LoadedCheckpoint, tmp_path: Path) -> None:
    artifact = export_onnx(checkpoint, tmp_path / "good.onnx", verify=False).artifact
    graph = trace_network(checkpoint.model, artifact, 17)
    node = node_of(graph, "/decode/people/", "Gemm")
    edit_initializer(graph, node.input[1], lambda values: values.fill(np.nan))
    report = verify_export(graph, checkpoint.model, artifact)
    assert report.failures()
    assert not report.to_dict()["ok"]


# No false alarms.


@pytest.mark.parametrize("mode", ["onnx", "fixed", pytest.param("raw", marks=pytest.mark.long)])
def test_untrained_network_passes(as_checkpoint: Callable[..., LoadedCheckpoint], tmp_path: Path, mode: str) -> None:
    network = RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17))
    initialise(network, 0)
    result = export_onnx(as_checkpoint(network.eval()), tmp_path / "n.onnx", ExportOptions(decode=mode))
    assert result.verification is not None
    # Nobody passes 0.1 with these weights: it is by the shift that people are compared at all.
    assert min(result.verification.bias_shift) > 0.5
    assert all(case.people.matched > 5 for case in result.verification.cases if case.people)


@pytest.mark.parametrize("mode", [pytest.param("onnx", marks=pytest.mark.long), "fixed", "raw"])
def test_ill_conditioned_network_passes_by_the_references_own_noise(
    as_checkpoint: Callable[..., LoadedCheckpoint], tmp_path: Path, mode: str
) -> None:
    network = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(-2, -1))
    with torch.no_grad():
        # Boxes far larger than the input and steep logits: one rounding moves a keypoint by more than the bound.
        for conv in network.head.head_module.out_bbox:
            conv.bias[2:] += 2.0
        for layer in (network.head.dcc.x_fc, network.head.dcc.y_fc):
            layer.weight.mul_(30)
    result = export_onnx(as_checkpoint(network), tmp_path / "n.onnx", ExportOptions(decode=mode))
    assert result.verification is not None
    noises = [case.noise_px for case in result.verification.cases if case.noise_px is not None]
    assert noises
    for case in result.verification.cases:
        if case.noise_px is not None:
            assert case.people.keypoint_px_max > 0.05


def test_thresholds_of_all_kinds_pass(checkpoint: LoadedCheckpoint, tmp_path: Path) -> None:
    for options in (
        ExportOptions(static=True, decode="onnx", score_thr=0.001, max_dets=3),
        ExportOptions(static=True, batch=2, imgsz=(96, 160), decode="onnx", score_thr=0.999, nms_thr=1.0),
        ExportOptions(
            static=True, imgsz=(96, 96), decode="fixed", score_thr=0.5, nms_thr=0.0, max_dets=1, pre_topk=300
        ),
        ExportOptions(static=True, imgsz=(32, 32)),
    ):
        result = export_onnx(checkpoint, tmp_path / "n.onnx", options)
        assert result.verification is not None
        assert result.verification.failures() == []


# Without ONNX Runtime.


def test_without_onnxruntime_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(export, "trace_network", lambda *_: pytest.fail("traced before it was found out"))
    with pytest.raises(MissingDependencyError) as caught:
        export_onnx(checkpoint, tmp_path / "model.onnx")
    assert caught.value.exit_code == 5
    assert "pip install 'rtmo-deploy[cpu]'" in str(caught.value)
    assert "--no-verify" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unverified_export_needs_no_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, checkpoint: LoadedCheckpoint, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "model.onnx"
    assert export_onnx(checkpoint, path, verify=False).artifact.verified is None
    assert path.is_file()
