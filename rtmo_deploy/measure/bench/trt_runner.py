"""A TensorRT engine with its copies timed apart, and its work timed by CUDA events.

It has not been run where this was written: there was no GPU. It is tested against stand-ins of the calls it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.measure.bench.clock import DOWNLOAD, UPLOAD
from rtmo_deploy.measure.bench.runners import graph_stages
from rtmo_deploy.runtime.cuda import (
    Arena,
    DeviceArray,
    checked,
    cuda_runtime,
    new_stream,
    require_gpu,
    synchronize,
    to_device,
    to_host,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rtmo_deploy.measure.bench.clock import Clock
    from rtmo_deploy.runtime.tensorrt_backend import TensorRtBackend


class TrtRunner:
    """See :class:`rtmo_deploy.measure.bench.runners.Runner`.

    Pictures go through pinned memory, as in the backend itself; what is timed as the network is
    :meth:`TensorRtBackend.run_device` between two events on its stream.

    Args:
        backend: The engine, loaded.
    """

    def __init__(self, backend: TensorRtBackend) -> None:
        self._engine = backend
        self.artifact = backend.artifact
        self.device = backend.device
        self.backend = "tensorrt"
        self._arena = Arena()
        self._stream = new_stream(self._arena)
        runtime = cuda_runtime()
        self._marks = [checked(runtime.cudaEventCreate(), "create an event") for _ in range(2)]
        for mark in self._marks:
            self._arena.keep(runtime.cudaEventDestroy, mark)
        self._buffers: dict[tuple[int, ...], tuple[NDArray[Any], int]] = {}
        self._hosts: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}
        self.upload_stage: str | None = UPLOAD
        self.fetch_stage: str | None = DOWNLOAD
        name, self.host_stage = graph_stages(self.artifact)
        self.compute_stages: tuple[str, ...] = (name,)
        gpu = require_gpu(int(self.device.partition(":")[2]))
        self.facts: dict[str, Any] = {"device_name": gpu.name, "cuda_driver": gpu.cuda_driver}

    def upload(self, images: NDArray[np.float32]) -> DeviceArray:
        """See :meth:`Runner.upload`."""
        if images.shape not in self._buffers:
            pinned = self._arena.pinned(images.shape, images.dtype)
            self._buffers[images.shape] = (pinned, self._arena.device(images.nbytes))
        pinned, pointer = self._buffers[images.shape]
        pinned[...] = images
        to_device(pointer, pinned, self._stream)
        synchronize(self._stream)
        return DeviceArray(pointer, images.shape, images.dtype, owner=self._arena)

    def compute(self, handle: DeviceArray, clock: Clock) -> Mapping[str, DeviceArray]:
        """See :meth:`Runner.compute`."""
        runtime = cuda_runtime()
        checked(runtime.cudaEventRecord(self._marks[0], self._stream), "record an event")
        outputs = self._engine.run_device(handle, stream=self._stream)
        checked(runtime.cudaEventRecord(self._marks[1], self._stream), "record an event")
        synchronize(self._stream)
        elapsed = checked(runtime.cudaEventElapsedTime(*self._marks), "read the time between two events")
        clock.add(self.compute_stages[0], float(elapsed))
        clock.skip()
        return outputs

    def fetch(self, outputs: Mapping[str, DeviceArray]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Runner.fetch`."""
        hosts = {}
        for name, array in outputs.items():
            key = (name, array.shape)
            if key not in self._hosts:
                self._hosts[key] = self._arena.pinned(array.shape, array.dtype)
            to_host(self._hosts[key], array.pointer, self._stream)
            hosts[name] = self._hosts[key]
        synchronize(self._stream)
        return {name: np.array(host) for name, host in hosts.items()}
