"""Verifies a cast graph against the float32 graph it was made of, before it is written.

Both run in ONNX Runtime on the same images, and detections are compared. The cast graph runs twice: emulated, that is
rounding wherever it rounds (see :mod:`rtmo_deploy.convert.precision.emulate`), and as it is, which tells that the file
loads and runs. So that detections are compared whatever the weights, each level's classifier is shifted on all sides,
see :mod:`rtmo_deploy.convert.bias_shift`. On images that are 0 and 255 everywhere all outputs must be finite, and no
tensor may leave the range of its type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx

from rtmo_deploy.convert.bias_shift import case_shapes, choose_shift, open_exact, shift_biases
from rtmo_deploy.convert.precision.emulate import emulated, split_peaks
from rtmo_deploy.convert.precision.graph import hold_scales
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.measure.bounds import AMPLIFICATION, CASTS
from rtmo_deploy.measure.comparison import Figures, compare_people
from rtmo_deploy.measure.verify import Run, VerificationReport, structured_images, verify
from rtmo_deploy.plain import plain
from rtmo_deploy.runtime.onnxruntime_backend import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.precision.rules import CastType
    from rtmo_deploy.measure.verify import Case
    from rtmo_deploy.runtime.decode import Coordinates

#: Batch, height, width of dynamic graphs.
SHAPES: Final = ((1, 256, 256), (2, 192, 320))
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


@dataclass(frozen=True)
class CastReport(VerificationReport):
    """What was compared, and whether it held; ``rounding`` of a case is what rounding the weights alone costs.

    Attributes:
        not_run: Why the file itself was not run, only its emulation; None if it was run.
        peak: The largest magnitude in any 16-bit tensor.
        peak_node: The node it comes from.
        broken: What was not finite, or left the range of the type, in words.
    """

    not_run: str | None
    peak: float
    peak_node: str
    broken: tuple[str, ...]

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
    source: onnx.ModelProto,
    cast: onnx.ModelProto,
    half: CastType,
    artifact: Artifact,
    *,
    coordinates: Coordinates | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> CastReport:
    """Run a cast graph and its source on the same images and compare.

    Args:
        source: The float32 graph, or the quantised one.
        cast: What the pass made of it.
        half: The type.
        artifact: What the source says of itself.
        coordinates: The classifier of a ``raw`` graph.
        progress: Told which input is being compared.
    """
    import onnxruntime as ort

    before = "float32" if artifact.precision == "fp32" else artifact.precision
    images = [structured_images(*shape) for shape in case_shapes(artifact, SHAPES)]
    shift = choose_shift(source, images, artifact)
    shifted = shift_biases(cast, shift)
    bounds = CASTS[half.name if artifact.precision == "fp32" else f"{artifact.precision}+{half.name}"]
    watch = _Watch(half)

    def runner(graph: onnx.ModelProto) -> Callable[..., Run]:
        session = open_exact(graph.SerializeToString(), where=artifact.path)

        def run(pixels: NDArray[np.float32], what: str = "") -> Run:
            outputs = run_session(session, {"input": pixels}, where=artifact.path)
            own = watch.look(outputs, what) if what else outputs
            return Run.of(own, (pixels.shape[2], pixels.shape[3]), artifact, coordinates)

        return run

    reference = runner(shift_biases(source, shift))
    weights = runner(_weights_rounded(shift_biases(source, shift), cast, half))
    runners = {EMULATED: runner(emulated(shifted, half))}
    not_run = None
    try:
        runners[AS_IT_IS] = runner(shifted)
    except ArtifactError as error:
        if half.name != "bf16":
            raise
        not_run = f"ONNX Runtime {ort.__version__} has no bfloat16 kernels for it on the CPU: {error.finding}"
    expected = [reference(pixels) for pixels in images]
    alone = [
        compare_people(one.people or [], weights(noisy).people or [], input_hw=(pixels.shape[2], pixels.shape[3]))
        for one, pixels in zip(expected, images, strict=True)
        for noisy in _with_noise(pixels, half)
    ]
    cases = [
        verify(
            images,
            expected,
            partial(run, what="an image"),
            bounds,
            leave_out_wild=True,
            run=how,
            progress=progress,
            name=before,
        )
        for how, run in runners.items()
    ]
    for value in (0.0, 255.0):
        progress(f"running on {value:g} everywhere")
        for run in runners.values():
            run(np.full_like(images[0], value), what=f"{value:g} everywhere")
    rounding = Figures.largest(alone)
    return CastReport(
        reference=f"the {before} graph in ONNX Runtime {ort.__version__} on the CPU",
        cases=tuple(replace(case, rounding=rounding) for shape in zip(*cases, strict=True) for case in shape),
        bounds=bounds,
        bias_shift=shift,
        not_run=not_run,
        peak=watch.peak,
        peak_node=watch.node,
        broken=(*changed_weights(source, cast, half), *watch.broken),
    )


def changed_weights(source: onnx.ModelProto, cast: onnx.ModelProto, half: CastType) -> list[str]:
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


def _with_noise(images: NDArray[np.float32], half: CastType) -> list[NDArray[np.float32]]:
    """Images, and twice with noise of half's rounding: one rounding alone is one draw of a wide distribution."""
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-half.epsilon, half.epsilon, images.shape).astype(np.float32) for _ in range(2)]
    return [images, *(images * (1 + one) for one in noise)]


class _Watch:
    """Looks for what is not finite or too large."""

    def __init__(self, half: CastType) -> None:
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
        wrong = [name for name, value in own.items() if not np.isfinite(value).all()]
        if wrong:
            self.broken.append(f"{', '.join(wrong)} not finite on {what}")
        return own


def _weights_rounded(source: onnx.ModelProto, cast: onnx.ModelProto, half: CastType) -> onnx.ModelProto:
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
