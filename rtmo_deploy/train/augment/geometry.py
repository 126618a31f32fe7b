"""Moving an image, its people and its mask by one matrix; mirroring; clipping; leaving people out.

A matrix is ``(3, 3)`` float64 and takes x, y, 1 of one frame to another's. Coordinates are pixel indices: the
centre of the first pixel is 0, as in :mod:`rtmo_deploy.runtime.letterbox`. Whatever is moved here stays with
its pixels: where the reference enlarges an image with ``cv2.resize``, which is about the pixels' outer edges,
and multiplies coordinates, which is about the first centre, this floor adds the missing ``(scale - 1) / 2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data import People, Sample
from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.letterbox import PAD_VALUE
from rtmo_deploy.train.augment.options import AffineOptions
from rtmo_deploy.zoo.records import INPUT_MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.runtime.letterbox import LetterboxTransform
    from rtmo_deploy.train.augment.options import WindowOptions


_WARP_LIMIT: Final = 32766
"""Longest side that cv2.warpAffine takes."""


def letterbox_matrix(transform: LetterboxTransform) -> NDArray[np.float64]:
    """The matrix original image -> network input of a letterbox transform."""
    scale, (x, y) = transform.scale, transform.offset
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]], np.float64)


def resize_matrix(from_hw: tuple[int, int], to_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Where ``cv2.resize`` (and ``interpolate`` without ``align_corners``) takes pixel indices."""
    y, x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)


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
    """The sample mirrored: columns, coordinates and boxes go to ``width - 1 - x``, as in the reference."""
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
    """People whose box is above ``min_box`` pixels a side, with ``min_keypoints`` labelled.

    Coordinates of unlabelled keypoints become 0, 0.
    """
    sides = people.boxes[:, 2:] - people.boxes[:, :2]
    labelled = people.visible > 0
    kept = people[(sides > min_box).all(axis=1) & (labelled.sum(axis=1) >= min_keypoints)]
    return replace(kept, keypoints=kept.keypoints * (kept.visible > 0)[..., None])


def _within_warp_limit(image: NDArray[Any], matrix: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The image small enough for cv2.warpAffine, and the matrix from there."""
    rows, columns = image.shape[:2]
    factor = math.ceil(max(rows, columns) / _WARP_LIMIT)
    if factor == 1:
        return image, matrix
    small = (max(1, rows // factor), max(1, columns // factor))
    shrunk = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk), matrix @ resize_matrix(small, (rows, columns))


def random_size(
    input_hw: tuple[int, int],
    seed: int,
    iteration: int,
    *,
    span: tuple[int, int] = (480, 800),
    step: int = INPUT_MULTIPLE,
) -> tuple[int, int]:
    """Height and width of one iteration's batch: every step from ``span[0]`` to ``span[1]`` is equally likely.

    The recipes draw anew for each iteration, to the very end of the training, from 480 to 800; rtmo-t, of
    416x416, from 320 to 640. (There the first iteration after every start keeps ``input_hw``, and one process
    draws for all. Here the size depends on nothing but the arguments, so neither is needed.) The aspect is about
    that of ``input_hw``: the width is rounded down. UsageError for a span without a multiple of ``step``.
    """
    low, high = (round(side / step) for side in span)
    if not 0 < low <= high:
        raise UsageError(f"The span of sizes {span} holds no multiple of {step}.", remedy="Give two heights.")
    steps = int(np.random.default_rng((seed, iteration)).integers(low, high, endpoint=True))
    return step * steps, step * max(1, int(steps * input_hw[1] / input_hw[0]))


@dataclass(frozen=True, eq=False)
class Jitter:
    """One draw: the ``(2, 2)`` matrix of shear after rotation after enlargement, and a shift x, y in fractions.

    ``of_input``: fractions of the input, and the content moves by them after it was turned; otherwise of the fitted
    image, and the window moves before.
    """

    linear: NDArray[np.float64]
    shift: NDArray[np.float64]
    of_input: bool

    def matrix(self, fitted_hw: tuple[float, float], input_hw: tuple[int, int]) -> NDArray[np.float64]:
        """Input frame -> input frame; ``fitted_hw`` is the image's height and width in it, without padding."""
        size = np.array(input_hw[::-1], np.float64)
        centre, matrix = size / 2, np.eye(3)
        matrix[:2, :2] = self.linear
        if self.of_input:
            matrix[:2, 2] = centre + self.shift * size - self.linear @ centre
        else:
            matrix[:2, 2] = centre - self.linear @ (centre + self.shift * fitted_hw[::-1])
        return matrix


def draw_jitter(options: AffineOptions | WindowOptions, rng: np.random.Generator) -> Jitter:
    """Draw shift, scale, rotation and shear, in that order."""
    if isinstance(options, AffineOptions):
        shift_x, shift_y, size, turn, shear_x, shear_y = rng.uniform(-1, 1, 6)
        scale = _between(options.scale, size)
        shear = np.tan(np.radians(options.shear * np.array([shear_x, shear_y])))
        linear = np.array([[1, shear[0]], [shear[1], 1]]) @ _rotation(options.rotate * turn) * scale
    else:
        shift_x, shift_y, size, turn = _cut_normal(rng, 4)
        # A window turned one way shows the image turned the other way; a larger one shows it smaller.
        linear = _rotation(-options.rotate * turn) / _between(options.window, size)
    return Jitter(linear, options.shift * np.array([shift_x, shift_y]), isinstance(options, AffineOptions))


def _between(limits: tuple[float, float], draw: float) -> float:
    """-1 to 1, to the first limit to the second."""
    return limits[0] + (limits[1] - limits[0]) * (draw + 1) / 2


def _rotation(degrees: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float64)


def _cut_normal(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Standard normal numbers between -1 and 1."""
    drawn = np.empty(0)
    while len(drawn) < count:
        more = rng.standard_normal(2 * count)
        drawn = np.concatenate([drawn, more[abs(more) <= 1]])
    return drawn[:count]
