"""Giving layers back until a budget is met: everything in 8 bits first, then the costly ones out, one after another.

It knows blocks and verdicts, no graph: what judges is handed in, so that the search can be tried without a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtmo_deploy.convert.quantize.blocks import Block
    from rtmo_deploy.convert.quantize.judge import Verdict

#: A block whose cost is below this share of the costliest one's is taken for free: what it costs is chance.
NOISE = 0.02


@dataclass(frozen=True)
class BlockCost:
    """What a block costs when it alone is 8-bit.

    Attributes:
        block: Its name.
        macs: Multiply-accumulates.
        cost: Mean loss of keypoint similarity of the float32 model's people, 0 to 1; missed ones lose all.
        ap_drop: AP lost, 0 to 1; negative if it gained.
    """

    block: str
    macs: int
    cost: float
    ap_drop: float


@dataclass(frozen=True)
class Point:
    """A point of the frontier.

    Attributes:
        given_back: The block that went back to float32 last; None at the start.
        blocks: Names of the blocks that are 8-bit.
        macs: Multiply-accumulates that are 8-bit.
        verdict: What the model is worth.
        ap_drop: AP lost, 0 to 1.
    """

    given_back: str | None
    blocks: tuple[str, ...]
    macs: int
    verdict: Verdict
    ap_drop: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "given_back": self.given_back,
            "blocks": len(self.blocks),
            "macs": self.macs,
            "ap_drop": self.ap_drop,
            **self.verdict.to_dict(),
        }


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        frontier: The points it went through, from everything in 8 bits on.
        costs: What each block costs alone, the order in which they are given back; empty if nothing had to be.
        met: Whether the last point is within the budget.
    """

    frontier: tuple[Point, ...]
    costs: tuple[BlockCost, ...]
    met: bool

    @property
    def chosen(self) -> Point:
        """The last point if the budget was met, else the one with the least loss."""
        return self.frontier[-1] if self.met else min(self.frontier, key=lambda point: point.ap_drop)


def search(
    blocks: Sequence[Block],
    evaluate: Callable[[frozenset[str]], Verdict],
    baseline_ap: float | None,
    max_ap_drop: float,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Find the largest 8-bit part that loses at most so much.

    Blocks are given back in the order of what they cost for what they carry: loss of similarity when they alone are
    8-bit, for each multiply-accumulate. The last one is never given back: a float32 model is no 8-bit one.

    Args:
        blocks: What can be 8-bit.
        evaluate: Judges the model in which these blocks, by name, are 8-bit.
        baseline_ap: AP of the float32 model, 0 to 1.
        max_ap_drop: The budget, 0 to 1.
        progress: Told of each step.

    Raises:
        UsageError: There is no average precision to lose.
    """
    if baseline_ap is None or baseline_ap <= 0:
        raise UsageError(
            f"The float32 model has an average precision of {baseline_ap or 0:g} on these pictures, so that no loss of "
            "it can be measured.",
            remedy="Judge by annotated pictures of the kind it was trained on: --ann FILE --images DIR.",
        )
    left = list(blocks)

    def point(given_back: str | None) -> Point:
        names = tuple(block.name for block in left)
        verdict = evaluate(frozenset(names))
        return Point(
            given_back, names, sum(block.macs for block in left), verdict, baseline_ap - _ap(verdict, baseline_ap)
        )

    progress(f"judging with all {len(left)} blocks in 8 bits")
    frontier = [point(None)]
    costs: list[BlockCost] = []
    if frontier[0].ap_drop > max_ap_drop and len(left) > 1:
        costs = _rank(blocks, evaluate, baseline_ap, progress)
        by_name = {block.name: block for block in blocks}
        for cost in costs[: len(blocks) - 1]:
            progress(f"giving back {cost.block}: {frontier[-1].ap_drop:.4f} AP lost so far")
            left.remove(by_name[cost.block])
            frontier.append(point(cost.block))
            if frontier[-1].ap_drop <= max_ap_drop:
                break
    return SearchResult(tuple(frontier), tuple(costs), frontier[-1].ap_drop <= max_ap_drop)


def _rank(
    blocks: Sequence[Block],
    evaluate: Callable[[frozenset[str]], Verdict],
    baseline_ap: float,
    progress: Callable[[str], None],
) -> list[BlockCost]:
    """What each block costs alone; the one to give back first comes first."""
    costs = []
    for number, block in enumerate(blocks, 1):
        progress(Count("judging each block alone in INT8", number, len(blocks), block.name))
        verdict = evaluate(frozenset({block.name}))
        drop = baseline_ap - _ap(verdict, baseline_ap)
        oks = verdict.against_fp32.oks
        costs.append(BlockCost(block.name, block.macs, 0.0 if oks is None else max(0.0, 1 - oks), drop))
    floor = NOISE * max(cost.cost for cost in costs)

    def urgency(cost: BlockCost) -> tuple[bool, float]:
        return cost.cost > floor, cost.cost / max(cost.macs, 1)

    return sorted(costs, key=urgency, reverse=True)


def _ap(verdict: Verdict, fallback: float) -> float:
    return fallback if verdict.ap is None else verdict.ap
