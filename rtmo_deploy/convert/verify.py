"""Verifies an exported graph against PyTorch before it is written.

The exported bytes run in ONNX Runtime on shapes other than the traced one, and PyTorch on the same images. So that
detections are compared whatever the weights, each level's classifier is shifted on both sides, see
:mod:`rtmo_deploy.convert.bias_shift`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.bias_shift import case_images, decoded, executor, level_shift, logit_threshold, shift_logits
from rtmo_deploy.convert.graph import with_outputs
from rtmo_deploy.measure.bounds import EXACT
from rtmo_deploy.measure.comparison import Figures, compare_people
from rtmo_deploy.measure.verify import Run, VerificationReport, verify
from rtmo_deploy.model.head import box_iou, decode_boxes, grid_priors
from rtmo_deploy.model.spec import STRIDES
from rtmo_deploy.poses import Poses

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.bias_shift import Shift
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.model.head import HeadOutputs

#: Batch, height, width of dynamic graphs: square, wide, tall; none is what was traced.
SHAPES = ((1, 256, 256), (2, 192, 320), (5, 256, 128))
#: A decision nearer to its threshold than this may fall either way in float32.
MARGIN = 1e-4


def verify_export(
    exported: onnx.ModelProto,
    model: RTMO,
    artifact: Artifact,
    *,
    companion: bytes | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> VerificationReport:
    """Run an exported graph and its network on the same images and compare."""
    progress("running PyTorch")
    references, shift = _references(model, artifact)
    raw = artifact.decode.mode is DecodeMode.RAW
    shifted = shift_logits(exported, shift)
    expected = [
        Run(one.detections(model, artifact, shift), one.tensors(model, dense=True, shift=shift) if raw else {})
        for one in references
    ]

    def rounding(index: int) -> Figures:
        """How far the reference's float32 keypoints are from its float64 ones."""
        double = copy.deepcopy(model).double()
        exact = _Reference.run(double, references[index].images).detections(double, artifact, shift)
        return Figures(keypoint_px_max=compare_people(exact, expected[index].people or []).keypoint_px_max)

    images = [one.images for one in references]
    candidate = decoded(executor(shifted, artifact), artifact, companion)
    cases = verify(images, expected, candidate, EXACT, rounding=rounding, progress=progress, name="PyTorch")
    if not raw:
        progress("comparing head tensors")
        tensors = Run(None, references[0].tensors(model, dense=False, shift=shift))
        cases += verify(images[:1], [tensors], lambda pixels: _head_tensors(shifted, pixels, artifact), EXACT)
    return VerificationReport(f"PyTorch {torch.__version__}, float32", tuple(cases), EXACT, shift)


@dataclass(frozen=True, eq=False)
class _Reference:
    """Images and what the network computes from them."""

    images: NDArray[np.float32]
    features: tuple[torch.Tensor, ...]
    outputs: HeadOutputs

    @classmethod
    @torch.no_grad()
    def run(cls, model: RTMO, images: NDArray[np.float32]) -> _Reference:
        pixels = torch.from_numpy(images).to(next(model.parameters()).dtype)
        features = model.features(pixels)
        return cls(images, features, model.head(features))

    def shifted(self, shift: Shift) -> HeadOutputs:
        levels = zip(self.outputs.cls_scores, shift, strict=True)
        return replace(self.outputs, cls_scores=tuple(scores + own for scores, own in levels))

    @torch.no_grad()
    def detections(self, model: RTMO, artifact: Artifact, shift: Shift) -> list[Poses]:
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


def _references(model: RTMO, artifact: Artifact) -> tuple[list[_Reference], Shift]:
    """The reference on images, and a bias shift, under which every decision is clear of its threshold."""
    tried: list[tuple[float, Shift, list[_Reference]]] = []
    for seed in range(4):
        references = [_Reference.run(model, images) for images in case_images(artifact, SHAPES, seed=seed)]
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
    images = sum(len(one.images) for one in references)
    levels = zip(*(one.outputs.cls_scores for one in references), strict=True)
    chosen = [level_shift([part.numpy() for part in level], images, threshold) for level in levels]
    shift = tuple(own for own, _ in chosen)
    margin = min(1.0, *(gap * score_thr * (1 - score_thr) for _, gap in chosen))
    for reference in references:
        height, width = reference.images.shape[2:]
        priors = grid_priors([(height // s, width // s) for s in STRIDES])
        outputs = reference.shifted(shift)
        raw = torch.cat([t.flatten(2).transpose(1, 2) for t in outputs.bbox_preds], dim=1)
        scores = torch.cat([t.flatten(1) for t in outputs.cls_scores], dim=1)
        for row, corners in zip(scores, decode_boxes(raw, priors), strict=True):
            candidates = corners[row > threshold]
            distance = (box_iou(candidates, candidates).triu(1) - artifact.decode.nms_thr).abs()
            margin = min(margin, float(distance.min()) if distance.numel() else 1.0)
    return shift, margin


def _head_tensors(model: onnx.ModelProto, images: NDArray[np.float32], artifact: Artifact) -> Run:
    """The head's tensors in a graph, as :meth:`_Reference.tensors` has them: boxes without their folded strides."""
    joins = [
        node
        for node in model.graph.node
        if node.op_type == "Concat" and node.name.startswith("/head/") and len(node.input) == 3
    ]
    if len(joins) != len(STRIDES):
        raise AssertionError(f"{len(joins)} head levels in the graph instead of {len(STRIDES)}")
    names = [list(node.input) for node in joins]  # of each level: logits, boxes, pose features
    values = executor(with_outputs(model, [name for level in names for name in level]), artifact)(images)
    joined: dict[str, list[NDArray[np.float32]]] = {"cls_scores": [], "bbox_preds": [], "pose_feats": []}
    for level, stride in zip(names, STRIDES, strict=True):
        for key, name in zip(joined, level, strict=True):
            value = values[name]
            rows = value.reshape(*value.shape[:2], -1).transpose(0, 2, 1)
            if key == "bbox_preds":
                rows = np.concatenate([rows[..., :2] / stride, rows[..., 2:] - np.log(stride)], axis=-1)
            joined[key].append(rows)
    return Run(None, {key: np.concatenate(levels, axis=1).astype(np.float32) for key, levels in joined.items()})
