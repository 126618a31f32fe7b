"""An engine at one input size: its execution context, its buffers, and the CUDA graph that replays it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.runtime.clock import DOWNLOAD, UPLOAD
from rtmo_deploy.runtime.cuda_device import checked, cuda_runtime
from rtmo_deploy.runtime.cuda_memory import Arena, capture, launch, synchronize, to_device, to_host
from rtmo_deploy.runtime.device_array import DeviceArray

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.runtime.clock import Clock
    from rtmo_deploy.runtime.engine_file import Shape

_FLOAT = np.dtype(np.float32)
_log = logging.getLogger(__name__)


class Bucket:
    """Buffers and context of one size.

    A bucket is used either from the host or with arrays of the device, never both: a recorded graph holds the context
    with the addresses that it was recorded with.

    Args:
        engine: The engine.
        io: Names of its input and outputs.
        shape: The size.
        profile: Index of the profile to use.
        stream: Stream for the work from the host.
        where: The engine's file, named by errors.
    """

    def __init__(
        self, engine: Any, io: tuple[str, tuple[str, ...]], shape: Shape, profile: int, stream: int, *, where: Path
    ) -> None:
        self._arena = Arena()
        self._stream, self._where = stream, where
        self._input, names = io
        self._size = (shape.batch, 3, shape.height, shape.width)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise SetupError(
                f"TensorRT could not set up a run of {shape}.",
                remedy="The GPU's memory may be short: use a smaller size, or build with a smaller --max.",
                where=where,
            )
        self._require(self._context.set_optimization_profile_async(profile, stream), "take its profile")
        synchronize(stream)
        self._require(self._context.set_input_shape(self._input, self._size), f"take the size {shape}")
        self._shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        for name, sides in self._shapes.items():
            if -1 in sides:
                raise ArtifactError(
                    f"The size of its output {name} depends on the picture, {sides}: it has no fixed buffers.",
                    remedy="Export the model with --decode fixed, and build it again.",
                    where=where,
                )
        self._device: dict[str, int] = {}
        self._pinned: dict[str, NDArray[Any]] = {}
        self._calls = 0
        self._graph: Any = None
        self._marks: list[Any] = []

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run on pictures from the host, ``(b, 3, H, W)`` with b up to the batch; the rest repeats the last one."""
        self._stage(images)
        self._calls += 1
        # The first run of a context sets things up that a graph cannot hold.
        if self._calls == 2:
            self._record()
        if self._graph is not None:
            launch(self._graph, self._stream)
        else:
            self._enqueue()
        synchronize(self._stream)
        return {name: self._pinned[name].copy() for name in self._shapes}

    def run_timed(self, images: NDArray[np.float32], clock: Clock, network: str) -> dict[str, NDArray[np.float32]]:
        """As :meth:`run`, without a graph; copies are laps of the clock, the network is timed by two CUDA events.

        Where this was written there was no GPU: it is tested against stand-ins of the calls it makes.
        """
        cuda = cuda_runtime()
        if not self._marks:
            self._marks = [checked(cuda.cudaEventCreate(), "create an event") for _ in range(2)]
            for mark in self._marks:
                self._arena.keep(cuda.cudaEventDestroy, mark)
        self._stage(images)
        to_device(self._device[self._input], self._pinned[self._input], self._stream)
        synchronize(self._stream)
        clock.lap(UPLOAD)
        checked(cuda.cudaEventRecord(self._marks[0], self._stream), "record an event")
        self._execute(self._stream)
        checked(cuda.cudaEventRecord(self._marks[1], self._stream), "record an event")
        synchronize(self._stream)
        elapsed = checked(cuda.cudaEventElapsedTime(*self._marks), "read the time between two events")
        clock.add(network, float(elapsed))
        clock.skip()
        self._fetch()
        synchronize(self._stream)
        outputs = {name: self._pinned[name].copy() for name in self._shapes}
        clock.lap(DOWNLOAD)
        return outputs

    def run_device(
        self, images: DeviceArray, outputs: Mapping[str, DeviceArray], stream: int
    ) -> dict[str, DeviceArray]:
        """Put a run on a stream; see :meth:`rtmo_deploy.runtime.tensorrt_backend.TensorRtBackend.run_device`."""
        unknown = set(outputs) - set(self._shapes)
        if unknown:
            raise UsageError(f"There is no output called {', '.join(sorted(unknown))}.", where=self._where)
        made = {}
        for name, sides in self._shapes.items():
            target = outputs.get(name)
            if target is None:
                if name not in self._device:
                    self._device[name] = self._arena.device(int(np.prod(sides)) * _FLOAT.itemsize)
                target = DeviceArray(self._device[name], sides, _FLOAT, owner=self)
            elif (target.shape, target.dtype) != (sides, _FLOAT):
                raise UsageError(
                    f"The array for {name} is {target.shape} of {target.dtype}; needed is {sides} of float32."
                )
            made[name] = target
        self._bind({self._input: images.pointer, **{name: array.pointer for name, array in made.items()}})
        self._execute(stream)
        return made

    def close(self) -> None:
        """Give the memory back; nothing may be running."""
        self._graph = None
        self._context = None
        self._pinned.clear()
        self._arena.close()

    def _stage(self, images: NDArray[np.float32]) -> None:
        if not self._pinned:
            self._allocate()
        staging = self._pinned[self._input]
        staging[: len(images)] = images
        staging[len(images) :] = images[-1]

    def _allocate(self) -> None:
        for name, sides in {self._input: self._size, **self._shapes}.items():
            self._pinned[name] = self._arena.pinned(sides, _FLOAT)
            self._device[name] = self._arena.device(self._pinned[name].nbytes)
        self._bind(self._device)

    def _bind(self, addresses: Mapping[str, int]) -> None:
        for name, pointer in addresses.items():
            self._require(self._context.set_tensor_address(name, pointer), f"take a buffer for {name}")

    def _enqueue(self) -> None:
        to_device(self._device[self._input], self._pinned[self._input], self._stream)
        self._execute(self._stream)
        self._fetch()

    def _fetch(self) -> None:
        for name in self._shapes:
            to_host(self._pinned[name], self._device[name], self._stream)

    def _execute(self, stream: int) -> None:
        self._require(self._context.execute_async_v3(stream), "run")

    def _record(self) -> None:
        try:
            self._graph = capture(self._arena, self._stream, self._enqueue)
        except SetupError as error:
            _log.warning("%s runs without a CUDA graph: %s", self._where.name, error.finding)

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise SetupError(f"TensorRT could not {what}.", remedy="Its log above tells why.", where=self._where)
