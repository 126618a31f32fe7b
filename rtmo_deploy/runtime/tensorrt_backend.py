"""Runs TensorRT engines, of ``tensorrt`` and ``tensorrt_rtx``, on an NVIDIA GPU.

An engine's bytes, the package's version and the GPU are checked before it is loaded. Buffers are allocated once for
each input size; the second call of a size records a CUDA graph, and further ones replay it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import open_regular, reading
from rtmo_deploy.runtime.clock import DOWNLOAD, UPLOAD, graph_stage
from rtmo_deploy.runtime.cuda import (
    Arena,
    DeviceArray,
    as_device_array,
    capture,
    checked,
    cuda_runtime,
    launch,
    new_stream,
    require_gpu,
    synchronize,
    to_device,
    to_host,
)
from rtmo_deploy.runtime.engine_file import (
    EngineRecord,
    Profile,
    Shape,
    choose_profile,
    differences,
    is_trusted,
    read_record,
    require_same_bytes,
    sidecar_path,
    split_batch,
)
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, TrtApi, choose_variant, load_api

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.clock import Clock

#: Input sizes whose buffers are kept, each with its own execution context; the least recently used goes first.
KEPT_SIZES = 4
_FLOAT = np.dtype(np.float32)
_log = logging.getLogger(__name__)


class Bucket:
    """Execution context, buffers and CUDA graph of an engine at one input size.

    A bucket is used either from the host or with arrays of the device, never both: a recorded graph holds the context
    with the addresses that it was recorded with. ``io`` names the engine's input and its outputs.
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
                    f"The size of its output {name} depends on the image, {sides}: it has no fixed buffers.",
                    remedy="Export the model with --decode fixed, and build it again.",
                    where=where,
                )
        self._device: dict[str, int] = {}
        self._pinned: dict[str, NDArray[Any]] = {}
        self._calls = 0
        self._graph: Any = None
        self._marks: list[Any] = []

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run on images from the host, ``(b, 3, H, W)`` with b up to the batch; the rest repeats the last one."""
        self._stage(images)
        self._calls += 1
        # The first run of a context sets things up that a graph cannot hold.
        if self._calls == 2:
            try:
                self._graph = capture(self._arena, self._stream, self._enqueue)
            except SetupError as error:
                _log.warning("%s runs without a CUDA graph: %s", self._where.name, error.finding)
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
        """Put a run on a stream; see :meth:`TensorRtBackend.run_device`."""
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
            for name, sides in {self._input: self._size, **self._shapes}.items():
                self._pinned[name] = self._arena.pinned(sides, _FLOAT)
                self._device[name] = self._arena.device(self._pinned[name].nbytes)
            self._bind(self._device)
        staging = self._pinned[self._input]
        staging[: len(images)] = images
        staging[len(images) :] = images[-1]

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

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise SetupError(f"TensorRT could not {what}.", remedy="Its log above tells why.", where=self._where)


def load(artifact: Artifact, device: str, threads: int | None) -> TensorRtBackend:
    """Load an engine; see :func:`rtmo_deploy.runtime.backends.open_backend`."""
    if threads is not None:
        raise UsageError("--threads does not apply to an engine: it runs on the GPU.", remedy="Leave it away.")
    if device == "cpu":
        raise SetupError(
            "An engine runs on a GPU, and the device is cpu.",
            remedy="Give --device cuda, or run the ONNX model instead.",
            where=artifact.path,
        )
    return TensorRtBackend(artifact, int(device.partition(":")[2]))


class TensorRtBackend:
    """An engine, loaded on the GPU ``index``, and the buffers of the sizes it has seen. Calls wait for each other.

    :meth:`run_device` is for one thread at a time.
    """

    name = "tensorrt"

    def __init__(self, artifact: Artifact, index: int) -> None:
        self.artifact = artifact
        self.device = f"cuda:{index}"
        self._lock = threading.Lock()
        plan = _read_plan(artifact.path)
        record = _record_of(artifact, plan)
        variant = TRT_VARIANTS[record.backend] if record is not None else choose_variant("auto")
        api = load_api(variant)
        gpu = require_gpu(index)
        found = differences(record, version=api.version, gpu=gpu) if record is not None else []
        if found and not is_trusted(artifact):
            raise SetupError(
                f"It does not fit this machine: {'; '.join(found)}.",
                remedy="Build it here with 'rtmo-deploy build-trt': an engine is for one TensorRT and one kind of GPU.",
                where=artifact.path,
            )
        checked(cuda_runtime().cudaSetDevice(index), f"use GPU {index}")
        self._engine, self._runtime = _deserialize(api, plan, record, artifact.path)
        self._io = _tensors(api, self._engine)
        self._profiles = _profiles(self._engine, self._io[0])
        self._buckets: OrderedDict[tuple[Shape, bool], Bucket] = OrderedDict()
        self._arena = Arena()
        self._stream = new_stream(self._arena)
        self.facts = {"device_name": gpu.name, "cuda_driver": gpu.cuda_driver}

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`; batches beyond the profile are cut into several runs."""
        return self._run(images, lambda bucket, part: bucket.run(part))

    def timed(self, images: NDArray[np.float32], clock: Clock) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        stage = graph_stage(self.artifact)
        return self._run(images, lambda bucket, part: bucket.run_timed(part, clock, stage))

    def _run(
        self,
        images: NDArray[np.float32],
        run: Callable[[Bucket, NDArray[np.float32]], dict[str, NDArray[np.float32]]],
    ) -> dict[str, NDArray[np.float32]]:
        self._require_input(images.shape, images.dtype)
        count, _, height, width = images.shape
        fewest, most = self._batches(height, width)
        parts = []
        with self._lock:
            for start, stop, size in split_batch(count, fewest, most):
                bucket = self._bucket(Shape(size, height, width), on_device=False)
                outputs = run(bucket, images[start:stop])
                parts.append({name: value[: stop - start] for name, value in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_device(
        self, images: Any, *, stream: int, outputs: Mapping[str, Any] | None = None
    ) -> dict[str, DeviceArray]:
        """Run on arrays that are on the GPU, on a stream of the caller's, without copies and without waiting.

        Args:
            images: ``(B, 3, H, W)`` float32, BGR, 0..255, letterboxed, contiguous, on this GPU; anything with
                ``__cuda_array_interface__`` or DLPack.
            stream: Handle of a CUDA stream: ``torch.cuda.current_stream().cuda_stream``, ``cupy_stream.ptr``,
                ``pycuda_stream.handle``. The work is put on it; the caller waits for it.
            outputs: Arrays to write to, by name; those that are missing are written to buffers of the backend, which
                the next call with the same size overwrites.

        Returns:
            The outputs by name. They speak ``__cuda_array_interface__``.

        Raises:
            UsageError: An array is not on a GPU, not contiguous, or of another type or shape.
            ArtifactError: The engine was not built for this size.
        """
        source = as_device_array(images, stream=stream)
        self._require_input(source.shape, source.dtype)
        count, _, height, width = source.shape
        fewest, most = self._batches(height, width)
        if not fewest <= count <= most:
            raise ArtifactError(
                f"It takes {fewest} to {most} images of {height}x{width} at a time, and these are {count}.",
                remedy="Cut the batch, or build the engine with another --max.",
                where=self.artifact.path,
            )
        bucket = self._bucket(Shape(count, height, width), on_device=True)
        given = {name: as_device_array(value, stream=stream, what=name) for name, value in (outputs or {}).items()}
        return bucket.run_device(source, given, stream)

    def close(self) -> None:
        """Give back all memory of the GPU, once running calls are done."""
        with self._lock:
            for bucket in self._buckets.values():
                bucket.close()
            self._buckets.clear()
            self._arena.close()

    def _require_input(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        fits = len(shape) == 4 and shape[1] == 3 and shape[0] > 0 and dtype == np.float32
        multiple = self.artifact.input.multiple
        if not fits or shape[2] % multiple or shape[3] % multiple:
            raise ArtifactError(
                f"It does not run on input {tuple(shape)} of {dtype}: it takes (B, 3, H, W) of float32, H and W "
                f"multiples of {multiple}.",
                remedy="'rtmo-deploy inspect' tells what input it takes.",
                where=self.artifact.path,
            )

    def _batches(self, height: int, width: int) -> tuple[int, int]:
        """Fewest and most images of a size at a time."""
        fitting = [p for p in self._profiles if p.holds(height, width)]
        if not fitting:
            choose_profile(self._profiles, Shape(1, height, width))  # it says what sizes there are
        widest = max(fitting, key=lambda p: p.max.batch)
        return widest.min.batch, widest.max.batch

    def _bucket(self, shape: Shape, *, on_device: bool) -> Bucket:
        key = (shape, on_device)
        if key in self._buckets:
            self._buckets.move_to_end(key)
            return self._buckets[key]
        while len(self._buckets) >= KEPT_SIZES:
            _, oldest = self._buckets.popitem(last=False)
            oldest.close()
        index = choose_profile(self._profiles, shape)
        bucket = Bucket(self._engine, self._io, shape, index, self._stream, where=self.artifact.path)
        self._buckets[key] = bucket
        return bucket


def _read_plan(path: Path) -> bytes:
    with reading(path), open_regular(path) as stream:
        return stream.read()


def _record_of(artifact: Artifact, plan: bytes) -> EngineRecord | None:
    """The record of these very bytes, for the file may have changed; None for a trusted engine without one."""
    trusted = is_trusted(artifact)
    if trusted and not sidecar_path(artifact.path).exists():
        return None
    record = read_record(artifact.path)
    if not trusted:
        require_same_bytes(artifact.path, record, plan)
    return record


def _deserialize(api: TrtApi, plan: bytes, record: EngineRecord | None, path: Path) -> tuple[Any, Any]:
    """The engine, and the runtime that must outlive it."""
    said: list[str] = []

    def sink(severity: str, message: str) -> None:
        if severity == "error":
            said.append(message)
        elif severity == "warning":
            _log.warning("%s: %s", path.name, message)

    if record is not None and record.plugin is not None and record.plugin.get("form") != "aot":
        from rtmo_deploy.runtime.plugins import PluginForm, register_plugin

        register_plugin(api.trt, PluginForm.PYTHON)
    runtime = api.trt.Runtime(api.logger(sink))
    if record is not None and record.options.get("version_compatible"):
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(
            f"{api.variant.name} {api.version} does not load it: {'; '.join(said[-2:]) or 'it gives no reason'}",
            remedy="Build it again on this machine with 'rtmo-deploy build-trt'.",
            where=path,
        )
    return engine, runtime


def _tensors(api: TrtApi, engine: Any) -> tuple[str, tuple[str, ...]]:
    """Name of the input, and of the outputs."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == api.trt.TensorIOMode.INPUT]
    if len(inputs) != 1 or len(engine.get_tensor_shape(inputs[0])) != 4:
        raise ArtifactError(f"It is no RTMO engine: its inputs are {', '.join(inputs) or 'none'}.")
    for name in names:
        if str(engine.get_tensor_dtype(name)).rpartition(".")[2] != "FLOAT":
            raise ArtifactError(f"It is no RTMO engine: its tensor {name} is not float32.")
    return inputs[0], tuple(name for name in names if name != inputs[0])


def _profiles(engine: Any, name: str) -> tuple[Profile, ...]:
    """Sizes it takes, as the engine itself says."""
    shape = tuple(engine.get_tensor_shape(name))
    if -1 not in shape:
        only = Shape(shape[0], shape[2], shape[3])
        return (Profile(only, only, only),)
    found = []
    for index in range(engine.num_optimization_profiles):
        bounds = [tuple(bound) for bound in engine.get_tensor_profile_shape(name, index)]
        found.append(Profile(*(Shape(bound[0], bound[2], bound[3]) for bound in bounds)))
    return tuple(found)
