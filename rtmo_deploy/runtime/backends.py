"""Which runtimes run which artifacts. A backend's module, and with it the heavy import, is loaded when one opens."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rtmo_deploy.artifact import Target
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, UsageError, refuse_path
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.packages import require_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.clock import Clock


class Backend(Protocol):
    """Runs one artifact on one device."""

    #: As in its :class:`BackendRecord`.
    name: str
    #: The artifact that is run.
    artifact: Artifact
    #: Where: ``cpu`` or ``cuda:0``.
    device: str
    #: What a result should say of it besides artifact and device: threads, settings, the GPU's name. JSON-ready.
    facts: Mapping[str, Any]

    def __call__(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """Run the network.

        Args:
            images: ``(B, 3, H, W)`` float32, BGR, 0..255, letterboxed.

        Returns:
            The graph's outputs by name: ``dets`` and ``keypoints``, or the head tensors of a ``raw`` graph.
        """
        ...

    def timed(self, images: NDArray[np.float32], clock: Clock) -> Mapping[str, NDArray[np.float32]]:
        """Run the network as a call does; the copies and the network are laps of the clock, on a GPU by CUDA events."""
        ...


@dataclass(frozen=True)
class BackendRecord:
    """A runtime."""

    name: str
    kinds: tuple[Kind, ...]
    module: str
    package: str
    extra: str
    precisions: tuple[str, ...] = ()


_HERE = "rtmo_deploy.runtime"
BACKENDS: tuple[BackendRecord, ...] = (
    BackendRecord("torch", (Kind.CHECKPOINT,), f"{_HERE}.torch_backend", "torch", "cpu"),
    BackendRecord("onnxruntime", (Kind.ONNX,), f"{_HERE}.onnxruntime_backend", "onnxruntime", "cpu"),
    BackendRecord(
        "openvino", (Kind.ONNX, Kind.OPENVINO), f"{_HERE}.openvino_backend", "openvino", "openvino", ("fp32", "bf16")
    ),
    # Of which of the two an engine is, tensorrt or tensorrt_rtx, its record says; both need cuda-bindings.
    BackendRecord("tensorrt", (Kind.ENGINE,), f"{_HERE}.tensorrt_backend", "cuda", "trt"),
)


def open_backend(
    artifact: Artifact,
    device: str = "cpu",
    *,
    backend: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
) -> Backend:
    """Open an artifact for running.

    Args:
        artifact: What to run.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        backend: Name of the runtime; with ``auto``, or if not given, the first that runs this kind of artifact.
        threads: Threads a CPU runtime may use; its own choice if not given.
        precision: What to compute in, for a runtime that has a choice; what the graph says if not given.

    Raises:
        UsageError: No such backend or device, it does not run this kind of artifact, or has no such precision.
        MissingDependencyError: Its package is not installed.
        SetupError: Its package was overwritten or removed in part, or the device cannot be used. A CPU is never taken
            in silence in a GPU's place.
    """
    refuse_path(artifact, "read_artifact(path)")
    record = choose_backend(
        artifact.kind, device, backend=backend, precision=precision, target=artifact.target, what=artifact.path.name
    )
    chosen = () if precision is None else (precision,)
    opened: Backend = importlib.import_module(record.module).load(artifact, parse_device(device), threads, *chosen)
    return opened


def choose_backend(
    kind: Kind,
    device: str = "cpu",
    *,
    backend: str | None = None,
    precision: str | None = None,
    target: Target | None = None,
    what: str = "",
) -> BackendRecord:
    """The runtime that :func:`open_backend` takes, without importing it; ``what`` names the model in errors.

    A model that was quantised for OpenVINO runs there where it is installed.
    """
    place = parse_device(device)
    for_openvino = target is Target.OPENVINO and place == "cpu" and backend in {None, "auto"}
    if for_openvino and importlib.util.find_spec("openvino") is not None:
        backend = "openvino"
    fitting = [record for record in BACKENDS if kind in record.kinds]
    if backend not in {None, "auto"}:
        fitting = [record for record in fitting if record.name == backend]
    if not fitting:
        names = ", ".join(record.name for record in BACKENDS if kind in record.kinds)
        raise UsageError(
            f"No backend called '{backend}' runs an artifact of kind {kind}.",
            remedy=f"Those that do: {names}.",
        )
    record = fitting[0]
    if precision is not None and precision not in record.precisions:
        others = ", ".join(f"{other.name} {name}" for other in BACKENDS for name in other.precisions)
        raise UsageError(
            f"The backend {record.name} cannot be asked for {precision}: it computes what the graph says.",
            remedy=f"Leave the precision away, or choose among: {others}.",
        )
    extra = "gpu" if place != "cpu" and record.extra == "cpu" else record.extra
    if record.package == "onnxruntime":
        require_onnxruntime(f"Running {what or kind}", extra)
    elif importlib.util.find_spec(record.package) is None:
        raise MissingDependencyError(record.package, purpose=f"Running {what or kind}", extra=extra)
    return record


def parse_device(device: str) -> str:
    """``cpu`` or ``cuda:N``; ``cuda`` means the first GPU. UsageError for anything else."""
    device = str(device)
    name, _, index = device.lower().partition(":")
    if name == "cpu" and not index:
        return "cpu"
    if name == "cuda" and (index.isdecimal() or (not index and ":" not in device)):
        return f"cuda:{int(index or 0)}"
    raise UsageError(f"There is no device '{device}'.", remedy="Devices are called cpu, cuda:0, cuda:1, ...")


def check_input(images: NDArray[np.float32], artifact: Artifact) -> None:
    """Refuse, with an ArtifactError, what a runtime would cast, or answer with no rows or a message of its own."""
    multiple = artifact.input.multiple
    float32 = images.dtype == "float32" and images.ndim == 4 and images.shape[1] == 3 and images.size
    if not float32 or any(side % multiple for side in images.shape[2:]):
        raise ArtifactError(
            f"It does not run on {images.dtype} {images.shape}: it takes float32 (images, 3, height, width), both "
            f"sides multiples of {multiple}.",
            remedy="'rtmo-deploy inspect' tells what input it takes.",
            where=artifact.path,
        )
