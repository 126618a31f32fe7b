"""Criterion: from raw head outputs and annotated people to the loss (MMPose 1.3.2, ``RTMOHead.loss``)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.model.dcc import boxes_to_center_scale
from rtmo_deploy.model.head import decode_boxes, flatten_levels, grid_priors
from rtmo_deploy.train import losses
from rtmo_deploy.train.assign import Assignment, assign, object_keypoint_similarity
from rtmo_deploy.train.likelihood import keypoint_likelihood

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtmo_deploy.model.dcc import DCC
    from rtmo_deploy.model.head import HeadOutputs, RTMOHead
    from rtmo_deploy.train.targets import Targets

#: A proxy keypoint counts as seen where its visibility is above this.
SEEN = 0.3
TERMS = ("cls", "bbox", "oks", "vis", "mle", "bbox_aux")


@dataclass(frozen=True)
class LossOptions:
    """Weights and switches of the loss; the defaults are those of the first stage of RTMO-s and RTMO-t.

    Attributes:
        cls: Weight of the varifocal classification loss.
        bbox: Weight of the squared IoU loss.
        oks: Weight of the OKS loss of the proxy regression.
        vis: Weight of the visibility loss.
        mle: Weight of the likelihood of the heatmaps.
        heatmap: Weight of :class:`rtmo_deploy.train.auxiliary.KeypointHeatmaps`, which is not computed here.
        bbox_aux: Weight of the L1 loss on raw box predictions; 0 turns it off (it is on in the last epochs only).
        overlaps_power: The classification target is the OKS to this power.
        proxy_target_cc: Second stage: the proxy regression learns from the coordinate classifier where that is
            better, and the classification target is the classifier's OKS.
        keypoint_center, least_cells: See :func:`rtmo_deploy.train.assign.assign`.
    """

    cls: float = 1.0
    bbox: float = 5.0
    oks: float = 30.0
    vis: float = 1.0
    mle: float = 1.0
    bbox_aux: float = 0.0
    overlaps_power: float = 0.5
    proxy_target_cc: bool = False
    keypoint_center: bool = True
    least_cells: int = 1
    heatmap: float = 0.0


@dataclass(frozen=True)
class LossResult:
    """What one batch costs.

    Attributes:
        total: Scalar, to call ``backward`` on.
        terms: Each weighted term, detached scalars, keys among ``TERMS``.
        num_positives: Positive cells of this process's batch.
        assignment: Who learns what.
    """

    total: Tensor
    terms: dict[str, Tensor]
    num_positives: int
    assignment: Assignment


def _at_least_one(positives: int) -> float:
    return float(max(positives, 1))


class Criterion:
    """The loss of a batch.

    Args:
        head: The head whose outputs are judged; its coordinate classifier takes part in the forward pass.
        options: Weights and switches.
        divisor: From this process's number of positive cells to what its sums are divided by: that number, or with
            several processes its mean over them. The reference does so for the classification and box terms only,
            and takes the others' mean process by process; here every term is divided by it, so that the mean over
            several processes is the loss of their joint batch.
    """

    def __init__(
        self, head: RTMOHead, options: LossOptions | None = None, divisor: Callable[[int], float] = _at_least_one
    ) -> None:
        self.head = head
        self.options = options or LossOptions()
        self.divisor = divisor

    def __call__(self, outputs: HeadOutputs, targets: Targets) -> LossResult:
        """The loss.

        Args:
            outputs: Raw outputs with ``kpt_offsets``, of any floating type; the loss is computed in float32.
            targets: The annotated people.
        """
        options, sigmas = self.options, self.head.loss_oks.sigmas
        sizes = [(t.shape[-2], t.shape[-1]) for t in outputs.cls_scores]
        priors = grid_priors(sizes, device=outputs.cls_scores[0].device)
        logits = flatten_levels(outputs.cls_scores).float()[..., 0]
        raw_boxes = flatten_levels(outputs.bbox_preds).float()
        boxes = decode_boxes(raw_boxes, priors)
        offsets = flatten_levels(outputs.kpt_offsets).float()
        proxies = offsets.reshape(*offsets.shape[:-1], -1, 2) * priors[:, None, 2:] + priors[:, None, :2]
        found = assign(
            logits.detach(),
            boxes.detach(),
            proxies.detach(),
            priors,
            targets,
            sigmas,
            keypoint_center=options.keypoint_center,
            least_cells=options.least_cells,
        )
        positives = len(found.cell)
        divisor = self.divisor(positives)
        at, who = (found.image, found.cell), (found.image, found.person)
        person = _People(targets.boxes[who], targets.keypoints[who], targets.visible[who], targets.areas[who])
        prior = priors[found.cell]
        overlaps = found.oks
        terms: dict[str, Tensor] = {}
        # Without a person too: several processes go through the classifier together.
        box = boxes[at]
        terms["bbox"] = losses.squared_iou_loss(box, person.boxes)
        if options.bbox_aux:
            terms["bbox_aux"] = (raw_boxes[at] - _raw_box_targets(person.boxes, prior)).abs().sum(dim=-1)
        visibility = flatten_levels(outputs.kpt_vis).float()
        terms["vis"] = losses.visibility_loss(visibility[at], person.visible)
        with _statistics(self.head.dcc, positives):
            terms["mle"], keypoints = keypoint_likelihood(
                self.head.dcc,
                flatten_levels(outputs.pose_vecs).float()[at],
                boxes_to_center_scale(box, self.head.dcc.bbox_padding),
                prior[:, :2],
                person.keypoints,
                person.visible,
                person.areas,
            )
        target, weight = person.keypoints, person.visible
        if options.proxy_target_cc:
            target, weight, overlaps = _proxy_targets(proxies[at].detach(), keypoints, person, sigmas)
        terms["oks"] = losses.oks_loss(proxies[at], target, weight, person.areas, sigmas)
        scores = torch.zeros_like(logits)
        scores[at] = overlaps.pow(options.overlaps_power)
        terms["cls"] = losses.varifocal_loss(logits, scores)
        if targets.ignore is not None:
            terms["cls"] = terms["cls"] * _cells_to_learn(proxies.detach(), visibility.detach(), targets.ignore)
        weighted = {name: getattr(options, name) * terms[name].sum() / divisor for name in TERMS if name in terms}
        total = torch.stack(list(weighted.values())).sum()
        return LossResult(total, {name: term.detach() for name, term in weighted.items()}, positives, found)


@dataclass(frozen=True)
class _People:
    """The person of each positive cell: ``(M, 4)``, ``(M, K, 2)``, ``(M, K)``, ``(M,)``."""

    boxes: Tensor
    keypoints: Tensor
    visible: Tensor
    areas: Tensor


@contextlib.contextmanager
def _statistics(dcc: DCC, positives: int) -> Iterator[None]:
    """A single positive cell has no variance: the classifier's BatchNorm then uses its running statistics."""
    norm = dcc.pose_to_kpts[1]
    alone = positives == 1 and isinstance(norm, nn.BatchNorm1d) and norm.training
    norm.train(norm.training and not alone)
    try:
        yield
    finally:
        norm.train(norm.training or alone)


def _proxy_targets(
    proxies: Tensor, keypoints: Tensor, person: _People, sigmas: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Second stage: targets and weights of the proxy regression, and the classifier's OKS."""
    by_proxy = torch.linalg.vector_norm(proxies - person.keypoints, dim=-1)
    by_classifier = torch.linalg.vector_norm(keypoints - person.keypoints, dim=-1)
    weight = person.visible * (by_proxy > by_classifier)
    oks = object_keypoint_similarity(keypoints, person.keypoints, person.visible, person.areas, sigmas)
    return keypoints, weight, oks


def _cells_to_learn(proxies: Tensor, visible: Tensor, ignore: Tensor) -> Tensor:
    """How much each cell's classification counts.

    A cell whose proxy pose stands on an ignored person is neither right nor wrong: it weighs one minus the mask,
    interpolated at the mean of the proxy keypoints it thinks visible.

    Args:
        proxies: ``(B, P, K, 2)`` network-input pixels.
        visible: ``(B, P, K)`` logits.
        ignore: ``(B, H, W)`` bool.

    Returns:
        ``(B, P)`` in 0..1.
    """
    seen = (visible.sigmoid() > SEEN)[..., None]
    mean = (proxies * seen).sum(dim=2) / seen.sum(dim=2).clamp(min=1e-8)
    height, width = ignore.shape[-2:]
    grid = mean / mean.new_tensor([width - 1, height - 1]) * 2 - 1
    covered = F.grid_sample(ignore[:, None].float(), grid[:, None], align_corners=False)
    return 1 - covered[:, 0, 0]


def _raw_box_targets(boxes: Tensor, priors: Tensor) -> Tensor:
    """``(M, 4)`` boxes as the raw outputs that decode to them."""
    size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    stride = priors[:, 2:]
    return torch.cat([(center - priors[:, :2]) / stride, (size / stride + 1e-8).log()], dim=-1)
