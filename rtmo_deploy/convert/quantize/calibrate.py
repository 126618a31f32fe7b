"""Measures a model on images: the ranges of its tensors, and what 8 bits do to each convolution alone.

The first round runs the float32 model with the tensors as its outputs, and keeps a histogram of each. The second runs
every convolution twice on the same float32 input, once in 8 bits, and keeps the mean difference of each output channel:
the shift that a bias correction takes back (Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019, section 4.2, here with measured instead of assumed inputs and for activations as well). Both
take one image at a time and fixed memory, whatever their number.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.graph import GraphView, with_outputs
from rtmo_deploy.convert.quantize.insert import Additions
from rtmo_deploy.convert.quantize.ranges import PERCENTILE, Histogram, Method, Range, range_of
from rtmo_deploy.convert.quantize.record import Calibration, Source
from rtmo_deploy.errors import ArtifactError, InputDataError, RtmoDeployError, UsageError, refuse_path
from rtmo_deploy.plain import shorten
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.letterbox import Placement as Letterbox
from rtmo_deploy.runtime.letterbox import letterbox, to_tensor
from rtmo_deploy.runtime.onnxruntime_backend import EXACT, open_session, run_session
from rtmo_deploy.zoo.cache import cache_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import InputContract
    from rtmo_deploy.convert.quantize.placement import Placement
    from rtmo_deploy.convert.quantize.source_model import SourceModel
    from rtmo_deploy.data.calibration import CalibrationImages

    #: Network inputs, one after another.
    Inputs = Iterable[NDArray[np.float32]]

DEFAULT_METHOD = Method.MSE
#: Signal-to-noise ratio of a layer that 8 bits leave exactly as it is, in dB.
NO_NOISE_DB = 200.0
#: Of the network's input. From 0 to 255, OpenVINO would drop the pair and compute the first layer in float32.
_PIXELS = Range(0.0, 255.02)


def calibrate(
    source: SourceModel,
    images: CalibrationImages,
    *,
    method: Method = DEFAULT_METHOD,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure a model on images: two rounds, one image at a time.

    Args:
        source: The float32 model.
        images: The set.
        method: How ranges are chosen.
        cache: Folder in which the calibration is kept for the next time. A file there is used only if it is sound and
            says that it was measured on this very model, these images, this way; any other is measured anew and
            replaced.
        threads: Threads an operator may use.
        progress: Told of each step.

    Raises:
        UsageError: There is no such method.
        InputDataError: None of the images can be used.
        ArtifactError: The model does not run on them, or puts out something that is not finite.
        SetupError: The cache cannot be used.
    """
    refuse_path(source, "open_source(path)")
    refuse_path(images, "folder_images(path)")
    if method not in {*Method}:
        raise UsageError(f"There is no method '{method}'.", remedy=f"Choose {', '.join(Method)}.")
    method, cache = Method(method), None if cache is None else Path(cache)
    contract = source.artifact.input
    about = Source(
        model_sha256=source.sha256,
        pictures=images.identity(),
        input_hw=(contract.height, contract.width),
        placement=contract.placement,
        method=method,
        target=source.placement.target,
        percentile=PERCENTILE if method is Method.PERCENTILE else 0.0,
    )
    path = None if cache is None else cache / f"{about.key()}.json"
    if path is not None and path.is_file():
        with contextlib.suppress(RtmoDeployError):  # damaged
            known = Calibration.load(path)
            if known.source.key() == about.key() and known.ranges.keys() >= source.placement.edges.keys():
                return known
    if path is not None:
        with cache_errors(path.parent):  # before the work
            path.parent.mkdir(parents=True, exist_ok=True)
    skipped: list[tuple[str, str]] = []
    inputs = network_inputs(images, contract, skipped, "measuring ranges", progress)
    histograms = measure_histograms(source.model, source.placement, inputs, where=source.path, threads=threads)
    ranges = ranges_of(histograms, source.placement, method, pixels=source.view.inputs)
    again = network_inputs(images, contract, [], "measuring what 8 bits do to each layer", progress)
    shifts, noise = local_errors(source.model, source.placement, ranges, again, where=source.path, threads=threads)
    made = Calibration(about, len(images.names) - len(skipped), tuple(skipped), ranges, shifts, noise)
    if path is not None:
        made.save(path)
    return made


def network_inputs(
    images: CalibrationImages,
    contract: InputContract,
    skipped: list[tuple[str, str]],
    what: str = "reading images",
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[NDArray[np.float32]]:
    """Each readable image of a set, letterboxed, as ``(B, 3, H, W)`` float32, BGR, 0 to 255; one at a time.

    A model with a fixed batch gets each image that many times, which leaves every distribution as it is. ``skipped``
    gets the name of each image that cannot be read, and the reason; if none can be, an InputDataError ends the round.
    """
    size = (contract.height, contract.width)
    for index, name in enumerate(images.names):
        try:
            pixels = images.read(index)
        except InputDataError as error:
            skipped.append((name, error.finding))
        else:
            one = to_tensor([letterbox(pixels, size, Letterbox(contract.placement))[0]])
            yield np.repeat(one, contract.batch or 1, axis=0)
        progress(Count(what, index + 1, len(images.names)))
    if len(skipped) == len(images.names):
        named = shorten((f"{name}: {reason}" for name, reason in skipped), 5, separator="; ")
        raise InputDataError(
            f"None of the {len(skipped)} images of '{images.name}' can be used: {named}",
            remedy="Give a folder with images that can be read.",
        )


def measure_histograms(
    model: onnx.ModelProto, placement: Placement, inputs: Inputs, *, where: object, threads: int | None = None
) -> dict[str, Histogram]:
    """Histograms of all tensors that the placement's scales are made from, over all images."""
    names = sorted({source for sources in placement.sources.values() for source in sources})
    producer = GraphView(model.graph).producer
    computed = [name for name in names if name in producer]
    session = open_session(with_outputs(model, computed).SerializeToString(), threads=threads, where=where)
    entry = session.get_inputs()[0].name
    histograms = {name: Histogram() for name in names}
    for image in inputs:
        # Of no outputs ONNX Runtime would make an error.
        values = (run_session(session, {entry: image}, where=where) if computed else {}) | {entry: image}
        for name in names:
            histograms[name].add(values[name], where=f"{where}, tensor {name}")
    return histograms


def ranges_of(
    histograms: Mapping[str, Histogram], placement: Placement, method: Method, *, pixels: Collection[str] = ()
) -> dict[str, Range]:
    """The range of each tensor with a Q/DQ pair; the same for all that share a scale.

    Of tensors that share one, the method sees the sum of their histograms, which is the histogram of what they are
    concatenated to. The network's inputs, ``pixels``, are unsigned 8-bit numbers already and stay what they are.
    """
    found: dict[tuple[str, ...], Range] = {}
    if placement.target is not Target.TENSORRT:
        found = {(name,): _PIXELS for name in pixels}
    for sources in placement.sources.values():
        if sources not in found:
            together = Histogram()
            for source in sources:
                together.merge(histograms[source])
            found[sources] = range_of(together, method, placement.target)
    return {name: found[sources] for name, sources in placement.sources.items()}


def local_errors(
    model: onnx.ModelProto,
    placement: Placement,
    ranges: Mapping[str, Range],
    inputs: Inputs,
    *,
    where: object,
    threads: int | None = None,
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """What 8 bits do to each convolution, its input being the float32 model's.

    Two tables by the convolution's name: what to add to its bias, one number an output channel (mean of the float32
    output minus mean of the 8-bit one); and its signal-to-noise ratio in dB.
    """
    probe, outputs = _probe(model, placement, ranges)
    session = open_session(probe.SerializeToString(), threads=threads, where=where, config=EXACT)
    entry = session.get_inputs()[0].name
    totals: dict[str, NDArray[np.float64]] = {}
    rounds = 0
    for image in inputs:
        rounds += 1
        for name, value in run_session(session, {entry: image}, where=where).items():
            # A batch holds one image, once or repeated: its first row is all there is to know.
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
        raise ArtifactError("A layer of it is not finite in 8 bits.", remedy="Calibrate with other images.")
    if error <= 0 or signal <= 0:
        return NO_NOISE_DB
    return round(min(10 * float(np.log10(signal / error)), NO_NOISE_DB), 2)


def _probe(
    model: onnx.ModelProto, placement: Placement, ranges: Mapping[str, Range]
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str, str]]]:
    """The model with every 8-bit convolution beside its float32 one; by name, its outputs: shift, error, signal."""
    view = GraphView(model.graph)
    added = Additions(view, placement.target)
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    outputs: dict[str, tuple[str, str, str]] = {}
    for at in placement.layers:
        conv = view.nodes[at]
        entry, exact = conv.input[0], conv.output[0]
        if entry not in rounded:
            nodes += added.pair(entry, ranges[entry])
            rounded[entry] = nodes[-1].output[0]
        weight = added.weight(at)
        twin = onnx.NodeProto()
        twin.CopyFrom(conv)
        twin.name = f"probe_{at}_conv"
        twin.input[0], twin.input[1], twin.output[0] = rounded[entry], weight.output[0], f"probe_{at}_y"
        nodes += [weight, twin]
        loss, loss2, square, shift, error, signal = (
            f"probe_{at}_{what}" for what in ("loss", "loss2", "square", "shift", "error", "signal")
        )
        for operator, inputs, output in (
            ("Sub", (exact, twin.output[0]), loss),
            ("Mul", (loss, loss), loss2),
            ("Mul", (exact, exact), square),
            ("GlobalAveragePool", (loss,), shift),
            ("GlobalAveragePool", (loss2,), error),
            ("GlobalAveragePool", (square,), signal),
        ):
            nodes.append(onnx.helper.make_node(operator, inputs, [output]))
        outputs[view.label(at)] = (shift, error, signal)
    probe = with_outputs(model, [name for three in outputs.values() for name in three])
    probe.graph.node.extend(nodes)
    probe.graph.initializer.extend(added.weights)
    return probe, outputs
