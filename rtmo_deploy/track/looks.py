"""What people wear: mean colours of the trunk and the thighs, read from the image at a few points of each person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses

#: Chest, belly, thighs.
PARTS: Final = 3
_TRUNK: Final = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_LEGS: Final = ("left_hip", "right_hip", "left_knee", "right_knee")
#: Where points lie between left and right, and from top to bottom of the chest, the belly and the thighs.
_ACROSS: Final = np.array([0.2, 0.35, 0.5, 0.65, 0.8])
_ROWS: Final = (np.array([0.15, 0.25, 0.35, 0.45]), np.array([0.6, 0.7, 0.8, 0.9]), np.array([0.25, 0.4, 0.55, 0.7]))
#: The same places in a box, for skeletons without shoulders and hips: x1, x2, and y at top and bottom.
_IN_BOX: Final = (0.3, 0.7, 0.2, 0.5, 0.75)


def looks_of(poses: Poses, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean colours ``(N, PARTS, 3)`` float32 (Lab, 0 to 255), and how surely each is seen ``(N, PARTS)``, 0 to 1."""
    height, width = image.shape[:2]
    trunk, trunk_seen = _quad(poses, _TRUNK)
    legs, legs_seen = _quad(poses, _LEGS)
    thigh = np.repeat([0.0, 1.0], 5), np.tile(_ROWS[2], 3)[:10]
    places, seen = [], []
    for part in range(PARTS):
        quad, sure = (legs, legs_seen) if part == 2 else (trunk, trunk_seen)
        if part == 2:  # along both thighs: between them is the background
            across, down = thigh
        else:
            down, across = (grid.ravel() for grid in np.meshgrid(_ROWS[part], _ACROSS, indexing="ij"))
        corners = quad[:, None]  # N, 1, (top left, top right, bottom left, bottom right), 2
        across, down = across[:, None], down[:, None]
        top = corners[:, :, 0] * (1 - across) + corners[:, :, 1] * across
        bottom = corners[:, :, 2] * (1 - across) + corners[:, :, 3] * across
        places.append(top * (1 - down) + bottom * down)
        seen.append(sure)
    counts = [place.shape[1] for place in places]
    pixels = np.floor(np.clip(np.concatenate(places, axis=1), -1, 1 << 20) + 0.5).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < (width, height))).all(-1)
    x, y = np.clip(pixels[..., 0], 0, width - 1), np.clip(pixels[..., 1], 0, height - 1)
    sampled: Any = image[y, x]
    lab = cv2.cvtColor(sampled, cv2.COLOR_BGR2Lab).astype(np.float32) if sampled.size else sampled.astype(np.float32)
    parts = np.cumsum(counts[:-1])
    share = np.stack([part.mean(1) for part in np.split(inside, parts, axis=1)], axis=1)
    # The median: an arm before the trunk does not count.
    colours = np.stack([np.median(part, axis=1) for part in np.split(lab, parts, axis=1)], axis=1)
    return colours.astype(np.float32), (np.stack(seen, axis=1) * (share > 0.7)).astype(np.float32)


def _quad(poses: Poses, names: tuple[str, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Four corners ``(N, 4, 2)`` in pixels and the least score of them ``(N,)``."""
    found = [poses.skeleton.find(name) for name in names]
    if None not in found:
        index = np.array(found, np.intp)
        return poses.keypoints[:, index], poses.keypoint_scores[:, index].min(1, initial=1.0)
    left, right, *downs = _IN_BOX
    top, bottom = downs[:2] if names is _TRUNK else downs[1:]
    shares = np.array([(left, top), (right, top), (left, bottom), (right, bottom)], np.float32)
    boxes = poses.boxes[:, None]
    return boxes[..., :2] + shares * (boxes[..., 2:] - boxes[..., :2]), poses.scores
