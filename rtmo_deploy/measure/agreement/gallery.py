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
from rtmo_deploy.report.html import render
from rtmo_deploy.runtime.draw import write_image

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

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
