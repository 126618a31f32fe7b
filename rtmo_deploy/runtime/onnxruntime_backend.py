"""Runs ONNX models with ONNX Runtime, on the CPU or on a CUDA GPU."""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.artifact import Target
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.machine import usable_cores
from rtmo_deploy.packages import require_onnxruntime
from rtmo_deploy.runtime.clock import DOWNLOAD, UPLOAD, graph_stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.clock import Clock


#: Session configuration under which a Q/DQ graph is computed as it is written, on every CPU.
EXACT: Final = {"session.disable_quant_qdq": "1"}
_CHANNELS, _OUT, _LARGEST = 64, 16, 127


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether an 8-bit convolution of the largest numbers there are comes out too small."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_probe(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": np.full((1, _CHANNELS, 4, 8), float(_LARGEST), np.float32)})[0]
    return not np.allclose(found, _CHANNELS * _LARGEST * _LARGEST, rtol=1e-2)


def _probe() -> bytes:
    """A quantised 1x1 convolution, its input and weights all at their largest, Q/DQ on both sides."""
    from onnx import TensorProto, helper, numpy_helper

    total = float(_CHANNELS * _LARGEST * _LARGEST)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weights": np.full((_OUT, _CHANNELS, 1, 1), _LARGEST, np.int8),
        "scales": np.ones(_OUT, np.float32),
        "zeros": np.zeros(_OUT, np.int8),
        "out_scale": np.float32(total / 100),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "out_scale", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "out_scale", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, _CHANNELS, 4, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, _OUT, 4, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


_log = logging.getLogger(__name__)


class OnnxRuntimeBackend:
    """A session and where it runs.

    With ``emulated`` an INT8 graph is computed in float32, rounded as in 8 bits: because it was quantised for another
    runtime, or because this CPU's 8-bit arithmetic loses what does not fit.

    Args:
        artifact: An ONNX model.
        device: ``cpu`` or ``cuda:N``.
        threads: Threads an operator may use; all cores if not given.
        config: Session configuration entries, beside those that the artifact needs.
    """

    name = "onnxruntime"

    def __init__(
        self, artifact: Artifact, device: str, threads: int | None, config: Mapping[str, str] | None = None
    ) -> None:
        self.artifact = artifact
        self.device = device
        exact = exact_entries(artifact, device)
        config = {**(config or {}), **exact}
        self.emulated = bool(exact)
        if self.emulated:
            if artifact.target is not Target.ONNXRUNTIME:
                artifact.log_emulation("ONNX Runtime")
            else:
                _log.info("%s: INT8 is computed in float32, rounded as in 8 bits.", artifact.path)
        self._session = open_session(artifact.path, device=device, threads=threads, where=artifact.path, config=config)
        self.facts = {"providers": list(self._session.get_providers()), "threads": threads, "config": config}
        # Calls of several threads hinder each other where one alone keeps all cores busy.
        cores = usable_cores()
        self._turns: AbstractContextManager[Any] = (
            threading.Semaphore(max(1, cores // (threads or cores))) if device == "cpu" else contextlib.nullcontext()
        )

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        with self._turns:
            return run_session(self._session, {self._session.get_inputs()[0].name: images}, where=self.artifact.path)

    def timed(self, images: NDArray[np.float32], clock: Clock) -> Mapping[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`. The GPU part has not been run: there was no GPU."""
        network = graph_stage(self.artifact)
        if self.device == "cpu":
            outputs = self(images)
            clock.lap(network)
            return outputs
        import onnxruntime as ort

        index = int(self.device.split(":")[1])
        binding = self._session.io_binding()
        names = [output.name for output in self._session.get_outputs()]
        # The binding refers to the value's memory; both are kept until the outputs are there.
        value = ort.OrtValue.ortvalue_from_numpy(images, "cuda", index)
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, value)
        for name in names:
            binding.bind_output(name, "cuda", index)
        binding.synchronize_inputs()
        clock.lap(UPLOAD)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        clock.lap(network)
        found = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        clock.lap(DOWNLOAD)
        return found


#: What :func:`rtmo_deploy.runtime.backends.open_backend` calls.
load = OnnxRuntimeBackend


def exact_entries(artifact: Artifact, device: str) -> dict[str, str]:
    """Session configuration that an artifact needs in order to be computed as its graph says."""
    eight_bit, _, mixed = artifact.precision.partition("+")
    if eight_bit != "int8" or device != "cpu":
        return {}
    # Pairs with FP16 scales: ONNX Runtime 1.31 fuses them into operators that it then does not take.
    return dict(EXACT) if mixed or artifact.target is not Target.ONNXRUNTIME or saturates() else {}


def open_session(
    model: Path | bytes,
    *,
    device: str = "cpu",
    threads: int | None = None,
    where: object,
    config: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or a serialised model.

    SetupError where ONNX Runtime is not whole or the GPU cannot be used; the CPU is not taken in its place.
    """
    require_onnxruntime("Running an ONNX model", "cpu" if device == "cpu" else "gpu")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and told by us
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise SetupError(
                f"This ONNX Runtime ({ort.__version__}) has no CUDA provider, so {device} cannot be used.",
                remedy="Use --device cpu, or in a fresh environment: pip install 'rtmo-deploy[gpu]'",
            )
        if hasattr(ort, "preload_dlls"):  # since 1.21: finds the CUDA libraries that pip installed
            ort.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(device.split(":")[1])}))
    source = model if isinstance(model, bytes) else str(model)
    refused = f"ONNX Runtime {ort.__version__} does not accept it"
    with _failures(refused, "Export it again, or use a newer ONNX Runtime.", where):
        session = ort.InferenceSession(source, options, providers=providers)
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise SetupError(
            f"ONNX Runtime fell back to the CPU: its CUDA provider could not be loaded for {device}.",
            remedy="Its CUDA and cuDNN versions must match the installed ones; or use --device cpu.",
        )
    return session


def run_session(
    session: Any, feeds: dict[str, NDArray[np.float32]], *, where: object
) -> dict[str, NDArray[np.float32]]:
    """Run a session and name its outputs; ArtifactError where the model does not take this input, or fails on it."""
    names = [output.name for output in session.get_outputs()]
    shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
    with _failures(f"It does not run on {shapes}", "'rtmo-deploy inspect' tells what input it takes.", where):
        results = session.run(names, feeds)
    return dict(zip(names, results, strict=True))


@contextlib.contextmanager
def _failures(finding: str, remedy: str, where: object) -> Iterator[None]:
    """Turn ONNX Runtime's errors into an ArtifactError."""
    try:
        yield
    except Exception as error:
        # A dozen unrelated classes straight from Exception, and what its own libraries raise as it comes.
        known = isinstance(error, RuntimeError | ValueError | MemoryError | OSError)
        if not known and not type(error).__module__.startswith("onnxruntime"):
            raise
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ArtifactError(f"{finding}: {first_line}", remedy=remedy, where=where) from error
