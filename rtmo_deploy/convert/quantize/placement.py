"""Where Q/DQ pairs go: which convolutions, which tensors, which of their readers, and which tensors share a scale.

It looks at the graph only; numbers come later. The scales' groups are those of the whole graph quantised, whatever part
of it is: reverting a layer to FP32 moves no other layer's scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from rtmo_deploy.convert.quantize.rules import role_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from rtmo_deploy.convert.graph import GraphView


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go."""

    #: Positions of the convolutions that become 8-bit, ascending.
    layers: tuple[int, ...]
    #: The tensors that get a Q/DQ pair, and the inputs (position of a node, number of its input) that read the pair's
    #: output instead of the tensor.
    edges: Mapping[str, tuple[tuple[int, int], ...]]
    #: The tensors whose values a pair's scale is made from: itself, and those that share the scale with it. Outputs of
    #: nodes that only hand values on are not among them; they hold nothing of their own.
    sources: Mapping[str, tuple[str, ...]]


def candidates(view: GraphView) -> tuple[int, ...]:
    """Positions of all nodes that could become 8-bit: convolutions that the rules name, with a fixed float32 weight."""
    found = []
    for at, node in enumerate(view.nodes):
        if role_of(node) != "quantize" or len(node.input) < 2 or not view.is_activation(node.input[0]):
            continue
        weight = view.weights.get(node.input[1])
        if weight is not None and weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) >= 3:
            found.append(at)
    return tuple(found)


def place(view: GraphView, layers: Collection[int], *, of: Placement | None = None) -> Placement:
    """Place Q/DQ pairs for some convolutions; ``of`` is the whole graph's placement, whose scales' groups are kept."""
    edges: dict[str, set[tuple[int, int]]] = {}
    todo: list[str] = []

    def need(name: str, edge: tuple[int, int]) -> None:
        if name not in edges:
            todo.append(name)
        edges.setdefault(name, set()).add(edge)

    for at in layers:
        need(view.nodes[at].input[0], (at, 0))
    joined: list[tuple[str, str]] = []
    while todo:
        name = todo.pop()
        made = view.producer.get(name)
        if made is None:
            continue
        node = view.nodes[made]
        role = role_of(node)
        if role == "pass":
            for slot in _data_slots(node):
                if view.is_activation(node.input[slot]):
                    joined.append((name, node.input[slot]))
                    need(node.input[slot], (made, slot))
        elif role == "residual":
            skip = _skip_branch(view, node)
            if skip is not None:
                need(node.input[skip], (made, skip))
    sources = _sources(view, edges, joined) if of is None else {name: of.sources[name] for name in edges}
    return Placement(
        tuple(sorted(layers)), {name: tuple(sorted(found)) for name, found in sorted(edges.items())}, sources
    )


def _data_slots(node: onnx.NodeProto) -> range:
    """Inputs of a passing node that hold values: all of a Concat's, the first of the others'."""
    return range(len(node.input) if node.op_type == "Concat" else 1)


def _skip_branch(view: GraphView, node: onnx.NodeProto) -> int | None:
    """Which input of a sum is computed first; None if it is no sum of two computed tensors."""
    made = [view.producer.get(name, -1 if name in view.inputs else None) for name in node.input]
    if len(made) != 2 or made[0] is None or made[1] is None or made[0] == made[1]:
        return None
    return 0 if made[0] < made[1] else 1


def _sources(view: GraphView, names: Iterable[str], joined: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """For each tensor those of its group that hold values of their own."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    made = set()
    for output, source in joined:
        leader[find(output)] = find(source)
        made.add(output)
    groups: dict[str, list[str]] = {}
    for name in sorted(leader):
        groups.setdefault(find(name), []).append(name)
    # A Concat may also have a constant part: then its own values count as well.
    own = {name for name in leader if name not in made or not _all_computed(view, name)}
    return {name: tuple(one for one in groups[find(name)] if one in own) for name in sorted(leader)}


def _all_computed(view: GraphView, name: str) -> bool:
    node = view.nodes[view.producer[name]]
    return all(view.is_activation(node.input[slot]) for slot in _data_slots(node))
