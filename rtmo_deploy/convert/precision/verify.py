"""A half graph against the float32 graph it was made of, before it is let out.

Both run in ONNX Runtime on the same pictures, and people are compared. The half graph runs twice: emulated, that is
rounding wherever it rounds (see :mod:`rtmo_deploy.convert.precision.emulate`), and as it is, which tells that the file
loads and runs. So that people are compared whatever the weights, each level's classifier is shifted on all sides, see
:mod:`rtmo_deploy.convert.liven`. On pictures that are 0 and 255 everywhere all outputs must be finite, and no tensor
may leave the range of its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.convert.liven import case_shapes, choose_shift, open_exact, shift_biases
from rtmo_deploy.convert.precision.deviation import Deviation, deviation
from rtmo_deploy.convert.precision.emulate import emulated, split_peaks
from rtmo_deploy.convert.precision.graph import hold_scales
from rtmo_deploy.convert.precision.report import BOUNDS, HalfCase, HalfReport
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.measure import structured_images
from rtmo_deploy.runtime.estimator import outputs_to_poses
from rtmo_deploy.runtime.onnxruntime_backend import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.precision.rules import HalfType
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.decode import Coordinates

#: Batch, height, width of dynamic graphs.
SHAPES = ((1, 256, 256), (2, 192, 320))


def verify_half(
    source: onnx.ModelProto,
    cast: onnx.ModelProto,
    half: HalfType,
    artifact: Artifact,
    *,
    coordinates: Coordinates | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> HalfReport:
    """Run a half graph and its source on the same pictures and compare.

    Args:
        source: The float32 graph, or the quantised one.
        cast: What the pass made of it.
        half: The type.
        artifact: What the source says of itself.
        coordinates: The classifier of a ``raw`` graph.
        progress: Told which input is being compared.

    Raises:
        ArtifactError: ONNX Runtime does not take or run the graph.
    """
    import onnxruntime as ort

    before = "float32" if artifact.precision == "fp32" else artifact.precision
    where = artifact.path
    pictures = [structured_images(*shape) for shape in case_shapes(artifact, SHAPES)]
    shift = choose_shift(source, pictures, artifact)
    shifted = shift_biases(cast, shift)
    reference = open_exact(shift_biases(source, shift).SerializeToString(), where=where)
    runners: dict[bool, Any] = {True: open_exact(emulated(shifted, half).SerializeToString(), where=where)}
    weights = open_exact(_weights_rounded(shift_biases(source, shift), cast, half).SerializeToString(), where=where)
    not_run = None
    try:
        runners[False] = open_exact(shifted.SerializeToString(), where=where)
    except ArtifactError as error:
        if half.name != "bf16":
            raise
        not_run = f"ONNX Runtime {ort.__version__} has no bfloat16 kernels for it on the CPU: {error.finding}"
    watch = _Watch(half)
    runs: list[tuple[tuple[int, int, int], bool, Deviation]] = []
    alone: list[Deviation] = []
    for images in pictures:
        batch, _, height, width = images.shape
        progress(f"comparing with float32 at {batch}x3x{height}x{width}")
        expected = _people(
            run_session(reference, {"input": images}, where=where), artifact, (height, width), coordinates
        )
        for noisy in _with_noise(images, half):
            outputs = run_session(weights, {"input": noisy}, where=where)
            alone.append(deviation(expected, _people(outputs, artifact, (height, width), coordinates), (height, width)))
        for is_emulated, session in runners.items():
            outputs = watch.look(run_session(session, {"input": images}, where=where), "a picture")
            found = _people(outputs, artifact, (height, width), coordinates)
            runs.append(((batch, height, width), is_emulated, deviation(expected, found, (height, width))))
    for value in (0.0, 255.0):
        progress(f"running on {value:g} everywhere")
        for session in runners.values():
            images = np.full_like(pictures[0], value)
            watch.look(run_session(session, {"input": images}, where=where), f"{value:g} everywhere")
    return HalfReport(
        reference=f"the {before} graph in ONNX Runtime {ort.__version__} on the CPU",
        cases=tuple(HalfCase(*shape, is_emulated, one, Deviation.worst(alone)) for shape, is_emulated, one in runs),
        bounds=BOUNDS[half.name if artifact.precision == "fp32" else f"{artifact.precision}+{half.name}"],
        bias_shift=shift,
        not_run=not_run,
        peak=watch.peak,
        peak_node=watch.node,
        broken=(*changed_weights(source, cast, half), *watch.broken),
    )


def changed_weights(source: onnx.ModelProto, cast: onnx.ModelProto, half: HalfType) -> list[str]:
    """Floating-point weights of a cast that are not its source's to half's rounding, in words; on any CPU the same."""
    stored = {tensor.name: tensor for tensor in cast.graph.initializer}
    found = []
    for tensor in source.graph.initializer:
        rounded = stored.get(f"{tensor.name}.{half.name}")
        if tensor.data_type != onnx.TensorProto.FLOAT or rounded is None:
            continue
        before, after = (onnx.numpy_helper.to_array(t).astype(np.float64) for t in (tensor, rounded))
        # A scale below the normal numbers becomes the next greater number.
        step = np.maximum(np.abs(before), half.smallest_normal) * half.epsilon
        if not (np.abs(after - before) <= step).all():
            found.append(f"{tensor.name} is not what it was, rounded to {half.name}")
    return found


def _with_noise(images: NDArray[np.float32], half: HalfType) -> list[NDArray[np.float32]]:
    """Images, and twice with noise of half's rounding: one rounding alone is one draw of a wide distribution."""
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-half.epsilon, half.epsilon, images.shape).astype(np.float32) for _ in range(2)]
    return [images, *(images * (1 + one) for one in noise)]


class _Watch:
    """Looks for what is not finite or too large."""

    def __init__(self, half: HalfType) -> None:
        self.half = half
        self.peak, self.node = 0.0, ""
        self.broken: list[str] = []

    def look(self, outputs: Mapping[str, NDArray[np.float32]], what: str) -> dict[str, NDArray[np.float32]]:
        own, peaks = split_peaks(outputs)
        over = [node for node, peak in peaks.items() if not peak <= self.half.largest]
        if over:
            # Nodes after the first only pass it on.
            self.broken.append(f"{over[0]} leaves the range of {self.half.name} on {what}")
        for node, peak in peaks.items():
            if not peak <= self.peak:
                self.peak, self.node = peak, node
        odd = [name for name, value in own.items() if not np.isfinite(value).all()]
        if odd:
            self.broken.append(f"{', '.join(odd)} not finite on {what}")
        return own


def _people(
    outputs: Mapping[str, NDArray[np.float32]],
    artifact: Artifact,
    input_hw: tuple[int, int],
    coordinates: Coordinates | None,
) -> list[Poses]:
    with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
        return outputs_to_poses(outputs, input_hw, artifact, coordinates)


def _weights_rounded(source: onnx.ModelProto, cast: onnx.ModelProto, half: HalfType) -> onnx.ModelProto:
    """The float32 graph with those weights rounded that the cast stores in half; changed in place.

    Rounded here, not taken from the cast: what went wrong with a weight there must not pass as rounding.
    """
    stored = {tensor.name for tensor in cast.graph.initializer if tensor.data_type == half.onnx}
    pairs = [
        node.name for node in source.graph.node if len(node.input) > 1 and f"{node.input[1]}.{half.name}" in stored
    ]
    hold_scales(source.graph, half, pairs)
    for tensor in source.graph.initializer:
        if f"{tensor.name}.{half.name}" in stored:
            value = onnx.numpy_helper.to_array(tensor).astype(half.numpy).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return source
