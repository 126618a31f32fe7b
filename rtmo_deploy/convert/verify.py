"""An exported graph against the network it was made from, before it is let out.

The exported bytes run in ONNX Runtime on shapes other than the traced one, and PyTorch on the same pictures. So that
people are compared whatever the weights, each level's classifier is shifted on both sides, see
:mod:`rtmo_deploy.convert.liven`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.liven import case_shapes, level_shift, logit_threshold, shift_biases
from rtmo_deploy.measure import Bounds, CaseResult, compare_people, compare_tensors, structured_images
from rtmo_deploy.model.head import box_iou, decode_boxes, grid_priors
from rtmo_deploy.model.spec import STRIDES
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.estimator import open_coordinates, outputs_to_poses
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.liven import Shift
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.model.head import HeadOutputs

#: Batch, height, width of dynamic graphs: square, wide, tall; none is what was traced.
SHAPES = ((1, 256, 256), (2, 192, 320), (5, 256, 128))
#: A decision nearer to its threshold than this may fall either way in float32.
MARGIN = 1e-4


@dataclass(frozen=True)
class VerificationReport:
    """What was compared, and whether it held.

    Attributes:
        cases: One entry an input shape.
        bounds: The worst that passes.
        bias_shift: What was added to the bias of each level's classifier on both sides.
        reference: What was compared with.
    """

    cases: tuple[CaseResult, ...]
    bounds: Bounds
    bias_shift: tuple[float, ...]
    reference: str

    def failures(self) -> list[str]:
        """What is over the bounds, in words, with the input it happened on."""
        return [
            f"{failure} (input {case.batch}x3x{case.height}x{case.width})"
            for case in self.cases
            for failure in case.failures(self.bounds)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference,
            "ok": not self.failures(),
            "bounds": dict(vars(self.bounds)),
            "bias_shift": list(self.bias_shift),
            "cases": [case.to_dict() for case in self.cases],
        }


def verify_export(
    exported: onnx.ModelProto,
    model: RTMO,
    artifact: Artifact,
    *,
    companion: bytes | None = None,
    bounds: Bounds | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> VerificationReport:
    """Run an exported graph and its network on the same pictures and compare.

    Args:
        exported: The graph.
        model: The network, in eval mode.
        artifact: What the graph says of itself.
        companion: The classifier of a ``raw`` graph.
        bounds: The worst that passes.
        progress: Told which input is being compared.

    Raises:
        ArtifactError: ONNX Runtime does not take or run the graph.
    """
    limits = bounds or Bounds()
    progress("running PyTorch")
    references, shift = _references(model, case_shapes(artifact, SHAPES), artifact)
    raw = artifact.decode.mode is DecodeMode.RAW
    coordinates = open_coordinates(companion, where=artifact.path) if companion else None
    shifted = shift_biases(exported, shift)
    session = open_session(shifted.SerializeToString(), where=artifact.path)
    results = []
    for reference in references:
        batch, _, height, width = reference.images.shape
        progress(f"comparing with PyTorch at {batch}x3x{height}x{width}")
        outputs = run_session(session, {"input": reference.images}, where=artifact.path)
        found = outputs_to_poses(outputs, (height, width), artifact, coordinates)
        expected = reference.people(model, artifact, shift)
        people = compare_people(expected, found)
        noise = None
        if people.keypoint_px > limits.keypoint_px:
            progress("measuring the reference's own rounding")
            noise = _reference_noise(model, reference.images, artifact, shift, expected)
        tensors = compare_tensors(reference.tensors(model, dense=True, shift=shift), outputs) if raw else {}
        results.append(CaseResult(batch, height, width, people, tensors, noise))
    if not raw:
        progress("comparing head tensors")
        first = references[0]
        tapped, names = _with_taps(shifted)
        session = open_session(tapped.SerializeToString(), where=artifact.path)
        taps = _joined_taps(run_session(session, {"input": first.images}, where=artifact.path), names)
        tensors = compare_tensors(first.tensors(model, dense=False, shift=shift), taps)
        batch, _, height, width = first.images.shape
        results.append(CaseResult(batch, height, width, None, tensors))
    return VerificationReport(tuple(results), limits, shift, f"PyTorch {torch.__version__}, float32")


@dataclass(frozen=True, eq=False)
class _Reference:
    """Pictures and what the network computes from them."""

    images: NDArray[np.float32]
    features: tuple[torch.Tensor, ...]
    outputs: HeadOutputs

    @classmethod
    @torch.no_grad()
    def run(cls, model: RTMO, images: NDArray[np.float32]) -> _Reference:
        pictures = torch.from_numpy(images).to(next(model.parameters()).dtype)
        features = model.features(pictures)
        return cls(images, features, model.head(features))

    def shifted(self, shift: Shift) -> HeadOutputs:
        levels = zip(self.outputs.cls_scores, shift, strict=True)
        return replace(self.outputs, cls_scores=tuple(scores + own for scores, own in levels))

    @torch.no_grad()
    def people(self, model: RTMO, artifact: Artifact, shift: Shift) -> list[Poses]:
        height, width = self.images.shape[2:]
        decode = artifact.decode
        found = model.head.decode(
            self.shifted(shift),
            (height, width),
            score_thr=decode.score_thr,
            nms_thr=decode.nms_thr,
            pre_topk=decode.pre_topk,
        )
        return [
            Poses(
                one.boxes.float().numpy(),
                one.scores.float().numpy(),
                one.keypoints.float().numpy(),
                one.keypoint_scores.float().numpy(),
                artifact.skeleton,
            )[slice(0, decode.max_dets)]
            for one in found
        ]

    @torch.no_grad()
    def tensors(self, model: RTMO, *, dense: bool, shift: Shift) -> dict[str, NDArray[np.float32]]:
        """Head tensors of all cells, levels joined: ``(B, P, C)``."""
        outputs = self.shifted(shift)
        levels = {"cls_scores": outputs.cls_scores, "bbox_preds": outputs.bbox_preds}
        if dense:
            levels |= {"kpt_vis": outputs.kpt_vis, "pose_vecs": outputs.pose_vecs}
        else:
            convs = model.head.head_module.conv_pose
            levels["pose_feats"] = tuple(
                conv(feature.chunk(2, dim=1)[1]) for conv, feature in zip(convs, self.features, strict=True)
            )
        return {
            name: torch.cat([t.flatten(2).transpose(1, 2) for t in tensors], dim=1).numpy()
            for name, tensors in levels.items()
        }


def _references(model: RTMO, shapes: list[tuple[int, int, int]], artifact: Artifact) -> tuple[list[_Reference], Shift]:
    """The reference on pictures, and a bias shift, under which every decision is clear of its threshold."""
    tried: list[tuple[float, Shift, list[_Reference]]] = []
    for seed in range(4):
        references = [_Reference.run(model, structured_images(b, h, w, seed=seed)) for b, h, w in shapes]
        shift, margin = _choose_shift(references, artifact)
        tried.append((margin, shift, references))
        if margin > MARGIN:
            break
    _, shift, references = max(tried, key=lambda one: one[0])
    return references, shift


def _choose_shift(references: list[_Reference], artifact: Artifact) -> tuple[Shift, float]:
    """A shift for each level, and how far the nearest decision stays from its threshold."""
    threshold = logit_threshold(artifact)
    score_thr = 1 / (1 + math.exp(-threshold))
    margin = 1.0
    pictures = sum(len(one.images) for one in references)
    shift: list[float] = []
    for level in range(len(STRIDES)):
        logits = np.concatenate([one.outputs.cls_scores[level].numpy().ravel() for one in references])
        own, gap = level_shift(logits, pictures, threshold)
        shift.append(own)
        margin = min(margin, gap * score_thr * (1 - score_thr))
    for reference in references:
        height, width = reference.images.shape[2:]
        priors = grid_priors([(height // s, width // s) for s in STRIDES])
        outputs = reference.shifted(tuple(shift))
        raw = torch.cat([t.flatten(2).transpose(1, 2) for t in outputs.bbox_preds], dim=1)
        scores = torch.cat([t.flatten(1) for t in outputs.cls_scores], dim=1)
        for row, corners in zip(scores, decode_boxes(raw, priors), strict=True):
            candidates = corners[row > threshold]
            overlaps = box_iou(candidates, candidates).triu(1)
            margin = min(margin, _nearest(overlaps, artifact.decode.nms_thr))
    return tuple(shift), margin


def _nearest(overlaps: torch.Tensor, threshold: float) -> float:
    distance = (overlaps - threshold).abs()
    return float(distance.min()) if distance.numel() else 1.0


def _reference_noise(
    model: RTMO, images: NDArray[np.float32], artifact: Artifact, shift: Shift, expected: list[Poses]
) -> float:
    """How far the reference's own float32 keypoints are from its float64 ones, at the worst one, pixels."""
    double = copy.deepcopy(model).double()
    exact = _Reference.run(double, images).people(double, artifact, shift)
    return compare_people(exact, expected).keypoint_px


def _with_taps(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[list[str]]]:
    """The model with the head's tensors as further outputs, and their names: for each level logit, box, features."""
    tapped = copy.deepcopy(model)
    joins = [
        node
        for node in tapped.graph.node
        if node.op_type == "Concat" and node.name.startswith("/head/") and len(node.input) == 3
    ]
    if len(joins) != len(STRIDES):
        raise AssertionError(f"{len(joins)} head levels in the graph instead of {len(STRIDES)}")
    names = [list(node.input) for node in joins]
    for name in (name for level in names for name in level):
        tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return tapped, names


def _joined_taps(taps: dict[str, NDArray[np.float32]], names: list[list[str]]) -> dict[str, NDArray[np.float32]]:
    """Taps as :func:`_reference_tensors` gives them; the boxes' folded strides are taken out again."""
    joined: dict[str, list[NDArray[np.float32]]] = {"cls_scores": [], "bbox_preds": [], "pose_feats": []}
    for level, stride in zip(names, STRIDES, strict=True):
        for key, name in zip(joined, level, strict=True):
            value = taps[name]
            rows = value.reshape(*value.shape[:2], -1).transpose(0, 2, 1)
            if key == "bbox_preds":
                rows = np.concatenate([rows[..., :2] / stride, rows[..., 2:] - np.log(stride)], axis=-1)
            joined[key].append(rows)
    return {key: np.concatenate(levels, axis=1).astype(np.float32) for key, levels in joined.items()}
