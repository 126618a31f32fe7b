"""A runtime taken apart into what can be timed: copy in, compute, copy out.

What a runtime does not tell apart stays one stage, under a name that says so; no part of it is made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.bench.clock import DOWNLOAD, IN_GRAPH, MERGED, NETWORK, NMS_DCC, ROWS, UPLOAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.clock import Clock
    from rtmo_deploy.measure.bench.options import Contender
    from rtmo_deploy.runtime.backends import Backend

    Array = NDArray[np.float32]


class Runner(Protocol):
    """One model in one runtime.

    Attributes:
        artifact: What is run.
        device: Where.
        backend: Name of the runtime.
        upload_stage, fetch_stage: What the copies are called; None where there are none.
        compute_stages: What :meth:`compute` gives times to.
        host_stage: What is left for the host to do with the outputs: ``NMS+DCC`` or ``rows to people``.
        facts: What else a result should say: threads, providers, settings.
    """

    artifact: Artifact
    device: str
    backend: str
    upload_stage: str | None
    compute_stages: tuple[str, ...]
    fetch_stage: str | None
    host_stage: str
    facts: dict[str, Any]

    def upload(self, images: Array) -> Any:
        """Network inputs, ``(B, 3, H, W)`` float32, to where the runtime wants them; done when it returns."""
        ...

    def compute(self, handle: Any, clock: Clock) -> Any:
        """Run the network on what :meth:`upload` gave; done when it returns. Times go to the clock."""
        ...

    def fetch(self, outputs: Any) -> Mapping[str, Array]:
        """What :meth:`compute` gave, as arrays on the host."""
        ...


@runtime_checkable
class TimedBackend(Protocol):
    """A backend that measures its own parts, on a GPU by CUDA events."""

    def timed(self, images: Array) -> tuple[Mapping[str, Array], Mapping[str, float]]:
        """Outputs, and milliseconds of ``host->device``, ``network`` and ``device->host``."""
        ...


def open_runner(contender: Contender, artifact: Artifact) -> Runner:
    """Open a contender's model in its runtime.

    Raises:
        UsageError: The runtime does not run this kind of file, or only PyTorch could do what is asked for.
        MissingDependencyError: Its package is not installed.
        SetupError: The device cannot be used; no other is taken in its place.
    """
    from rtmo_deploy.runtime.backends import open_backend, parse_device

    device = parse_device(contender.device)
    if contender.backend in {None, "torch"} and artifact.kind is Kind.CHECKPOINT:
        from rtmo_deploy.measure.bench.torch_runner import TorchRunner

        return TorchRunner(artifact, device, contender.threads, compiled=contender.compiled)
    if contender.compiled:
        raise UsageError("Only PyTorch compiles a network.", remedy="Leave --compile away.", where=artifact.path)
    if contender.backend in {None, "onnxruntime"} and artifact.kind is Kind.ONNX:
        from rtmo_deploy.measure.bench.ort_runner import OrtRunner

        return OrtRunner(artifact, device, contender.threads, contender.spinning)
    backend = open_backend(artifact, device, backend=contender.backend, threads=contender.threads)
    if hasattr(backend, "run_device"):
        from rtmo_deploy.measure.bench.trt_runner import TrtRunner
        from rtmo_deploy.runtime.tensorrt_backend import TensorRtBackend

        if isinstance(backend, TensorRtBackend):
            return TrtRunner(backend)
    return BackendRunner(backend)


def graph_stages(artifact: Artifact) -> tuple[str, str]:
    """What running an exported graph is called, and what is left for the host."""
    raw = artifact.decode.mode is DecodeMode.RAW
    return (NETWORK, NMS_DCC) if raw else (IN_GRAPH, ROWS)


class BackendRunner:
    """Any backend of this project, from outside.

    On a CPU a call is the network. On a GPU it holds the copies too and is named so, unless the backend measures
    itself (:class:`TimedBackend`).
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._timed = backend if isinstance(backend, TimedBackend) else None
        self.artifact = backend.artifact
        self.device = backend.device
        self.backend = type(backend).__name__.removesuffix("Backend").lower()
        known = {name: getattr(backend, name, None) for name in ("threads", "precision")}
        self.facts: dict[str, Any] = {f"runtime_{name}": value for name, value in known.items() if value is not None}
        self.upload_stage: str | None = None
        self.fetch_stage: str | None = None
        self._name, self.host_stage = graph_stages(self.artifact)
        if self._timed is not None:
            self.compute_stages: tuple[str, ...] = (UPLOAD, self._name, DOWNLOAD)
        elif self.device == "cpu":
            self.compute_stages = (self._name,)
        else:
            self.compute_stages = (MERGED if self._name == IN_GRAPH else f"copies+{NETWORK}",)

    def upload(self, images: Array) -> Array:
        """See :meth:`Runner.upload`."""
        return images

    def compute(self, handle: Array, clock: Clock) -> Mapping[str, Array]:
        """See :meth:`Runner.compute`."""
        if self._timed is None:
            outputs = self._backend(handle)
            clock.lap(self.compute_stages[0])
            return outputs
        outputs, times = self._timed.timed(handle)
        for stage, milliseconds in times.items():
            clock.add(self._name if stage == NETWORK else stage, milliseconds)
        clock.skip()
        return outputs

    def fetch(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :meth:`Runner.fetch`."""
        return outputs
