"""Element types of a graph's tensors.

Inference with ``check_type`` also tells whether they fit together as the operators want them, ``Add(float16, float32)``
included: a graph that passes is one that strongly typed TensorRT takes.
"""

from __future__ import annotations

import onnx


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with the types and shapes of all tensors that can be told.

    Raises:
        onnx.shape_inference.InferenceError: They contradict each other, or an operator does not take them.
    """
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type, by number, of every tensor: inputs, weights, inner ones and outputs."""
    graph = infer(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types
