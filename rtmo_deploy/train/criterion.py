"""From raw head outputs and annotated people to the loss (MMPose 1.3.2, ``RTMOHead.loss``)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.model.dcc import boxes_to_center_scale
from rtmo_deploy.model.head import decode_boxes, flatten_levels, grid_priors, iou
from rtmo_deploy.train.assign import Targets, assign, keypoint_similarity, object_keypoint_similarity
from rtmo_deploy.train.likelihood import keypoint_likelihood
from rtmo_deploy.train.sections import TERMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.model.dcc import DCC
    from rtmo_deploy.model.head import HeadOutputs, RTMOHead
    from rtmo_deploy.train.assign import Assignment
    from rtmo_deploy.train.sections import LossSection


#: A proxy keypoint counts as seen where its visibility is above this.
SEEN = 0.3


def loss_terms(
    head: RTMOHead,
    outputs: HeadOutputs,
    targets: Targets,
    options: LossSection,
    *,
    second_stage: bool = False,
    divisor: Callable[[int], float] = lambda positives: max(positives, 1),
) -> tuple[dict[str, Tensor], Assignment]:
    """The weighted terms of the loss of a batch, float32 scalars, and the cells that learn a person.

    Args:
        head: The head whose outputs are judged; its coordinate classifier takes part in the forward pass.
        outputs: Its raw outputs, with ``kpt_offsets``.
        targets: People of the batch.
        options: Weights and switches; the weight of the heatmaps is not used here.
        second_stage: The proxy regression learns from the coordinate classifier where that is better, and the
            classification target is the classifier's OKS.
        divisor: From this process's number of positive cells to what its sums are divided by: that number, or with
            several processes its mean over them. The reference does so for the classification and box terms only,
            and takes the others' mean process by process; here every term is divided by it, so that the mean over
            several processes is the loss of their joint batch.
    """
    sigmas = head.loss_oks.sigmas
    sizes = [(t.shape[-2], t.shape[-1]) for t in outputs.cls_scores]
    priors = grid_priors(sizes, device=outputs.cls_scores[0].device)
    logits = flatten_levels(outputs.cls_scores).float()[..., 0]
    raw_boxes = flatten_levels(outputs.bbox_preds).float()
    boxes = decode_boxes(raw_boxes, priors)
    offsets = flatten_levels(outputs.kpt_offsets).float()
    proxies = offsets.reshape(*offsets.shape[:-1], -1, 2) * priors[:, None, 2:] + priors[:, None, :2]
    visibility = flatten_levels(outputs.kpt_vis).float()
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
    by = divisor(positives)
    at, who = (found.image, found.cell), (found.image, found.person)
    box, proxy, prior = boxes[at], proxies[at], priors[found.cell]
    keypoints, visible, areas = targets.keypoints[who], targets.visible[who], targets.areas[who]
    terms = {"bbox": 1 - iou(box, targets.boxes[who]).clamp(min=1e-16).square()}
    if options.bbox_aux:
        terms["bbox_aux"] = (raw_boxes[at] - _raw_box_targets(targets.boxes[who], prior)).abs().sum(dim=-1)
    terms["vis"] = F.binary_cross_entropy_with_logits(visibility[at], visible, reduction="none").mean(dim=-1)
    # Without a person too: several processes go through the classifier together.
    with _statistics(head.dcc, positives):
        terms["mle"], decoded = keypoint_likelihood(
            head.dcc,
            flatten_levels(outputs.pose_vecs).float()[at],
            boxes_to_center_scale(box, head.dcc.bbox_padding),
            prior[:, :2],
            keypoints,
            visible,
            areas,
        )
    wanted, weight, overlaps = keypoints, visible, found.oks
    if second_stage:
        by_proxy = torch.linalg.vector_norm(proxy.detach() - keypoints, dim=-1)
        by_classifier = torch.linalg.vector_norm(decoded - keypoints, dim=-1)
        wanted, weight = decoded, visible * (by_proxy > by_classifier)
        overlaps = object_keypoint_similarity(decoded, keypoints, visible, areas, sigmas)
    # Divided by K, not by the number of labelled keypoints (the reference's ``norm_target_weight`` is off): a person
    # with few labels starts with a large loss that no prediction can lower.
    terms["oks"] = 1 - (keypoint_similarity(proxy, wanted, areas, sigmas) * weight).mean(dim=-1)
    scores = torch.zeros_like(logits)
    scores[at] = overlaps.pow(options.overlaps_power)
    terms["cls"] = varifocal_loss(logits, scores)
    if targets.ignore is not None:
        terms["cls"] = terms["cls"] * _cells_to_learn(proxies.detach(), visibility.detach(), targets.ignore)
    return {name: getattr(options, name) * terms[name].sum() / by for name in TERMS if name in terms}, found


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


def _cells_to_learn(proxies: Tensor, visible: Tensor, ignore: Tensor) -> Tensor:
    """How much each cell's classification counts, ``(B, P)`` in 0..1.

    A cell whose proxy pose ``(B, P, K, 2)`` stands on an ignored person is neither right nor wrong: it weighs one minus
    the mask ``(B, H, W)``, interpolated at the mean of the keypoints it thinks visible (``(B, P, K)`` logits).
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


def varifocal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Varifocal loss (arXiv 2008.13367), element by element.

    Cells with a target above 1e-4 weigh as much as their target, the others ``alpha * p ** gamma``. The weight
    carries gradient, as in the reference; the cross entropy sees the logit clamped to +-10.
    """
    positive = (targets > 1e-4).to(logits.dtype)
    weight = alpha * logits.sigmoid().pow(gamma) * (1 - positive) + targets * positive
    return F.binary_cross_entropy_with_logits(logits.clamp(-10, 10), targets, reduction="none") * weight


class LossModule(nn.Module):
    """Network and loss as one module, as distributed training needs it; its ``options`` change with the epoch."""

    def __init__(
        self,
        model: RTMO,
        options: LossSection,
        *,
        precision: str = "fp32",
        auxiliary: KeypointHeatmaps | None = None,
        divisor: Callable[[int], float] = lambda positives: max(positives, 1),
    ) -> None:
        super().__init__()
        self.model, self.auxiliary, self.divisor = model, auxiliary, divisor
        self.options, self.second_stage = options, False
        self.mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.terms: dict[str, Tensor] = {}

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        """``(B, 3, H, W)`` and their people to the scalar loss; its weighted terms are in ``terms`` then."""
        with torch.autocast(images.device.type, self.mixed, enabled=self.mixed is not None):
            outputs = self.model(images, proxy=True)
        terms, _ = loss_terms(
            self.model.head,
            outputs,
            targets,
            self.options,
            second_stage=self.second_stage,
            divisor=self.divisor,
        )
        total = torch.stack(list(terms.values())).sum()
        if self.auxiliary is not None:
            terms["heatmap"] = self.options.heatmap * self.auxiliary(targets)
            total = total + terms["heatmap"]
        self.terms = {name: term.detach() for name, term in terms.items()}
        return total


STRIDE = 8
#: A spot's deviation is this share of the square root of the person's area, and at least ``LEAST`` cells.
SPREAD = 0.04
LEAST = 0.7
#: Logits start at the probability 0.02, about the share of cells with a keypoint.
PRIOR_LOGIT = -3.9


class KeypointHeatmaps(nn.Module):
    """Heatmaps of all keypoints from the neck's features of stride 8, and their loss."""

    def __init__(self, model: RTMO, seed: int) -> None:
        super().__init__()
        joints = model.spec.num_keypoints
        self.predict = nn.Conv2d(model.spec.hidden_dim, joints, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.predict.weight.normal_(std=0.01, generator=generator)
            nn.init.constant_(self.predict.get_parameter("bias"), PRIOR_LOGIT)
        self._features: Tensor | None = None
        model.neck.fpn_blocks[-1].register_forward_hook(self._listen)

    def _listen(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features = output if self.training else None

    def forward(self, targets: Targets) -> Tensor:
        """Loss of the batch that the network saw last, a scalar."""
        if self._features is None:
            raise RuntimeError("the network has not seen a batch in training mode")
        logits = self.predict(self._features.float())
        self._features = None
        height, width = logits.shape[-2:]
        wanted = draw_heatmaps(targets, (height, width))
        return focal_heatmap_loss(logits, wanted, float(targets.visible.sum()))


@torch.no_grad()
def draw_heatmaps(targets: Targets, hw: tuple[int, int]) -> Tensor:
    """Gaussian spots at the labelled keypoints.

    ``(B, K, h, w)`` in 0..1; of several spots the strongest, and exactly 1 in the cell of stride 8 that a keypoint lies
    in.
    """
    cells = targets.keypoints / STRIDE  # pixel 0 lies in cell 0
    deviation = (targets.areas.sqrt() * SPREAD / STRIDE).clamp(min=LEAST)[..., None]
    shown = targets.visible * targets.present[..., None]
    rows = []
    for axis, size in ((1, hw[0]), (0, hw[1])):
        position = cells[..., axis].floor()
        inside = (position >= 0) & (position < size)
        shown = shown * inside
        offset = torch.arange(size, device=cells.device) - position[..., None]
        rows.append((offset / deviation[..., None]).square() / -2)
    y, x = (row.exp() for row in rows)
    spots = torch.einsum("bgky,bgkx->bgkyx", y * shown[..., None], x)
    return spots.amax(dim=1)


def focal_heatmap_loss(logits: Tensor, wanted: Tensor, count: float) -> Tensor:
    """CenterNet's focal loss, summed and divided by the number of keypoints."""
    probability = logits.sigmoid()
    hit = wanted > 1 - 1e-4
    found = F.logsigmoid(logits) * (1 - probability).square() * hit
    missed = F.logsigmoid(-logits) * probability.square() * (1 - wanted).pow(4) * ~hit
    return -(found + missed).sum() / max(count, 1.0)
