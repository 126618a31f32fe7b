"""An OpenVINO model against the ONNX model it was made of, before it is let out.

Both run on the same pictures: ONNX Runtime the source, OpenVINO the very bytes that will be written, in float32. So
that people are compared whatever the weights, each level's logits are shifted on both sides, see
:mod:`rtmo_deploy.convert.liven`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.liven import case_shapes, choose_shift, classifier_nodes, open_exact
from rtmo_deploy.measure import Bounds, CaseResult, PeopleErrors, compare_people, compare_tensors, structured_images
from rtmo_deploy.runtime.estimator import open_coordinates, outputs_to_poses
from rtmo_deploy.runtime.onnxruntime_backend import run_session
from rtmo_deploy.runtime.openvino_backend import compile_model, parse_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.liven import Shift

#: Batch, height, width of dynamic graphs.
SHAPES = ((1, 256, 256), (2, 192, 320))
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
        bias_shift: What was added to the logits of each level on both sides.
        reference: What was compared with.
    """

    cases: tuple[CaseResult, ...]
    bounds: Bounds
    unmatched: float
    bias_shift: tuple[float, ...]
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
            "bias_shift": list(self.bias_shift),
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
    pictures = [structured_images(*shape) for shape in case_shapes(artifact, SHAPES)]
    progress("running ONNX Runtime")
    shift = choose_shift(source, pictures, artifact)
    reference = open_exact(_shifted_onnx(source, shift).SerializeToString(), where=artifact.path)
    model = parse_model(*files, where=artifact.path)
    _shift_openvino(model, {node.output[0]: own for node, own in zip(classifier_nodes(source), shift, strict=True)})
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
            tensors = compare_tensors(expected, found)
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


def _shifted_onnx(model: onnx.ModelProto, shift: Shift) -> onnx.ModelProto:
    """A copy with a number added to each level's logits, of the type that they have there."""
    shifted = onnx.ModelProto()
    shifted.CopyFrom(model)
    types = {tensor.name: tensor.data_type for tensor in shifted.graph.initializer}
    nodes = []
    added = {node.name: own for node, own in zip(classifier_nodes(model), shift, strict=True)}
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if node.name in added:
            own, constant = f"{node.output[0]}/unshifted", f"{node.name}/shift"
            # Weights that are computed are dequantised ones: float32.
            data_type = types.get(node.input[1], onnx.TensorProto.FLOAT)
            shifted.graph.initializer.append(onnx.helper.make_tensor(constant, data_type, (), [added[node.name]]))
            copy.output[0] = own
            nodes.append(onnx.helper.make_node("Add", [own, constant], [node.output[0]], name=f"{node.name}/add_shift"))
    del shifted.graph.node[:]
    shifted.graph.node.extend(nodes)
    del shifted.graph.value_info[:]
    return shifted


def _shift_openvino(model: Any, shifts: Mapping[str, float]) -> None:
    """The same in an ``openvino.Model``, in place, by the names of the logits, which it has kept."""
    from openvino import opset13 as ops

    found: set[str] = set()
    for node in model.get_ordered_ops():
        for output in node.outputs():
            own = output.get_names() & shifts.keys()
            if own:
                targets = output.get_target_inputs()
                moved = ops.add(node, ops.constant(shifts[next(iter(own))], dtype=output.get_element_type()))
                for target in targets:
                    target.replace_source_output(moved.output(0))
                found |= own
    if found != shifts.keys():
        raise AssertionError(f"{len(found)} of the graph's {len(shifts)} classifiers were found in the OpenVINO model")
