"""What is quantised and what is not: one table, first match decides, each line with its reason.

Names are those of this project's exports (``/backbone/...``, ``/decode/...``); the patterns also fit the ones that
MMDeploy's exports have. What a pattern does not match by name is still safe: only convolutions are quantised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rtmo_deploy.convert.graph import attribute

if TYPE_CHECKING:
    import onnx

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
        "TensorRT fuses the sum into the convolution before it, to 8-bit output, if the skip branch comes in 8 bits",
        ("Add",),
    ),
    Rule(
        "activations",
        "keep",
        "SiLU (Sigmoid, Mul) is fused into the convolution before it; Q/DQ in between would keep it from that",
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
