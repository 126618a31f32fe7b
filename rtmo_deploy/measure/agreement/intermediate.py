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
    from collections.abc import Collection, Mapping, Sequence

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
        self._path, self._device = artifact.path, device
        self._model = load_onnx(artifact.path)
        self._nodes = list(self._model.graph.node)
        self._input = signature(self._model).inputs[0].name
        known = _float_tensors(self._model, self._input, shape)
        self._tensors = self._of_modules(known) if by_module else {name: name for name in known}
        self.outputs = {key: known[name] for key, name in self._tensors.items()}
        # This project folds the stride into the box predictions, unless the graph is ``raw``.
        folds = artifact.producer == "rtmo-deploy" and artifact.decode.mode is not DecodeMode.RAW
        boxes = [(node.output[0], _BOXES.match(node.name)) for node in self._nodes if folds]
        self._strides = {name: STRIDES[int(match[1])] for name, match in boxes if match}

    def read(self, keys: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run the graph on ``(B, 3, H, W)`` float32, BGR, 0..255, and keep these outputs."""
        values = self._run([self._tensors[key] for key in keys], images)
        for name, stride in self._strides.items():
            if name in values:
                wide = values[name].astype(np.float64)
                values[name] = np.concatenate([wide[:, :2] / stride, wide[:, 2:] - np.log(stride)], axis=1)
        return {key: values[self._tensors[key]] for key in keys}

    def after_other_choices(self, other: OnnxOutputs, images: NDArray[np.float32]) -> set[str]:
        """Keys of the outputs that depend on rows which another graph, of the same names, chooses otherwise."""
        choosers = [node.output[-1] for node in self._nodes if node.op_type in _CHOOSERS]
        common = [name for name in choosers if any(name in node.output for node in other._nodes)]
        if not common:
            return set()
        one, two = self._run(common, images), other._run(common, images)
        reached = {name for name in common if not np.array_equal(one[name], two[name])}
        for node in self._nodes:
            if not reached.isdisjoint((*node.input, *node.output)):
                reached.update(node.output)
        return {key for key, name in self._tensors.items() if name in reached}

    def inputs_of(self, keys: Collection[str]) -> dict[str, tuple[str, ...]]:
        """For each key the nearest of the others that it is computed from."""
        known = {name: key for key, name in self._tensors.items() if key in keys}
        near: dict[str, tuple[str, ...]] = {}
        found: dict[str, tuple[str, ...]] = {}
        for node in self._nodes:
            before: list[str] = []
            for name in node.input:
                before += [known[name]] if name in known else near.get(name, ())
            unique = tuple(dict.fromkeys(before))
            for name in node.output:
                near[name] = unique
                if name in known:
                    found[known[name]] = unique
        return found

    def _of_modules(self, known: Mapping[str, Intermediate]) -> dict[str, str]:
        """Paths of layers, each with the tensor that leaves it."""
        last: dict[str, str] = {}
        layers: set[str] = set()
        for node in self._nodes:
            layer = layer_path(node.name)
            if layer is None or node.output[0] not in known or node.op_type in _MOVES:
                continue
            last[layer] = node.output[0]
            if node.op_type in _WEIGHTED or ".norms." in layer:
                layers.add(layer)
        order = {name: place for place, name in enumerate(known)}
        return {layer: last[layer] for layer in sorted(layers, key=lambda layer: order[last[layer]])}

    def _run(self, names: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run the graph up to these tensors; a session is made for it and dropped."""
        outputs = self._model.graph.output
        del outputs[:]
        outputs.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
        session = open_session(self._model.SerializeToString(), device=self._device, where=self._path)
        return run_session(session, {self._input: images}, where=self._path)


def _float_tensors(model: onnx.ModelProto, source: str, shape: tuple[int, ...]) -> dict[str, Intermediate]:
    """The floating-point tensors that layers put out, by name; sizes for an input of this shape."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    # What the file says of inner tensors may be of other sizes.
    del sized.graph.value_info[:]
    for value in sized.graph.input:
        if value.name == source:
            value.CopyFrom(onnx.helper.make_tensor_value_info(source, value.type.tensor_type.elem_type, shape))
    # Outputs stay as declared: their names for dynamic sides do no harm.
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    types = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
    found = {}
    for node in model.graph.node:
        for name in node.output if node.op_type not in _NO_LAYERS else ():
            if name in types and types[name].elem_type in _FLOATS:
                sides = [dim.dim_value for dim in types[name].shape.dim]
                known = types[name].HasField("shape") and all(sides)
                size = int(np.prod(sides, dtype=np.int64)) * 4 if known else _UNKNOWN_SIZE
                found[name] = Intermediate(node.name or name, node.op_type, size, node.op_type in _WEIGHTED)
    return found


def layer_path(node_name: str) -> str | None:
    """Path in the PyTorch network of the layer that a node was traced in; None for a node without such a name.

    An exported node is called after the modules it was traced in; each item of a sequence repeats its parent:
    ``/head/conv_cls.0/conv_cls.0.1/act/Mul`` gives ``head.head_module.conv_cls.0.1``. BatchNorm is folded into the
    convolution, and the branches of a block into one, so a layer ends where convolution and activation end.
    """
    if not node_name.startswith("/"):
        return None
    scopes: list[str] = []
    for scope in node_name.strip("/").split("/")[:-1]:
        if scopes and scope.startswith(f"{scopes[-1]}."):
            scopes[-1] = scope
        else:
            scopes.append(scope)
    path = ".".join(scopes)
    old, new = next(((old, new) for old, new in _RENAMED if path.startswith(old)), ("", ""))
    parts = (new + path.removeprefix(old)).split(".")
    while len(parts) > 1 and parts[-1] in _PARTS:
        parts.pop()
    return ".".join(parts)
