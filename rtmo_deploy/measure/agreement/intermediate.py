"""Reads intermediate outputs of an ONNX graph: some at a time are marked as outputs of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.model.spec import STRIDES
from rtmo_deploy.runtime.onnx_file import load_onnx, signature
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

#: Where an exported network is built otherwise than the trained one: this project's, and MMDeploy's (the last).
_RENAMED: Final = (
    ("neck.encoder.norms.", "neck.encoder.0.layers.0.norms."),
    ("head.head_module.", "head.head_module."),
    ("head.", "head.head_module."),
    ("head_module.", "head.head_module."),
)
#: Parts of a layer; what leaves the last of them leaves the layer.
_PARTS: Final = frozenset({"conv", "act", "activate", "conv_reparam", "bn", "branch_3x3", "branch_1x1"})
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


class Intermediate(NamedTuple):
    """A tensor inside a network: the node or module it leaves, its operator or class, bytes as far as known."""

    name: str
    op: str
    size: int
    weighted: bool


class OnnxOutputs:
    """Intermediate outputs of an ONNX graph.

    ``outputs`` has them in the order they are computed, by a key that means the same in the other network: the name of
    the tensor, for graphs that were made of the same one, or the path of the module that it leaves.

    Args:
        artifact: The file.
        shape: ``(B, 3, H, W)`` of the input it will be given.
        device: ``cpu`` or ``cuda:N``.
        by_module: Whether keys are paths of modules.
    """

    def __init__(self, artifact: Artifact, shape: tuple[int, ...], device: str, *, by_module: bool) -> None:
        self._artifact, self._device = artifact, device
        self._model = load_onnx(artifact.path)
        self._input = signature(self._model).inputs[0].name
        known = dict(self._float_tensors(*_types_and_sizes(self._model, self._input, shape)))
        self._tensors = self._of_modules(known) if by_module else {name: name for name in known}
        self.outputs = {key: known[name] for key, name in self._tensors.items()}
        self._boxes = self._folded_boxes()

    def read(self, keys: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run the graph and keep these; a session is made for it and dropped.

        Args:
            keys: Keys of ``outputs``.
            images: ``(B, 3, H, W)`` float32, BGR, 0..255.
        """
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

    def _float_tensors(self, types: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[tuple[str, Intermediate]]:
        for node in self._model.graph.node:
            for name in node.output if node.op_type not in _NO_LAYERS else ():
                if name and types.get(name) in _FLOATS:
                    size = sizes.get(name, _UNKNOWN_SIZE)
                    yield name, Intermediate(node.name or name, node.op_type, size, node.op_type in _WEIGHTED)

    def _of_modules(self, known: Mapping[str, Intermediate]) -> dict[str, str]:
        """Paths of modules, each with the tensor that leaves it."""
        last: dict[str, str] = {}
        layers: set[str] = set()
        for node in self._model.graph.node:
            path = module_path(node.name)
            if path is None or node.output[0] not in known or node.op_type in _MOVES:
                continue
            layer = layer_of_scope(path)
            last[layer] = node.output[0]
            if node.op_type in _WEIGHTED or ".norms." in layer:
                layers.add(layer)
        order = {name: place for place, name in enumerate(known)}
        return {layer: last[layer] for layer in sorted(layers, key=lambda layer: order[last[layer]])}

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


def module_path(node_name: str) -> str | None:
    """Path in the PyTorch network of the module that a node was traced in; None for a node without such a name.

    An exported node is called after the modules it was traced in; each item of a sequence repeats its parent:
    ``/head/conv_cls.0/conv_cls.0.1/act/Mul`` gives ``head.head_module.conv_cls.0.1.act``.
    """
    if not node_name.startswith("/"):
        return None
    path: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    joined = ".".join(path)
    for old, new in _RENAMED:
        if joined.startswith(old):
            return new + joined[len(old) :]
    return joined


def layer_of_scope(path: str) -> str:
    """The layer that a module is a part of: ``….conv1.act`` and ``….conv1.conv`` are parts of ``….conv1``.

    BatchNorm is folded into the convolution, and the branches of a block into one, so the comparable tensor is the one
    that leaves convolution and activation.
    """
    parts = path.split(".")
    while len(parts) > 1 and parts[-1] in _PARTS:
        parts.pop()
    return ".".join(parts)
