"""Which parts of a half graph stay in float32, and why: one table, by the module a node belongs to.

The numbers behind the reasons are in ``docs/precision.md``; ``benchmarks/precision_sensitivity.py`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Island:
    """Nodes that stay in float32.

    Attributes:
        name: What reports call it.
        scopes: Beginnings of node names; a scope ends in ``/`` where a whole module is meant.
        operators: Operators; none given means all of them in the scopes.
        reason: Why.
        except_: Beginnings of node names that are not meant.
    """

    name: str
    scopes: tuple[str, ...]
    reason: str
    operators: frozenset[str] = frozenset()
    except_: tuple[str, ...] = ()

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether a node belongs to it."""
        if self.operators and node.op_type not in self.operators:
            return False
        return node.name.startswith(self.scopes) and not (self.except_ and node.name.startswith(self.except_))


#: The first that holds a node names it in reports.
ISLANDS: tuple[Island, ...] = (
    Island(
        "grid",
        ("/grid/",),
        "Cell positions in pixels: float16 has whole numbers only up to 2048, bfloat16 up to 256.",
    ),
    Island(
        "position encoding",
        ("/neck/encoder/pos_enc/",),
        "Sine and cosine of angles up to the grid's size: an angle of 40 in float16 is off by up to 0.016 rad. Its "
        "divisors pass 65504, where float16 ends. It is computed once for all pictures of a batch.",
    ),
    Island(
        "box prediction",
        ("/head/out_bbox.",),
        "The export folds the strides into it, so it puts out pixels and the logarithm of a size in pixels: 5.3 for "
        "200 pixels, where float16 steps by 0.004, which is 0.8 pixels.",
    ),
    Island(
        "class scores",
        ("/head/out_cls.",),
        "One channel; its rounding moves people across the score threshold and changes the order of the suppression.",
    ),
    Island(
        "head maps",
        ("/head/Concat", "/head/Reshape"),
        "They carry the float32 boxes and scores to the decoder.",
    ),
    Island(
        "decode",
        ("/decode/",),
        "Scores, priors, boxes, top-k, overlaps and suppression: comparisons of nearly equal numbers, and areas in "
        "pixels squared, which pass float16's largest number at 256 x 256.",
        except_=("/decode/people/",),
    ),
    Island(
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
    Island(
        "no half kernel",
        ("",),
        "These operators take no half, or make values out of none.",
        operators=frozenset({"NonMaxSuppression", "Range", "ConstantOfShape", "RandomNormal", "RandomUniform"}),
    ),
)

PLUGINS = Island("plugins", ("",), "Nodes of foreign domains: what types they take is theirs to say.")


def island_of(node: onnx.NodeProto) -> Island | None:
    """The island a node belongs to, None for a node that may compute in half.

    Nodes of foreign domains belong to :data:`PLUGINS`.
    """
    if node.domain not in {"", "ai.onnx"}:
        return PLUGINS
    return next((island for island in ISLANDS if island.holds(node)), None)
