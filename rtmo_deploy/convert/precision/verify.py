"""Verifies a cast graph against the float32 graph it was made of, before it is written.

Both run in ONNX Runtime on the same images, and detections are compared. The cast graph runs twice: emulated and as it
is, which tells that the file loads and runs. So that detections are compared whatever the weights, each level's
classifier is shifted on all sides, see :mod:`rtmo_deploy.convert.bias_shift`. On images that are 0 and 255 everywhere
all outputs must be finite, and no tensor may leave the range of its type.

Why emulated: ONNX Runtime's CPU has few 16-bit kernels. It runs such nodes in float32 and leaves the rounding between
them out, so a 16-bit graph that runs there says little about one that runs on a GPU. In an emulated graph every 16-bit
tensor is computed in float32 from rounded operands and then rounded, as hardware does that multiplies in 16 bits and
sums up in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from rtmo_deploy.convert.bias_shift import case_images, choose_shift, decoded, executor, shift_logits
from rtmo_deploy.convert.graph import attribute, copy_of, element_types, rebuild
from rtmo_deploy.convert.precision.graph import hold_scales, retarget
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.measure.bounds import AMPLIFICATION, CASTS
from rtmo_deploy.measure.comparison import Figures, compare_people
from rtmo_deploy.measure.verify import VerificationReport, verify
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.convert.bias_shift import Execute
    from rtmo_deploy.convert.precision.rules import CastType
    from rtmo_deploy.convert.step import Source
    from rtmo_deploy.measure.verify import Case

#: How the graph is run.
EMULATED: Final = "emulated"
AS_IT_IS: Final = "as it is"
#: Names of the figures and bounds in the JSON form.
_PEOPLE: Final = {
    "people_a": "people",
    "unmatched": "unmatched",
    "wild": "wild",
    "keypoint_px_mean": "keypoint_mean",
    "keypoint_px_max": "keypoint_max",
    "coordinate_px_mean": "box_mean",
    "box_px_max": "box_max",
    "score_max": "score_max",
    "keypoint_score_max": "keypoint_score_max",
    "keypoint_score_mean": "keypoint_score_mean",
}
_BOUNDS: Final = {
    "keypoint_mean_px": "keypoint_mean",
    "keypoint_max_px": "keypoint_max",
    "box_px": "box_max",
    "score": "score_max",
    "keypoint_score": "keypoint_score_max",
    "unmatched": "unmatched",
    "keypoint_score_mean": "keypoint_score_mean",
}
#: Prefix of the outputs that tell magnitudes.
PEAK = "peak of "
_FLAT, _ZERO = "peaks.flat", "peaks.zero"
#: Operators that move values and round none; what they are given is rounded already.
_MOVES = frozenset(
    {"Expand", "Flatten", "Identity", "Pad", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"}
    | {"Concat", "Gather", "GatherElements", "GatherND", "Slice", "Split", "Where"}
)


def emulated(model: onnx.ModelProto, cast_type: CastType, *, peaks: bool = True) -> onnx.ModelProto:
    """The float32 graph that computes what a 16-bit graph computes.

    With ``peaks`` it has an output ``peak of <node>`` for each node that rounds: the largest magnitude before rounding.
    """
    types = element_types(model)
    result = copy_of(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == cast_type.onnx:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    nodes: list[onnx.NodeProto] = []
    if peaks:
        nodes = [
            onnx.helper.make_node("Constant", [], [_FLAT], name=_FLAT, value_ints=[-1]),
            onnx.helper.make_node("Constant", [], [_ZERO], name=_ZERO, value_floats=[0.0]),
        ]
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and attribute(node, "to") == cast_type.onnx:
            retarget(node, TensorProto.FLOAT)
        if node.op_type not in _MOVES:
            rounded = [place for place, name in enumerate(node.output) if types.get(name) == cast_type.onnx]
            for place in rounded:
                nodes += _rounding(graph, node, place, cast_type, peaks=peaks)
    rebuild(graph, nodes, graph.initializer)
    del graph.value_info[:]
    return result


def _rounding(
    graph: onnx.GraphProto, node: onnx.NodeProto, place: int, cast_type: CastType, *, peaks: bool
) -> list[onnx.NodeProto]:
    """The nodes that round an output of a node and tell its peak; the node's own output gets another name."""
    name = node.output[place]
    exact, rounded = f"{name}.exact", f"{name}.rounded"
    node.output[place] = exact
    nodes = [
        onnx.helper.make_node("Cast", [exact], [rounded], name=f"{node.name}.{place}.round", to=cast_type.onnx),
        onnx.helper.make_node("Cast", [rounded], [name], name=f"{node.name}.{place}.back", to=TensorProto.FLOAT),
    ]
    if peaks:
        magnitude, peak = f"{name}.magnitude", f"{PEAK}{node.name}" + (f" output {place}" if place else "")
        flat, filled = f"{name}.flat", f"{name}.filled"
        # A 0 is added, since older ONNX Runtimes refuse the maximum of nothing: where nobody was found.
        nodes += [
            onnx.helper.make_node("Abs", [exact], [magnitude], name=f"{node.name}.{place}.abs"),
            onnx.helper.make_node("Reshape", [magnitude, _FLAT], [flat], name=f"{node.name}.{place}.flat"),
            onnx.helper.make_node("Concat", [flat, _ZERO], [filled], name=f"{node.name}.{place}.fill", axis=0),
            onnx.helper.make_node("ReduceMax", [filled], [peak], name=f"{node.name}.{place}.max", keepdims=0),
        ]
        graph.output.append(onnx.helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
    return nodes


def split_peaks(
    outputs: Mapping[str, NDArray[np.float32]],
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """An emulated graph's outputs: the graph's own, and the magnitudes by node."""
    own = {name: value for name, value in outputs.items() if not name.startswith(PEAK)}
    found = {name[len(PEAK) :]: float(value) for name, value in outputs.items() if name.startswith(PEAK)}
    return own, found


@dataclass(frozen=True)
class CastReport(VerificationReport):
    """What was compared, and whether it held; ``rounding`` of a case is what rounding the weights alone costs."""

    not_run: str | None  #: Why the file itself was not run, only its emulation; None if it was run.
    peak: float  #: The largest magnitude in any 16-bit tensor.
    peak_node: str  #: The node it comes from.
    broken: tuple[str, ...]  #: What was not finite, or left the range of the type, in words.

    def failures(self) -> list[str]:
        """What is over the bounds, not finite or out of range, in words."""
        return [*self.broken, *super().failures()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        bounds = {key: getattr(self.bounds, name) for name, key in _BOUNDS.items()}
        return {
            "reference": self.reference,
            "ok": not self.failures(),
            "run": self.not_run is None,
            "not_run": self.not_run,
            "bounds": {**bounds, "amplification": AMPLIFICATION},
            "bias_shift": list(self.bias_shift),
            "peak": plain(self.peak),
            "peak_node": self.peak_node,
            "cases": [_case_as_json(case) for case in self.cases],
        }


def _case_as_json(case: Case) -> dict[str, Any]:
    people, weights = ((figures or Figures()).to_dict(_PEOPLE, nobody=0.0) for figures in (case.people, case.rounding))
    return {
        "input": [case.batch, 3, case.height, case.width],
        "emulated": case.run == EMULATED,
        **people,
        "weights_alone": weights,
    }


def verify_cast(
    source: Source,
    cast: onnx.ModelProto,
    cast_type: CastType,
    precision: str,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> CastReport:
    """Run a cast graph and its float32 or quantised source on the same images and compare; ``precision`` is the cast's.

    What rounding the weights alone costs is measured on the images, and twice with noise of the type's rounding.
    """
    import onnxruntime as ort

    artifact = source.artifact
    images = case_images(artifact)
    shift = choose_shift(source.model, images, artifact)
    original = shift_logits(source.model, shift)
    reference = decoded(executor(original, artifact), artifact, source.companion)
    weights = decoded(executor(_weights_rounded(original, cast, cast_type), artifact), artifact, source.companion)
    del original  # as large as the model
    shifted = shift_logits(cast, shift)
    executors = {EMULATED: executor(emulated(shifted, cast_type), artifact)}
    not_run = None
    try:
        executors[AS_IT_IS] = executor(shifted, artifact)
    except ArtifactError as error:
        if cast_type.name != "bf16":
            raise
        not_run = f"ONNX Runtime {ort.__version__} has no bfloat16 kernels for it on the CPU: {error.finding}"
    del shifted
    expected = [reference(pixels) for pixels in images]
    alone = []
    for one, pixels in zip(expected, images, strict=True):
        rng = np.random.default_rng(0)
        noise = [rng.uniform(-cast_type.epsilon, cast_type.epsilon, pixels.shape).astype(np.float32) for _ in range(2)]
        for noisy in (pixels, *(pixels * (1 + part) for part in noise)):
            found = weights(noisy).people or []
            alone.append(compare_people(one.people or [], found, input_hw=(pixels.shape[2], pixels.shape[3])))
    rounding = Figures.largest(alone)
    watch = _Watch(cast_type)
    cases = []
    for how, execute in executors.items():
        run = decoded(watch.over(execute, "an image"), artifact, source.companion)
        cases.append(
            verify(
                images,
                expected,
                run,
                CASTS[precision],
                leave_out_wild=True,
                run=how,
                progress=progress,
                name=source.precision_words,
            )
        )
    for value in (0.0, 255.0):
        progress(f"running on {value:g} everywhere")
        for execute in executors.values():
            watch.over(execute, f"{value:g} everywhere")(np.full_like(images[0], value))
    return CastReport(
        reference=f"the {source.precision_words} graph in ONNX Runtime {ort.__version__} on the CPU",
        cases=tuple(replace(case, rounding=rounding) for shape in zip(*cases, strict=True) for case in shape),
        bounds=CASTS[precision],
        bias_shift=shift,
        not_run=not_run,
        peak=watch.peak,
        peak_node=watch.node,
        broken=(*changed_weights(source.model, cast, cast_type), *watch.broken),
    )


def changed_weights(source: onnx.ModelProto, cast: onnx.ModelProto, cast_type: CastType) -> list[str]:
    """Weights of a cast that are not those of its source, rounded to the type, in words; on any CPU the same."""
    stored = {tensor.name: tensor for tensor in cast.graph.initializer}
    found = []
    for tensor in source.graph.initializer:
        rounded = stored.get(f"{tensor.name}.{cast_type.name}")
        if tensor.data_type != onnx.TensorProto.FLOAT or rounded is None:
            continue
        before, after = (onnx.numpy_helper.to_array(t).astype(np.float64) for t in (tensor, rounded))
        # A scale below the normal numbers becomes the next greater number.
        step = np.maximum(np.abs(before), cast_type.smallest_normal) * cast_type.epsilon
        if not (np.abs(after - before) <= step).all():
            found.append(f"{tensor.name} is not what it was, rounded to {cast_type.name}")
    return found


class _Watch:
    """Looks for what is not finite or too large."""

    def __init__(self, cast_type: CastType) -> None:
        self.cast_type = cast_type
        self.peak, self.node = 0.0, ""
        self.broken: list[str] = []

    def over(self, execute: Execute, what: str) -> Execute:
        """The same execution, whose outputs are looked at; ``what`` it runs on, in words."""

        def run(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            own, peaks = split_peaks(execute(images))
            over = [node for node, peak in peaks.items() if not peak <= self.cast_type.largest]
            if over:  # nodes after the first only pass it on
                self.broken.append(f"{over[0]} leaves the range of {self.cast_type.name} on {what}")
            for node, peak in peaks.items():
                if not peak <= self.peak:
                    self.peak, self.node = peak, node
            wrong = [name for name, value in own.items() if not np.isfinite(value).all()]
            if wrong:
                self.broken.append(f"{', '.join(wrong)} not finite on {what}")
            return own

        return run


def _weights_rounded(source: onnx.ModelProto, cast: onnx.ModelProto, cast_type: CastType) -> onnx.ModelProto:
    """The float32 graph with those weights rounded that the cast stores in 16 bits; changed in place.

    Rounded here, not taken from the cast: what went wrong with a weight there must not pass as rounding.
    """
    stored = {tensor.name for tensor in cast.graph.initializer if tensor.data_type == cast_type.onnx}
    pairs = [
        node.name for node in source.graph.node if len(node.input) > 1 and f"{node.input[1]}.{cast_type.name}" in stored
    ]
    hold_scales(source.graph, cast_type, pairs)
    for tensor in source.graph.initializer:
        if f"{tensor.name}.{cast_type.name}" in stored:
            value = onnx.numpy_helper.to_array(tensor).astype(cast_type.numpy).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return source
