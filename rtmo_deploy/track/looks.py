"""What people wear: colour histograms of the trunk and the legs, from a few points of each person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

#: Trunk and legs; of each is kept a histogram in Lab, on two grids half a bin apart.
PARTS: Final = 2
_BINS: Final = np.array([4, 5, 5])
BINS: Final = 2 * int(_BINS.prod())
_WIDTHS: Final = np.array([64, 24, 24])
#: Lightness from 0; a and b around grey, 128.
_STARTS: Final = np.array([[0, 128 - 60, 128 - 60], [-32, 128 - 72, 128 - 72]])
_CORNERS: Final = (
    ("left_shoulder", "right_shoulder", "left_hip", "right_hip"),
    ("left_hip", "right_hip", "left_knee", "right_knee"),
)
#: Places between left and right, and from top to bottom; the thighs are at the sides, the trunk is in between.
_PLACES: Final = [
    np.stack(np.meshgrid(across, np.linspace(0.1, 0.9, 8)), axis=-1).reshape(-1, 2)
    for across in (np.linspace(0.15, 0.85, 5), np.array([0.0, 0.05, 0.5, 0.95, 1.0]))
]
#: Corners of the parts in a box, for skeletons without shoulders, hips and knees: left, right; top and bottom of each.
_IN_BOX: Final = (0.3, 0.7, ((0.2, 0.5), (0.5, 0.75)))


def looks_of(poses: Poses, image: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Histograms ``(N, PARTS, BINS)``, and how surely each is seen ``(N, PARTS)``, 0 to 1."""
    height, width = image.shape[:2]
    parts = [_quad(poses, part) for part in range(PARTS)]
    quads = np.stack([corners for corners, _ in parts], axis=1)[:, :, None]  # N, PARTS, 1, 4, 2
    across, down = np.stack(_PLACES)[..., :1], np.stack(_PLACES)[..., 1:]
    top = quads[..., 0, :] * (1 - across) + quads[..., 1, :] * across
    bottom = quads[..., 2, :] * (1 - across) + quads[..., 3, :] * across
    places = np.rint(np.clip(top * (1 - down) + bottom * down, -1, 1 << 20)).astype(np.int64)
    inside = ((places >= 0) & (places < (width, height))).all(-1)
    pixels: Any = image[np.minimum(places[..., 1], height - 1), np.minimum(places[..., 0], width - 1)]
    count = len(poses)
    found: NDArray[Any] = np.zeros((count * PARTS, BINS))
    if count:
        lab = (
            cv2.cvtColor(pixels.reshape(1, -1, 3), cv2.COLOR_BGR2Lab).reshape(count * PARTS, -1, 1, 3).astype(np.int64)
        )
        bins = np.clip((lab - _STARTS) // _WIDTHS, 0, _BINS - 1)
        flat = (bins[..., 0] * _BINS[1] + bins[..., 1]) * _BINS[2] + bins[..., 2] + np.array([0, BINS // 2])
        flat += np.arange(count * PARTS)[:, None, None] * BINS
        weights = np.repeat(inside.reshape(count * PARTS, -1, 1), 2, axis=2)
        found = np.bincount(flat.ravel(), weights.ravel(), count * PARTS * BINS).reshape(-1, BINS)
        found = found / np.maximum(found.sum(1, keepdims=True), 1)
    seen = np.stack([sure for _, sure in parts], axis=1) * (inside.mean(-1) > 0.7)
    return found.reshape(count, PARTS, BINS), seen


def _quad(poses: Poses, part: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Top left, top right, bottom left, bottom right ``(N, 4, 2)`` in pixels, and how surely they are seen ``(N,)``."""
    found = [poses.skeleton.find(name) for name in _CORNERS[part]]
    if None not in found:
        index = np.array(found, np.intp)
        return poses.keypoints[:, index], np.clip(poses.keypoint_scores[:, index].min(1, initial=1) / 0.4 - 0.75, 0, 1)
    left, right, rows = _IN_BOX
    shares = np.array([(side, row) for row in rows[part] for side in (left, right)])
    boxes = poses.boxes[:, None].astype(np.float64)
    return boxes[..., :2] + shares * (boxes[..., 2:] - boxes[..., :2]), poses.scores
