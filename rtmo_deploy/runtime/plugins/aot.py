"""RTMODecode as an ahead-of-time plugin: TensorRT puts the PTX and how to launch it into the engine.

Such an engine runs from C++ as from Python; nothing of this package is needed there. TensorRT passes inputs, int32
scalars and outputs, in that order, and no workspace: that is why thresholds go by their bits, and why the kernel's
scratch is an output.
"""

from __future__ import annotations

import importlib
from types import GenericAlias
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtmo_deploy.runtime.plugins.kernel import (
    BLOCK,
    INPUTS,
    KERNEL_NAME,
    OUTPUTS,
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    DecodeFields,
    load_ptx,
)

if TYPE_CHECKING:
    from types import ModuleType

PLUGIN_ID = f"{PLUGIN_NAMESPACE}::{PLUGIN_NAME}"


def register_aot(trt: ModuleType) -> Any:
    """Register the plugin with ``tensorrt.plugin``.

    Returns:
        TensorRT's record of it.
    """
    plugin: Any = importlib.import_module(f"{trt.__name__}.plugin")

    def describe(
        logits: Any, boxes: Any, priors: Any, max_dets: Any, nms_thr: Any, pre_topk: Any, score_thr: Any
    ) -> Any:
        del boxes, priors
        fields = _fields(max_dets, nms_thr, pre_topk, score_thr)
        batch, cells = logits.shape_expr[0], logits.shape_expr[1]
        rows = fields.max_dets
        shapes = (
            ((batch, 1), trt.int32),
            ((batch, rows, 4), trt.float32),
            ((batch, rows), trt.float32),
            ((batch, rows), trt.int32),
            ((batch, 5, cells), trt.float32),
        )
        return tuple(plugin.from_shape_expr(shape, kind) for shape, kind in shapes)

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
        fields = _fields(max_dets, nms_thr, pre_topk, score_thr)
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
    plugin.register(PLUGIN_ID)(describe)
    plugin.aot_impl(PLUGIN_ID)(implement)
    return getattr(getattr(plugin.op, PLUGIN_NAMESPACE), PLUGIN_NAME)


def _fields(max_dets: Any, nms_thr: Any, pre_topk: Any, score_thr: Any) -> DecodeFields:
    """Attributes come as arrays of one: the number types that the ONNX node has exist only as such."""
    return DecodeFields(
        max_dets=int(np.ravel(max_dets)[0]),
        nms_thr=float(np.ravel(nms_thr)[0]),
        pre_topk=int(np.ravel(pre_topk)[0]),
        score_thr=float(np.ravel(score_thr)[0]),
    )
