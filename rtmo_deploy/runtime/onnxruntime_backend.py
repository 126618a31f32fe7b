"""Runs ONNX models with ONNX Runtime, on the CPU or on a CUDA GPU."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.errors import ArtifactError, SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact


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


def load(artifact: Artifact, device: str, threads: int | None) -> OnnxRuntimeBackend:
    """Load an ONNX model; see :func:`rtmo_deploy.runtime.backends.open_backend`."""
    return OnnxRuntimeBackend(artifact, device, threads)


class OnnxRuntimeBackend:
    """A session and where it runs.

    With ``emulated`` an INT8 graph is computed in float32, rounded as in 8 bits, because this CPU's 8-bit arithmetic
    loses what does not fit.
    """

    def __init__(self, artifact: Artifact, device: str, threads: int | None) -> None:
        self.artifact = artifact
        self.device = device
        config = exact_entries(artifact, device)
        self.emulated = bool(config)
        if self.emulated:
            _log.info("%s: INT8 is computed in float32, rounded as in 8 bits.", artifact.path)
        self._session = open_session(
            artifact.path,
            device=device,
            threads=threads,
            where=artifact.path,
            config=config,
        )

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        return run_session(self._session, {self._session.get_inputs()[0].name: images}, where=self.artifact.path)


def exact_entries(artifact: Artifact, device: str) -> dict[str, str]:
    """Session configuration that an artifact needs in order to be computed as its graph says."""
    eight_bit, _, half = artifact.precision.partition("+")
    if eight_bit != "int8" or device != "cpu":
        return {}
    # Pairs with scales of half: ONNX Runtime 1.31 fuses them into operators that it then does not take.
    return dict(EXACT) if half or saturates() else {}


def open_session(
    model: Path | bytes,
    *,
    device: str = "cpu",
    threads: int | None = None,
    where: object,
    config: Mapping[str, str] | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file or a serialised model.

    SetupError where the GPU cannot be used; the CPU is not taken in its place.
    """
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
    try:
        session = ort.InferenceSession(source, options, providers=providers)
    except Exception as error:
        if _of_onnxruntime(error):
            raise ArtifactError(
                f"ONNX Runtime {ort.__version__} does not accept it: {_first_line(error)}",
                remedy="Export it again, or use a newer ONNX Runtime.",
                where=where,
            ) from error
        raise
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise SetupError(
            f"ONNX Runtime fell back to the CPU: its CUDA provider could not be loaded for {device}.",
            remedy="Its CUDA and cuDNN versions must match the installed ones; or use --device cpu.",
        )
    return session


def run_session(
    session: Any,
    feeds: dict[str, NDArray[np.float32]],
    *,
    where: object,
) -> dict[str, NDArray[np.float32]]:
    """Run a session and name its outputs; ArtifactError where the model does not take this input, or fails on it."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:
        if _of_onnxruntime(error):
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
            raise ArtifactError(
                f"It does not run on {shapes}: {_first_line(error)}",
                remedy="'rtmo-deploy inspect' tells what input it takes.",
                where=where,
            ) from error
        raise


def _of_onnxruntime(error: Exception) -> bool:
    """It raises a dozen unrelated classes straight from Exception, and what its own libraries raise as it comes."""
    return type(error).__module__.startswith("onnxruntime") or isinstance(
        error, RuntimeError | ValueError | MemoryError | OSError
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
