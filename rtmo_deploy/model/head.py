"""RTMO head: from feature maps to scores, boxes, visibilities and pose vectors, and from those to detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.model.dcc import DCC, boxes_to_center_scale
from rtmo_deploy.model.layers import ConvModule, conv
from rtmo_deploy.model.spec import POSE_GROUPS, STRIDES, NetworkSpec
from rtmo_deploy.zoo.skeletons import UNKNOWN_SIGMA, skeleton_for

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of the head, one tensor a level (strides 16 and 32), each ``(B, channels, H, W)``."""

    #: 1 channel, logits.
    cls_scores: tuple[Tensor, ...]
    #: 4 channels: centre offset from the prior and log size, both in strides.
    bbox_preds: tuple[Tensor, ...]
    #: K channels, logits of visibility.
    kpt_vis: tuple[Tensor, ...]
    #: ``pose_vec_channels`` channels, what the coordinate classifier decodes.
    pose_vecs: tuple[Tensor, ...]
    #: 2K channels, offsets of the proxy keypoints in strides; empty unless asked for, for training.
    kpt_offsets: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Detections:
    """Detections in one input, best first, in network-input pixels."""

    #: ``(N, 4)`` x1, y1, x2, y2, clipped to the input.
    boxes: Tensor
    #: ``(N,)``.
    scores: Tensor
    #: ``(N, K, 2)`` x, y, not clipped.
    keypoints: Tensor
    #: ``(N, K)``.
    keypoint_scores: Tensor
    #: ``(N,)`` the prior each detection comes from: stride 16 first, row by row, then stride 32.
    indices: Tensor


def grid_priors(sizes: Sequence[tuple[int, int]], *, device: torch.device | None = None) -> Tensor:
    """Centres and strides of all cells of feature maps with these heights and widths, one a level.

    A cell's centre is ``i * stride + (stride - 1) / 2``, the centre of its pixels' indices: 7.5, 23.5, ...
    The result is ``(P, 3)`` float32: x, y, stride; level by level, row by row.
    """
    levels = []
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        cells = torch.stack([x.flatten(), y.flatten()], dim=-1).float()
        centres = cells * stride + (stride - 1) / 2
        levels.append(torch.cat([centres, torch.full_like(centres[:, :1], stride)], dim=-1))
    return torch.cat(levels)


def decode_boxes(bbox_preds: Tensor, priors: Tensor) -> Tensor:
    """``(..., P, 4)`` raw predictions and ``(P, 3)`` priors to ``(..., P, 4)`` x1, y1, x2, y2, unclipped."""
    stride = priors[:, 2:]
    centre = bbox_preds[..., :2] * stride + priors[:, :2]
    half = bbox_preds[..., 2:].exp() * stride / 2
    return torch.cat([centre - half, centre + half], dim=-1)


class RTMOHeadModule(nn.Module):
    """The convolutions of the head; each level has its own."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels, pose, groups = spec.head_channels, spec.pose_channels, POSE_GROUPS
        levels = range(len(STRIDES))

        def conv3(in_channels: int, out_channels: int, groups: int = 1) -> ConvModule:
            return conv(spec.settings, "head", in_channels, out_channels, 3, groups=groups)

        def outputs(in_channels: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(in_channels, out_channels, 1) for _ in levels)

        self.conv_cls = nn.ModuleList(nn.Sequential(*(conv3(channels, channels) for _ in range(2))) for _ in levels)
        self.out_cls = outputs(channels, 1)
        self.conv_pose = nn.ModuleList(
            nn.Sequential(conv3(channels, pose), *(conv3(pose, pose, groups) for _ in range(3))) for _ in levels
        )
        self.out_bbox = outputs(pose, 4)
        self.out_kpt_reg = outputs(pose, 2 * spec.num_keypoints)
        self.out_kpt_vis = outputs(pose, spec.num_keypoints)
        self.out_pose = outputs(pose, spec.pose_vec_channels)

    def forward(self, features: Sequence[Tensor], *, proxy: bool = False) -> HeadOutputs:
        """Feature maps of strides 16 and 32, each ``(B, 2 * head_channels, H, W)``, to raw outputs.

        The first half of the channels feeds the classification branch, the second half the pose branch. With
        ``proxy``, ``kpt_offsets`` are computed too.
        """
        cls, bbox, vis, pose, offsets = [], [], [], [], []
        for i, feature in enumerate(features):
            cls_feat, reg_feat = feature.chunk(2, dim=1)
            reg_feat = self.conv_pose[i](reg_feat)
            cls.append(self.out_cls[i](self.conv_cls[i](cls_feat)))
            bbox.append(self.out_bbox[i](reg_feat))
            vis.append(self.out_kpt_vis[i](reg_feat))
            pose.append(self.out_pose[i](reg_feat))
            if proxy:
                offsets.append(self.out_kpt_reg[i](reg_feat))
        return HeadOutputs(tuple(cls), tuple(bbox), tuple(vis), tuple(pose), tuple(offsets))


class KeypointSigmas(nn.Module):
    """Holder of the OKS sigmas, which the official state dict keeps under ``head.loss_oks``."""

    sigmas: Tensor

    def __init__(self, num_keypoints: int) -> None:
        super().__init__()
        values = skeleton_for(num_keypoints).sigmas or (UNKNOWN_SIGMA,) * num_keypoints
        self.register_buffer("sigmas", torch.tensor(values, dtype=torch.float32))


class RTMOHead(nn.Module):
    """The head."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.loss_oks = KeypointSigmas(spec.num_keypoints)
        self.head_module = RTMOHeadModule(spec)
        self.dcc = DCC(spec)

    def forward(self, features: Sequence[Tensor], *, proxy: bool = False) -> HeadOutputs:
        """See :meth:`RTMOHeadModule.forward`."""
        result: HeadOutputs = self.head_module(features, proxy=proxy)
        return result

    def decode(
        self,
        outputs: HeadOutputs,
        input_hw: tuple[int, int],
        *,
        score_thr: float = 0.1,
        nms_thr: float = 0.65,
        pre_topk: int | None = None,
    ) -> list[Detections]:
        """Raw outputs to detections, as the reference's ``RTMOHead.predict``.

        Args:
            outputs: Raw outputs of a batch.
            input_hw: Height and width of the network input in pixels; boxes are clipped to it, after the keypoints
                have been decoded from the unclipped boxes.
            score_thr: A detection's score must be above this (strictly).
            nms_thr: A detection whose box overlaps a better one by more than this IoU is dropped.
            pre_topk: Only so many best scores are looked at; None, as in the reference, for all.

        Returns:
            One entry an image of the batch. There is no limit on the number of detections.
        """
        sizes = [(t.shape[-2], t.shape[-1]) for t in outputs.cls_scores]
        priors = grid_priors(sizes, device=outputs.cls_scores[0].device)
        scores = flatten_levels(outputs.cls_scores)[..., 0].sigmoid()
        boxes = decode_boxes(flatten_levels(outputs.bbox_preds), priors)
        visibility = flatten_levels(outputs.kpt_vis)
        pose_vecs = flatten_levels(outputs.pose_vecs)
        height, width = input_hw
        limits = boxes.new_tensor([width, height, width, height])
        found = []
        for i in range(scores.shape[0]):
            candidates = (scores[i] > score_thr).nonzero()[:, 0]
            if pre_topk is not None:
                best = torch.argsort(scores[i, candidates], descending=True, stable=True)
                candidates = candidates[best[:pre_topk]]
            kept = non_maximum_suppression(boxes[i, candidates], scores[i, candidates], nms_thr)
            keep = candidates[kept]
            chosen = boxes[i, keep]
            keypoints = self.dcc(
                pose_vecs[i, keep], boxes_to_center_scale(chosen, self.dcc.bbox_padding), priors[keep, :2]
            )
            found.append(
                Detections(
                    boxes=chosen.clamp(min=0).minimum(limits),
                    scores=scores[i, keep],
                    keypoints=keypoints,
                    keypoint_scores=visibility[i, keep].sigmoid(),
                    indices=keep,
                )
            )
        return found


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """``(B, C, H, W)`` a level to ``(B, P, C)``."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of ``(..., 4)`` boxes x1, y1, x2, y2, whose leading dimensions broadcast: ``(...)``."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    area = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (first, second)]
    union = area[0] + area[1] - intersection
    return intersection / union.clamp(min=1e-6)  # the reference's guard against an empty union


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """:func:`iou` of every pair of ``(N, 4)`` and ``(M, 4)`` boxes: ``(N, M)``."""
    return iou(first[:, None], second[None])


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_thr: float) -> Tensor:
    """Indices of the ``(N, 4)`` boxes that survive, best score first; equal scores keep their order.

    A box whose IoU with a better survivor is above ``iou_thr`` is dropped.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    suppresses = (box_iou(boxes[order], boxes[order]) > iou_thr).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~suppresses[i, i + 1 :]
    return order[alive.to(order.device)]
