"""One image into the network's input, and coordinates back out.

Two placements are in use, and a model gives other coordinates under each: ``CENTER`` is what the reference
evaluates with (and what the published accuracies were measured under), ``TOP_LEFT`` is what rtmlib users run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.data.images import Decoded
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.records import INPUT_MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Grey level of the padding, the same in all three channels.
PAD_VALUE: Final = 114
#: Longest side cv2.warpAffine takes: it keeps source coordinates in 16 bits (SHRT_MAX is refused).
WARP_LIMIT: Final = 32766


class Placement(StrEnum):
    """Where the image stands in the canvas."""

    CENTER = "center"
    TOP_LEFT = "top-left"


@dataclass(frozen=True)
class LetterboxTransform:
    """How original pixels and network-input pixels correspond: ``input = scale * original + offset``.

    Coordinates are pixel indices as the reference uses them: the centre of the first pixel is 0 in both
    frames, and the scale is about index 0 (no half-pixel correction).
    """

    scale: float  #: Input pixels per original pixel, the same in x and y.
    offset: tuple[float, float]  #: x, y of the original's index (0, 0) in the input, pixels.
    original_hw: tuple[int, int]  #: Height and width of the original image.
    input_hw: tuple[int, int]  #: Height and width of the network input.

    def to_original(self, points: NDArray[Any]) -> NDArray[Any]:
        """Network-input pixels to original pixels.

        For ``CENTER`` this is ``points / input_size * input_scale + input_center - 0.5 * input_scale`` of
        mmpose's BottomupPoseEstimator, for ``TOP_LEFT`` rtmlib's ``points / ratio``. Nothing is clipped.

        Args:
            points: ``(..., 2)`` x, y. Computed in float64.

        Returns:
            ``(..., 2)``, a new array: float32 for float32, otherwise float64.
        """
        return _as_input_dtype((np.asarray(points, np.float64) - self.offset) / self.scale, points)

    def boxes_to_original(self, boxes: NDArray[Any]) -> NDArray[Any]:
        """``(N, 4)`` x1, y1, x2, y2 in network-input pixels to original pixels, as :meth:`to_original`."""
        boxes = np.asarray(boxes)
        return self.to_original(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    def to_input(self, points: NDArray[Any]) -> NDArray[Any]:
        """``(..., 2)`` original pixels to network-input pixels; the inverse of :meth:`to_original`."""
        return _as_input_dtype(np.asarray(points, np.float64) * self.scale + self.offset, points)


def letterbox(
    image: NDArray[np.uint8] | Decoded,
    size_hw: tuple[int, int],
    placement: Placement = Placement.CENTER,
    *,
    out: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], LetterboxTransform]:
    """Scale an image into the canvas with its aspect kept (up as well as down), and pad with 114.

    ``CENTER`` is mmpose's ``BottomupResize(resize_mode='fit')``: one bilinear ``cv2.warpAffine``, pixel for
    pixel the same. With a fractional offset every row is therefore a blend of two, and the image's border
    blends with the padding. ``TOP_LEFT`` is rtmlib's ``RTMO.preprocess``: ``cv2.resize`` to the truncated
    size, padding right and below, and no resampling at all when the sizes are equal already. Neither smooths
    before it shrinks.

    A side of 32767 pixels or more is beyond cv2.warpAffine (the reference fails there). Such an image is
    first averaged down by the smallest whole factor that makes it fit (``INTER_AREA``); the warp's matrix
    makes up for it, so the transform is the one that any image of that size has.

    Args:
        image: ``(h, w, 3)`` uint8, BGR; or one that was decoded at a reduced scale, whose transform and place in the
            canvas are those of the whole image.
        size_hw: Height and width of the network input, multiples of 32.
        placement: Where the image stands in the canvas.
        out: ``(H, W, 3)`` uint8, contiguous, to write into; it shares no memory with the image.

    Returns:
        ``(H, W, 3)`` uint8 BGR, ``out`` or a new array; and the transform between the two frames.

    Raises:
        UsageError: The image is not such an array, a size is not a multiple of 32, or ``out`` is not as it must be.
    """
    if isinstance(image, Decoded):
        pixels, factor, (rows, columns) = image
    else:
        check_image(image)
        pixels, factor, (rows, columns) = image, 1, image.shape[:2]
    height, width = size_hw
    if any(side <= 0 or side % INPUT_MULTIPLE for side in size_hw):
        nearest = "x".join(str(max(1, math.ceil(side / INPUT_MULTIPLE)) * INPUT_MULTIPLE) for side in size_hw)
        raise UsageError(
            f"The network input is {height}x{width} (height x width), but both must be positive multiples of "
            f"{INPUT_MULTIPLE}.",
            remedy=f"The nearest above is {nearest}.",
        )
    pixels = np.ascontiguousarray(pixels)
    transform = transform_of((rows, columns), size_hw, placement)
    canvas = _written((height, width, 3), np.uint8, out)
    if np.may_share_memory(canvas, pixels):
        raise UsageError("out shares memory with the image.", remedy="Give another array.")
    if placement is Placement.TOP_LEFT:
        # Truncated as rtmlib does; an image too thin to keep a row or column keeps one.
        size = (max(1, int(columns * transform.scale)), max(1, int(rows * transform.scale)))
        if factor == 1:
            cv2.resize(pixels, size, dst=canvas[: size[1], : size[0]], interpolation=cv2.INTER_LINEAR)
        else:
            x, y = size[0] / columns, size[1] / rows
            resizing = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])  # as cv2.resize maps the whole image
            _warp_reduced(pixels, resizing @ _enlarging(factor, factor), canvas, (0, 0), size)
        canvas[: size[1], size[0] :] = PAD_VALUE
        canvas[size[1] :] = PAD_VALUE
        return canvas, transform
    matrix = reference_matrix(rows, columns, height, width)
    if factor > 1:
        # Pixels whose centre is in the image.
        low = np.ceil(np.array(transform.offset) - transform.scale / 2).astype(int)
        high = np.ceil(np.add(transform.offset, transform.scale * (np.array([columns, rows]) - 0.5))).astype(int)
        canvas[...] = PAD_VALUE
        _warp_reduced(pixels, matrix @ _enlarging(factor, factor), canvas, low, np.maximum(high, low + 1))
        return canvas, transform
    pixels, matrix = _within_warp_limit(pixels, matrix)
    cv2.warpAffine(pixels, matrix, (width, height), canvas, flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3)
    return canvas, transform


def _warp_reduced(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], canvas: NDArray[np.uint8], low: Any, high: Any
) -> None:
    """Warp an image into the part of a canvas from pixel ``low`` to before ``high`` (x, y).

    At the border its own pixels go on: they stand for so many that a blend with the padding would show.
    """
    (left, top), (right, bottom) = low, high
    pixels, matrix = _within_warp_limit(pixels, matrix - [[0, 0, left], [0, 0, top]])
    content, size = canvas[top:bottom, left:right], (int(right - left), int(bottom - top))
    cv2.warpAffine(pixels, matrix, size, content, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def transform_of(image_hw: tuple[int, int], size_hw: tuple[int, int], placement: Placement) -> LetterboxTransform:
    """How an image of this height and width is placed in a canvas of that."""
    (rows, columns), (height, width) = image_hw, size_hw
    scale = min(height / rows, width / columns)
    free = (0.0, 0.0) if placement is Placement.TOP_LEFT else (width - scale * columns, height - scale * rows)
    return LetterboxTransform(scale, (free[0] / 2, free[1] / 2), image_hw, size_hw)


def to_tensor(images: Sequence[NDArray[np.uint8]], *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Letterboxed images as one network input.

    Args:
        images: One or more ``(H, W, 3)`` uint8 BGR images of one size.
        out: ``(B, 3, H, W)`` float32, contiguous, to write into.

    Returns:
        ``(B, 3, H, W)`` float32, contiguous, BGR, 0 to 255: the values are not scaled or normalised. ``out``, or a new
        array.

    Raises:
        UsageError: There is no image, the sizes differ, or ``out`` is not as it must be.
    """
    if not len(images):
        raise UsageError("A batch needs at least one image.", remedy="Pass one or more.")
    for image in images:
        check_image(image)
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise UsageError(
            f"The images of one batch have different sizes: {shapes}.",
            remedy="Letterbox them to one size first.",
        )
    height, width = images[0].shape[:2]
    batch = _written((len(images), 3, height, width), np.float32, out)
    planes = np.empty((3, height, width), np.uint8)
    for slot, image in zip(batch, images, strict=True):
        cv2.split(image, list(planes))  # 2.3 times as fast as to convert a transposed view
        slot[...] = planes
    return batch


def _written(shape: tuple[int, ...], dtype: type[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    """``out``, or a new array where there is none."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (shape, np.dtype(dtype)) or not out.flags.carray:
        raise UsageError(f"out is not a contiguous {np.dtype(dtype)} array {shape}.", remedy="Leave it away.")
    return out


def reference_matrix(rows: int, columns: int, height: int, width: int) -> NDArray[np.float64]:
    """The 2x3 matrix original -> input.

    As in mmpose it is fitted to three float32 points, whose rounding moves some samples by 1/32 pixel.
    """
    fitted = np.float32(columns * width / min(width, height * (columns / rows)))  # canvas width in original pixels
    centre = np.array([columns / 2, rows / 2], np.float32)
    above = (centre - np.array([0, fitted / 2], np.float64)).astype(np.float32)
    reach = centre[1] - above[1]
    source = np.array([centre, above, above - [reach, 0]], np.float32)
    top = height / 2 - width / 2
    target = np.array([[width / 2, height / 2], [width / 2, top], [0, top]], np.float32)
    return np.asarray(cv2.getAffineTransform(source, target), np.float64)


def _within_warp_limit(
    image: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The image small enough for cv2.warpAffine, and the matrix that puts it where the original goes."""
    rows, columns = image.shape[:2]
    factor = math.ceil(max(rows, columns) / WARP_LIMIT)
    if factor == 1:
        return image, matrix
    size = (max(1, round(columns / factor)), max(1, round(rows / factor)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, matrix @ _enlarging(columns / size[0], rows / size[1])


def _enlarging(x: float, y: float) -> NDArray[np.float64]:
    """The 3x3 matrix from an image in which a pixel is the mean of ``x`` times ``y`` pixels back to theirs.

    The middle of those that pixel i stands for is ``x * i + (x - 1) / 2``.
    """
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _as_input_dtype(result: NDArray[np.float64], points: NDArray[Any]) -> NDArray[Any]:
    return result.astype(np.float32) if getattr(points, "dtype", None) == np.float32 else result


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse, with a UsageError, what is not a ``(h, w, 3)`` uint8 array with at least one pixel."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        this = f"{dtype} {shape}" if dtype is not None else type(image).__name__
        remedy = "Read it with read_image, or convert it first; cv2.imread gives None for what it cannot read."
        raise UsageError(f"An image is a uint8 array (height, width, 3) in BGR order; this is {this}.", remedy=remedy)
