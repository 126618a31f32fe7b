"""Which GPU there is, and CUDA's own calls with their status turned into errors. Through ``cuda.bindings``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rtmo_deploy.errors import MissingDependencyError, SetupError


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        index: Its number, as CUDA counts.
        name: Such as ``NVIDIA H200``.
        compute_capability: Such as ``9.0``.
        cuda_driver: Newest CUDA that the driver supports, such as ``12.8``.
    """

    index: int
    name: str
    compute_capability: str
    cuda_driver: str


def cuda_runtime() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependencyError("cuda.bindings", purpose="Running a TensorRT engine", extra="trt") from error
    return runtime


def checked(result: tuple[Any, ...], what: str) -> Any:
    """What a call returned, without its status.

    Args:
        result: ``(status, *values)`` as cuda.bindings returns it.
        what: What was attempted, as in "allocate 30 MiB on the GPU".

    Raises:
        SetupError: The status is an error.
    """
    status, *values = result
    if int(status) != 0:
        runtime = cuda_runtime()
        text = runtime.cudaGetErrorString(status)[1].decode()
        raise SetupError(f"CUDA could not {what}: {text} ({status.name}).", remedy=_remedy(status.name))
    return values[0] if len(values) == 1 else tuple(values)


def _remedy(name: str) -> str:
    if name == "cudaErrorMemoryAllocation":
        return "Use a smaller batch or picture, or free memory of the GPU."
    if name in {"cudaErrorInsufficientDriver", "cudaErrorNoDevice"}:
        return "An engine runs on an NVIDIA GPU with a driver that is new enough; 'nvidia-smi' shows both."
    return "If it stays, restart the process: a CUDA context does not recover from every error."


def find_gpu(index: int = 0) -> Gpu | str:
    """A GPU, or a sentence that says why there is none that could be used."""
    try:
        return require_gpu(index)
    except SetupError as error:
        return error.finding


def require_gpu(index: int = 0) -> Gpu:
    """A GPU.

    Raises:
        SetupError: There is none of that number, or no driver.
        MissingDependencyError: ``cuda.bindings`` is not installed.
    """
    runtime = cuda_runtime()
    count = checked(runtime.cudaGetDeviceCount(), "find a GPU")
    if not 0 <= index < count:
        raise SetupError(
            f"There is no GPU cuda:{index}; CUDA sees {count}.",
            remedy="Choose another device; CUDA_VISIBLE_DEVICES hides GPUs.",
        )
    properties = checked(runtime.cudaGetDeviceProperties(index), f"look at GPU {index}")
    driver = checked(runtime.cudaDriverGetVersion(), "ask the driver for its version")
    name = properties.name
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        f"{driver // 1000}.{driver % 1000 // 10}",
    )
