"""RTMODecode as a Python plugin of TensorRT: IPluginV3 and its creator.

The classes derive from TensorRT's, so they are made once TensorRT is there. Every output's shape follows from the
inputs' shapes and ``max_dets``: no shape depends on data, and ``enqueue`` launches one kernel and waits for nothing, so
that a CUDA graph can capture it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.runtime.plugins.driver import DriverKernel
from rtmo_deploy.runtime.plugins.kernel import (
    BLOCK,
    INPUTS,
    KERNEL_NAME,
    OUTPUTS,
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    DecodeFields,
    load_ptx,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

#: Fields in alphabetical order, which is also that of the ONNX node's attributes.
FIELD_TYPES = {"max_dets": np.int32, "nms_thr": np.float32, "pre_topk": np.int32, "score_thr": np.float32}


@dataclass(frozen=True)
class PluginClasses:
    """The plugin's and the creator's class, derived from one TensorRT's."""

    plugin: type[Any]
    creator: type[Any]


@cache
def _kernel() -> DriverKernel:
    return DriverKernel(load_ptx(), KERNEL_NAME)


@cache
def plugin_classes(trt: ModuleType) -> PluginClasses:
    """The classes for a TensorRT module."""
    plugin = _plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc, name-defined]  # TensorRT is untyped
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name = PLUGIN_NAME
            self.plugin_version = PLUGIN_VERSION
            self.plugin_namespace = PLUGIN_NAMESPACE
            self.arrays = {name: np.array([], kind) for name, kind in FIELD_TYPES.items()}
            self.field_names = _collection(trt, self.arrays)
            _keep_alive(trt, self)

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            del name, phase
            return plugin(read_fields(fields))

    return PluginClasses(plugin, Creator)


def _keep_alive(trt: ModuleType, made: object) -> None:
    """Never free an object, with the releases of TensorRT that crash when they do.

    The bindings of 10.0 to 10.3 corrupt the heap when a plugin that was derived in Python and has attributes is freed
    (found with 10.0.1, 10.1.0, 10.2.0 and 10.3.0; 10.4.0 does not). A few hundred bytes a plugin stay behind instead.
    """
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < (10, 4):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


class _Indifferent:
    """What TensorRT tells a plugin and this one need not know."""

    def configure_plugin(self, inputs: Any, outputs: Any) -> None:
        pass

    def on_shape_change(self, inputs: Any, outputs: Any) -> None:
        pass

    def set_tactic(self, tactic: int) -> None:
        pass


def _plugin_class(trt: ModuleType) -> type[Any]:
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class RTMODecode(_Indifferent, *bases):  # type: ignore[misc]  # TensorRT is untyped
        def __init__(self, fields: DecodeFields) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name = PLUGIN_NAME
            self.plugin_version = PLUGIN_VERSION
            self.plugin_namespace = PLUGIN_NAMESPACE
            self.num_outputs = len(OUTPUTS)
            self.fields = fields
            # A PluginField holds a bare pointer to its array.
            self.arrays = {name: np.array([getattr(fields, name)], kind) for name, kind in FIELD_TYPES.items()}
            _keep_alive(trt, self)

        def get_capability_interface(self, kind: Any) -> Any:
            del kind
            return self

        def clone(self) -> Any:
            cloned = RTMODecode(self.fields)
            cloned.plugin_namespace = self.plugin_namespace
            return cloned

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return _output_types(trt, input_types)

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
            del shape_inputs
            return _output_shapes(trt, self.fields.max_dets, inputs, builder)

        def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
            described, kinds = in_out[pos].desc, _types(trt)
            sound = num_inputs == len(INPUTS) and len(in_out) == len(kinds)
            return bool(sound and described.format == trt.TensorFormat.LINEAR and described.type == kinds[pos])

        def get_fields_to_serialize(self) -> Any:
            return _collection(trt, self.arrays)

        def attach_to_context(self, context: Any) -> Any:
            del context
            # Here, not in enqueue: a module cannot be loaded while a CUDA graph is captured.
            _kernel().prepare()
            return self.clone()

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            del output_desc, workspace
            batch, cells = input_desc[0].dims[0], input_desc[0].dims[1]
            _kernel().launch(batch, BLOCK, inputs, self.fields.scalars(cells), outputs, stream)

    return RTMODecode


def _types(trt: ModuleType) -> list[Any]:
    """Types of inputs and outputs."""
    real, whole = trt.float32, trt.int32
    return [real, real, real, whole, real, real, whole, real]


def _output_types(trt: ModuleType, input_types: Sequence[Any]) -> list[Any]:
    kinds = _types(trt)
    if list(input_types) != kinds[: len(INPUTS)]:
        raise ArtifactError(f"{PLUGIN_NAME} takes {len(INPUTS)} float32 inputs, not {list(input_types)}.")
    return kinds[len(INPUTS) :]


def _output_shapes(trt: ModuleType, max_dets: int, inputs: Sequence[Any], builder: Any) -> list[Any]:
    ranks = [len(shape) for shape in inputs]
    if ranks != [2, 3, 2]:
        raise ArtifactError(f"{PLUGIN_NAME} takes inputs of rank 2, 3 and 2, not {ranks}.")
    batch, cells = inputs[0][0], inputs[0][1]
    rows = builder.constant(max_dets)
    shapes = (
        (batch, builder.constant(1)),
        (batch, rows, builder.constant(4)),
        (batch, rows),
        (batch, rows),
        (batch, builder.constant(5), cells),
    )
    result = []
    for shape in shapes:
        dims = trt.DimsExprs(len(shape))
        for axis, side in enumerate(shape):
            dims[axis] = side
        result.append(dims)
    return result


def _collection(trt: ModuleType, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Fields that point into the arrays, which must outlive them."""
    kinds = {np.int32: trt.PluginFieldType.INT32, np.float32: trt.PluginFieldType.FLOAT32}
    return trt.PluginFieldCollection(
        [trt.PluginField(name, array, kinds[FIELD_TYPES[name]]) for name, array in arrays.items()]
    )


def read_fields(fields: Any) -> DecodeFields:
    """Fields out of a ``PluginFieldCollection``.

    Raises:
        ArtifactError: One is missing or out of range.
    """
    # Unknown ones are let pass: parsers hand on version and namespace, too.
    found = {field.name: np.ravel(field.data) for field in fields if field.name in FIELD_TYPES}
    missing = [name for name in FIELD_TYPES if name not in found or found[name].size != 1]
    if missing:
        raise ArtifactError(
            f"Fields of the plugin {PLUGIN_NAME} are missing: {', '.join(missing)}.",
            remedy="The graph or the engine is damaged, or of another release: make it again.",
        )
    return DecodeFields(**{name: found[name][0].item() for name in FIELD_TYPES})
