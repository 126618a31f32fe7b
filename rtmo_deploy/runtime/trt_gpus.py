"""Which GPUs an installed TensorRT can use: one rule for building, running and looking at a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtmo_deploy.errors import MissingDependencyError
from rtmo_deploy.runtime.trt_api import VOLTA

if TYPE_CHECKING:
    from rtmo_deploy.runtime.trt_api import Flavour

#: The first TensorRT that does not know Volta.
_WITHOUT_VOLTA = (10, 5)
_VOLTA, _TURING = "7.0", "7.5"


@dataclass(frozen=True)
class GpuProblem:
    """A GPU that a TensorRT cannot use.

    Attributes:
        finding: What and why; a sentence.
        remedy: What can be done about it; a sentence.
    """

    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.finding} {self.remedy}"


def gpu_problem(flavour: Flavour, version: str, gpu: str, capability: str) -> GpuProblem | None:
    """Why a GPU cannot be used; None if nothing is known against it.

    From NVIDIA's release notes: TensorRT 10 begins at compute capability 7.0, and 10.5 took 7.0 away.

    Args:
        flavour: Which TensorRT.
        version: Of it, such as ``10.13.3.9``.
        gpu: The GPU's name.
        capability: Its compute capability, such as ``9.0``.
    """
    if flavour.plugins:  # the classic one
        if capability == _VOLTA and _numbers(version)[:2] >= _WITHOUT_VOLTA:
            return GpuProblem(f"TensorRT {version} does not know the {gpu}.", VOLTA)
        if _numbers(capability) < _numbers(_VOLTA):
            return GpuProblem(
                f"TensorRT {version} does not know the {gpu} (compute capability {capability}): it begins at 7.0, "
                "from 10.5 on at 7.5.",
                "Use ONNX Runtime or PyTorch on this GPU.",
            )
        return None
    head = f"{flavour.name} {version} does not run on the {gpu} (compute capability {capability}):"
    if _numbers(capability) < _numbers(_TURING):
        remedy = VOLTA if capability == _VOLTA else "Use ONNX Runtime or PyTorch on this GPU."
        return GpuProblem(f"{head} it begins at {_TURING}.", remedy)
    if capability in flavour.no_targets:
        remedy = MissingDependencyError("tensorrt", purpose="This", extra="trt").remedy
        return GpuProblem(f"{head} {flavour.no_targets[capability]}", remedy)
    return None


def _numbers(text: str) -> tuple[int, ...]:
    """``10.13.3`` -> (10, 13, 3); it ends at the first part that is no number."""
    found = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)
