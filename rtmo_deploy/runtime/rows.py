"""Rows that a graph puts out, and which of them are detections. Imports NumPy alone: packages carry a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


def iou(box: Array, boxes: Array) -> Array:
    """Intersection over union of one box ``(4,)`` and others ``(N, 4)``: ``(N,)``."""
    with np.errstate(invalid="ignore", over="ignore"):  # a size may be infinite; its overlaps are NaN, as in PyTorch
        sides = np.maximum(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0)
        intersection = sides[:, 0] * sides[:, 1]
        area = (box[2] - box[0]) * (box[3] - box[1])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        overlap: Array = (intersection / np.maximum(area + areas - intersection, 1e-6)).astype(np.float32)
    return overlap


def greedy_nms(boxes: Array, scores: Array, iou_thr: float) -> NDArray[np.intp]:
    """Indices of the boxes ``(N, 4)`` that survive, best score first; equal scores keep their order.

    A box is dropped when a better survivor overlaps it by more than ``iou_thr``.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        order = order[~(iou(boxes[best], boxes[order]) > iou_thr)]
    return np.array(kept, dtype=np.intp)


def kept_rows(rows: Array, score_thr: float, nms_thr: float, *, junk_rows: bool) -> NDArray[np.intp]:
    """Indices of the rows ``(N, 5)`` x1, y1, x2, y2, score that are detections, best score first.

    With ``junk_rows`` repeated rows are dropped and the suppression is run once more.
    """
    keep = np.flatnonzero(rows[:, 4] > score_thr)
    keep = keep[np.argsort(-rows[keep, 4], kind="stable")]
    if junk_rows and len(keep):
        _, first = np.unique(rows[keep], axis=0, return_index=True)
        keep = keep[np.sort(first)]
        keep = keep[greedy_nms(rows[keep, :4], rows[keep, 4], nms_thr)]
    return keep


def clipped(boxes: Array, input_hw: tuple[int, int]) -> Array:
    """Boxes ``(N, 4)`` within an input of this height and width."""
    height, width = input_hw
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
