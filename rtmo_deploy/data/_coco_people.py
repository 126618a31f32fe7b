"""Who of the annotated people is learned, and their boxes and sizes; as the reference does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from rtmo_deploy.data._findings import Collector
    from rtmo_deploy.data.ground_truth import GroundTruth

#: Share of a person's box that stands for the person's area where none is given: the reference's figure.
AREA_OF_BOX: Final = 0.53
#: A labelled keypoint outside the picture by more than this share of its longer side is a slip, not a person cut off.
FAR: Final = 0.5


def clipped_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Boxes as x1, y1, x2, y2 within their pictures.

    Args:
        boxes: ``(M, 4)`` x, y, width, height, pixels.
        sizes: ``(M, 2)`` height and width of each one's picture; 0, 0 where unknown: nothing is clipped there.
    """
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
    """``(M, K)``, which labelled keypoints lie so far outside their picture that they are slips.

    Args:
        keypoints: ``(M, K, 3)`` x, y, flag.
        sizes: ``(M, 2)`` height and width of each one's picture; 0, 0 where unknown.
    """
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
    """``(M,)``, who is learned: no crowds, somebody with a keypoint that can be learned and a box with an area.

    Args:
        truth: Everybody.
        corners: ``(M, 4)``, their clipped boxes.
        far: ``(M, K)``, keypoints that are not learned.
        found: Told about empty boxes and far keypoints.
        labels: ``(M,)``, what to call each person there.
    """
    empty = (corners[:, 2:] <= corners[:, :2]).any(1)
    if found is not None and labels is not None:
        for kind, rows in (("box-empty", empty), ("keypoint-far", far.any(1))):
            if rows.any():
                found.add(kind, *labels[rows])
    labelled = ((truth.keypoints[..., 2] > 0) & ~far).any(1)
    learned: NDArray[np.bool_] = ~truth.crowd & (truth.num_keypoints > 0) & labelled & ~empty
    return learned
