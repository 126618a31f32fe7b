"""A graph with the decode plugin, run without TensorRT: ONNX Runtime, the kernel's host build, ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort
from plugin_host import Rows, run_host

from rtmo_deploy.convert.plugins.rewrite import check_plugin_node, plugin_node
from rtmo_deploy.runtime.plugins.kernel import OUTPUTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """On one thread: the tensors are small."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class PluginGraph:
    """Splits a graph at its RTMODecode node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.fields = check_plugin_node(model)
        node = plugin_node(model)
        assert node is not None
        constants = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in constants}
        self._before, self._after = onnx.ModelProto(), onnx.ModelProto()
        self._inputs, self._outputs = list(node.input), list(node.output)
        described = {value.name: value for value in model.graph.value_info}
        for part in (self._before, self._after):
            part.CopyFrom(model)
            part.graph.node.remove(next(n for n in part.graph.node if n.name == node.name))
        del self._before.graph.output[:]
        self._before.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in self._inputs
            if name not in self._constants
        )
        self._after.graph.input.extend(described[name] for name in self._outputs)
        self._reduce(self._before)
        self._reduce(self._after)
        self._first, self._second = session(self._before), session(self._after)
        self.rows: Rows | None = None

    @staticmethod
    def _reduce(model: onnx.ModelProto) -> None:
        """Keep what the outputs need; ONNX Runtime wants every node's inputs to be there."""
        needed = {value.name for value in model.graph.output}
        kept = []
        for node in reversed(model.graph.node):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        inputs = [value for value in model.graph.input if value.name in needed]
        kept_inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
        del model.graph.input[:]
        model.graph.input.extend(kept_inputs)

    def run(self, feeds: dict[str, NDArray[np.float32]]) -> list[NDArray[Any]]:
        """The graph's outputs."""
        wanted = {value.name for value in self._first.get_inputs()}
        found = self._first.run(None, {name: array for name, array in feeds.items() if name in wanted})
        values = self._constants | dict(zip([o.name for o in self._first.get_outputs()], found, strict=True))
        self.rows = run_host(*(values[name] for name in self._inputs), self.fields)
        arrays = dict(zip(self._outputs, (getattr(self.rows, name) for name in OUTPUTS), strict=True))
        available = feeds | arrays
        return list(self._second.run(None, {value.name: available[value.name] for value in self._second.get_inputs()}))
