"""Looking into an ONNX graph: inner tensors are marked as outputs, some at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.measure.agreement.module_names import layer_of_scope, module_path
from rtmo_deploy.measure.agreement.taps import Tap
from rtmo_deploy.model.spec import STRIDES
from rtmo_deploy.runtime.onnx_file import load_onnx, signature
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

_FLOATS: Final = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
#: Operators that compute nothing a layer is known by.
_NO_LAYERS: Final = frozenset({"Constant", "ConstantOfShape", "Shape", "Identity"})
#: Operators that only move numbers or change their type: a layer does not end in one.
_MOVES: Final = _NO_LAYERS | {
    *("Cast", "QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Slice", "Split", "Concat", "Resize"),
    *("Gather", "GatherND", "Unsqueeze", "Squeeze", "Expand", "Flatten"),
}
_WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul", "LayerNormalization"})
#: Operators that choose rows: what follows can be compared only if both chose the same.
_CHOOSERS: Final = frozenset({"TopK", "NonMaxSuppression", "NonZero"})
_BOXES: Final = re.compile(r"/head/out_bbox\.(\d)/Conv$")
#: Assumed where the shape is not known before the run: what depends on the number of people.
_UNKNOWN_SIZE: Final = 1 << 18


class OnnxTaps:
    """An ONNX graph whose inner tensors can be read.

    Args:
        artifact: The file.
        shape: ``(B, 3, H, W)`` of the input it will be given.
        device: ``cpu`` or ``cuda:N``.
    """

    def __init__(self, artifact: Artifact, shape: tuple[int, ...], device: str = "cpu") -> None:
        self._artifact, self._device = artifact, device
        self._model = load_onnx(artifact.path)
        self._input = signature(self._model).inputs[0].name
        self._tensors: dict[str, str] = {}
        self.taps: dict[str, Tap] = {}
        types, sizes = _types_and_sizes(self._model, self._input, shape)
        self._all = dict(self._float_tensors(types, sizes))
        self._boxes = self._folded_boxes()

    def by_tensor(self) -> OnnxTaps:
        """Keys become names of tensors: for graphs that were made of the same one."""
        self.taps = self._all
        self._tensors = {name: name for name in self._all}
        return self

    def by_module(self) -> OnnxTaps:
        """Keys become paths of modules, each with the tensor that leaves it."""
        last: dict[str, str] = {}
        layers: set[str] = set()
        for node in self._model.graph.node:
            path = module_path(node.name)
            if path is None or node.output[0] not in self._all or node.op_type in _MOVES:
                continue
            layer = layer_of_scope(path)
            last[layer] = node.output[0]
            if node.op_type in _WEIGHTED or ".norms." in layer:
                layers.add(layer)
        self._tensors = {layer: name for layer, name in last.items() if layer in layers}
        order = {name: place for place, name in enumerate(self._all)}
        ranked = sorted(self._tensors, key=lambda layer: order[self._tensors[layer]])
        self.taps = {layer: self._all[self._tensors[layer]] for layer in ranked}
        return self

    def read(self, keys: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See :class:`rtmo_deploy.measure.agreement.taps.TapSource`; a session is made for it and dropped."""
        values = self._run([self._tensors[key] for key in keys], images)
        return {key: self._unfolded(self._tensors[key], values[self._tensors[key]]) for key in keys}

    def choices(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What the graph chose: the indices that its choosers put out, by the name of the tensor."""
        names = [node.output[-1] for node in self._model.graph.node if node.op_type in _CHOOSERS]
        return self._run(names, images) if names else {}

    def after(self, tensors: set[str]) -> set[str]:
        """Names of all tensors that depend on these, these themselves, and what leaves their nodes beside them."""
        reached = set(tensors)
        for node in self._model.graph.node:
            if not reached.isdisjoint((*node.input, *node.output)):
                reached.update(node.output)
        return reached

    def feeds(self, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
        """For each key the nearest of the others that it is computed from."""
        known = {name: key for key, name in self._tensors.items() if key in keys}
        near: dict[str, tuple[str, ...]] = {}
        found: dict[str, tuple[str, ...]] = {}
        for node in self._model.graph.node:
            before: list[str] = []
            for name in node.input:
                before += [known[name]] if name in known else near.get(name, ())
            unique = tuple(dict.fromkeys(before))
            for name in node.output:
                near[name] = unique
                if name in known:
                    found[known[name]] = unique
        return found

    def _float_tensors(self, types: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[tuple[str, Tap]]:
        for node in self._model.graph.node:
            if node.op_type in _NO_LAYERS:
                continue
            for name in node.output:
                if name and types.get(name) in _FLOATS:
                    label = node.name or name
                    yield name, Tap(label, node.op_type, sizes.get(name, _UNKNOWN_SIZE), node.op_type in _WEIGHTED)

    def _run(self, names: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        graph = self._model.graph
        own = list(graph.output)
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
        try:
            content = self._model.SerializeToString()
        finally:
            del graph.output[:]
            graph.output.extend(own)
        session = open_session(content, device=self._device, where=self._artifact.path)
        return run_session(session, {self._input: images}, where=self._artifact.path)

    def _folded_boxes(self) -> dict[str, int]:
        """Box predictions with the stride folded in, as this project exports them unless the graph is ``raw``."""
        if self._artifact.producer != "rtmo-deploy" or self._artifact.decode.mode is DecodeMode.RAW:
            return {}
        nodes = ((node, _BOXES.match(node.name)) for node in self._model.graph.node)
        return {node.output[0]: STRIDES[int(match[1])] for node, match in nodes if match}

    def _unfolded(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        stride = self._boxes.get(name)
        if stride is None:
            return value
        wide = value.astype(np.float64)
        return np.concatenate([wide[:, :2] / stride, wide[:, 2:] - np.log(stride)], axis=1)


def _types_and_sizes(
    model: onnx.ModelProto, source: str, shape: tuple[int, ...]
) -> tuple[dict[str, int], dict[str, int]]:
    """Element types of all tensors, and bytes of those whose shape an input of this shape tells."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    # What the file says of inner tensors may be of other sizes.
    del sized.graph.value_info[:]
    for value in sized.graph.input:
        if value.name == source:
            value.CopyFrom(onnx.helper.make_tensor_value_info(source, value.type.tensor_type.elem_type, shape))
    # Outputs stay as declared: their names for dynamic sides do no harm.
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    types: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        sides = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.HasField("shape") and all(sides):
            sizes[value.name] = int(np.prod(sides, dtype=np.int64)) * 4
    return types, sizes
