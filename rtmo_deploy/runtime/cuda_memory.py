"""Buffers, streams and graphs of CUDA, each given back when its owner is closed. Through ``cuda.bindings``."""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import human_size
from rtmo_deploy.runtime.cuda_device import checked, cuda_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


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
        """An array on the host that the GPU can copy to and from by itself."""
        count = max(math.prod(shape) * dtype.itemsize, 1)
        pointer = int(checked(self._runtime.cudaMallocHost(count), f"allocate {human_size(count)} of pinned memory"))
        self._undo.callback(self._runtime.cudaFreeHost, pointer)
        memory = memoryview((ctypes.c_byte * count).from_address(pointer))
        array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        return array

    def keep(self, undo: Callable[[Any], Any], handle: Any) -> None:
        """Give something else back together with the memory, before it."""
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
    """Wait for what is on a stream; errors of earlier work come to light here."""
    checked(cuda_runtime().cudaStreamSynchronize(stream), "finish the work on the GPU")


def to_device(pointer: int, source: NDArray[Any], stream: int) -> None:
    """Copy a pinned array to the GPU, on a stream."""
    _copy(pointer, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice", stream)


def to_host(target: NDArray[Any], pointer: int, stream: int) -> None:
    """Copy from the GPU to a pinned array, on a stream."""
    _copy(target.ctypes.data, pointer, target.nbytes, "cudaMemcpyDeviceToHost", stream)


def _copy(target: int, source: int, count: int, direction: str, stream: int) -> None:
    runtime = cuda_runtime()
    kind = getattr(runtime.cudaMemcpyKind, direction)
    checked(runtime.cudaMemcpyAsync(target, source, count, kind, stream), f"copy {human_size(count)}")


def capture(arena: Arena, stream: int, work: Callable[[], None]) -> Any:
    """Record the work that a function puts on a stream, as a graph that can be launched again and again.

    Raises:
        SetupError: Something in it cannot be recorded.
    """
    runtime = cuda_runtime()
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    checked(runtime.cudaStreamBeginCapture(stream, mode), "begin to record a graph")
    try:
        work()
    except SetupError:
        # The recording must be ended in any case; what it holds is of no use.
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
