"""Moving a picture, its people and its mask by one matrix; mirroring; clipping; leaving people out.

A matrix is ``(3, 3)`` float64 and takes x, y, 1 of one frame to another's. Coordinates are pixel indices: the
centre of the first pixel is 0, as in :mod:`rtmo_deploy.runtime.letterbox`. Whatever is moved here stays with
its pixels: where the reference enlarges a picture with ``cv2.resize``, which is about the pixels' outer edges,
and multiplies coordinates, which is about the first centre, this floor adds the missing ``(scale - 1) / 2``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data import People, Sample
from rtmo_deploy.runtime.letterbox import PAD_VALUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.runtime.letterbox import LetterboxTransform

_WARP_LIMIT: Final = 32766
"""Longest side that cv2.warpAffine takes."""


def letterbox_matrix(transform: LetterboxTransform) -> NDArray[np.float64]:
    """The matrix original picture -> network input of a letterbox transform."""
    scale, (x, y) = transform.scale, transform.offset
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]], np.float64)


def resize_matrix(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Where ``cv2.resize`` (and ``interpolate`` without ``align_corners``) takes pixel indices."""
    y, x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)


def about(
    centre: NDArray[np.float64], linear: NDArray[np.float64], *, before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The matrix of ``centre + after + linear @ (point - centre - before)``; all but ``linear`` are x, y."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + after - linear @ (centre + before)
    return matrix


def warp_image(image: NDArray[np.uint8], matrix: NDArray[np.float64], hw: tuple[int, int]) -> NDArray[np.uint8]:
    """``(h, w, 3)`` uint8 moved into a new ``(H, W, 3)``: bilinear, padded with 114."""
    image, matrix = _within_warp_limit(image, matrix)
    moved = cv2.warpAffine(image, matrix[:2], hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3)
    return np.asarray(moved, np.uint8)


def warp_ignore(
    ignore: NDArray[np.bool_] | None, matrix: NDArray[np.float64], hw: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """``(h, w)`` bool moved into a new ``(H, W)``: bilinear, True where more than half; nothing outside."""
    if ignore is None:
        return None
    mask, matrix = _within_warp_limit(ignore.astype(np.float32), matrix)
    moved = cv2.warpAffine(mask, matrix[:2], hw[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(moved > 0.5, np.bool_)


def move_people(people: People, matrix: NDArray[np.float64]) -> People:
    """People in another frame.

    A box becomes the upright box around its four moved corners, as in the reference, so it grows when it is
    turned. An area is multiplied by what the matrix does to areas. Visibility stays.
    """
    linear, offset = matrix[:2, :2], matrix[:2, 2]
    corners = people.boxes[:, [[0, 1], [0, 3], [2, 1], [2, 3]]].astype(np.float64) @ linear.T + offset
    keypoints = people.keypoints.astype(np.float64) @ linear.T + offset
    return People(
        boxes=np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32),
        keypoints=keypoints.astype(np.float32),
        visible=people.visible,
        areas=people.areas * abs(float(np.linalg.det(linear))),
    )


def clip_people(people: People, hw: tuple[int, int]) -> People:
    """Boxes cut to the frame; keypoints beyond it become unlabelled. Nobody is left out.

    The frame is 0 to W and 0 to H inclusive, as in the reference. An area stays what it was: the whole person's.
    """
    height, width = hw
    limits = np.array([width, height], np.float32)
    inside = ((people.keypoints >= 0) & (people.keypoints <= limits)).all(axis=-1)
    return People(
        boxes=people.boxes.clip(0, np.tile(limits, 2)),
        keypoints=people.keypoints,
        visible=np.where(inside, people.visible, np.float32(0)),
        areas=people.areas,
    )


def mirror(sample: Sample, flip_indices: Sequence[int]) -> Sample:
    """The sample in a mirror: left and right of the picture, and of the people, change places.

    Columns and coordinates go to ``width - 1 - x``, boxes too: one that was clipped at the right border
    (at x = width) begins at -1, as in the reference.
    """
    people, last = sample.people, np.float32(sample.image.shape[1] - 1)
    order = np.asarray(flip_indices, np.intp)
    boxes, keypoints = people.boxes.copy(), people.keypoints[:, order]
    boxes[:, 0::2] = last - people.boxes[:, 2::-2]
    keypoints[..., 0] = last - keypoints[..., 0]
    return replace(
        sample,
        image=np.asarray(cv2.flip(sample.image, 1), np.uint8),
        people=People(boxes, keypoints, people.visible[:, order], people.areas),
        ignore=None if sample.ignore is None else np.ascontiguousarray(sample.ignore[:, ::-1]),
    )


def settle(people: People, *, min_box: float, min_keypoints: int) -> People:
    """Those with something left to learn from; coordinates of unlabelled keypoints become 0, 0.

    Args:
        people: Clipped people.
        min_box: Pixels that width and height of the box must exceed.
        min_keypoints: How many keypoints must be labelled.
    """
    sides = people.boxes[:, 2:] - people.boxes[:, :2]
    labelled = people.visible > 0
    kept = people[(sides > min_box).all(axis=1) & (labelled.sum(axis=1) >= min_keypoints)]
    return replace(kept, keypoints=kept.keypoints * (kept.visible > 0)[..., None])


def _within_warp_limit(image: NDArray[Any], matrix: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The picture small enough for cv2.warpAffine, and the matrix from there."""
    rows, columns = image.shape[:2]
    factor = math.ceil(max(rows, columns) / _WARP_LIMIT)
    if factor == 1:
        return image, matrix
    small = (max(1, rows // factor), max(1, columns // factor))
    shrunk = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk), matrix @ resize_matrix(small, (rows, columns))
