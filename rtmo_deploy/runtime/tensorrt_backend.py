"""Runs TensorRT engines, of ``tensorrt`` and ``tensorrt_rtx``, on an NVIDIA GPU.

Everything that can be known without loading the engine is checked first: its bytes against its record, the package's
version, the GPU. For each input size that comes, buffers are allocated once; the second call of a size records a CUDA
graph, and further ones replay it. Arrays that are on the GPU already go in and out without a copy through
:meth:`TensorRtBackend.run_device`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.files import open_regular
from rtmo_deploy.runtime.cuda_device import checked, cuda_runtime, require_gpu
from rtmo_deploy.runtime.cuda_memory import Arena, new_stream
from rtmo_deploy.runtime.device_array import DeviceArray, as_device_array
from rtmo_deploy.runtime.engine_bucket import Bucket
from rtmo_deploy.runtime.engine_file import (
    EngineRecord,
    Profile,
    Shape,
    is_trusted,
    read_record,
    sidecar_path,
)
from rtmo_deploy.runtime.engine_match import choose_profile, differences, split_batch
from rtmo_deploy.runtime.trt_api import FLAVOURS, TrtApi, choose_flavour, load_api

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

#: Input sizes whose buffers are kept, each with its own execution context; the one unused for longest goes first.
KEPT_SIZES = 4

_log = logging.getLogger(__name__)


def load(artifact: Artifact, device: str, threads: int | None) -> TensorRtBackend:
    """Load an engine; see :func:`rtmo_deploy.runtime.backends.open_backend`.

    Raises:
        UsageError: The device is no GPU, or ``threads`` is given.
        ArtifactError: The engine is not the one that its record describes, or TensorRT does not take it.
        SetupError: The package, its version or the GPU is not what the engine needs.
    """
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
    """An engine, loaded, and the buffers of the sizes it has seen. Not for several threads at once.

    Args:
        artifact: What :func:`rtmo_deploy.runtime.engine_file.engine_artifact` read.
        index: Which GPU.
    """

    def __init__(self, artifact: Artifact, index: int) -> None:
        self.artifact = artifact
        self.device = f"cuda:{index}"
        plan = _read_plan(artifact.path)
        record = _record(artifact, plan)
        flavour = FLAVOURS[record.backend] if record is not None else choose_flavour("auto")
        api = load_api(flavour)
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

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`; batches beyond the profile are cut into several runs."""
        self._require_input(images.shape, images.dtype)
        count, _, height, width = images.shape
        least, most = self._batches(height, width)
        parts = []
        for start, stop, size in split_batch(count, least, most):
            bucket = self._bucket(Shape(size, height, width), on_device=False)
            outputs = bucket.run(images[start:stop])
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
        least, most = self._batches(height, width)
        if not least <= count <= most:
            raise ArtifactError(
                f"It takes {least} to {most} pictures of {height}x{width} at a time, and these are {count}.",
                remedy="Cut the batch, or build the engine with another --max.",
                where=self.artifact.path,
            )
        bucket = self._bucket(Shape(count, height, width), on_device=True)
        given = {name: as_device_array(value, stream=stream, what=name) for name, value in (outputs or {}).items()}
        return bucket.run_device(source, given, stream)

    def close(self) -> None:
        """Give back all memory of the GPU."""
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
        """Fewest and most pictures of a size at a time."""
        fitting = [p for p in self._profiles if p.takes(Shape(p.usual.batch, height, width))]
        if not fitting:
            choose_profile(self._profiles, Shape(1, height, width))  # it says what sizes there are
        widest = max(fitting, key=lambda p: p.most.batch)
        return widest.least.batch, widest.most.batch

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
    try:
        with open_regular(path) as stream:
            return stream.read()
    except OSError as error:
        raise ArtifactError(f"It cannot be read: {error.strerror or error}.", where=path) from error


def _record(artifact: Artifact, plan: bytes) -> EngineRecord | None:
    """The record of these very bytes; None for a trusted engine without one."""
    trusted = is_trusted(artifact)
    if trusted and not sidecar_path(artifact.path).exists():
        return None
    record = read_record(artifact.path)
    if not trusted and hashlib.sha256(plan).hexdigest() != record.sha256:
        raise ArtifactError(
            "It changed since its record was read. An engine is executable code, so it is not loaded.",
            remedy="Build it again with 'rtmo-deploy build-trt'.",
            where=artifact.path,
        )
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
            f"{api.flavour.name} {api.version} does not load it: {'; '.join(said[-2:]) or 'it gives no reason'}",
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
