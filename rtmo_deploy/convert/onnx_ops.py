"""Operators that PyTorch does not export as one would write them in ONNX.

Each is an autograd function with a ``symbolic``: ``forward`` is what runs in PyTorch, ``symbolic`` the node that the
exporter writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtmo_deploy.model.head import non_maximum_suppression

if TYPE_CHECKING:
    from collections.abc import Sequence

_Context = Any
_Graph = Any


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    return function.apply(*inputs)  # type: ignore[no-untyped-call]


def _sides(g: _Graph, x: Any, *axes: int) -> Any:
    """Lengths of some axes of ``x``, ``(len(axes),)`` int64.

    Not by the ``start`` and ``end`` of ``Shape``: where the shape is static, PyTorch's exporter folds the node to the
    whole shape, as if they were not there.
    """
    return g.op("Gather", g.op("Shape", x), g.op("Constant", value_t=torch.tensor(axes)), axis_i=0)


class _Reshape(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape)])

    @staticmethod
    def symbolic(g: _Graph, x: Any, shape: tuple[int, ...]) -> Any:
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(shape)))


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` in another shape, where 0 keeps a dimension and one -1 takes the rest: one node, whatever is dynamic."""
    result: Tensor = _apply(_Reshape, x, tuple(shape))
    return result


class _ReshapeLike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, like: Tensor) -> Tensor:
        return x.reshape(like.shape)

    @staticmethod
    def symbolic(g: _Graph, x: Any, like: Any) -> Any:
        return g.op("Reshape", x, g.op("Shape", like))


def reshape_like(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the shape of ``like``."""
    result: Tensor = _apply(_ReshapeLike, x, like)
    return result


class _GatherND(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
        if batch_dims == 0:
            return x[tuple(indices.unbind(-1))]
        batch = torch.arange(x.shape[0])[:, None].expand(indices.shape[:2])
        return x[batch, indices[..., 0]]

    @staticmethod
    def symbolic(g: _Graph, x: Any, indices: Any, batch_dims: int) -> Any:
        return g.op("GatherND", x, indices, batch_dims_i=batch_dims)


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """ONNX ``GatherND``.

    Args:
        x: Any tensor; ``(B, P, ...)`` with ``batch_dims`` 1.
        indices: ``(..., R)`` int64: each last row names the first R axes of ``x``. With ``batch_dims`` 1:
            ``(B, N, 1)``, rows of the same batch entry.
        batch_dims: 0 or 1.
    """
    result: Tensor = _apply(_GatherND, x, indices, batch_dims)
    return result


class _NonMaxSuppression(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, boxes: Tensor, scores: Tensor, max_out: int, iou_thr: float, score_thr: float) -> Tensor:
        half = boxes[..., 2:] / 2
        corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)
        rows = [torch.zeros((0, 3), dtype=torch.int64)]
        for image in range(boxes.shape[0]):
            ok = (scores[image, 0] > score_thr).nonzero()[:, 0]
            kept = ok[non_maximum_suppression(corners[image, ok], scores[image, 0, ok], iou_thr)][:max_out]
            rows.append(torch.stack([torch.full_like(kept, image), torch.zeros_like(kept), kept], dim=1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: _Graph, boxes: Any, scores: Any, max_out: int, iou_thr: float, score_thr: float) -> Any:
        return g.op(
            "NonMaxSuppression",
            boxes,
            scores,
            g.op("Constant", value_t=torch.tensor([max_out])),
            g.op("Constant", value_t=torch.tensor([iou_thr], dtype=torch.float32)),
            g.op("Constant", value_t=torch.tensor([score_thr], dtype=torch.float32)),
            center_point_box_i=1,
        )


def nms_op(boxes: Tensor, scores: Tensor, *, max_out: int, iou_thr: float, score_thr: float) -> Tensor:
    """ONNX ``NonMaxSuppression`` on centre boxes.

    Args:
        boxes: ``(B, P, 4)`` cx, cy, w, h.
        scores: ``(B, 1, P)``.
        max_out: Most survivors in a picture.
        iou_thr: Boxes with an IoU above this are suppressed.
        score_thr: Scores must be above this.

    Returns:
        ``(n, 3)`` int64 rows of picture, class (0) and box.
    """
    result: Tensor = _apply(_NonMaxSuppression, boxes, scores, max_out, iou_thr, score_thr)
    return result


class _ScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, rows: Tensor, index: Tensor, most: Tensor, images: Tensor) -> Tensor:
        result = rows.new_zeros((images.shape[0], int(most), rows.shape[1]))
        result[index[:, 0], index[:, 1]] = rows
        return result

    @staticmethod
    def symbolic(g: _Graph, rows: Any, index: Any, most: Any, images: Any) -> Any:
        shape = g.op("Concat", _sides(g, images, 0), most, _sides(g, rows, 1), axis_i=0)
        zeros = g.op("ConstantOfShape", shape, value_t=torch.zeros(1))
        return g.op("ScatterND", zeros, index, rows)


def scatter_rows(rows: Tensor, index: Tensor, most: Tensor, images: Tensor) -> Tensor:
    """``(n, C)`` rows into ``(B, most, C)`` zeros.

    Args:
        rows: ``(n, C)``.
        index: ``(n, 2)`` int64, picture and place of each row.
        most: ``(1,)`` int64, places a picture has.
        images: ``(B, ...)``, whose batch size the result has.
    """
    result: Tensor = _apply(_ScatterRows, rows, index, most, images)
    return result


class _InputLimits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, images: Tensor) -> Tensor:
        return torch.tensor([images.shape[3], images.shape[2]] * 2, dtype=torch.float32)

    @staticmethod
    def symbolic(g: _Graph, images: Any) -> Any:
        return g.op("Cast", _sides(g, images, 3, 2, 3, 2), to_i=1)


def input_limits(images: Tensor) -> Tensor:
    """Width, height, width, height of ``(B, C, H, W)`` as ``(4,)`` float32."""
    result: Tensor = _apply(_InputLimits, images)
    return result


class _Length(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, axis: int) -> Tensor:
        return torch.tensor([x.shape[axis]])

    @staticmethod
    def symbolic(g: _Graph, x: Any, axis: int) -> Any:
        return _sides(g, x, axis)


def length(x: Tensor, axis: int) -> Tensor:
    """Length of an axis, ``(1,)`` int64."""
    result: Tensor = _apply(_Length, x, axis)
    return result


class _SortDescending(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor) -> tuple[Tensor, Tensor]:
        values, order = x.sort(descending=True, stable=True)
        return values, order

    @staticmethod
    def symbolic(g: _Graph, x: Any) -> Any:
        return g.op("TopK", x, g.op("Shape", x), axis_i=0, largest_i=1, sorted_i=1, outputs=2)


def sort_descending(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` sorted, and the order; equal values keep theirs (as the TopK operator is specified)."""
    values, order = _apply(_SortDescending, x)
    return values, order


class _TopAtMost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, order = x.topk(min(count, x.shape[-1]), dim=-1)
        return values, order

    @staticmethod
    def symbolic(g: _Graph, x: Any, count: int) -> Any:
        limit = g.op("Min", _sides(g, x, -1), g.op("Constant", value_t=torch.tensor([count])))
        return g.op("TopK", x, limit, axis_i=-1, largest_i=1, sorted_i=1, outputs=2)


def top_at_most(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest values of the last axis, or all where there are fewer, sorted, and where they were."""
    values, order = _apply(_TopAtMost, x, count)
    return values, order


def arange(count: int, *, step: int = 1) -> Tensor:
    """0, step, ... below count, float32, by an int64 ``Range`` and a ``Cast``.

    A float ``Range`` does not survive a conversion to FP16.
    """
    return torch.arange(0, count, step).to(torch.float32)


class _OneHot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, index: Tensor, images: Tensor) -> Tensor:
        return (index[..., None] == torch.arange(images.shape[0])).to(torch.int64)

    @staticmethod
    def symbolic(g: _Graph, index: Any, images: Any) -> Any:
        return g.op("OneHot", index, _sides(g, images, 0), g.op("Constant", value_t=torch.tensor([0, 1])), axis_i=-1)


def one_hot(index: Tensor, images: Tensor) -> Tensor:
    """``(...)`` picture numbers to ``(..., B)`` int64, where B is the batch size of ``images``."""
    result: Tensor = _apply(_OneHot, index, images)
    return result


class _MembersBefore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, member: Tensor) -> Tensor:
        return member.cumsum(dim=0) - member

    @staticmethod
    def symbolic(g: _Graph, member: Any) -> Any:
        return g.op("CumSum", member, g.op("Constant", value_t=torch.tensor(0)), exclusive_i=1)


def members_before(member: Tensor) -> Tensor:
    """Exclusive cumulative sum along the first axis."""
    result: Tensor = _apply(_MembersBefore, member)
    return result


def split(x: Tensor, sizes: Sequence[int], *, dim: int) -> tuple[Tensor, ...]:
    """Parts of the given sizes along an axis. Sizes, not a count of parts: those become one ``Split`` node."""
    parts: tuple[Tensor, ...] = torch.split(x, list(sizes), dim=dim)
    return parts
