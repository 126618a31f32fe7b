"""Poses out: an image with the people drawn on it, and images into files.

OpenCV draws, anti-aliased and to 1/16 pixel. Widths follow the image and the person.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import write_whole
from rtmo_deploy.runtime.letterbox import check_image

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses, Skeleton
    from rtmo_deploy.sides import Side

    _Floats = NDArray[np.float64]

_Colour = tuple[int, int, int]

# From the palette of Okabe and Ito: told apart with every common colour blindness, and in grey from white.
_COLOURS: Final[dict[Side, str]] = {"left": "#56B4E9", "right": "#E69F00", "centre": "#FFFFFF"}
_BOX_COLOUR: Final = "#009E73"
#: Boxes and labels by track id, in turn; the number stands in the label.
_TRACK_COLOURS: Final = ("#0072B2", "#D55E00", "#CC79A7", "#F0E442", "#009E73", "#E69F00", "#56B4E9")
_OUTLINE: Final = (17, 17, 17)

_BITS: Final = 4  # of the fraction of a coordinate
#: OpenCV's anti-aliased polygons are wider than their corners say, and its circles larger, in pixels; its thinnest
#: line is as wide as ``_THIN``.
_WIDER, _LARGER, _THIN = 1.4, 0.55, 1.4

# Thin coloured lines need their colour at full resolution.
_JPEG: Final = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
# For each suffix the longest side its format (or libpng) takes, and the parameters of cv2.imencode.
_ENCODERS: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    **dict.fromkeys((".jpg", ".jpeg"), (65_500, _JPEG)),
    ".png": (1_000_000, ()),
    ".webp": (16_383, ()),
    **dict.fromkeys((".bmp", ".tif", ".tiff"), (1_000_000, ())),
}
#: Suffixes that :func:`write_image` knows.
WRITABLE_SUFFIXES: Final = frozenset(_ENCODERS)


def draw_poses(
    image: NDArray[np.uint8],
    poses: Poses,
    *,
    keypoint_thr: float = 0.3,
    boxes: bool = True,
    labels: bool = True,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Draw people on a copy of an image, the best one on top.

    The left side of a body is blue, the right orange, the middle white (the side of a keypoint is read from
    its name), unless the skeleton has colours of its own. Keypoints that are not numbers or lie outside the
    image are left out; edges to the latter are drawn up to the image's border. With track ids, boxes and labels
    have a colour for each id, and labels show it.

    Args:
        image: ``(h, w, 3)`` uint8, BGR. It is not changed.
        poses: People, in pixels of this image.
        keypoint_thr: Keypoints with a lower score are not drawn, nor the edges that end in them.
        boxes: Whether to draw each person's box, clipped to the image.
        labels: Whether to write each person's score, and track id if known, above the box.
        out: Where to draw: a contiguous array like ``image``, or ``image`` itself to draw on it. A new array if not
            given.

    Returns:
        ``(h, w, 3)`` uint8, BGR: ``out``, or a new array.

    Raises:
        UsageError: ``image`` is not such an array, or ``out`` is not.
    """
    check_image(image)
    if out is None:
        out = np.array(image, order="C")
    elif out.shape != image.shape or out.dtype != np.uint8 or not (out.flags.c_contiguous and out.flags.writeable):
        raise UsageError(
            "The array to draw into is not a writable, contiguous uint8 array of the image's shape.",
            remedy="Give np.empty_like(image, order='C'), or leave out away.",
        )
    elif out is not image:
        np.copyto(out, image)
    height, width = image.shape[:2]
    order = range(len(poses))[::-1]
    styles = [_Style.of(poses.boxes[row], height, width) for row in order]
    shown = [_visible_box(out, poses.boxes[row]) for row in order]
    ids = np.full(len(poses), -1) if poses.track_ids is None else poses.track_ids
    colours = [_bgr(_BOX_COLOUR if ids[row] < 0 else _TRACK_COLOURS[ids[row] % len(_TRACK_COLOURS)]) for row in order]
    for box, style, colour in zip(shown, styles, colours, strict=True):
        if boxes and box is not None:
            _draw_box(out, box, colour, style)
    ink = _Ink.of(poses.skeleton)
    for row, style in zip(order, styles, strict=True):
        _draw_skeleton(out, poses.keypoints[row], poses.keypoint_scores[row] >= keypoint_thr, ink, style)
    for row, box, style, colour in zip(order, shown, styles, colours, strict=True):
        if labels and box is not None:
            number = "" if ids[row] < 0 else f"#{ids[row]} "
            _draw_label(out, box, f"{number}{poses.scores[row]:.2f}", colour, style)
    return out


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write an image, whole or not at all, in the format its suffix names.

    JPEG is written with quality 95 and colours at full resolution, the other formats without loss.

    Args:
        path: Ends in .jpg, .jpeg, .png, .webp, .bmp, .tif or .tiff. Missing folders are made.
        image: ``(h, w, 3)`` uint8, BGR.

    Raises:
        UsageError: The suffix is another one, the image is not such an array, or too large for the format.
        SetupError: The folder cannot be written to, or the disk is full.
    """
    check_image(image)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _ENCODERS:
        raise UsageError(
            f"No image can be written with the suffix '{path.suffix}'.",
            remedy=f"Use one of: {' '.join(_ENCODERS)}.",
            where=path,
        )
    limit, parameters = _ENCODERS[suffix]
    if max(image.shape) > limit:
        raise UsageError(
            f"The image is {image.shape[1]}x{image.shape[0]} pixels, but {suffix} holds {limit} on a side.",
            remedy="Use .png, or shrink it." if suffix != ".png" else "Shrink it.",
            where=path,
        )
    encoded = cv2.imencode(suffix, image, parameters)[1]
    write_whole(path, encoded.tobytes())


class _Style(NamedTuple):
    """Widths for one person, pixels."""

    line: float
    radius: float
    outline: float
    box: float
    text: float

    @classmethod
    def of(cls, box: NDArray[np.float32], height: int, width: int) -> _Style:
        left, top, right, bottom = (float(side) if math.isfinite(side) else 0.0 for side in box)
        person = math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))
        image = math.sqrt(height * width)
        line = min(max(0.016 * person, 0.0028 * image, 1.0), 0.009 * image + 1)
        text = min(max(0.045 * person, 0.018 * image, 8.0), 0.028 * image + 4)
        return cls(line, 0.95 * line, 0.3 * line, 0.5 * line, text)


class _Ink(NamedTuple):
    """What is drawn of a skeleton, in which colours."""

    edges: NDArray[np.intp]
    edge_colours: list[_Colour]
    keypoint_colours: list[_Colour]

    @classmethod
    def of(cls, skeleton: Skeleton) -> _Ink:
        keypoints, edges = drawn_colours(skeleton)
        return cls(np.array(skeleton.edges, np.intp).reshape(-1, 2), [*map(_bgr, edges)], [*map(_bgr, keypoints)])


def drawn_colours(skeleton: Skeleton) -> tuple[list[str], list[str]]:
    """Colours of the keypoints and of the edges as ``#rrggbb``: the skeleton's own, or those of the body's sides."""
    keypoints = skeleton.keypoint_colours or [_COLOURS[skeleton.side(index)] for index in range(len(skeleton))]
    edges = skeleton.edge_colours or [_COLOURS[skeleton.edge_side(edge)] for edge in skeleton.edges]
    return [*keypoints], [*edges]


def _bgr(colour: str) -> _Colour:
    return int(colour[5:], 16), int(colour[3:5], 16), int(colour[1:3], 16)


def _fixed(values: _Floats) -> NDArray[np.int32]:
    return np.rint(values * (1 << _BITS)).astype(np.int32)


def _visible_box(scene: NDArray[np.uint8], box: NDArray[np.float32]) -> _Floats | None:
    """``(4,)`` the part of a box inside the image; None if there is none."""
    if not np.isfinite(box).all():
        return None
    limit = np.array([scene.shape[1], scene.shape[0]] * 2, np.float64) - 1
    corners = np.clip(np.asarray(box, np.float64), 0, limit)
    return corners if (corners[2:] > corners[:2]).all() else None


def _draw_box(scene: NDArray[np.uint8], box: _Floats, colour: _Colour, style: _Style) -> None:
    left, top, right, bottom = (round(side) for side in box.tolist())  # on whole pixels it is crisp
    width = max(1, round(style.box))
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) + (width % 2 - 1) / 2
    edge = width + max(style.outline, 1.0)
    along = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]) * edge / 2
    _draw_lines(scene, corners - along, np.roll(corners, -1, axis=0) + along, [_OUTLINE] * 4, edge)
    columns, rows = (
        slice(max(0, low - width // 2), high + (width + 1) // 2) for low, high in ((left, right), (top, bottom))
    )
    for side in (top, bottom):
        scene[max(0, side - width // 2) : side + (width + 1) // 2, columns] = colour
    for side in (left, right):
        scene[rows, max(0, side - width // 2) : side + (width + 1) // 2] = colour


def _draw_label(scene: NDArray[np.uint8], box: _Floats, text: str, colour: _Colour, style: _Style) -> None:
    zoom = 4 if style.text < 24 else 1  # OpenCV's small letters are hard to read: drawn larger, and shrunk
    scale = style.text * zoom / 22  # a capital of the font is 22 pixels high at scale 1
    weight, padding = max(1, round(style.text * zoom / 8)), round(style.text * zoom * 0.4)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    label = np.full((height + 2 * padding, width + 2 * padding, 3), colour, np.uint8)
    blue, green, red = colour
    letters = _OUTLINE if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)
    start = padding, height + padding
    cv2.putText(label, text, start, cv2.FONT_HERSHEY_SIMPLEX, scale, letters, weight, cv2.LINE_AA)
    size = label.shape[1] // zoom, label.shape[0] // zoom
    label = np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_AREA) if zoom > 1 else label, np.uint8)
    # Above the box and flush with its outer edge, but inside the image.
    top = max(0, round(box[1]) - size[1])
    left = min(max(0, round(box[0] - style.box / 2 - style.outline / 2)), max(0, scene.shape[1] - size[0]))
    place = scene[top : top + size[1], left : left + size[0]]
    place[:] = label[: place.shape[0], : place.shape[1]]


def _draw_skeleton(
    scene: NDArray[np.uint8], keypoints: NDArray[np.float32], seen: NDArray[np.bool_], ink: _Ink, style: _Style
) -> None:
    points = keypoints.astype(np.float64)
    shown = seen & np.isfinite(points).all(axis=-1)
    margin = 2 * (style.radius + style.outline)
    low, high = np.full(2, -margin), np.array([scene.shape[1], scene.shape[0]]) + margin
    edges = np.flatnonzero(shown[ink.edges].all(axis=-1))
    first, second = points[ink.edges[edges]].swapaxes(0, 1)
    starts, ends, inside = _clip(first, second, low, high)
    dots = np.flatnonzero(shown & ((points >= low) & (points <= high)).all(axis=-1))
    centres = _fixed(points[dots]).tolist()
    line_colours = [ink.edge_colours[edge] for edge in edges[inside]]
    dot_colours = [ink.keypoint_colours[dot] for dot in dots]
    for outlined in (True, False):
        width = style.line + 2 * style.outline * outlined
        _draw_lines(scene, starts, ends, [_OUTLINE] * len(starts) if outlined else line_colours, width)
    for outlined in (True, False):
        radius = max(0.5, style.radius + style.outline * outlined - _LARGER)
        for centre, colour in zip(centres, dot_colours, strict=True):
            shade = _OUTLINE if outlined else colour
            cv2.circle(scene, centre, round(radius * (1 << _BITS)), shade, cv2.FILLED, cv2.LINE_AA, _BITS)


def _draw_lines(scene: NDArray[np.uint8], starts: _Floats, ends: _Floats, colours: list[_Colour], width: float) -> None:
    """Lines of any width of at least 1.4 pixels, with square ends; ``(n, 2)`` starts and ends."""
    if width < _THIN + 0.5:
        for start, end, colour in zip(_fixed(starts).tolist(), _fixed(ends).tolist(), colours, strict=True):
            cv2.line(scene, start, end, colour, 1, cv2.LINE_AA, _BITS)
        return
    way = ends - starts
    aside = way[:, ::-1] * (1, -1) / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9) * (width - _WIDER) / 2
    corners = _fixed(np.stack([starts + aside, ends + aside, ends - aside, starts - aside], axis=1))
    for polygon, colour in zip(corners, colours, strict=True):
        cv2.fillConvexPoly(scene, polygon, colour, cv2.LINE_AA, _BITS)


def _clip(starts: _Floats, ends: _Floats, low: _Floats, high: _Floats) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
    """The parts of ``(n, 2)`` segments inside a rectangle (Liang and Barsky), and which have one."""
    way = ends - starts
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.stack([(low - starts) / way, (high - starts) / way])
    level = way == 0
    within = ((low <= starts) & (starts <= high)) | ~level
    near = np.where(level, 0.0, bounds.min(axis=0)).max(axis=1, initial=0.0)[:, None]
    far = np.where(level, 1.0, bounds.max(axis=0)).min(axis=1, initial=1.0)[:, None]
    inside = (near <= far)[:, 0] & within.all(axis=1)
    return (starts + near * way)[inside], (starts + far * way)[inside], inside
