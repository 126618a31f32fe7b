"""An OpenVINO model against the ONNX model it was made of, before it is let out.

Both run on the same pictures: ONNX Runtime the source, OpenVINO the very bytes that will be written, in float32. So
that people are compared whatever the weights (an untrained network finds nobody), the classifier's logits are shifted
by the same number on both sides, to where about a dozen cells of a picture pass the threshold and none is near it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.measure import Bounds, CaseResult, PeopleErrors, compare_people, structured_images
from rtmo_deploy.runtime.estimator import open_coordinates, outputs_to_poses
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session
from rtmo_deploy.runtime.openvino_backend import compile_model, parse_model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

__all__ = ["OpenvinoReport", "verify_openvino"]

#: Batch, height, width of dynamic graphs.
SHAPES = ((1, 256, 256), (2, 192, 320))
WANTED_PER_PICTURE = 12
CLASSIFIER = "/head/out_cls."
#: What passes where one side rounds and the other does not, or rounds elsewhere: 16-bit weights, 8 and 16 bit graphs.
#: It is there to find a broken graph; what a precision costs in accuracy is for ``rtmo-deploy eval`` to tell.
ROUNDED = Bounds(keypoint_px=8.0, score=0.02, tensor=0.05)
#: People who may be found by one side only, as a share, where rounding decides.
ROUNDED_UNMATCHED = 0.05


@dataclass(frozen=True)
class OpenvinoReport:
    """What was compared, and whether it held.

    Attributes:
        cases: One entry an input shape.
        bounds: The worst that passes.
        unmatched: Share of the people who may be found by one side only; one always may if it is not 0.
        bias_shift: What was added to the classifier's logits on both sides.
        reference: What was compared with.
    """

    cases: tuple[CaseResult, ...]
    bounds: Bounds
    unmatched: float
    bias_shift: float
    reference: str

    def failures(self) -> list[str]:
        """What is over the bounds, in words, with the input it happened on."""
        return [
            f"{failure} (input {case.batch}x3x{case.height}x{case.width})"
            for case in self.cases
            for failure in replace(case, people=self._pardoned(case.people)).failures(self.bounds)
        ]

    def _pardoned(self, people: PeopleErrors | None) -> PeopleErrors | None:
        if people is None or not self.unmatched:
            return people
        allowed = max(1, math.floor(self.unmatched * (people.matched + people.missed)))
        within = people.missed + people.extra <= allowed
        return replace(people, missed=0, extra=0, order=True) if within else replace(people, order=True)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference,
            "ok": not self.failures(),
            "bounds": {**vars(self.bounds), "unmatched": self.unmatched},
            "bias_shift": self.bias_shift,
            "cases": [case.to_dict() for case in self.cases],
        }


def verify_openvino(
    source: onnx.ModelProto,
    files: tuple[bytes, bytes],
    artifact: Artifact,
    *,
    companion: bytes | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> OpenvinoReport:
    """Run a model and its source on the same pictures and compare.

    Args:
        source: The ONNX model.
        files: Content of the .xml and of the .bin file.
        artifact: What the OpenVINO model says of itself.
        companion: The classifier of a ``raw`` graph.
        progress: Told which input is being compared.

    Raises:
        ArtifactError: One of the runtimes does not take or run its model.
    """
    import onnxruntime as ort

    exact = artifact.precision == "fp32"
    pictures = [structured_images(*shape) for shape in _shapes(artifact)]
    progress("running ONNX Runtime")
    names = [node.output[0] for node in _classifiers(source)]
    shift = _choose_shift(source, names, pictures, artifact) if names else 0.0
    shifted = _shifted_onnx(source, shift).SerializeToString()
    reference = open_session(shifted, where=artifact.path) if exact else _plain_session(shifted)
    model = parse_model(*files, where=artifact.path)
    _shift_openvino(model, names, shift)
    compiled = compile_model(model, precision="fp32", where=artifact.path)
    outputs = [output.get_any_name() for output in compiled.outputs]
    coordinates = open_coordinates(companion, where=artifact.path) if companion else None
    cases = []
    for images in pictures:
        batch, _, *input_hw = images.shape
        height, width = input_hw
        progress(f"comparing with ONNX Runtime at {batch}x3x{height}x{width}")
        expected = run_session(reference, {"input": images}, where=artifact.path)
        results = compiled(images)
        found = {name: results[at] for at, name in enumerate(outputs)}
        people, tensors = None, {}
        if artifact.decode.mode is DecodeMode.RAW:
            tensors = _compare_tensors(expected, found)
        if artifact.decode.mode is not DecodeMode.RAW or coordinates is not None:
            with np.errstate(all="ignore"):  # what is not finite is reported, not warned about
                one, two = (outputs_to_poses(o, (height, width), artifact, coordinates) for o in (expected, found))
            people = compare_people(one, two)
        cases.append(CaseResult(batch, height, width, people, tensors))
    return OpenvinoReport(
        cases=tuple(cases),
        bounds=Bounds() if exact else ROUNDED,
        unmatched=0.0 if exact else ROUNDED_UNMATCHED,
        bias_shift=shift,
        reference=f"ONNX Runtime {ort.__version__} on the CPU",
    )


def _plain_session(model: bytes) -> Any:
    """A session in which a quantised graph is computed as it is written.

    ONNX Runtime's higher optimisations make 8-bit layers of it, and those saturate on x86 CPUs without VNNI: a
    reference that would be wrong.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _shapes(artifact: Artifact) -> list[tuple[int, int, int]]:
    contract = artifact.input
    fixed = None if contract.dynamic_hw else (contract.height, contract.width)
    return list(dict.fromkeys((contract.batch or b, *(fixed or (h, w))) for b, h, w in SHAPES))


def _compare_tensors(
    expected: dict[str, NDArray[np.float32]], found: dict[str, NDArray[np.float32]]
) -> dict[str, tuple[float, float]]:
    compared = {}
    for name, value in expected.items():
        same = name in found and value.shape == found[name].shape
        error = float(np.abs(value - found[name]).max(initial=0.0)) if same else math.inf
        compared[name] = (error if math.isfinite(error) else math.inf, float(np.abs(value).max(initial=0.0)))
    return compared


def _classifiers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith(CLASSIFIER)]


def _choose_shift(
    source: onnx.ModelProto, names: list[str], pictures: list[NDArray[np.float32]], artifact: Artifact
) -> float:
    """What to add to the logits: into the widest gap between two of them near the wanted number of people."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(source)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(tapped.SerializeToString(), where=artifact.path)
    runs = [run_session(session, {"input": images}, where=artifact.path) for images in pictures]
    logits = np.sort(np.concatenate([value.astype(np.float32).ravel() for run in runs for value in run.values()]))[::-1]
    wanted = WANTED_PER_PICTURE * sum(len(images) for images in pictures)
    window = logits[wanted // 2 : 2 * wanted + 1]
    if len(window) < 2:
        return 0.0
    place = int((window[:-1] - window[1:]).argmax())
    score_thr = min(max(artifact.decode.score_thr, 1e-4), 1 - 1e-4)
    return math.log(score_thr / (1 - score_thr)) - float(window[place] + window[place + 1]) / 2


def _shifted_onnx(model: onnx.ModelProto, shift: float) -> onnx.ModelProto:
    """A copy with a number added to the logits, of the type that they have there."""
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    types = {tensor.name: tensor.data_type for tensor in shifted.graph.initializer}
    nodes = []
    classifiers = {node.name for node in _classifiers(model)}
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if node.name in classifiers:
            own, constant = f"{node.output[0]}/unshifted", f"{node.name}/shift"
            # Weights that are computed are dequantised ones: float32.
            data_type = types.get(node.input[1], onnx.TensorProto.FLOAT)
            shifted.graph.initializer.append(onnx.helper.make_tensor(constant, data_type, (), [shift]))
            copy.output[0] = own
            nodes.append(onnx.helper.make_node("Add", [own, constant], [node.output[0]], name=f"{node.name}/add_shift"))
    del shifted.graph.node[:]
    shifted.graph.node.extend(nodes)
    del shifted.graph.value_info[:]
    return shifted


def _shift_openvino(model: Any, names: Collection[str], shift: float) -> None:
    """The same in an ``openvino.Model``, in place; its tensors have kept their names."""
    from openvino import opset13 as ops

    found: set[str] = set()
    for node in model.get_ordered_ops():
        for output in node.outputs():
            own = output.get_names() & set(names)
            if own:
                targets = output.get_target_inputs()
                moved = ops.add(node, ops.constant(shift, dtype=output.get_element_type()))
                for target in targets:
                    target.replace_source_output(moved.output(0))
                found |= own
    if found != set(names):
        raise AssertionError(f"{len(found)} of the graph's {len(names)} classifiers were found in the OpenVINO model")
