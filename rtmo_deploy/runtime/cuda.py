"""CUDA through ``cuda.bindings``: which GPU there is, memory, streams and graphs, and the arrays of other libraries."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError
from rtmo_deploy.files import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: DLPack's device types kDLCUDA and kDLCUDAManaged.
_DLPACK_CUDA = {2, 13}


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    index: int
    name: str  #: Such as ``NVIDIA H200``.
    compute_capability: str  #: Such as ``9.0``.
    cuda_driver: str  #: Newest CUDA that the driver supports, such as ``12.8``.


def cuda_runtime() -> Any:
    """The module ``cuda.bindings.runtime``."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependencyError("cuda.bindings", purpose="Running a TensorRT engine", extra="trt") from error


def checked(result: tuple[Any, ...], what: str) -> Any:
    """What a CUDA call returned, ``(status, *values)``, without its status; ``what`` was attempted."""
    status, *values = result
    if int(status) != 0:
        text = cuda_runtime().cudaGetErrorString(status)[1].decode()
        raise SetupError(f"CUDA could not {what}: {text} ({status.name}).", remedy=_remedy(status.name))
    return values[0] if len(values) == 1 else tuple(values)


def _remedy(name: str) -> str:
    if name == "cudaErrorMemoryAllocation":
        return "Use a smaller batch or image size, or free memory of the GPU."
    if name in {"cudaErrorInsufficientDriver", "cudaErrorNoDevice"}:
        return "An engine runs on an NVIDIA GPU with a driver that is new enough; 'nvidia-smi' shows both."
    return "If it stays, restart the process: a CUDA context does not recover from every error."


def find_gpu(index: int = 0) -> Gpu | str:
    """A GPU, or a sentence that says why none can be used."""
    try:
        return require_gpu(index)
    except SetupError as error:
        return error.finding


def require_gpu(index: int = 0) -> Gpu:
    """A GPU."""
    runtime = cuda_runtime()
    count = checked(runtime.cudaGetDeviceCount(), "find a GPU")
    if not 0 <= index < count:
        raise SetupError(
            f"There is no GPU cuda:{index}; CUDA sees {count}.",
            remedy="Choose another device; CUDA_VISIBLE_DEVICES hides GPUs.",
        )
    properties = checked(runtime.cudaGetDeviceProperties(index), f"read the properties of GPU {index}")
    driver = checked(runtime.cudaDriverGetVersion(), "ask the driver for its version")
    name = properties.name
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        f"{driver // 1000}.{driver % 1000 // 10}",
    )


class Arena:
    """Memory that is allocated once and freed together."""

    def __init__(self) -> None:
        self._runtime = cuda_runtime()
        self._undo = contextlib.ExitStack()

    def device(self, count: int) -> int:
        """Address of ``count`` bytes on the GPU."""
        pointer = int(checked(self._runtime.cudaMalloc(max(count, 1)), f"allocate {human_size(count)} on the GPU"))
        self._undo.callback(self._runtime.cudaFree, pointer)
        return pointer

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A page-locked array on the host, which the GPU copies to and from asynchronously."""
        count = max(math.prod(shape) * dtype.itemsize, 1)
        pointer = int(checked(self._runtime.cudaMallocHost(count), f"allocate {human_size(count)} of pinned memory"))
        self._undo.callback(self._runtime.cudaFreeHost, pointer)
        memory = memoryview((ctypes.c_byte * count).from_address(pointer))
        array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        return array

    def keep(self, undo: Callable[[Any], Any], handle: Any) -> None:
        """Release something else together with the memory, before it."""
        self._undo.callback(undo, handle)

    def close(self) -> None:
        """Free everything."""
        self._undo.close()


def new_stream(arena: Arena) -> int:
    """A stream that does not wait for the default one."""
    runtime = cuda_runtime()
    stream = checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "create a stream")
    arena.keep(runtime.cudaStreamDestroy, stream)
    return int(stream)


def synchronize(stream: int) -> None:
    """Wait for the work on a stream; errors of earlier work are raised here."""
    checked(cuda_runtime().cudaStreamSynchronize(stream), "finish the work on the GPU")


def to_device(pointer: int, source: NDArray[Any], stream: int) -> None:
    """Copy a pinned array to the GPU, on a stream."""
    runtime, count = cuda_runtime(), source.nbytes
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    checked(runtime.cudaMemcpyAsync(pointer, source.ctypes.data, count, kind, stream), f"copy {human_size(count)}")


def to_host(target: NDArray[Any], pointer: int, stream: int) -> None:
    """Copy from the GPU to a pinned array, on a stream."""
    runtime, count = cuda_runtime(), target.nbytes
    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
    checked(runtime.cudaMemcpyAsync(target.ctypes.data, pointer, count, kind, stream), f"copy {human_size(count)}")


def capture(arena: Arena, stream: int, work: Callable[[], None]) -> Any:
    """Record the work that a function puts on a stream as a graph that can be launched again."""
    runtime = cuda_runtime()
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    checked(runtime.cudaStreamBeginCapture(stream, mode), "begin to record a graph")
    try:
        work()
    except SetupError:
        # A recording must be ended in any case; this one is of no use.
        _, broken = runtime.cudaStreamEndCapture(stream)
        if broken is not None:
            runtime.cudaGraphDestroy(broken)
        raise
    graph = checked(runtime.cudaStreamEndCapture(stream), "record a graph")
    try:
        ready = checked(runtime.cudaGraphInstantiate(graph, 0), "make a recorded graph ready")
    finally:
        runtime.cudaGraphDestroy(graph)
    arena.keep(runtime.cudaGraphExecDestroy, ready)
    return ready


def launch(graph: Any, stream: int) -> None:
    """Run a recorded graph."""
    checked(cuda_runtime().cudaGraphLaunch(graph, stream), "launch a graph")


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array on a GPU, not owned.

    It speaks ``__cuda_array_interface__``, so CuPy, Numba, PyCUDA and torch take it without a copy.
    """

    pointer: int  #: Address on the device.
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False, compare=False)  #: What must live as long as this array is used.

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of Numba's specification; no stream, because the caller orders the work."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


def as_device_array(value: Any, *, stream: int, what: str = "input") -> DeviceArray:
    """Read an array on the GPU without a copy: ``__cuda_array_interface__`` first, then DLPack."""
    if isinstance(value, DeviceArray):
        return value
    # torch raises from the attribute itself when a tensor is on the CPU or needs a gradient.
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"The {what} cannot be used on the GPU: {error}") from error
    if interface is not None:
        return _from_interface(value, interface, what)
    if not hasattr(value, "__dlpack__"):
        raise UsageError(
            f"The {what} is a {type(value).__name__}, which is no array on a GPU.",
            remedy="Give something with __cuda_array_interface__ or __dlpack__: PyCUDA's gpuarray, CuPy, torch. "
            "A NumPy array goes to the backend itself.",
        )
    kind = int(value.__dlpack_device__()[0])
    if kind not in _DLPACK_CUDA:
        raise UsageError(
            f"The {what} is not on a CUDA GPU: DLPack says device type {kind}.",
            remedy="Move it to the GPU; a NumPy array goes to the backend itself.",
        )
    return read_capsule(value.__dlpack__(stream=stream or 1), what)


def _from_interface(value: Any, interface: dict[str, Any], what: str) -> DeviceArray:
    shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        step = dtype.itemsize
        for side, stride in zip(reversed(shape), reversed(strides), strict=True):
            if side != 1 and stride != step:
                raise _not_contiguous(what, shape, strides)
            step *= side
    if interface.get("mask") is not None:
        raise UsageError(f"The {what} has a mask.", remedy="Give a plain array.")
    return DeviceArray(int(interface["data"][0]), shape, dtype, owner=value)


def read_capsule(capsule: Any, what: str) -> DeviceArray:
    """The array of a DLPack capsule, which torch reads."""
    from torch.utils.dlpack import from_dlpack

    try:
        tensor = from_dlpack(capsule)
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    except (RuntimeError, TypeError, BufferError) as error:
        raise UsageError(f"The {what} cannot be read by DLPack: {error}", remedy="Give float32.") from error
    shape = tuple(tensor.shape)
    if not tensor.is_contiguous():
        raise _not_contiguous(what, shape, tensor.stride())
    return DeviceArray(tensor.data_ptr(), shape, dtype, owner=tensor)


def _not_contiguous(what: str, shape: tuple[int, ...], strides: Any) -> UsageError:
    return UsageError(
        f"The {what} is not contiguous: its shape is {shape} and its strides are {tuple(strides)}.",
        remedy="Make a contiguous copy first.",
    )
