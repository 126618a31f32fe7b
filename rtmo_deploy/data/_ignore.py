"""The part of a picture where people stand who are not to be learned, drawn from segmentations and boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def fill_segmentation(mask: NDArray[np.uint8], segmentation: object, size: tuple[int, int]) -> bool:
    """Set to 1 what a segmentation in COCO's format covers.

    Args:
        mask: ``(h, w)`` uint8, changed in place.
        segmentation: Polygons (a list of lists x, y, x, y, ...), or run lengths (``size`` and ``counts``, as a list
            or compressed), parsed from JSON.
        size: Height and width that run lengths must have been made for.

    Returns:
        Whether it could be read; if not, the mask is unchanged.
    """
    area = _run_lengths(segmentation, size) if isinstance(segmentation, dict) else _polygons(segmentation, size)
    if area is None:
        return False
    height, width = np.minimum(area.shape, mask.shape)
    mask[:height, :width] |= area[:height, :width]
    return True


def fill_box(mask: NDArray[np.uint8], corners: ArrayLike) -> None:
    """Set to 1 what a box x1, y1, x2, y2 in pixels covers, every pixel it touches."""
    x1, y1, x2, y2 = np.asarray(corners, np.float64)
    if x2 > x1 and y2 > y1:
        rows = slice(max(0, int(np.floor(y1))), max(0, int(np.ceil(y2))))
        mask[rows, max(0, int(np.floor(x1))) : max(0, int(np.ceil(x2)))] = 1


def _polygons(segmentation: object, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    from faster_coco_eval.core import mask as rle

    rows = cast("Sequence[Any]", segmentation) if isinstance(segmentation, list) else []
    outlines: list[list[float]] = []
    for row in rows:
        try:
            points = np.asarray(row, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            return None
        # The work grows with the outline, so a slip far outside must not count.
        far = float(max(size))
        outlines.append(np.clip(points, -far, 2 * far).tolist())
    if not outlines:
        return None
    area: NDArray[np.uint8] = rle.decode(rle.merge(rle.frPyObjects(outlines, *size)))
    return area


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8] | None:
    from faster_coco_eval.core import mask as rle

    # Checked first: the decoder allocates whatever it is told.
    if segmentation.get("size") != list(size):
        return None
    counts = segmentation.get("counts")
    plain = isinstance(counts, list) and all(type(count) is int and 0 <= count <= size[0] * size[1] for count in counts)
    if not plain and not isinstance(counts, str):
        return None
    try:
        packed = rle.frPyObjects({"size": list(size), "counts": counts}, *size) if plain else segmentation
        area: NDArray[np.uint8] = rle.decode({"size": list(size), "counts": packed["counts"]})
    except (ValueError, RuntimeError, TypeError, OverflowError):
        return None
    return area if area.shape == size else None
