"""Verifies an OpenVINO model against the ONNX model it was made of, before it is written.

Both run on the same images: ONNX Runtime the source, OpenVINO the very bytes that will be written, in float32. So that
detections are compared whatever the weights, each level's logits are shifted on both sides, see
:mod:`rtmo_deploy.convert.bias_shift`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from rtmo_deploy.convert.bias_shift import case_shapes, choose_shift, classifier_nodes, open_exact
from rtmo_deploy.convert.graph import copy_of
from rtmo_deploy.measure.bounds import EXACT, ROUNDED
from rtmo_deploy.measure.verify import Run, VerificationReport, structured_images, verify
from rtmo_deploy.runtime.estimator import open_coordinates
from rtmo_deploy.runtime.onnxruntime_backend import run_session
from rtmo_deploy.runtime.openvino_backend import compile_model, parse_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.bias_shift import Shift

#: Batch, height, width of dynamic graphs.
SHAPES = ((1, 256, 256), (2, 192, 320))


def verify_openvino(
    source: onnx.ModelProto,
    files: tuple[bytes, bytes],
    artifact: Artifact,
    *,
    companion: bytes | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> VerificationReport:
    """Run a model and its source on the same images and compare."""
    import onnxruntime as ort

    images = [structured_images(*shape) for shape in case_shapes(artifact, SHAPES)]
    progress("running ONNX Runtime")
    shift = choose_shift(source, images, artifact)
    session = open_exact(_shifted_onnx(source, shift).SerializeToString(), where=artifact.path)
    model = parse_model(*files, where=artifact.path)
    _shift_openvino(model, {node.output[0]: own for node, own in zip(classifier_nodes(source), shift, strict=True)})
    compiled = compile_model(model, precision="fp32", where=artifact.path)
    names = [output.get_any_name() for output in compiled.outputs]
    coordinates = open_coordinates(companion, where=artifact.path) if companion else None

    def run(outputs: Mapping[str, NDArray[np.float32]], pixels: NDArray[np.float32]) -> Run:
        return Run.of(outputs, (pixels.shape[2], pixels.shape[3]), artifact, coordinates)

    def candidate(pixels: NDArray[np.float32]) -> Run:
        results = compiled(pixels)
        return run({name: results[at] for at, name in enumerate(names)}, pixels)

    expected = [run(run_session(session, {"input": pixels}, where=artifact.path), pixels) for pixels in images]
    bounds = EXACT if artifact.precision == "fp32" else ROUNDED
    cases = verify(images, expected, candidate, bounds, progress=progress, name="ONNX Runtime")
    return VerificationReport(f"ONNX Runtime {ort.__version__} on the CPU", tuple(cases), bounds, shift)


def _shifted_onnx(model: onnx.ModelProto, shift: Shift) -> onnx.ModelProto:
    """A copy with a number added to each level's logits, of the type that they have there."""
    shifted = copy_of(model)
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
