"""What FP16 and BF16 can hold, and which parts of a graph stay in FP32: two tables.

The numbers behind the reasons are in ``docs/explanation/precision.md``; ``benchmarks/precision_sensitivity.py`` makes
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class CastType:
    """A 16-bit type."""

    name: str  #: In file names, node names and metadata.
    onnx: int  #: Its number in ONNX.
    numpy: np.dtype[np.generic]
    largest: float  #: Its largest finite value.
    smallest_normal: float  #: Below it, precision goes.
    opset: int  #: The first operator set all of whose operators take it.
    epsilon: float  #: Distance from 1 to the next number.

    def unfit(self, value: NDArray[np.generic], *, factor: bool) -> str:
        """Why a weight cannot be stored in this type; empty if it can. Tiny values matter only of a factor."""
        greatest = float(np.abs(value.astype(np.float64)).max(initial=0.0))
        if not np.isfinite(greatest):
            return "is not finite"
        if greatest > self.largest:
            return f"reaches {greatest:.4g}, {self.name} ends at {self.largest:.5g}"
        if factor and 0 < greatest < self.smallest_normal:
            return f"is at most {greatest:.3g}, {self.name} loses precision below {self.smallest_normal:.3g}"
        return ""


CAST_TYPES: Mapping[str, CastType] = {
    "fp16": CastType("fp16", TensorProto.FLOAT16, np.dtype(np.float16), 65504.0, 2.0**-14, 17, 2.0**-10),
    "bf16": CastType("bf16", TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16), 3.3895e38, 2.0**-126, 22, 2.0**-7),
}


@dataclass(frozen=True)
class Fp32Block:
    """Nodes that stay in FP32."""

    name: str  #: What reports call it.
    scopes: tuple[str, ...]  #: Beginnings of node names; a scope ends in ``/`` where a whole module is meant.
    reason: str
    operators: frozenset[str] = frozenset()  #: Operators; none given means all of them in the scopes.
    except_: tuple[str, ...] = ()  #: Beginnings of node names that are not meant.

    def holds(self, node: onnx.NodeProto) -> bool:
        if self.operators and node.op_type not in self.operators:
            return False
        return node.name.startswith(self.scopes) and not (self.except_ and node.name.startswith(self.except_))


#: The first that holds a node names it in reports.
FP32_BLOCKS: tuple[Fp32Block, ...] = (
    Fp32Block(
        "grid",
        ("/grid/",),
        "Cell positions in pixels: float16 has whole numbers only up to 2048, bfloat16 up to 256.",
    ),
    Fp32Block(
        "position encoding",
        ("/neck/encoder/pos_enc/",),
        "Sine and cosine of angles up to the grid's size: an angle of 40 in float16 is off by up to 0.016 rad. Its "
        "divisors pass 65504, where float16 ends. It is computed once for all images of a batch.",
    ),
    Fp32Block(
        "box prediction",
        ("/head/out_bbox.",),
        "The export folds the strides into it, so it puts out pixels and the logarithm of a size in pixels: 5.3 for "
        "200 pixels, where float16 steps by 0.004, which is 0.8 pixels.",
    ),
    Fp32Block(
        "class scores",
        ("/head/out_cls.",),
        "One channel; its rounding moves detections across the score threshold and changes the order of suppression.",
    ),
    Fp32Block(
        "head maps",
        ("/head/Concat", "/head/Reshape"),
        "They carry the float32 boxes and scores to the decoder.",
    ),
    Fp32Block(
        "decode",
        ("/decode/",),
        "Scores, priors, boxes, top-k, overlaps and suppression: comparisons of nearly equal numbers, and areas in "
        "pixels squared, which pass float16's largest number at 256 x 256.",
        except_=("/decode/people/",),
    ),
    Fp32Block(
        "people",
        ("/decode/people/",),
        "Coordinates of the survivors: angles of the bins, softmax over 256 bins, the expectation over them, places in "
        "pixels; the norm and the squared attention could leave float16's range. Few rows, next to no time.",
        # The two linear layers that hold most of the weights here cost nothing that can be measured.
        except_=(
            "/decode/people/out.",
            "/decode/people/Where",
            "/decode/people/Split",
            "/decode/people/dcc/to_keypoints/",
        ),
    ),
    Fp32Block(
        "no half kernel",
        ("",),
        "These operators take no 16-bit type, or make values out of none.",
        operators=frozenset({"NonMaxSuppression", "Range", "ConstantOfShape", "RandomNormal", "RandomUniform"}),
    ),
)

PLUGINS = Fp32Block("plugins", ("",), "Nodes of foreign domains: what types they take is theirs to say.")


def fp32_block_of(node: onnx.NodeProto) -> Fp32Block | None:
    """The FP32 block a node belongs to, None for a node that may compute in FP16 or BF16."""
    if node.domain not in {"", "ai.onnx"}:
        return PLUGINS
    return next((block for block in FP32_BLOCKS if block.holds(node)), None)
