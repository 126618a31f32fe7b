"""What is quantised, by one table of rules, and where Q/DQ pairs go: on which tensors, and which of them share a scale.

The first rule that matches decides. Names are those of this project's exports (``/backbone/...``, ``/decode/...``); the
patterns also fit the ones that MMDeploy's exports have. What a pattern does not match by name is still safe: only
convolutions are quantised.

OpenVINO and TensorRT fuse an activation function into the convolution before it, and a sum too. ONNX Runtime fuses
neither: what is not in 8 bits there is computed in float32 between conversions, so SiLU and both sides of a sum get
pairs as well.

The placement looks at the graph only; numbers come later. The scales' groups are those of the whole graph quantised,
whatever part of it is: reverting a layer to FP32 moves no other layer's scale.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import onnx

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.graph import attribute

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from rtmo_deploy.convert.graph import GraphView

#: What a node is to the quantisation.
#:
#: * ``quantize``: its input and weight become 8-bit.
#: * ``pass``: it hands values on unchanged, so its inputs and its output share one scale.
#: * ``residual``: where its sum is quantised, the skip branch into it is too.
#: * ``keep``: it stays as it is.
Role = Literal["quantize", "pass", "residual", "keep"]


@dataclass(frozen=True)
class Rule:
    """A line of the table."""

    name: str  #: For reports.
    role: Role  #: What matching nodes are.
    reason: str
    operators: tuple[str, ...] = ()  #: Operators that it is about; empty for all.
    pattern: str = ""  #: Regular expression that is searched for in the node's name.

    def matches(self, node: onnx.NodeProto) -> bool:
        return (not self.operators or node.op_type in self.operators) and re.search(self.pattern, node.name) is not None


RULES: Final = (
    Rule(
        "decoding",
        "keep",
        "boxes, suppression and coordinates are pixels: 8 bits over an input of 640 are steps of 5 pixels",
        pattern=r"^/decode/|/dcc/|^/grid/",
    ),
    Rule(
        "attention",
        "keep",
        "the encoder at stride 32 is 3 % of the network; position codes, softmax and norms lose most for least",
        pattern=r"(^|/)encoder(\.\d+)?/",
    ),
    Rule(
        "outputs of the head",
        "keep",
        "logits, boxes, visibilities and pose vectors leave the network here; 0.03 % of it (some 3 % of a raw graph)",
        pattern=r"(^|/)out_(cls|bbox|kpt_vis|pose|dense)\b",
    ),
    Rule("convolutions", "quantize", "nearly all of the arithmetic; TensorRT has INT8 kernels", ("Conv",)),
    Rule(
        "joins",
        "pass",
        "values only change place: with one scale on both sides they are moved as bytes",
        ("Concat", "MaxPool", "Resize"),
    ),
    Rule(
        "residual sums",
        "residual",
        "the sum is fused into the convolution before it, to 8-bit output, if the skip branch comes in 8 bits",
        ("Add",),
    ),
    Rule(
        "activations",
        "keep",
        "SiLU (Sigmoid, Mul) is fused into the convolution before it; Q/DQ in between would keep it from that (ONNX "
        "Runtime does not, and gets them)",
        ("Sigmoid", "Mul", "Relu", "HardSwish"),
    ),
    Rule(
        "matrix products",
        "keep",
        "those outside the rules above have no fixed weight or are not of the network",
        ("MatMul", "Gemm"),
    ),
    Rule("anything else", "keep", "no 8-bit kernel to gain from"),
)


def rule_of(node: onnx.NodeProto) -> Rule:
    """The line that decides on a node."""
    return next(rule for rule in RULES if rule.matches(node))


def role_of(node: onnx.NodeProto) -> Role:
    """What a node is; a ``Resize`` passes values on only where it repeats the nearest."""
    role = rule_of(node).role
    if node.op_type == "Resize" and role == "pass" and attribute(node, "mode", b"nearest") != b"nearest":
        return "keep"
    return role


@dataclass(frozen=True)
class Placement:
    """Where Q/DQ pairs go."""

    target: Target
    layers: tuple[int, ...]  #: Positions of the convolutions that become 8-bit, ascending.
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


def place(
    view: GraphView, layers: Collection[int], target: Target = Target.TENSORRT, *, of: Placement | None = None
) -> Placement:
    """Place Q/DQ pairs for some convolutions; ``of`` is the whole graph's placement, whose scales' groups are kept."""
    target = target if of is None else of.target
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
        passes = role_of(view.nodes[made]) == "pass"
        for source, edge in _before(view, made, target):
            if passes:
                joined.append((name, source))
            need(source, edge)
    sources = _sources(view, edges, joined) if of is None else {name: of.sources[name] for name in edges}
    return Placement(
        target, tuple(sorted(layers)), {name: tuple(sorted(found)) for name, found in sorted(edges.items())}, sources
    )


def _before(view: GraphView, at: int, target: Target) -> list[tuple[str, tuple[int, int]]]:
    """The tensors that need a pair if a node's output has one, and where they are read."""
    node, role = view.nodes[at], role_of(view.nodes[at])
    if role == "pass":
        slots = [slot for slot in _data_slots(node) if view.is_activation(node.input[slot])]
    elif role == "residual" and (skip := _skip_branch(view, node)) is not None:
        slots = [0, 1] if target is Target.ONNXRUNTIME else [skip]
    else:
        return _silu(view, at) if target is Target.ONNXRUNTIME else []
    return [(node.input[slot], (at, slot)) for slot in slots]


def _silu(view: GraphView, at: int) -> list[tuple[str, tuple[int, int]]]:
    """What reads what in the SiLU that ends in a node: its input, and the output of its Sigmoid; nothing for others."""
    node = view.nodes[at]
    if node.op_type != "Mul":
        return []
    for slot, name in enumerate(node.input):
        gate = view.producer.get(name)
        if gate is not None and view.nodes[gate].op_type == "Sigmoid" and view.nodes[gate].input[0] in node.input:
            source = view.nodes[gate].input[0]
            return [(source, (gate, 0)), (source, (at, 1 - slot)), (name, (at, slot))]
    return []


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
