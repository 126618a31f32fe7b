"""Poses out: an image with the people drawn on it, and images into files.

The drawing is done by supervision's annotators, which know neither anti-aliasing nor sizes. Both come from
here: widths follow the image and the person, and the annotators work on an image enlarged by repeating its
pixels and averaged back afterwards, which smooths what was drawn and leaves every other pixel as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.runtime.letterbox import check_image

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses
    from rtmo_deploy.sides import Side

# From the palette of Okabe and Ito: told apart with every common colour blindness, and in grey from white.
_COLOURS: Final[dict[Side, str]] = {"left": "#56B4E9", "right": "#E69F00", "centre": "#FFFFFF"}
_BOX_COLOUR: Final = "#009E73"
_OUTLINE: Final = "#111111"

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
) -> NDArray[np.uint8]:
    """Draw people on a copy of an image, the best one on top.

    The left side of a body is blue, the right orange, the middle white (the side of a keypoint is read from
    its name), unless the skeleton has colours of its own. Keypoints that are not numbers or lie outside the
    image are left out; edges to the latter are drawn up to the image's border.

    Args:
        image: ``(h, w, 3)`` uint8, BGR. It is not changed.
        poses: People, in pixels of this image.
        keypoint_thr: Keypoints with a lower score are not drawn, nor the edges that end in them.
        boxes: Whether to draw each person's box, clipped to the image.
        labels: Whether to write each person's score above the box.

    Returns:
        ``(h, w, 3)`` uint8, BGR, a new array.

    Raises:
        UsageError: The image is not such an array.
    """
    check_image(image)
    height, width = image.shape[:2]
    if not len(poses):
        return image.copy()
    # How often each pixel is repeated: 4 for small images, fewer beyond 50 million pixels, at least 1.
    zoom = max(1, min(4, math.isqrt(50_000_000 // (height * width))))
    scene = _resized(image, height * zoom, width * zoom, cv2.INTER_NEAREST)
    people = [(poses[index], _Style.of(poses.boxes[index], height, width, zoom)) for index in range(len(poses))][::-1]
    for person, style in people if boxes else ():
        _draw_box(scene, person.boxes[0], style)
    for person, style in people:
        _draw_skeleton(scene, person, style, keypoint_thr)
    for person, style in people if labels else ():
        _draw_label(scene, person.boxes[0], f"{person.scores[0]:.2f}", style)
    return _resized(scene, height, width, cv2.INTER_AREA)


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
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


@dataclass(frozen=True)
class _Style:
    """Widths for one person, in pixels of the enlarged image, and the enlargement."""

    line: int
    radius: int
    outline: int
    box: int
    text: float
    zoom: int

    @classmethod
    def of(cls, box: NDArray[np.float32], height: int, width: int, zoom: int) -> _Style:
        left, top, right, bottom = (float(side) if math.isfinite(side) else 0.0 for side in box)
        person = math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))
        image = math.sqrt(height * width)
        line = min(max(0.016 * person, 0.0028 * image, 1.0), 0.009 * image + 1) * zoom
        text = min(max(0.045 * person, 0.018 * image, 8.0), 0.028 * image + 4) * zoom

        def whole(value: float) -> int:
            return max(1, round(value))

        return cls(whole(line), whole(0.95 * line), whole(0.3 * line), whole(0.5 * line), text, zoom)


def _resized(image: NDArray[np.uint8], height: int, width: int, method: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _draw_box(scene: NDArray[np.uint8], box: NDArray[np.float32], style: _Style) -> None:
    import supervision as sv

    if (corners := _visible_box(scene, box, style)) is None:
        return
    detection = sv.Detections(xyxy=corners, class_id=np.zeros(1, int))
    for colour, width in ((_OUTLINE, style.box + 2 * max(1, style.outline // 2)), (_BOX_COLOUR, style.box)):
        sv.BoxAnnotator(color=sv.Color.from_hex(colour), thickness=width).annotate(scene, detection)


def _draw_label(scene: NDArray[np.uint8], box: NDArray[np.float32], text: str, style: _Style) -> None:
    import supervision as sv

    if (corners := _visible_box(scene, box, style)) is None:
        return
    scale = style.text / 22  # a capital of the font is 22 pixels high at scale 1
    weight = max(1, round(style.text / 8))
    padding = round(style.text * 0.4)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    # Above the box and flush with its outer edge, but inside the image.
    corners[:, 1] = np.maximum(corners[:, 1], height + 2 * padding)
    flush = corners[:, 0] - style.box / 2 - style.outline / 2
    corners[:, 0] = np.clip(flush, 0, max(0, scene.shape[1] - width - 2 * padding))
    sv.LabelAnnotator(
        color=sv.Color.from_hex(_BOX_COLOUR),
        text_color=sv.Color.WHITE,
        text_scale=scale,
        text_thickness=weight,
        text_padding=padding,
    ).annotate(scene, sv.Detections(xyxy=corners, class_id=np.zeros(1, int)), labels=[text])


def _visible_box(scene: NDArray[np.uint8], box: NDArray[np.float32], style: _Style) -> NDArray[np.float64] | None:
    """``(1, 4)`` the part of a box inside the image, in pixels of the scene; None if there is none."""
    if not np.isfinite(box).all():
        return None
    limit = np.array([scene.shape[1], scene.shape[0]] * 2, np.float64) - 1
    corners = np.clip((np.asarray(box, np.float64) + 0.5) * style.zoom, 0, limit)
    return corners[None] if (corners[2:] > corners[:2]).all() else None


def _draw_skeleton(scene: NDArray[np.uint8], person: Poses, style: _Style, keypoint_thr: float) -> None:
    import supervision as sv

    skeleton = person.skeleton
    points = (person.keypoints[0].astype(np.float64) + 0.5) * style.zoom
    shown = (person.keypoint_scores[0] >= keypoint_thr) & np.isfinite(points).all(axis=-1)
    margin = 2 * (style.radius + style.outline)
    low, high = np.full(2, -margin, float), np.array([scene.shape[1], scene.shape[0]]) + margin

    lines: dict[str, list[NDArray[np.float64]]] = {}
    for number, (first, second) in enumerate(skeleton.edges):
        if shown[first] and shown[second]:
            segment = _clip_segment(points[first], points[second], low, high)
            if segment is not None:
                side = skeleton.edge_side((first, second))
                colour = skeleton.edge_colours[number] if skeleton.edge_colours else _COLOURS[side]
                lines.setdefault(colour, []).append(segment)
    dots: dict[str, list[NDArray[np.float64]]] = {}
    for index in np.flatnonzero(shown & ((points >= low) & (points <= high)).all(axis=-1)).tolist():
        colours = skeleton.keypoint_colours
        colour = colours[index] if colours else _COLOURS[skeleton.side(index)]
        dots.setdefault(colour, []).append(points[index : index + 1])
    for groups in (lines, dots):
        for outlined in (True, False):
            grow = style.outline if outlined else 0
            for name, shapes in groups.items():
                shade = sv.Color.from_hex(_OUTLINE if outlined else name)
                annotator: Any = (
                    sv.EdgeAnnotator(color=shade, thickness=style.line + 2 * grow, edges=[(1, 2)])
                    if groups is lines
                    else sv.VertexAnnotator(color=shade, radius=style.radius + grow)
                )
                annotator.annotate(scene, sv.KeyPoints(xy=np.stack(shapes).astype(np.float32)))


def _clip_segment(
    start: NDArray[np.float64], end: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """``(2, 2)`` the part of a segment inside a rectangle (Liang and Barsky), or None."""
    way = end - start
    enter, leave = 0.0, 1.0
    for axis in range(2):
        if way[axis] == 0:
            if not low[axis] <= start[axis] <= high[axis]:
                return None
            continue
        near, far = sorted(((low[axis] - start[axis]) / way[axis], (high[axis] - start[axis]) / way[axis]))
        enter, leave = max(enter, near), min(leave, far)
    return np.stack([start + enter * way, start + leave * way]) if enter <= leave else None
