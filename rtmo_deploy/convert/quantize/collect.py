"""Measuring a model on pictures: the ranges of its tensors, and what 8 bits do to each convolution alone.

The first round runs the float32 model with the tensors as its outputs, and keeps a histogram of each. The second runs
every convolution twice on the same float32 input, once in 8 bits, and keeps the mean difference of each output channel:
the shift that a bias correction takes back (Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019, section 4.2, here with measured instead of assumed inputs and for activations as well). Both
take one picture at a time and fixed memory, whatever their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from rtmo_deploy.convert.quantize.histogram import Histogram
from rtmo_deploy.convert.quantize.numerics import quantize_weight, scale_of
from rtmo_deploy.convert.quantize.placement import GraphView
from rtmo_deploy.convert.quantize.ranges import threshold_of
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.convert.quantize.placement import Placement
    from rtmo_deploy.convert.quantize.ranges import Method

    Images = Iterable[NDArray[np.float32]]

#: Signal-to-noise ratio of a layer that 8 bits leave exactly as it is, in dB.
NO_NOISE_DB = 200.0


def measure_histograms(
    model: onnx.ModelProto, placement: Placement, images: Images, *, where: object, threads: int | None = None
) -> dict[str, Histogram]:
    """Histograms of all tensors that the placement's scales are made from, over all pictures.

    Args:
        model: The float32 model; untouched.
        placement: Where Q/DQ pairs will go.
        images: Network inputs, one after another.
        where: What errors name.
        threads: Threads an operator may use.

    Raises:
        ArtifactError: The model does not run, or a value is not finite.
    """
    names = sorted({source for sources in placement.sources.values() for source in sources})
    source = GraphView(model.graph)
    computed = [name for name in names if name in source.producer]
    session = open_session(_with_outputs(model, computed).SerializeToString(), threads=threads, where=where)
    entry = session.get_inputs()[0].name
    histograms = {name: Histogram() for name in names}
    for image in images:
        # Of no outputs ONNX Runtime would make an error.
        values = (run_session(session, {entry: image}, where=where) if computed else {}) | {entry: image}
        for name in names:
            histograms[name].add(values[name], where=f"{where}, tensor {name}")
    return histograms


def thresholds_of(
    histograms: Mapping[str, Histogram], placement: Placement, method: Method, *, percentile: float
) -> dict[str, float]:
    """The magnitude that becomes 127, for each tensor with a Q/DQ pair; the same for all that share a scale.

    Of tensors that share one, the method sees the sum of their histograms, which is the histogram of what they are
    concatenated to.
    """
    found: dict[tuple[str, ...], float] = {}
    for sources in placement.sources.values():
        if sources not in found:
            together = Histogram()
            for source in sources:
                together.merge(histograms[source].copy())
            found[sources] = threshold_of(together, method, percentile=percentile)
    return {name: found[sources] for name, sources in placement.sources.items()}


def local_errors(
    model: onnx.ModelProto,
    placement: Placement,
    thresholds: Mapping[str, float],
    images: Images,
    *,
    where: object,
    threads: int | None = None,
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """What 8 bits do to each convolution, its input being the float32 model's.

    Returns:
        By the convolution's name: what to add to its bias, one number an output channel (mean of the float32 output
        minus mean of the 8-bit one); and its signal-to-noise ratio in dB.
    """
    view = GraphView(model.graph)
    probe, outputs = _probe(model, view, placement, thresholds)
    session = open_session(probe.SerializeToString(), threads=threads, where=where, config=EXACT)
    entry = session.get_inputs()[0].name
    totals: dict[str, NDArray[np.float64]] = {}
    rounds = 0
    for image in images:
        rounds += 1
        for name, value in run_session(session, {entry: image}, where=where).items():
            # A batch holds one picture, once or repeated: its first row is all there is to know.
            totals[name] = totals.get(name, 0.0) + value[0].astype(np.float64)
    if not rounds:
        return {}, {}
    shifts, noise = {}, {}
    for label, (shift, error, signal) in outputs.items():
        shifts[label] = tuple(np.asarray(totals[shift] / rounds, np.float32).ravel().tolist())
        noise[label] = _decibel(float(totals[signal].sum()), float(totals[error].sum()))
    return shifts, noise


def _decibel(signal: float, error: float) -> float:
    if not (np.isfinite(signal) and np.isfinite(error)):
        raise ArtifactError("A layer of it is not finite in 8 bits.", remedy="Calibrate with other pictures.")
    if error <= 0 or signal <= 0:
        return NO_NOISE_DB
    return round(min(10 * float(np.log10(signal / error)), NO_NOISE_DB), 2)


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs are these tensors; ONNX Runtime leaves away what they do not need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    float32 = onnx.TensorProto.FLOAT
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in names)
    return copy


def _probe(
    model: onnx.ModelProto, view: GraphView, placement: Placement, thresholds: Mapping[str, float]
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str, str]]]:
    """The model with every 8-bit convolution beside its float32 one, and the names of what is compared."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = [numpy_helper.from_array(np.zeros((), np.int8), "probe_zero")]
    outputs: dict[str, tuple[str, str, str]] = {}
    paired: dict[str, str] = {}

    def node(operator: str, inputs: list[str], output: str) -> str:
        nodes.append(onnx.helper.make_node(operator, inputs, [output]))
        return output

    def weight(name: str, values: NDArray[np.generic]) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    for at in placement.layers:
        conv, stem = view.nodes[at], f"probe_{at}"
        source = conv.input[0]
        if source not in paired:
            scale = weight(f"{stem}_x_scale", scale_of(thresholds[source]))
            small = node("QuantizeLinear", [source, scale, "probe_zero"], f"{stem}_x_int8")
            paired[source] = node("DequantizeLinear", [small, scale, "probe_zero"], f"{stem}_x")
        small_weight, scales = quantize_weight(numpy_helper.to_array(view.weights[conv.input[1]]))
        inputs = [
            weight(f"{stem}_w_int8", small_weight),
            weight(f"{stem}_w_scale", scales),
            weight(f"{stem}_w_zero", np.zeros(len(scales), np.int8)),
        ]
        node("DequantizeLinear", inputs, f"{stem}_w")
        nodes[-1].attribute.append(onnx.helper.make_attribute("axis", 0))
        twin = onnx.NodeProto()
        twin.CopyFrom(conv)
        twin.name = f"{stem}_conv"
        twin.input[0], twin.input[1] = paired[source], f"{stem}_w"
        twin.output[0] = f"{stem}_y"
        nodes.append(twin)
        loss = node("Sub", [conv.output[0], f"{stem}_y"], f"{stem}_loss")
        shift = node("GlobalAveragePool", [loss], f"{stem}_shift")
        error = node("GlobalAveragePool", [node("Mul", [loss, loss], f"{stem}_loss2")], f"{stem}_error")
        square = node("Mul", [conv.output[0], conv.output[0]], f"{stem}_square")
        signal = node("GlobalAveragePool", [square], f"{stem}_signal")
        outputs[view.label(at)] = (shift, error, signal)
    copy = _with_outputs(model, [name for three in outputs.values() for name in three])
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(weights)
    return copy, outputs
