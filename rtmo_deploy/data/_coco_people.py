"""Who of the annotated people is learned, and their boxes and sizes; as the reference does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from rtmo_deploy.data.sample import AREA_OF_BOX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from rtmo_deploy.data._findings import Collector
    from rtmo_deploy.data.sample import GroundTruth


#: A labelled keypoint outside the image by more than this share of its longer side is a slip, not a person cut off.
FAR: Final = 0.5


def clipped_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Boxes x, y, width, height as x1, y1, x2, y2 within their images; not clipped where the size is 0, 0."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    # The reference clips to the centre of the last pixel.
    last = np.where(sizes > 0, sizes - 1.0, np.inf)[:, [1, 0, 1, 0]]
    first = np.where(sizes > 0, 0.0, -np.inf)[:, [1, 0, 1, 0]]
    clipped: NDArray[np.float64] = np.clip(corners, first, last)
    return clipped


def areas_of(areas: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(M,)`` square pixels: those given, or a share of the clipped box, at least 1, where none is."""
    width, height = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    return np.where(areas > 0, areas, np.maximum(AREA_OF_BOX * width * height, 1))


def far_outside(keypoints: NDArray[np.float32], sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """``(M, K)``, which labelled keypoints lie so far outside their image that they are slips."""
    margin = FAR * sizes.max(1, initial=0)[:, None, None]
    places, extent = keypoints[..., :2], sizes[:, None, ::-1]
    outside: NDArray[np.bool_] = np.any((places < -margin) | (places > extent + margin), axis=-1)
    far: NDArray[np.bool_] = outside & (keypoints[..., 2] > 0) & np.all(sizes > 0, axis=1)[:, None]
    return far


def learned_people(
    truth: GroundTruth,
    corners: NDArray[np.float64],
    far: NDArray[np.bool_],
    found: Collector | None = None,
    labels: NDArray[Any] | None = None,
) -> NDArray[np.bool_]:
    """``(M,)``, who is learned: no crowds, and a keypoint to learn and a box with an area."""
    empty = (corners[:, 2:] <= corners[:, :2]).any(1)
    if found is not None and labels is not None:
        for kind, rows in (("box-empty", empty), ("keypoint-far", far.any(1))):
            if rows.any():
                found.add(kind, *labels[rows])
    labelled = ((truth.keypoints[..., 2] > 0) & ~far).any(1)
    learned: NDArray[np.bool_] = ~truth.crowd & (truth.num_keypoints > 0) & labelled & ~empty
    return learned


def fill_segmentation(mask: NDArray[np.uint8], segmentation: object, size: tuple[int, int]) -> bool:
    """Set to 1 in ``mask`` what a segmentation covers: polygons, or run lengths made for ``size``.

    False where it cannot be read; the mask is then unchanged.
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
