"""Layers in small groups that are given back together: a stage's block, a level's branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rtmo_deploy.convert.quantize.macs import MacCount
    from rtmo_deploy.convert.quantize.placement import GraphView

#: Parts of a name that make a block, by the first of them: ``/backbone/stage1/stage1.1``, ``/neck/fpn_blocks.0``.
_DEPTH = {"backbone": 3}
_USUAL_DEPTH = 2
#: ``/neck/projector/cls.0``: parts of a projector are too different to go together.
_DEEPER = {"projector"}


@dataclass(frozen=True)
class Block:
    """Some convolutions.

    Attributes:
        name: What they have in common of their names.
        layers: Their positions in the graph.
        macs: Multiply-accumulates of them all.
    """

    name: str
    layers: tuple[int, ...]
    macs: int


def blocks_of(view: GraphView, layers: Iterable[int], macs: MacCount) -> tuple[Block, ...]:
    """Group layers by their names, in the graph's order; a layer without a name of that kind stands alone."""
    groups: dict[str, list[int]] = {}
    for at in layers:
        groups.setdefault(_block_name(view.label(at)), []).append(at)
    return tuple(Block(name, tuple(found), sum(macs.nodes[at] for at in found)) for name, found in groups.items())


def _block_name(label: str) -> str:
    parts = label.split("/")
    if len(parts) < 3 or parts[0]:
        return label
    inner = parts[1:-1]
    depth = _DEPTH.get(inner[0], _USUAL_DEPTH) + (len(inner) > 1 and inner[1] in _DEEPER)
    chosen = inner[:depth]
    while len(chosen) > 1 and chosen[-1] == "conv":
        chosen.pop()
    return "/" + "/".join(chosen)
