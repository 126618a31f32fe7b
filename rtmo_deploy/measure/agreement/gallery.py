"""A folder to look at: pictures of both models side by side, and one page that lists them, worst first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure.agreement.drawing import magnification, panels
from rtmo_deploy.measure.agreement.page import Card, page
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.draw import write_image

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from numpy.typing import NDArray

    from rtmo_deploy.measure.agreement.compare import Pictures
    from rtmo_deploy.measure.agreement.report import AgreementReport

#: Pictures that are drawn.
SHOWN_AT_MOST: Final = 24
#: White between two panels, pixels.
_GAP: Final = 8


def write_gallery(
    report: AgreementReport,
    pictures: Pictures,
    folder: str | os.PathLike[str],
    *,
    most: int = SHOWN_AT_MOST,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Draw the worst pictures of a comparison.

    Written are ``001.png``, ``002.png``, ... (first model, second model, differences) and ``index.html``, which holds
    the pictures itself and needs no other file and no network. Files of these names are replaced; the page comes last.

    Args:
        report: The comparison.
        pictures: What it ran on.
        folder: Made if it is not there.
        most: Pictures that are drawn.
        progress: Told which picture is being drawn.

    Returns:
        The page.

    Raises:
        UsageError: ``folder`` is a file.
        SetupError: It cannot be written to.
        InputDataError: A picture cannot be read any more.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError("This is a file.", remedy="Name a folder for the pictures.", where=folder)
    worst = report.worst(most)
    times = magnification([report.pictures[index] for index in worst], report.input_hw)
    cards = []
    for number, index in enumerate(worst, 1):
        progress(Count("drawing comparisons", number, len(worst)))
        canvas = pictures.canvas(index, report.input_hw, report.a.placement)
        drawn = panels(canvas, report.found[index], report.pictures[index], times)
        name = f"{number:03d}.png"
        write_image(folder / name, _side_by_side(drawn))
        cards.append(Card(report.pictures[index], name, tuple(_jpeg(panel) for panel in drawn)))
    target = folder / "index.html"
    with atomic_write(target) as temporary:
        temporary.write_text(page(report, cards, times), encoding="utf-8")
    return target


def _side_by_side(drawn: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    gap = np.full((drawn[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for panel in drawn for part in (gap, panel)][1:]
    return np.concatenate(parts, axis=1)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    quality = (cv2.IMWRITE_JPEG_QUALITY, 88)
    return bytes(cv2.imencode(".jpg", picture, quality)[1].tobytes())
