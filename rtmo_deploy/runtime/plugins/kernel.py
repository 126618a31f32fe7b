"""The decode kernel as it is shipped: PTX and the record of how it was made, its name, and how arguments are packed.

What TensorRT's plugins and whoever launches the kernel by hand must agree on, in one place. Needs NumPy at most: no
CUDA, no TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rtmo_deploy.errors import ArtifactError

PLUGIN_NAME = "RTMODecode"
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = "rtmo"
#: Domain of the ONNX node; TensorRT's parser takes any, and reads version and namespace from attributes.
PLUGIN_DOMAIN = "trt.plugins"
#: Inputs and outputs of the plugin, in order: see docs/plugin.md.
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
    """The plugin's fields: attributes of the ONNX node, and what an engine serializes.

    Attributes:
        max_dets: Rows of output; people beyond are dropped, lowest scores first.
        score_thr: Scores must be above this, 0.0001 to 1.
        nms_thr: Overlaps above this IoU are suppressed, 0 to 1.
        pre_topk: Candidates that enter the suppression, best scores first; 0 for all.

    Raises:
        ArtifactError: A value that the kernel does not take.
    """

    max_dets: int
    score_thr: float
    nms_thr: float
    pre_topk: int = 0

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
    """How the shipped PTX was made.

    Attributes:
        source_sha256: Of ``rtmo_decode.cu``.
        ptx_sha256: Of ``rtmo_decode.ptx``.
        compiler: Such as ``NVRTC 12.1``.
        architecture: Such as ``compute_70``.
        options: The compiler's, in order.
    """

    source_sha256: str
    ptx_sha256: str
    compiler: str
    architecture: str
    options: tuple[str, ...]


@cache
def kernel_record() -> KernelRecord:
    """The record shipped with the PTX."""
    data = json.loads(RECORD_PATH.read_text(encoding="utf-8"))
    return KernelRecord(**{**data, "options": tuple(data["options"])})


@cache
def load_ptx() -> bytes:
    """The shipped PTX.

    Raises:
        ArtifactError: It is missing or is not what the record says: the installation is damaged.
    """
    try:
        ptx = PTX_PATH.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"The decode kernel cannot be read: {error.strerror or error}.",
            remedy="Reinstall rtmo-deploy.",
            where=PTX_PATH,
        ) from error
    if hashlib.sha256(ptx).hexdigest() != kernel_record().ptx_sha256:
        raise ArtifactError(
            "The decode kernel is not the one that was shipped.", remedy="Reinstall rtmo-deploy.", where=PTX_PATH
        )
    return ptx
