"""Reverts blocks to FP32 until an AP budget is met: everything in 8 bits first, then the costly ones, one by one.

It knows blocks and verdicts, no graph: the judge is handed in, so that the search can be tried without a model.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import MissingDependencyError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rtmo_deploy.convert.quantize.judge import Verdict
    from rtmo_deploy.convert.quantize.source_model import Block

#: A block whose cost is below this share of the costliest one's is taken for free: what it costs is chance.
NOISE = 0.02


@dataclass(frozen=True)
class Point:
    """A model in which some blocks are 8-bit, and what it is worth."""

    blocks: tuple[str, ...]  #: Names of the blocks that are 8-bit.
    macs: int  #: Multiply-accumulates that are 8-bit.
    verdict: Verdict
    ap_drop: float  #: AP lost, 0 to 1; negative if it gained.
    reverted: str | None = None  #: The block that went back to FP32 last; None where none did.

    @property
    def cost(self) -> float:
        """Mean loss of keypoint similarity of the float32 model's people, 0 to 1; missed ones lose all."""
        oks = self.verdict.against_fp32.oks
        return 0.0 if oks is None else max(0.0, 1 - oks)


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    frontier: tuple[Point, ...]  #: The points it went through, from everything in 8 bits on.
    costs: tuple[Point, ...]  #: Each block alone in 8 bits, in the order in which they revert; empty if none had to.
    met: bool  #: Whether the last point is within the budget.

    @property
    def chosen(self) -> Point:
        """The last point if the budget was met, else the one with the least loss."""
        return self.frontier[-1] if self.met else min(self.frontier, key=lambda point: point.ap_drop)

    def to_dict(self, network_macs: int) -> dict[str, Any]:
        """JSON-ready form; ``network_macs`` are the multiply-accumulates of the whole network."""
        frontier = [
            {
                "given_back": point.reverted,
                "blocks": len(point.blocks),
                "macs": point.macs,
                "ap_drop": point.ap_drop,
                **point.verdict.to_dict(),
                "int8_of_network": point.macs / network_macs,
            }
            for point in self.frontier
        ]
        costs = [
            {"block": alone.blocks[0], "macs": alone.macs, "cost": alone.cost, "ap_drop": alone.ap_drop}
            for alone in self.costs
        ]
        return {"met": self.met, "frontier": frontier, "costs": costs}


def search(
    blocks: Sequence[Block],
    evaluate: Callable[[frozenset[str]], Verdict],
    baseline_ap: float | None,
    max_ap_drop: float,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Find the largest 8-bit part that loses at most so much.

    Blocks revert to FP32 in the order of what they cost for what they carry: loss of similarity when they alone are
    8-bit, for each multiply-accumulate. The last one never reverts: a float32 model is no 8-bit one. ``evaluate``
    judges the model in which these blocks, by name, are 8-bit; AP runs from 0 to 1.
    """
    if baseline_ap is None or baseline_ap <= 0:
        raise UsageError(
            f"The float32 model has an average precision of {baseline_ap or 0:g} on these images, so that no loss of "
            "it can be measured.",
            remedy="Judge by annotated images of the kind it was trained on: --ann FILE --images DIR.",
        )

    def point(chosen: Sequence[Block], reverted: str | None = None) -> Point:
        names = tuple(block.name for block in chosen)
        verdict = evaluate(frozenset(names))
        drop = 0.0 if verdict.ap is None else baseline_ap - verdict.ap
        return Point(names, sum(block.macs for block in chosen), verdict, drop, reverted)

    progress(f"judging with all {len(blocks)} blocks in 8 bits")
    frontier = [point(blocks)]
    costs: list[Point] = []
    if frontier[0].ap_drop > max_ap_drop and len(blocks) > 1:
        for number, block in enumerate(blocks, 1):
            progress(Count("judging each block alone in INT8", number, len(blocks), block.name))
            costs.append(point([block]))
        costs = _most_urgent_first(costs)
        left = list(blocks)
        for alone in costs[:-1]:
            name = alone.blocks[0]
            progress(f"reverting {name} to FP32: {frontier[-1].ap_drop:.4f} AP lost so far")
            left = [block for block in left if block.name != name]
            frontier.append(point(left, name))
            if frontier[-1].ap_drop <= max_ap_drop:
                break
    return SearchResult(tuple(frontier), tuple(costs), frontier[-1].ap_drop <= max_ap_drop)


def _most_urgent_first(costs: Sequence[Point]) -> list[Point]:
    floor = NOISE * max(alone.cost for alone in costs)

    def urgency(alone: Point) -> tuple[bool, float]:
        return alone.cost > floor, alone.cost / max(alone.macs, 1)

    return sorted(costs, key=urgency, reverse=True)


def require_matplotlib() -> None:
    """Say before the work, rather than after it, that the frontier cannot be plotted."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", purpose="Plotting the frontier", extra="train")


def plot_frontier(
    path: Path, found: SearchResult, network_macs: int, *, baseline_ap: float, max_ap_drop: float, title: str
) -> None:
    """Write a PNG: AP against the share of the network's multiply-accumulates in 8 bits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shares = [100 * point.macs / network_macs for point in found.frontier]
    axes.plot(shares, [baseline_ap - point.ap_drop for point in found.frontier], "o-", label="INT8")
    axes.axhline(baseline_ap, color="black", linewidth=1, label="float32")
    axes.axhline(baseline_ap - max_ap_drop, color="black", linewidth=1, linestyle=":", label="budget")
    axes.set_xlabel("multiply-accumulates of the network in INT8 (%)")
    axes.set_ylabel("average precision (AP)")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
