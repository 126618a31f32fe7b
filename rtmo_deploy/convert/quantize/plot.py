"""The frontier as a picture: average precision against the share of the arithmetic that is 8-bit."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from rtmo_deploy.errors import MissingDependencyError
from rtmo_deploy.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def require_matplotlib() -> None:
    """Say so before the work rather than after it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", purpose="Plotting the frontier", extra="train")


def plot_frontier(
    path: Path, points: Sequence[tuple[float, float]], *, baseline_ap: float, max_ap_drop: float, title: str
) -> None:
    """Write a PNG.

    Args:
        path: The file.
        points: Share of the network's multiply-accumulates in 8 bits and average precision, both 0 to 1.
        baseline_ap: Average precision in float32, 0 to 1.
        max_ap_drop: The budget, 0 to 1.
        title: Above the picture.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        SetupError: The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([100 * share for share, _ in points], [ap for _, ap in points], "o-", label="INT8")
    axes.axhline(baseline_ap, color="black", linewidth=1, label="float32")
    axes.axhline(baseline_ap - max_ap_drop, color="black", linewidth=1, linestyle=":", label="budget")
    axes.set_xlabel("multiply-accumulates of the network in INT8 (%)")
    axes.set_ylabel("average precision (AP)")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
