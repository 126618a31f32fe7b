"""Decoders of an exported graph: head maps to ``dets`` and ``keypoints``, or to head tensors.

All but ``raw`` put out ``dets`` (B, N, 5) as x1, y1, x2, y2, score and ``keypoints`` (B, N, K, 3) as x, y, score, in
network-input pixels, best first; rows beyond an image's detections are zero. Boxes are clipped to the input after the
keypoints have been decoded from the unclipped ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtmo_deploy.convert.network import fold_linear_bn, linear, side_by_side
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
from rtmo_deploy.model.dcc import DCC, KEYPOINT_CHANNELS
from rtmo_deploy.model.spec import STRIDES

if TYPE_CHECKING:
    from rtmo_deploy.artifact import DecodeContract
    from rtmo_deploy.convert.network import HeadMaps
    from rtmo_deploy.model.rtmo import RTMO


#: Logit of a bin that is not there; within FP16's range, and the reference clamps logits to it too.
MASKED = -5e4
#: Bins whose angles are reckoned from the first one's.
RUN = 16


class ExportCoordinates(nn.Module):
    """The Dynamic Coordinate Classifier with fewer operations: pose vectors, boxes and grid centres to keypoints.

    Three changes to :class:`rtmo_deploy.model.dcc.DCC`, all exact in real arithmetic:

    * BatchNorm, the norm's gain and the attention's scale are folded into the linear layers around them.
    * The bin encoder is re-associated. The logits are ``kpt @ (W spe + b)^T``; that is ``(kpt W) @ spe^T + kpt b``, and
      the last term is the same for every bin of a keypoint, so it cancels in the softmax.
    * The bins lie symmetric around the box centre. With ``A`` the angle of the centre and ``B`` that of a bin relative
      to it, ``c cos(A + B) + s sin(A + B) = (c cos A + s sin A) cos B + (s cos A - c sin A) sin B``. The keypoint's
      coefficients are turned by ``A`` once, and a bin at ``-B`` shares cosine and sine with the one at ``B``: half the
      trigonometry and half the multiplications.
    * Bins are equally far apart. ``B`` is the angle of the first of ``RUN`` bins and the distance from it, and the
      coefficients are turned by the first one as by ``A``: cosines and sines of a quarter of the angles.
    """

    def __init__(self, dcc: DCC) -> None:
        super().__init__()
        self.num_keypoints = dcc.num_keypoints
        gau = dcc.gau
        layer, bn = dcc.pose_to_kpts[0], dcc.pose_to_kpts[1]
        if not isinstance(layer, nn.Linear) or not isinstance(bn, nn.BatchNorm1d):
            raise TypeError("pose_to_kpts is not the layer this exporter knows")
        self.to_keypoints = linear(*fold_linear_bn(layer, bn))
        # ScaleNorm divides by max(|x| * f, 1e-5): by max(|x|, 1e-5 / f), with 1 / f and the gain in the next layer.
        self.min_norm = 1e-5 / gau.ln.factor
        self.uv = _parameter((gau.uv.weight.double() * gau.ln.g.double() / gau.ln.factor).T)
        self.parts = [gau.expanded, gau.expanded, gau.key_channels]
        scale = gau.key_channels**-0.5
        position = dcc.pos_enc.double()
        self.query_gain = _parameter(gau.gamma[0].double() * scale)
        self.query_bias = _parameter((gau.beta[0].double() + position) * scale)
        self.key_gain = _parameter(gau.gamma[1])
        self.key_bias = _parameter(gau.beta[1].double() + position)
        self.out = _parameter(gau.o.weight.T)
        self.shortcut = _parameter(gau.res_scale.scale)
        # Columns: cosines of x, cosines of y, sines of x, sines of y.
        half = len(dcc.spe.dim_t)
        x, y = dcc.x_fc.weight, dcc.y_fc.weight
        self.to_logits = _parameter(torch.cat([x[:, :half], y[:, :half], x[:, half:], y[:, half:]], dim=1))
        frequencies = 1 / dcc.spe.dim_t.double()
        self.frequencies = _parameter(frequencies)
        # x has fewer bins than y: it is padded, and the padding masked out of the softmax.
        bins = [_positive_half(dcc.x_bins), _positive_half(dcc.y_bins)]
        self.runs = -(-max(map(len, bins)) // RUN)
        padded = torch.stack([F.pad(values, (0, self.runs * RUN - len(values))) for values in bins])
        mask = torch.stack([torch.arange(self.runs * RUN) >= len(values) for values in bins]) * MASKED
        # Angles of a box one pixel wide, (2, runs, 64) and (2, 64, RUN).
        steps = torch.tensor([_step(values) for values in bins], dtype=torch.float64)[:, None, None] * dcc.bbox_padding
        self.firsts = _parameter(steps * (torch.arange(self.runs)[:, None] * RUN + 0.5) * frequencies)
        self.distances = _parameter(steps * frequencies[:, None] * torch.arange(RUN))
        self.values = _parameter(torch.cat([padded, -padded], dim=1)[:, None] * dcc.bbox_padding)
        self.mask = _parameter(torch.cat([mask, mask], dim=1)[:, None]) if mask.any() else None

    def forward(self, pose_vecs: Tensor, offset: Tensor, boxes: Tensor) -> Tensor:
        """``(N, V)``, ``(N, 2)`` of the box centre from the cell's, ``(N, 4)`` cx, cy, w, h unclipped to ``(N, K, 2)``.

        All in input pixels.
        """
        joints = self.num_keypoints
        features = self._attend(reshape(self.to_keypoints(pose_vecs), (-1, joints, KEYPOINT_CHANNELS)))
        # From here on the axes, x and y, are a batch dimension: (N, 2, ...).
        coefficients = reshape(features @ self.to_logits, (-1, joints, 4, len(self.frequencies)))
        c, s = split(coefficients.transpose(1, 2), [2, 2], dim=1)  # (N, 2, K, 64)
        turn = reshape(offset, (-1, 2, 1, 1)) * self.frequencies
        cosine, sine = turn.cos(), turn.sin()
        centre, size = split(reshape(boxes, (-1, 4, 1, 1)), [2, 2], dim=1)
        even, odd = self._bins(c * cosine + s * sine, s * cosine - c * sine, size)
        logits = torch.cat([even + odd, even - odd], dim=3)
        if self.mask is not None:
            logits = logits + self.mask
        # Not a matrix product: ONNX Runtime's cannot broadcast over no rows (N = 0).
        xy = (torch.softmax(logits, dim=3) * self.values).sum(dim=3, keepdim=True) * size + centre
        return reshape(xy, (-1, 2, joints)).transpose(1, 2)

    def _bins(self, c: Tensor, s: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """``c cos B`` and ``s sin B`` summed over the frequencies, ``(N, 2, K, bins / 2)``.

        Of coefficients ``(N, 2, K, 64)`` and the boxes' sizes ``(N, 2, 1, 1)``.
        """
        joints, frequencies = self.num_keypoints, len(self.frequencies)
        first, distance = size * self.firsts, size * self.distances
        cos_first, sin_first = (reshape(x, (-1, 2, 1, self.runs, frequencies)) for x in (first.cos(), first.sin()))
        cos, sin = distance.cos(), distance.sin()
        c, s = (reshape(x, (-1, 2, joints, 1, frequencies)) for x in (c, s))

        def turned(coefficients: Tensor, by: Tensor) -> Tensor:
            return reshape(coefficients * by, (-1, 2, joints * self.runs, frequencies))

        even = turned(c, cos_first) @ cos - turned(c, sin_first) @ sin
        odd = turned(s, sin_first) @ cos + turned(s, cos_first) @ sin
        shape = (-1, 2, joints, self.runs * RUN)
        return reshape(even, shape), reshape(odd, shape)

    def _attend(self, x: Tensor) -> Tensor:
        """The gated attention unit, ``(N, K, C)`` to the same shape."""
        normed = x / torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp(min=self.min_norm)
        u, v, base = split(F.silu(normed @ self.uv), self.parts, dim=2)
        query = base * self.query_gain + self.query_bias
        key = base * self.key_gain + self.key_bias
        kernel = (query @ key.transpose(1, 2)).relu()
        return x * self.shortcut + (u * ((kernel * kernel) @ v)) @ self.out


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().float().clone(memory_format=torch.contiguous_format), requires_grad=False)


def _positive_half(bins: Tensor) -> Tensor:
    half = bins.detach()[len(bins) // 2 :]
    if not torch.allclose(bins.detach(), torch.cat([-half.flip(0), half]), atol=1e-6):
        raise ValueError("the bins are not symmetric around the box centre")
    return half


def _step(bins: Tensor) -> float:
    """The distance between bins that begin half of it from the centre."""
    step = float(bins[-1]) / (len(bins) - 0.5)
    if not torch.allclose(bins, step * (torch.arange(len(bins)) + 0.5), atol=1e-6):
        raise ValueError("the bins are not equally far apart")
    return step


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
            linear(weight.flatten(1), bias) for weight, bias in map(side_by_side, head.out_kpt_vis, head.out_pose)
        )
        self.register_buffer("to_corners", CORNERS)

    def forward(
        self, feats: Tensor, offset: Tensor, boxes: Tensor, coarse: Tensor, scores: Tensor, images: Tensor
    ) -> Tensor:
        """Rows of output ``(N, 5 + 3 * K)``: box clipped to the images, score, then x, y, score of each keypoint.

        Of ``feats`` (N, pose_channels), ``offset`` (N, 2) of the box centre from the cell's, ``boxes`` (N, 4) cx, cy,
        w, h, whether the cell is ``coarse`` (N, 1), that is of stride 32, and ``scores`` (N, 1).
        """
        out = torch.where(coarse, self.out[1](feats), self.out[0](feats))
        visibility, pose_vecs = split(out, self.sizes, dim=1)
        xy = self.dcc(pose_vecs, offset, boxes)
        keypoints = torch.cat([xy, visibility.sigmoid()[:, :, None]], dim=2)
        corners = (boxes @ self.to_corners).relu().minimum(input_limits(images))
        return torch.cat([corners, scores, reshape(keypoints, (-1, 3 * self.num_keypoints))], dim=1)


#: cx, cy, w, h times this is x1, y1, x2, y2; all its factors are exact in any floating-point format.
CORNERS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])


def _centre_boxes(offset: Tensor, log_size: Tensor, priors: Tensor) -> Tensor:
    """Offset ``(..., 2)`` from the prior and log size ``(..., 2)`` to cx, cy, w, h in pixels."""
    return torch.cat([offset + priors, log_size.exp()], dim=-1)


class _Decode(nn.Module):
    """What both decoders in the graph have."""

    def __init__(self, model: RTMO, contract: DecodeContract) -> None:
        super().__init__()
        self.people = People(model)
        self.priors = GridPriors()
        self.contract = contract
        self.max_dets = contract.max_dets or 0
        self.num_keypoints = model.spec.num_keypoints


class OnnxDecode(_Decode):
    """Detections by the standard NonMaxSuppression operator; N is the most detections in any image.

    A row that ``min_rows`` adds is zero. ``batch`` is None when it is dynamic.
    """

    def __init__(self, model: RTMO, contract: DecodeContract, *, batch: int | None = None) -> None:
        super().__init__(model, contract)
        self.single = batch == 1 and not contract.min_rows

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
        image, index = split(cell, [1, 1], dim=1)
        rows = self.people(
            *(gather_nd(x, cell) for x in (feats, offset, boxes)),
            index >= length(maps.fine, 2),
            score[:, None],
            images,
        )
        padded = rows[None] if self.single else _by_image(rows, image, images, self.contract.min_rows)
        dets, keypoints = split(padded, [5, 3 * self.num_keypoints], dim=2)
        return dets, reshape(keypoints, (0, -1, self.num_keypoints, 3))

    def _select(self, boxes: Tensor, scores: Tensor) -> Tensor:
        limits = (self.max_dets, self.contract.nms_thr, self.contract.score_thr)
        if self.contract.pre_topk is None:
            return nms_op(boxes, scores, *limits)
        best, cells = top_at_most(scores, self.contract.pre_topk)
        kept = nms_op(gather_nd(boxes, cells[:, 0, :, None], batch_dims=1), best, *limits)
        return torch.cat([kept[:, :2], gather_nd(cells, kept)[:, None]], dim=1)


def _by_image(rows: Tensor, image: Tensor, images: Tensor, min_rows: int) -> Tensor:
    """``(n, C)`` rows, best first over the batch, of images ``(n, 1)`` to ``(B, N, C)``: best first, zeros below."""
    member = one_hot(image, images)  # (B, n, 1)
    place = (members_before(member) * member).sum(dim=0)
    most = member.sum(dim=1).amax(dim=0)
    if min_rows:
        most = most.maximum(torch.tensor([min_rows]))
    return scatter_rows(rows, torch.cat([image, place], dim=1), most, images)


class FixedDecode(_Decode):
    """People by top-k and an unrolled suppression in plain tensor operators: shapes never depend on data.

    Candidates are the ``pre_topk`` best scores, sorted. With ``M[i, j]`` telling that a better candidate j overlaps
    i, greedy suppression is the one fixed point of ``keep = ok and not (M keep)``. Iterating that from ``keep = ok``,
    after r rounds every candidate is final whose longest chain of better, mutually overlapping candidates has at most
    r links; so ``rounds`` rounds equal greedy suppression wherever chains have no more than ``rounds`` links. Past
    that: the map reverses inclusion, so even rounds keep a superset of the greedy result. With an even number of
    rounds no detection is lost; a duplicate at the far end of such a chain may stay.

    ``pad`` candidates are added, so that there are ``pre_topk`` even for the smallest input.
    """

    better: Tensor
    to_corners: Tensor

    def __init__(self, model: RTMO, contract: DecodeContract, *, pad: int) -> None:
        super().__init__(model, contract)
        self.candidates, self.pad = contract.pre_topk or 0, pad
        self.register_buffer("to_corners", CORNERS)
        self.register_buffer("better", torch.ones(self.candidates, self.candidates).tril(-1))

    def forward(self, maps: HeadMaps, images: Tensor) -> tuple[Tensor, Tensor]:
        """Head maps and the input to ``dets`` and ``keypoints``."""
        logits, rest = split(maps.maps, [1, 4 + maps.channels], dim=1)
        scores, rest = reshape(logits.sigmoid(), (0, -1)), rest.transpose(1, 2)
        if self.pad:
            scores = torch.nn.functional.pad(scores, (0, self.pad), value=-1.0)
        score, cell = scores.topk(self.candidates, dim=1)
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
        overlap = (_batch_iou(boxes @ self.to_corners) > self.contract.nms_thr).float() * self.better
        valid = (score > self.contract.score_thr).float()[:, :, None]
        keep = valid
        for _ in range(self.contract.nms_rounds or 0):
            # Counts are whole numbers, so 1 - count is 1 where it is zero and at most 0 otherwise.
            keep = torch.relu(valid - overlap @ keep)
        return keep[:, :, 0]


def _batch_iou(corners: Tensor) -> Tensor:
    """``(B, C, 4)`` to ``(B, C, C)``, as :func:`rtmo_deploy.model.head.box_iou` for each image."""
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
    """

    def __init__(self, model: RTMO) -> None:
        super().__init__()
        self.sizes = [1, 4, model.spec.num_keypoints, model.spec.pose_vec_channels]

    def forward(self, maps: HeadMaps, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Head maps (of a dense head) to the four tensors."""
        del images
        scores, boxes, visibility, pose_vecs = split(maps.maps.transpose(1, 2), self.sizes, dim=2)
        return scores, boxes, visibility, pose_vecs
