"""Operators that PyTorch does not export as one would write them in ONNX.

Each is a function as PyTorch runs it, and the nodes that the exporter writes in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from rtmo_deploy.model.head import non_maximum_suppression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: A graph that PyTorch's exporter builds, and a value in it.
_Graph = Any
_Value = Any
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _written_as(symbolic: Callable[..., _Value]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make the exporter write ``symbolic(graph, *arguments)`` for a function of the same arguments."""

    def decorate(run: Callable[_P, _R]) -> Callable[_P, _R]:
        def forward(_: Any, *arguments: Any) -> Any:
            return run(*arguments)  # type: ignore[call-arg]

        members = {"forward": staticmethod(forward), "symbolic": staticmethod(symbolic)}
        function: Any = type(run.__name__, (torch.autograd.Function,), members)

        def call(*arguments: _P.args, **more: _P.kwargs) -> _R:
            result: _R = function.apply(*arguments, *more.values())
            return result

        call.__doc__ = run.__doc__
        return call

    return decorate


def _sides(g: _Graph, x: _Value, *axes: int) -> _Value:
    """Lengths of some axes of ``x``, ``(len(axes),)`` int64.

    Not by the ``start`` and ``end`` of ``Shape``: where the shape is static, PyTorch's exporter folds the node to the
    whole shape, as if they were not there.
    """
    return g.op("Gather", g.op("Shape", x), _constant(g, axes), axis_i=0)


def _constant(g: _Graph, value: Any, dtype: torch.dtype | None = None) -> _Value:
    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))


@_written_as(lambda g, x, shape: g.op("Reshape", x, _constant(g, tuple(shape))))
def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` in another shape, where 0 keeps a dimension and one -1 takes the rest: one node, whatever is dynamic."""
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape)])


@_written_as(lambda g, x, like: g.op("Reshape", x, g.op("Shape", like)))
def reshape_like(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the shape of ``like``."""
    return x.reshape(like.shape)


@_written_as(lambda g, x, indices, batch_dims=0: g.op("GatherND", x, indices, batch_dims_i=batch_dims))
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """ONNX ``GatherND``: of ``x`` what each row of ``(..., R)`` int64 indices names along the first R axes.

    With ``batch_dims`` 1, of ``(B, P, ...)`` the rows ``(B, N, 1)`` of the same batch entry.
    """
    if batch_dims == 0:
        return x[tuple(indices.unbind(-1))]
    batch = torch.arange(x.shape[0])[:, None].expand(indices.shape[:2])
    return x[batch, indices[..., 0]]


def _nms_nodes(g: _Graph, boxes: _Value, scores: _Value, max_out: int, iou_thr: float, score_thr: float) -> _Value:
    limits = [_constant(g, [max_out]), *(_constant(g, [limit], torch.float32) for limit in (iou_thr, score_thr))]
    return g.op("NonMaxSuppression", boxes, scores, *limits, center_point_box_i=1)


@_written_as(_nms_nodes)
def nms_op(boxes: Tensor, scores: Tensor, max_out: int, iou_thr: float, score_thr: float) -> Tensor:
    """ONNX ``NonMaxSuppression`` on ``(B, P, 4)`` cx, cy, w, h and scores ``(B, 1, P)``.

    ``(n, 3)`` int64 rows of image, class (0) and box; at most ``max_out`` in an image, with scores above the threshold.
    """
    half = boxes[..., 2:] / 2
    corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)
    rows = [torch.zeros((0, 3), dtype=torch.int64)]
    for image in range(boxes.shape[0]):
        ok = (scores[image, 0] > score_thr).nonzero()[:, 0]
        kept = ok[non_maximum_suppression(corners[image, ok], scores[image, 0, ok], iou_thr)][:max_out]
        rows.append(torch.stack([torch.full_like(kept, image), torch.zeros_like(kept), kept], dim=1))
    return torch.cat(rows)


def _scatter_nodes(g: _Graph, rows: _Value, index: _Value, most: _Value, images: _Value) -> _Value:
    shape = g.op("Concat", _sides(g, images, 0), most, _sides(g, rows, 1), axis_i=0)
    return g.op("ScatterND", g.op("ConstantOfShape", shape, value_t=torch.zeros(1)), index, rows)


@_written_as(_scatter_nodes)
def scatter_rows(rows: Tensor, index: Tensor, most: Tensor, images: Tensor) -> Tensor:
    """``(n, C)`` rows to their ``(n, 2)`` image and place in ``(B, most, C)`` zeros; ``most`` is ``(1,)`` int64."""
    result = rows.new_zeros((images.shape[0], int(most), rows.shape[1]))
    result[index[:, 0], index[:, 1]] = rows
    return result


@_written_as(lambda g, images: g.op("Cast", _sides(g, images, 3, 2, 3, 2), to_i=1))
def input_limits(images: Tensor) -> Tensor:
    """Width, height, width, height of ``(B, C, H, W)`` as ``(4,)`` float32."""
    return torch.tensor([images.shape[3], images.shape[2]] * 2, dtype=torch.float32)


@_written_as(_sides)
def length(x: Tensor, axis: int) -> Tensor:
    """Length of an axis, ``(1,)`` int64."""
    return torch.tensor([x.shape[axis]])


@_written_as(lambda g, x: g.op("TopK", x, g.op("Shape", x), axis_i=0, largest_i=1, sorted_i=1, outputs=2))
def sort_descending(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` sorted, and the order; equal values keep theirs (as the TopK operator is specified)."""
    values, order = x.sort(descending=True, stable=True)
    return values, order


def _top_nodes(g: _Graph, x: _Value, count: int) -> _Value:
    limit = g.op("Min", _sides(g, x, -1), _constant(g, [count]))
    return g.op("TopK", x, limit, axis_i=-1, largest_i=1, sorted_i=1, outputs=2)


@_written_as(_top_nodes)
def top_at_most(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest values of the last axis, or all where there are fewer, sorted, and where they were."""
    values, order = x.topk(min(count, x.shape[-1]), dim=-1)
    return values, order


def arange(count: int, *, step: int = 1) -> Tensor:
    """0, step, ... below count, float32, by an int64 ``Range``: a float one does not survive a conversion to FP16."""
    return torch.arange(0, count, step).to(torch.float32)


@_written_as(lambda g, index, images: g.op("OneHot", index, _sides(g, images, 0), _constant(g, [0, 1]), axis_i=0))
def one_hot(index: Tensor, images: Tensor) -> Tensor:
    """``(n, 1)`` image numbers to ``(B, n, 1)`` int64, where B is the batch size of ``images``.

    The new axis is the first: ONNX Runtime before 1.27 divides by the size of the axes before it, and crashes where
    that is 0.
    """
    return (index == torch.arange(images.shape[0])[:, None, None]).to(torch.int64)


@_written_as(lambda g, member: g.op("CumSum", member, _constant(g, 1), exclusive_i=1))
def members_before(member: Tensor) -> Tensor:
    """Exclusive cumulative sum along the second axis."""
    return member.cumsum(dim=1) - member


def split(x: Tensor, sizes: Sequence[int], *, dim: int) -> tuple[Tensor, ...]:
    """Parts of the given sizes along an axis. Sizes, not a count of parts: those become one ``Split`` node."""
    parts: tuple[Tensor, ...] = torch.split(x, list(sizes), dim=dim)
    return parts
