"""Decoders of an exported graph: head maps to ``dets`` and ``keypoints``, or to head tensors.

All but ``raw`` put out ``dets`` (B, N, 5) as x1, y1, x2, y2, score and ``keypoints`` (B, N, K, 3) as x, y, score, in
network-input pixels, best first; rows beyond a picture's people are zero. Boxes are clipped to the input after the
keypoints have been decoded from the unclipped ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtmo_deploy.convert.coordinates import ExportCoordinates
from rtmo_deploy.convert.onnx_ops import (
    gather_nd,
    input_limits,
    length,
    members_before,
    nms_op,
    one_hot,
    reshape,
    scatter_rows,
    sort_descending,
    split,
    top_at_most,
)
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from rtmo_deploy.convert.network import HeadMaps
    from rtmo_deploy.model.rtmo import RTMO


class GridPriors(nn.Module):
    """Centres of all cells: ``(P, 2)`` x, y in pixels, level by level, row by row."""

    def forward(self, grid: tuple[Tensor, Tensor]) -> Tensor:
        """Pixel positions ``(H, W, 2)`` of each level's cells to ``(P, 2)``."""
        return torch.cat(
            [reshape(positions + (stride - 1) / 2, (-1, 2)) for positions, stride in zip(grid, STRIDES, strict=True)]
        )


class People(nn.Module):
    """Survivors, from their pose features to rows of output. Runs on the N survivors only."""

    to_corners: Tensor

    def __init__(self, model: RTMO) -> None:
        super().__init__()
        head = model.head.head_module
        self.num_keypoints = model.spec.num_keypoints
        self.sizes = [model.spec.num_keypoints, model.spec.pose_vec_channels]
        self.dcc = ExportCoordinates(model.head.dcc)
        # One matrix a level: columns of visibility first, then of the pose vector.
        self.out = nn.ModuleList(
            _as_linear(vis, pose) for vis, pose in zip(head.out_kpt_vis, head.out_pose, strict=True)
        )
        self.register_buffer("to_corners", CORNERS)

    def forward(
        self, feats: Tensor, offset: Tensor, boxes: Tensor, coarse: Tensor, scores: Tensor, images: Tensor
    ) -> Tensor:
        """Rows of output, flat.

        Args:
            feats: ``(N, pose_channels)``.
            offset: ``(N, 2)`` of the box centre from the cell's, pixels.
            boxes: ``(N, 4)`` cx, cy, w, h.
            coarse: ``(N, 1)`` bool: the cell is of stride 32.
            scores: ``(N, 1)``.
            images: The network's input, whose size the boxes are clipped to.

        Returns:
            ``(N, 5 + 3 * K)``: box, score, then x, y, score of each keypoint.
        """
        out = torch.where(coarse, self.out[1](feats), self.out[0](feats))
        visibility, pose_vecs = split(out, self.sizes, dim=1)
        xy = self.dcc(pose_vecs, offset, boxes)
        keypoints = torch.cat([xy, visibility.sigmoid()[:, :, None]], dim=2)
        corners = (boxes @ self.to_corners).relu().minimum(input_limits(images))
        return torch.cat([corners, scores, reshape(keypoints, (-1, 3 * self.num_keypoints))], dim=1)


#: cx, cy, w, h times this is x1, y1, x2, y2; all its factors are exact in any floating-point format.
CORNERS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])


def _as_linear(*convs: nn.Module) -> nn.Linear:
    """1x1 convolutions of the same input as one linear layer."""
    weight = torch.cat([conv.get_parameter("weight").detach().flatten(1) for conv in convs])
    bias = torch.cat([conv.get_parameter("bias").detach() for conv in convs])
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _centre_boxes(offset: Tensor, log_size: Tensor, priors: Tensor) -> Tensor:
    """Offset ``(..., 2)`` from the prior and log size ``(..., 2)`` to cx, cy, w, h in pixels."""
    return torch.cat([offset + priors, log_size.exp()], dim=-1)


class OnnxDecode(nn.Module):
    """People by the standard NonMaxSuppression operator; the number of rows N is the most people in any picture.

    Args:
        model: The trained network.
        score_thr: Scores must be above this.
        nms_thr: Overlaps above this IoU are suppressed.
        max_dets: Most people in a picture.
        pre_topk: Candidates that enter the suppression; None for all of them.
        batch: The static batch size, None when it is dynamic.
        min_rows: N is at least this; a row that is nobody is zero.
    """

    def __init__(
        self,
        model: RTMO,
        *,
        score_thr: float,
        nms_thr: float,
        max_dets: int,
        pre_topk: int | None = None,
        batch: int | None = None,
        min_rows: int = 0,
    ) -> None:
        super().__init__()
        self.people = People(model)
        self.priors = GridPriors()
        self.score_thr, self.nms_thr, self.max_dets = score_thr, nms_thr, max_dets
        self.pre_topk = pre_topk
        self.min_rows = min_rows
        self.single = batch == 1 and not min_rows
        self.num_keypoints = model.spec.num_keypoints

    def forward(self, maps: HeadMaps, images: Tensor) -> tuple[Tensor, Tensor]:
        """Head maps and the input to ``dets`` and ``keypoints``."""
        logits, rest = split(maps.maps, [1, 4 + maps.channels], dim=1)
        scores, rest = logits.sigmoid(), rest.transpose(1, 2)
        offset, log_size, feats = split(rest, [2, 2, maps.channels], dim=2)
        boxes = _centre_boxes(offset, log_size, self.priors(maps.grid))
        selected = self._select(boxes, scores)
        # Runtimes differ in the order of the operator's rows: sort them.
        score, order = sort_descending(gather_nd(scores, selected))
        cell = selected[order][:, ::2]
        picture, index = split(cell, [1, 1], dim=1)
        rows = self.people(
            *(gather_nd(x, cell) for x in (feats, offset, boxes)),
            index >= length(maps.fine, 2),
            score[:, None],
            images,
        )
        padded = rows[None] if self.single else _by_picture(rows, picture, images, self.min_rows)
        dets, keypoints = split(padded, [5, 3 * self.num_keypoints], dim=2)
        return dets, reshape(keypoints, (0, -1, self.num_keypoints, 3))

    def _select(self, boxes: Tensor, scores: Tensor) -> Tensor:
        def suppress(boxes: Tensor, scores: Tensor) -> Tensor:
            return nms_op(boxes, scores, max_out=self.max_dets, iou_thr=self.nms_thr, score_thr=self.score_thr)

        if self.pre_topk is None:
            return suppress(boxes, scores)
        best, cells = top_at_most(scores, self.pre_topk)
        kept = suppress(gather_nd(boxes, cells[:, 0, :, None], batch_dims=1), best)
        return torch.cat([kept[:, :2], gather_nd(cells, kept)[:, None]], dim=1)


def _by_picture(rows: Tensor, picture: Tensor, images: Tensor, min_rows: int) -> Tensor:
    """``(n, C)`` rows, best first over the whole batch, to ``(B, N, C)``: best first a picture, zeros below.

    Args:
        rows: ``(n, C)``.
        picture: ``(n, 1)`` which picture each row belongs to.
        images: The network's input.
        min_rows: N is at least this.
    """
    member = one_hot(picture, images)  # (n, 1, B)
    place = (members_before(member) * member).sum(dim=2)
    most = member.sum(dim=0).amax(dim=1)
    if min_rows:
        most = most.maximum(torch.tensor([min_rows]))
    return scatter_rows(rows, torch.cat([picture, place], dim=1), most, images)


class FixedDecode(nn.Module):
    """People by top-k and an unrolled suppression in plain tensor operators: shapes never depend on data.

    Candidates are the ``pre_topk`` best scores, sorted. With ``M[i, j]`` telling that a better candidate j overlaps
    i, greedy suppression is the one fixed point of ``keep = ok and not (M keep)``. Iterating that from ``keep = ok``,
    after r rounds every candidate is final whose longest chain of better, mutually overlapping candidates has at most
    r links; so ``rounds`` rounds equal greedy suppression wherever chains have no more than ``rounds`` links. Past
    that: the map reverses inclusion, so even rounds keep a superset of the greedy result. With an even number of
    rounds nobody is lost; a duplicate at the far end of such a chain may stay.

    Args:
        model: The trained network.
        score_thr: Scores must be above this.
        nms_thr: Overlaps above this IoU are suppressed.
        max_dets: Rows of output.
        pre_topk: Candidates that enter the suppression.
        rounds: Rounds of the suppression; even.
        pad: Candidates to pad with, so that there are ``pre_topk`` even for the smallest input.
    """

    better: Tensor
    to_corners: Tensor

    def __init__(
        self,
        model: RTMO,
        *,
        score_thr: float,
        nms_thr: float,
        max_dets: int,
        pre_topk: int,
        rounds: int,
        pad: int,
    ) -> None:
        super().__init__()
        self.people = People(model)
        self.priors = GridPriors()
        self.score_thr, self.nms_thr, self.max_dets = score_thr, nms_thr, max_dets
        self.pre_topk, self.rounds, self.pad = pre_topk, rounds, pad
        self.num_keypoints = model.spec.num_keypoints
        self.register_buffer("to_corners", CORNERS)
        self.register_buffer("better", torch.ones(pre_topk, pre_topk).tril(-1))

    def forward(self, maps: HeadMaps, images: Tensor) -> tuple[Tensor, Tensor]:
        """Head maps and the input to ``dets`` and ``keypoints``."""
        logits, rest = split(maps.maps, [1, 4 + maps.channels], dim=1)
        scores, rest = reshape(logits.sigmoid(), (0, -1)), rest.transpose(1, 2)
        if self.pad:
            scores = torch.nn.functional.pad(scores, (0, self.pad), value=-1.0)
        score, cell = scores.topk(self.pre_topk, dim=1)
        if self.pad:
            cell = cell.minimum(length(maps.maps, 2) - 1)
        index = cell[:, :, None]
        priors = self.priors(maps.grid)[cell]
        offset, log_size, feats = split(gather_nd(rest, index, batch_dims=1), [2, 2, maps.channels], dim=2)
        boxes = _centre_boxes(offset, log_size, priors)
        alive = self._suppress(boxes, score)
        best, order = (alive * score).topk(self.max_dets, dim=1)
        order = order[:, :, None]
        rows = self.people(
            *(
                reshape(gather_nd(x, order, batch_dims=1), (-1, columns))
                for x, columns in ((feats, maps.channels), (offset, 2), (boxes, 4))
            ),
            reshape(gather_nd(index, order, batch_dims=1), (-1, 1)) >= length(maps.fine, 2),
            reshape(best, (-1, 1)),
            images,
        )
        rows = reshape(rows, (-1, self.max_dets, 5 + 3 * self.num_keypoints))
        # Where, not a multiplication: an unused row may hold an infinity.
        rows = torch.where(best[:, :, None] > 0, rows, torch.zeros(()))
        dets, keypoints = split(rows, [5, 3 * self.num_keypoints], dim=2)
        return dets, reshape(keypoints, (-1, self.max_dets, self.num_keypoints, 3))

    def _suppress(self, boxes: Tensor, score: Tensor) -> Tensor:
        """``(B, C)`` float, 1 for survivors."""
        overlap = (_batch_iou(boxes @ self.to_corners) > self.nms_thr).float() * self.better
        valid = (score > self.score_thr).float()[:, :, None]
        keep = valid
        for _ in range(self.rounds):
            # Counts are whole numbers, so 1 - count is 1 for nobody and at most 0 otherwise.
            keep = torch.relu(valid - overlap @ keep)
        return keep[:, :, 0]


def _batch_iou(corners: Tensor) -> Tensor:
    """``(B, C, 4)`` to ``(B, C, C)``, as :func:`rtmo_deploy.model.head.box_iou` for each picture."""
    low, high = split(corners, [2, 2], dim=2)
    overlap = torch.relu(torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None]))
    width, height = split(overlap, [1, 1], dim=3)
    intersection = (width * height)[..., 0]
    area = torch.prod(high - low, dim=2, keepdim=True)
    union = area + area.transpose(1, 2) - intersection
    result: Tensor = intersection / union.clamp(min=1e-6)
    return result


class RawDecode(nn.Module):
    """Head tensors of all cells, levels joined: stride 16 first, row by row, then stride 32.

    Outputs ``cls_scores`` (B, P, 1) logits, ``bbox_preds`` (B, P, 4) raw, ``kpt_vis`` (B, P, K) logits and
    ``pose_vecs`` (B, P, V). Boxes, suppression and coordinates are the consumer's work.

    Args:
        model: The trained network.
    """

    def __init__(self, model: RTMO) -> None:
        super().__init__()
        self.sizes = [1, 4, model.spec.num_keypoints, model.spec.pose_vec_channels]

    def forward(self, maps: HeadMaps, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Head maps (of a dense head) to the four tensors."""
        del images
        scores, boxes, visibility, pose_vecs = split(maps.maps.transpose(1, 2), self.sizes, dim=2)
        return scores, boxes, visibility, pose_vecs
