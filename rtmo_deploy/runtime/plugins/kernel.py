"""The decode kernel as it is shipped: its PTX, how its arguments are packed, and how the CUDA driver launches it.

The driver is called by ctypes, so that nothing but the driver has to be installed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.files import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

PLUGIN_NAME = "RTMODecode"
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = "rtmo"
#: Domain of the ONNX node; TensorRT's parser takes any, and reads version and namespace from attributes.
PLUGIN_DOMAIN = "trt.plugins"
#: Inputs and outputs of the plugin, in order: see docs/guides/plugin.md.
INPUTS = ("logits", "boxes", "priors")
OUTPUTS = ("num_dets", "boxes", "scores", "kept", "work")

KERNEL_NAME = "rtmo_decode"
#: Threads of a block; one block decodes one image.
BLOCK = 512

PTX_PATH = Path(__file__).with_name("rtmo_decode.ptx")
RECORD_PATH = Path(__file__).with_name("rtmo_decode.json")

#: Below this the kernel's early rejection of cells would not hold; the exporter's options have the same bound.
MIN_SCORE_THR = 0.0001


@dataclass(frozen=True)
class DecodeFields:
    """The plugin's fields: attributes of the ONNX node, and what an engine serializes. Out of range: ArtifactError."""

    max_dets: int  #: Rows of output; further detections are dropped, lowest scores first.
    score_thr: float  #: Scores must be above this, 0.0001 to 1.
    nms_thr: float  #: Overlaps above this IoU are suppressed, 0 to 1.
    pre_topk: int = 0  #: Candidates that enter the suppression, best scores first; 0 for all.

    def __post_init__(self) -> None:
        sound = {
            "max_dets": 1 <= self.max_dets < 2**20,
            "score_thr": as_float32(MIN_SCORE_THR) <= self.score_thr <= 1,
            "nms_thr": 0 <= self.nms_thr <= 1,
            "pre_topk": 0 <= self.pre_topk < 2**31,
        }
        for name, good in sound.items():
            if not good:
                raise ArtifactError(
                    f"The field {name} of the plugin {PLUGIN_NAME} is {getattr(self, name)!r}.",
                    remedy="The graph or the engine is damaged, or of another release: make it again.",
                )

    def scalars(self, cells: int) -> tuple[int, int, int, int, int]:
        """The kernel's scalar arguments, int32: cells, max_dets, pre_topk, and the bits of both thresholds."""
        return cells, self.max_dets, self.pre_topk, float_bits(self.score_thr), float_bits(self.nms_thr)


def as_float32(value: float) -> float:
    """The nearest float32."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def float_bits(value: float) -> int:
    """The float32 nearest to ``value``, its bits read as int32."""
    result: int = struct.unpack("<i", struct.pack("<f", value))[0]
    return result


@dataclass(frozen=True)
class KernelRecord:
    """How the shipped PTX was made."""

    source_sha256: str
    ptx_sha256: str
    compiler: str  #: Such as ``NVRTC 12.1``.
    architecture: str  #: Such as ``compute_70``.
    options: tuple[str, ...]  #: The compiler's, in order.


@cache
def kernel_record() -> KernelRecord:
    """The record shipped with the PTX."""
    data = json.loads(RECORD_PATH.read_text(encoding="utf-8"))
    return KernelRecord(**{**data, "options": tuple(data["options"])})


@cache
def load_ptx() -> bytes:
    """The shipped PTX; an ArtifactError if it is missing or is not what the record says."""
    with reading(PTX_PATH, remedy="Reinstall rtmo-deploy."):
        ptx = PTX_PATH.read_bytes()
    if hashlib.sha256(ptx).hexdigest() != kernel_record().ptx_sha256:
        raise ArtifactError(
            "The decode kernel is not the one that was shipped.", remedy="Reinstall rtmo-deploy.", where=PTX_PATH
        )
    return ptx


_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_UNSUPPORTED_PTX = 222


class DriverKernel:
    """The kernel of this name in a PTX module, in whatever CUDA context is current."""

    def __init__(self, ptx: bytes, name: str) -> None:
        self._ptx, self._name = ptx, name
        # By the id of the context: an address may come back, with another context at it.
        self._functions: dict[int, ctypes.c_void_p] = {}

    def prepare(self) -> ctypes.c_void_p:
        """The kernel in the current context, loaded on first use there. Not while a stream is captured.

        A SetupError where there is no driver or context, or the driver cannot compile the PTX for its GPU.
        """
        context = _context_id()
        if context not in self._functions:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            _call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(self._ptx))
            _call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(self._name.encode()))
            self._functions[context] = function
        return self._functions[context]

    def launch(
        self,
        blocks: int,
        threads: int,
        inputs: Sequence[int],
        scalars: Sequence[int],
        outputs: Sequence[int],
        stream: int,
    ) -> None:
        """Launch a grid of ``blocks`` times ``threads`` on a stream, given by its handle; does not wait.

        The kernel's arguments are inputs (device addresses), scalars (int32), outputs (device addresses), in that
        order. A SetupError as :meth:`prepare`, or where the launch is refused.
        """
        function = self.prepare()
        values: list[ctypes.c_void_p | ctypes.c_int] = [ctypes.c_void_p(address) for address in inputs]
        values += [ctypes.c_int(scalar) for scalar in scalars]
        values += [ctypes.c_void_p(address) for address in outputs]
        # The driver reads the arguments before it returns: they need not live longer.
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        grid = (ctypes.c_uint(blocks), ctypes.c_uint(1), ctypes.c_uint(1))
        block = (ctypes.c_uint(threads), ctypes.c_uint(1), ctypes.c_uint(1))
        _call("cuLaunchKernel", function, *grid, *block, ctypes.c_uint(0), ctypes.c_void_p(stream), arguments, None)


def _context_id() -> int:
    context, number = ctypes.c_void_p(), ctypes.c_ulonglong()
    _call("cuCtxGetCurrent", ctypes.byref(context))
    if not context.value:
        raise SetupError(
            "No CUDA context is current in this thread.", remedy="Create or push one before the engine is opened."
        )
    _call("cuCtxGetId", context, ctypes.byref(number))
    return number.value


@cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise SetupError(
            f"The CUDA driver is not installed ({error}).", remedy="Run engines on a machine with an NVIDIA GPU."
        ) from error


def _call(name: str, *arguments: object) -> None:
    status = getattr(_library(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        reason = (text.value or b"unknown error").decode(errors="replace")
        remedy = "Update the NVIDIA driver to 530 or later." if status == _UNSUPPORTED_PTX else ""
        raise SetupError(f"{name} failed: {reason} (CUDA error {status}).", remedy=remedy)
