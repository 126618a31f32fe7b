"""Registers RTMODecode with TensorRT, in one of two forms with the same PTX, once a process.

A process can have one form only, for TensorRT knows a plugin by name, version and namespace. Every output's shape
follows from the inputs' shapes and ``max_dets``, and a run launches one kernel and waits for nothing, so a CUDA graph
can capture it.
"""

from __future__ import annotations

import ctypes
import importlib
from enum import StrEnum
from functools import cache
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.runtime.plugins.kernel import (
    BLOCK,
    INPUTS,
    KERNEL_NAME,
    OUTPUTS,
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    DecodeFields,
    DriverKernel,
    load_ptx,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

#: Fields in alphabetical order, which is also that of the ONNX node's attributes.
FIELD_TYPES = {"max_dets": np.int32, "nms_thr": np.float32, "pre_topk": np.int32, "score_thr": np.float32}


class PluginForm(StrEnum):
    """How the plugin gets into an engine.

    * ``aot``: the engine holds PTX and launch parameters; it runs without Python and without this package. Needs
      TensorRT's ahead-of-time Python plugins, which 10.13 and 11 have and 10.5 has not.
    * ``python``: the engine holds the fields; who deserializes it must register the plugin first. From TensorRT 10.0.
    """

    AOT = "aot"
    PYTHON = "python"


#: The registered form, by the name of the TensorRT module. It keeps the creators alive, too.
_registered: dict[str, tuple[PluginForm, Any]] = {}


def register_plugin(trt: ModuleType, form: PluginForm | None = None) -> PluginForm:
    """Register RTMODecode with the module ``tensorrt``; does nothing when it is registered already.

    ``form`` is by default ``aot`` where this TensorRT has it; returned is the one that is registered. An engine of form
    ``aot`` needs no registration to run.

    Raises:
        SetupError: This TensorRT has no such plugins, the other form is registered in this process, or the registry
            refuses.
        ArtifactError: The kernel's file is damaged.
    """
    _require_plugins(trt)
    known = _registered.get(trt.__name__)
    if known is not None:
        if form not in (None, known[0]):
            raise SetupError(
                f"The plugin {PLUGIN_NAME} is registered in its form '{known[0]}', and '{form}' was asked for.",
                remedy="One process can have one form: use another process.",
            )
        return known[0]
    has_aot = hasattr(trt, "QuickPluginCreationRequest")
    form = form or (PluginForm.AOT if has_aot else PluginForm.PYTHON)
    load_ptx()
    if form is PluginForm.AOT and not has_aot:
        raise SetupError(
            f"TensorRT {getattr(trt, '__version__', '')} has no ahead-of-time plugins.",
            remedy="Use the form 'python', or TensorRT 10.13 or later.",
        )
    creator = _register_aot(trt) if form is PluginForm.AOT else _register_python(trt)
    _registered[trt.__name__] = (form, creator)
    return form


def network_flags(trt: ModuleType, form: PluginForm) -> int:
    """Bits for ``Builder.create_network`` with which the parser takes the plugin in that form."""
    if form is PluginForm.PYTHON:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)


def _require_plugins(trt: ModuleType) -> None:
    if trt.__name__.startswith("tensorrt_rtx"):
        raise SetupError(
            "TensorRT-RTX has no plugins.",
            remedy="Export with --decode fixed, which finds the same detections without.",
        )
    if not hasattr(trt, "IPluginV3OneBuild"):
        raise SetupError(
            f"The package {trt.__name__} {getattr(trt, '__version__', 'without a version')} has no IPluginV3.",
            remedy="Install TensorRT 10.0 or later: pip install 'rtmo-deploy[trt]'",
        )


def _register_aot(trt: ModuleType) -> Any:
    """Register with ``tensorrt.plugin``: TensorRT puts the PTX and its launch parameters into the engine.

    TensorRT passes inputs, int32 scalars and outputs, in that order, and no workspace: that is why thresholds go by
    their bits, and why the kernel's scratch is an output.
    """
    plugin: Any = importlib.import_module(f"{trt.__name__}.plugin")

    def describe(
        logits: Any, boxes: Any, priors: Any, max_dets: Any, nms_thr: Any, pre_topk: Any, score_thr: Any
    ) -> Any:
        del boxes, priors
        fields = _fields(max_dets=max_dets, nms_thr=nms_thr, pre_topk=pre_topk, score_thr=score_thr)
        shapes = _output_shapes(logits.shape_expr[0], logits.shape_expr[1], fields.max_dets)
        kinds = _types(trt)[len(INPUTS) :]
        return tuple(plugin.from_shape_expr(shape, kind) for shape, kind in zip(shapes, kinds, strict=True))

    def implement(
        logits: Any,
        boxes: Any,
        priors: Any,
        max_dets: Any,
        nms_thr: Any,
        pre_topk: Any,
        score_thr: Any,
        outputs: Any,
        tactic: Any,
    ) -> Any:
        del boxes, priors, outputs, tactic
        fields = _fields(max_dets=max_dets, nms_thr=nms_thr, pre_topk=pre_topk, score_thr=score_thr)
        launch = plugin.KernelLaunchParams()
        launch.grid_x = logits.shape_expr[0]
        launch.block_x = BLOCK
        scalars = fields.scalars(0)[1:]
        extra = plugin.SymIntExprs(1 + len(scalars))
        extra[0] = plugin.SymInt32(logits.shape_expr[1])
        for place, scalar in enumerate(scalars, 1):
            extra[place] = plugin.SymInt32(scalar)
        return KERNEL_NAME, load_ptx(), launch, extra

    # TensorRT reads the annotations as objects, and checks them.
    attributes = {
        "max_dets": npt.NDArray[np.int32],
        "nms_thr": npt.NDArray[np.float32],
        "pre_topk": npt.NDArray[np.int32],
        "score_thr": npt.NDArray[np.float32],
    }
    takes = dict.fromkeys(INPUTS, plugin.TensorDesc) | attributes
    returns = GenericAlias(tuple, (plugin.TensorDesc,) * len(OUTPUTS))
    describe.__annotations__ = {**takes, "return": returns}
    implement.__annotations__ = {
        **takes,
        "outputs": tuple[plugin.TensorDesc],
        "tactic": int,
        "return": tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymIntExprs],
    }
    name = f"{PLUGIN_NAMESPACE}::{PLUGIN_NAME}"
    plugin.register(name)(describe)
    plugin.aot_impl(name)(implement)
    return getattr(getattr(plugin.op, PLUGIN_NAMESPACE), PLUGIN_NAME)


def _register_python(trt: ModuleType) -> Any:
    """Register a creator of IPluginV3; the classes derive from TensorRT's, so they are made here."""
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

    creator = Creator()
    if not trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE):
        raise SetupError(
            f"TensorRT's registry refuses the plugin {PLUGIN_NAMESPACE}::{PLUGIN_NAME} version {PLUGIN_VERSION}.",
            remedy="Another library has registered one of that name: do not load it in the same process.",
        )
    return creator


def _keep_alive(trt: ModuleType, made: object) -> None:
    """Never free an object, with the releases of TensorRT that crash when they do.

    The bindings of 10.0 to 10.3 corrupt the heap when a plugin that was derived in Python and has attributes is freed
    (found with 10.0.1, 10.1.0, 10.2.0 and 10.3.0; 10.4.0 does not). A few hundred bytes a plugin stay behind instead.
    """
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < (10, 4):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


@cache
def _kernel() -> DriverKernel:
    return DriverKernel(load_ptx(), KERNEL_NAME)


def _plugin_class(trt: ModuleType) -> type[Any]:  # noqa: C901 - the methods of one class
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    types = _types(trt)

    class RTMODecode(*bases):  # type: ignore[misc]  # TensorRT is untyped
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

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            pass

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            if list(input_types) != types[: len(INPUTS)]:
                raise ArtifactError(f"{PLUGIN_NAME} takes {len(INPUTS)} float32 inputs, not {list(input_types)}.")
            return types[len(INPUTS) :]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
            del shape_inputs
            ranks = [len(shape) for shape in inputs]
            if ranks != [2, 3, 2]:
                raise ArtifactError(f"{PLUGIN_NAME} takes inputs of rank 2, 3 and 2, not {ranks}.")
            shapes = _output_shapes(inputs[0][0], inputs[0][1], self.fields.max_dets)
            return [_dims(trt, shape, builder) for shape in shapes]

        def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
            described = in_out[pos].desc
            sound = num_inputs == len(INPUTS) and len(in_out) == len(types)
            return bool(sound and described.format == trt.TensorFormat.LINEAR and described.type == types[pos])

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
    """Types of inputs, then of outputs."""
    real, whole = trt.float32, trt.int32
    return [real, real, real, whole, real, real, whole, real]


def _output_shapes(batch: Any, cells: Any, rows: int) -> list[tuple[Any, ...]]:
    """Shapes of the outputs, of numbers and of TensorRT's expressions."""
    return [(batch, 1), (batch, rows, 4), (batch, rows), (batch, rows), (batch, 5, cells)]


def _dims(trt: ModuleType, shape: Sequence[Any], builder: Any) -> Any:
    dims = trt.DimsExprs(len(shape))
    for axis, side in enumerate(shape):
        dims[axis] = builder.constant(side) if isinstance(side, int) else side
    return dims


def _collection(trt: ModuleType, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Fields that point into the arrays, which must outlive them."""
    kinds = {np.int32: trt.PluginFieldType.INT32, np.float32: trt.PluginFieldType.FLOAT32}
    return trt.PluginFieldCollection(
        [trt.PluginField(name, array, kinds[FIELD_TYPES[name]]) for name, array in arrays.items()]
    )


def read_fields(fields: Any) -> DecodeFields:
    """Fields out of a ``PluginFieldCollection``."""
    # Parsers hand on version and namespace, too.
    found = {field.name: field.data for field in fields if field.name in FIELD_TYPES}
    missing = [name for name in FIELD_TYPES if name not in found or np.size(found[name]) != 1]
    if missing:
        raise ArtifactError(
            f"Fields of the plugin {PLUGIN_NAME} are missing: {', '.join(missing)}.",
            remedy="The graph or the engine is damaged, or of another release: make it again.",
        )
    return _fields(**found)


def _fields(**arrays: Any) -> DecodeFields:
    """Fields of arrays of one: the number types that the ONNX node has exist only as such."""
    return DecodeFields(**{name: np.ravel(array)[0].item() for name, array in arrays.items()})
