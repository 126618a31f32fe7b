"""Non-maximum suppression as rtmlib does it: sides one pixel longer, overlaps equal to the threshold stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def nms(boxes: NDArray[Any], scores: NDArray[Any], nms_thr: float) -> list[int]:
    """Indices of the boxes that survive, best score first.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2, pixels.
        scores: ``(N,)``.
        nms_thr: A box that overlaps a better one by more than this IoU is dropped.
    """
    sides = boxes[:, 2:4] - boxes[:, :2] + 1
    areas = sides[:, 0] * sides[:, 1]
    order = scores.argsort()[::-1]
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:4], boxes[order, 2:4])
        shared = np.maximum(0.0, high - low + 1)
        overlap = shared[:, 0] * shared[:, 1]
        order = order[overlap / (areas[best] + areas[order] - overlap) <= nms_thr]
    return kept


def multiclass_nms(
    boxes: NDArray[Any], scores: NDArray[Any], nms_thr: float, score_thr: float
) -> tuple[NDArray[Any], NDArray[np.intp]] | tuple[None, None]:
    """:func:`nms` of each class by itself, over the boxes whose score of that class is above the threshold.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2, pixels.
        scores: ``(N, C)``, one column a class.
        nms_thr: IoU threshold.
        score_thr: Score threshold.

    Returns:
        ``(M, 6)`` x1, y1, x2, y2, score, class, and the ``(M,)`` indices into ``boxes``; None, None where none is left.
    """
    dets, indices = [], []
    for number, column in enumerate(scores.T):
        above = np.flatnonzero(column > score_thr)
        keep = above[nms(boxes[above], column[above], nms_thr)]
        if len(keep):
            dets.append(np.column_stack([boxes[keep], column[keep], np.full(len(keep), float(number))]))
            indices.append(keep)
    return (np.concatenate(dets), np.concatenate(indices)) if dets else (None, None)
