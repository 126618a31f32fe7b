"""Draws what two models found and how they differ, and writes a page that lists the images, worst first.

Everything is drawn on the network's input: no coordinate is converted on the way.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import write_whole
from rtmo_deploy.measure.agreement.causes import moved
from rtmo_deploy.measure.bounds import WORKING_SCORE
from rtmo_deploy.progress import Count
from rtmo_deploy.report.html import render
from rtmo_deploy.runtime.draw import draw_poses, write_image

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.measure.agreement.compare import ImageSource
    from rtmo_deploy.measure.agreement.report import AgreementReport
    from rtmo_deploy.measure.comparison import ImageComparison, Unmatched
    from rtmo_deploy.poses import Poses

    Panels = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


#: Images that are drawn.
SHOWN_AT_MOST: Final = 24
#: White between two panels, pixels.
_GAP: Final = 8
_JPEG_QUALITY: Final = 88
#: The 99th percentile of the errors is drawn about this long, as a share of the image's shorter side.
SHOWN: Final = 0.1
#: Smaller network inputs are enlarged, so that there is room to draw in.
LEAST_SIDE: Final = 640
#: In a larger crowd scores would hide the people.
LABELLED: Final = 6
#: No error is drawn larger than this many times.
MOST: Final = 1_000_000
#: From the palette of Okabe and Ito, BGR: error vectors, people only in the first, only in the second, matched ones.
_VECTOR: Final = (0, 94, 213)
_ONLY: Final = {"a": ((178, 114, 0), "first"), "b": ((167, 121, 204), "second")}
_LIMB: Final = (110, 110, 110)
_INK: Final = (30, 30, 30)
_WHITE: Final = (255, 255, 255)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
#: Drawing is done this many times as large and averaged down.
_ZOOM: Final = 3
_SHIFT: Final = 4


def write_gallery(
    report: AgreementReport,
    source: ImageSource,
    folder: str | os.PathLike[str],
    *,
    most: int = SHOWN_AT_MOST,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Draw the worst images of a comparison.

    Written are ``001.png``, ``002.png``, ... (first model, second model, differences) and ``index.html``, which holds
    the images itself and needs no other file and no network. Files of these names are replaced; the page comes last.

    Args:
        report: The comparison.
        source: The images that it ran on.
        folder: Made if it is not there.
        most: Images that are drawn.
        progress: Told which image is being drawn.

    Returns:
        The page.

    Raises:
        UsageError: ``folder`` is a file.
        SetupError: It cannot be written to.
        InputDataError: An image cannot be read any more.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError("This is a file.", remedy="Name a folder for the images.", where=folder)
    worst = report.worst(most)
    times = magnification([report.images[index] for index in worst], report.input_hw)
    cards = []
    for position, (image, drawn) in enumerate(drawn_comparisons(report, source, worst, times, progress), 1):
        name = f"{position:03d}.png"
        gap = np.full((drawn[0].shape[0], _GAP, 3), 255, np.uint8)
        write_image(folder / name, np.concatenate([drawn[0], gap, drawn[1], gap, drawn[2]], axis=1))
        captions = (
            f"{report.names[0]}: {image.counts['people_a']} people",
            f"{report.names[1]}: {image.counts['people_b']} people",
            f"differences, {times} times as long",
        )
        panels = [(jpeg(panel, _JPEG_QUALITY), words) for panel, words in zip(drawn, captions, strict=True)]
        cards.append({"name": image.name, "told": _told(image), "file": name, "panels": panels})
    target = folder / "index.html"
    write_whole(target, _page(report, cards, times))
    return target


def _page(report: AgreementReport, cards: list[dict[str, Any]], times: int) -> str:
    checks = sorted(report.checks(), key=lambda check: check.passed)
    found = report.layers
    return render(
        "parity.html",
        report=report,
        rule=[(one.name, one.bound, one.measured, "passed" if one.passed else "failed") for one in checks],
        marks=["" if one.passed else "failed" for one in checks],
        findings=[*report.failures(), *report.causes, *report.notes],
        figures=report.figures().items(),
        layers=[] if found is None else [one for one in found.layers if one.weighted or one is found.first],
        shown=f"the worst {len(cards)} of {len(report.images)}"
        if len(cards) < len(report.images)
        else f"all {len(cards)}",
        working_score=WORKING_SCORE,
        times=times,
        cards=cards,
        version=__version__,
    )


def _told(image: ImageComparison) -> str:
    """How the two models compare on an image, in words."""
    told = "{matched} in both, {missed} missed, {extra} extra".format(**image.counts)
    if not len(image.oks):
        return told
    oks, keypoints, boxes = image.oks.min(), image.keypoint_px.max(), image.box_px.max()
    return f"{told}; least OKS {oks:.4g}, keypoints up to {keypoints:.4g} px, boxes up to {boxes:.4g} px"


def magnification(images: list[ImageComparison], input_hw: tuple[int, int]) -> int:
    """How many times as large errors are drawn: 1, 2, 5, 10, 20, ... so that the large ones can be seen."""
    errors = np.concatenate([np.zeros(0), *(image.keypoint_px.ravel() for image in images)])
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if not errors.size:
        return 1
    wanted = SHOWN * min(input_hw) / float(np.percentile(errors, 99))
    return int(_round_down(min(max(wanted, 1.0), float(MOST))))


def drawn_comparisons(
    report: AgreementReport,
    source: ImageSource,
    indices: Sequence[int],
    times: int,
    progress: Callable[[str], None],
) -> Iterator[tuple[ImageComparison, Panels]]:
    """The :func:`panels` of some of a comparison's images; ``progress`` is told of each.

    Raises:
        InputDataError: An image cannot be read any more.
    """
    for number, index in enumerate(indices, 1):
        progress(Count("drawing comparisons", number, len(indices)))
        canvas = source.canvas(index, report.input_hw, report.a.placement)
        yield report.images[index], panels(canvas, report.found[index], report.images[index], times)


def jpeg(image: NDArray[np.uint8], quality: int, longest: int | None = None) -> bytes:
    """A ``(H, W, 3)`` BGR image as JPEG; shrunk where its longest side has more pixels than ``longest``."""
    shrink = min(1.0, longest / max(image.shape[:2])) if longest else 1.0
    if shrink < 1:
        height, width = (max(1, round(side * shrink)) for side in image.shape[:2])
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes())


def panels(canvas: NDArray[np.uint8], found: tuple[Poses, Poses], image: ImageComparison, times: int) -> Panels:
    """The people of the first model, of the second, and the differences; people above :data:`WORKING_SCORE` only.

    ``canvas`` is the network's input, ``(H, W, 3)`` uint8 BGR, and ``found`` is in its pixels. The three images have
    its size, or a whole multiple of it where that is small.
    """
    zoom = -(-LEAST_SIDE // max(canvas.shape[:2]))
    large = np.asarray(cv2.resize(canvas, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST), np.uint8)
    # A whole number is the centre of a pixel, and pixels are repeated.
    one, two = (moved(people, (zoom, np.full(2, (zoom - 1) / 2))) for people in found)
    shown = [people[np.flatnonzero(people.scores > WORKING_SCORE)] for people in (one, two)]
    first, second = (draw_poses(large, people, labels=len(people) <= LABELLED) for people in shown)
    return first, second, difference_panel(large, (one, two), image, times, zoom)


def difference_panel(
    canvas: NDArray[np.uint8], found: tuple[Poses, Poses], image: ImageComparison, times: int, zoom: int = 1
) -> NDArray[np.uint8]:
    """The first model's skeletons in grey, magnified arrows to the second's keypoints, and unmatched people in boxes.

    ``times`` is in pixels of the network's input, which the canvas has ``zoom`` times as large.
    """
    height, width = canvas.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    pale = cv2.addWeighted(grey, 0.25, np.full_like(grey, 255), 0.75, 0)
    enlarged = cv2.resize(pale, (width * _ZOOM, height * _ZOOM), interpolation=cv2.INTER_NEAREST)
    scene = np.asarray(enlarged, np.uint8)
    line = max(1, round(0.0022 * math.sqrt(height * width))) * _ZOOM
    one, two = found
    pairs = [(i, j) for i, j in image.pairs.tolist() if max(one.scores[i], two.scores[j]) > WORKING_SCORE]
    for i, _ in pairs:
        for joints in one.skeleton.edges:
            start, end = one.keypoints[i, list(joints)]
            if np.isfinite([start, end]).all():
                cv2.line(scene, _at(start), _at(end), _LIMB, max(1, line // 2), cv2.LINE_AA, _SHIFT)
    for i, j in pairs:
        _draw_errors(scene, one.keypoints[i], two.keypoints[j], times / zoom, line)
    for unmatched in image.unmatched:
        people = one if unmatched.only_in == "a" else two
        if unmatched.score > WORKING_SCORE:
            _draw_unmatched(scene, people.boxes[unmatched.index], unmatched, line)
    _draw_legend(scene, times, zoom, line)
    return np.asarray(cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _draw_errors(
    scene: NDArray[np.uint8], start: NDArray[np.float32], end: NDArray[np.float32], times: float, line: int
) -> None:
    for one, two in zip(start.astype(np.float64), end.astype(np.float64), strict=True):
        if not np.isfinite([one, two]).all():
            continue
        tip = one + times * (two - one)
        cv2.circle(scene, _at(one), line << _SHIFT, _LIMB, -1, cv2.LINE_AA, _SHIFT)
        length = float(np.linalg.norm(tip - one)) * _ZOOM
        if length > 2 * line:
            head = min(0.35, 4 * line / length)
            for colour, width in ((_WHITE, 2 * line), (_VECTOR, line)):
                cv2.arrowedLine(scene, _at(one), _at(tip), colour, width, cv2.LINE_AA, _SHIFT, head)


def _draw_unmatched(scene: NDArray[np.uint8], box: NDArray[np.float32], unmatched: Unmatched, line: int) -> None:
    if not np.isfinite(box).all():
        return
    limit = np.array([scene.shape[1], scene.shape[0]] * 2) / _ZOOM - 1
    corners = np.clip(box, 0, limit)
    colour, model = _ONLY[unmatched.only_in]
    cv2.rectangle(scene, _at(corners[:2]), _at(corners[2:]), colour, 2 * line, cv2.LINE_AA, _SHIFT)
    size = _text_scale(scene)
    text = f"only in {model} {unmatched.score:.2f}"
    (width, height), _ = cv2.getTextSize(text, _FONT, size, line)
    left, top = (int(value * _ZOOM) for value in corners[:2])
    pad = height // 2
    left = max(0, min(left, scene.shape[1] - width - 2 * pad))
    cv2.rectangle(scene, (left, top), (left + width + 2 * pad, top + height + 2 * pad), colour, -1)
    cv2.putText(scene, text, (left + pad, top + height + pad), _FONT, size, _WHITE, max(1, line // 2), cv2.LINE_AA)


def _draw_legend(scene: NDArray[np.uint8], times: int, zoom: int, line: int) -> None:
    """A bar in the corner: how long an error of so many pixels is drawn."""
    height, width = scene.shape[:2]
    error = _round_down(0.2 * width / _ZOOM / zoom / times)
    length = round(error * times * zoom * _ZOOM)
    text = f"{error:g} px (x{times})"
    size = _text_scale(scene)
    (text_width, text_height), _ = cv2.getTextSize(text, _FONT, size, max(1, line // 2))
    pad = text_height // 2
    box = (max(length, text_width) + 2 * pad, text_height + 4 * pad + line)
    top = height - box[1]
    cv2.rectangle(scene, (0, top), (box[0], height), _WHITE, -1)
    baseline = top + pad + text_height
    cv2.putText(scene, text, (pad, baseline), _FONT, size, _INK, max(1, line // 2), cv2.LINE_AA)
    bar = baseline + 2 * pad
    cv2.line(scene, (pad, bar), (pad + length, bar), _VECTOR, line, cv2.LINE_AA)


def _text_scale(scene: NDArray[np.uint8]) -> float:
    """So that a capital (22 pixels at scale 1) is about a 40th of the image's height, at least 8 pixels."""
    return max(8.0 * _ZOOM, float(scene.shape[0]) / 40) / 22


def _at(point: NDArray[np.floating]) -> tuple[int, int]:
    """A point in pixels of the image, in the drawing's fixed-point numbers."""
    scaled = np.clip((np.asarray(point, np.float64) + 0.5) * _ZOOM, -20_000, 20_000) * (1 << _SHIFT)
    return int(scaled[0]), int(scaled[1])


def _round_down(value: float) -> float:
    """The largest of ..., 0.1, 0.2, 0.5, 1, 2, 5, ... that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(max((step for step in (1, 2, 5) if step * power <= value), default=1) * power)
