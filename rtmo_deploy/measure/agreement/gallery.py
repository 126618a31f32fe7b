"""Writes a folder to look at: images of both models side by side, and one page that lists them, worst first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure.agreement.drawing import drawn_comparisons, jpeg, magnification
from rtmo_deploy.measure.bounds import WORKING_SCORE
from rtmo_deploy.report.html import number, render
from rtmo_deploy.runtime.draw import write_image

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.measure.agreement.compare import ImageSource
    from rtmo_deploy.measure.agreement.report import AgreementReport
    from rtmo_deploy.measure.comparison import ImageComparison

#: Images that are drawn.
SHOWN_AT_MOST: Final = 24
#: White between two panels, pixels.
_GAP: Final = 8
_JPEG_QUALITY: Final = 88


def write_gallery(
    report: AgreementReport,
    pictures: ImageSource,
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
        pictures: The images that it ran on.
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
    times = magnification([report.pictures[index] for index in worst], report.input_hw)
    cards = []
    drawings = drawn_comparisons(report, pictures, worst, times, progress)
    for position, (picture, drawn) in enumerate(drawings, 1):
        name = f"{position:03d}.png"
        write_image(folder / name, _side_by_side(drawn))
        captions = (
            f"{report.names[0]}: {picture.people_a} people",
            f"{report.names[1]}: {picture.people_b} people",
            f"differences, {times} times as long",
        )
        images = [jpeg(panel, _JPEG_QUALITY) for panel in drawn]
        panels = list(zip(images, captions, strict=True))
        cards.append({"name": picture.name, "told": _told(picture), "file": name, "panels": panels})
    target = folder / "index.html"
    with atomic_write(target) as temporary:
        temporary.write_text(_page(report, cards, times), encoding="utf-8")
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
        figures=_figures(report),
        layers=[] if found is None else [one for one in found.layers if one.weighted or one is found.first],
        shown=f"the worst {len(cards)} of {len(report.pictures)}"
        if len(cards) < len(report.pictures)
        else f"all {len(cards)}",
        working_score=WORKING_SCORE,
        times=times,
        cards=cards,
        version=__version__,
    )


def _figures(report: AgreementReport) -> list[tuple[str, str]]:
    p, (one, two) = report.people, report.names
    keypoints = (p.keypoint_px_mean, p.keypoint_px_p50, p.keypoint_px_p99, p.keypoint_px_max)
    return [
        (f"people{report.above}", f"{p.people_a} in {one}, {p.people_b} in {two}"),
        ("in both; missed; extra", f"{p.matched}; {p.missed}; {p.extra}"),
        ("OKS, mean; least", f"{number(p.oks_mean)}; {number(p.oks_min)}"),
        ("keypoints, mean; median; 99 of 100; worst (px)", "; ".join(map(number, keypoints))),
        ("boxes, mean; worst (px)", f"{number(p.box_px_mean)}; {number(p.box_px_max)}"),
        (
            f"scores, {two} over {one} (median); worst difference",
            f"{number(p.score_ratio)}; {number(p.score_max)}",
        ),
    ]


def _told(picture: ImageComparison) -> str:
    """How the two models compare on an image, in words."""
    told = f"{picture.matched} in both, {picture.missed} missed, {picture.extra} extra"
    if not picture.matched:
        return told
    oks, keypoints, boxes = picture.oks.min(), picture.keypoint_px.max(), picture.box_px.max()
    return f"{told}; least OKS {oks:.4g}, keypoints up to {keypoints:.4g} px, boxes up to {boxes:.4g} px"


def _side_by_side(drawn: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    gap = np.full((drawn[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for panel in drawn for part in (gap, panel)][1:]
    return np.concatenate(parts, axis=1)
