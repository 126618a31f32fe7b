"""Runs ONNX and OpenVINO models with OpenVINO on the CPU.

What OpenVINO would decide by itself is decided here and checked afterwards. Its own choice of precision is bfloat16
wherever the CPU has it, and where it has not, a request for bfloat16 is answered in float32 or in emulated bfloat16
without a word; each would be a precision that nobody asked for.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.backends import check_input
from rtmo_deploy.runtime.clock import graph_stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.clock import Clock


#: Largest magnitude of weights that cannot saturate.
NARROW = 64
#: Layers that hold the arithmetic.
_HEAVY = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_NAMES = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def layer_precisions(compiled: Any) -> Mapping[str, int]:
    """How many convolutions and matrix products a compiled model runs in which precision, such as ``{"int8": 58}``."""
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in _HEAVY:
            precision = info["runtimePrecision"].astype(str)
            counts[_NAMES.get(precision, precision)] += 1
    return dict(counts)


def has_narrow_weights(model: Any) -> bool:
    """Whether an ``openvino.Model`` has 8-bit weights and all of them are narrow."""
    found = False
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() not in {"i8", "u8"}:
            continue
        values = np.asarray(node.get_data(), np.int16)
        if values.ndim < 2:
            continue  # a zero point
        found = True
        if np.abs(values).max(initial=0) > NARROW:
            return False
    return found


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether an 8-bit convolution with the largest numbers there are comes out too small on this CPU."""
    import openvino as ov
    from openvino import opset13 as ops

    channels, largest, weight = 64, 255.0, 127
    source = ops.parameter([1, channels, 1, 8], np.float32)
    low, high = np.float32(0), np.float32(largest)
    quantised = ops.fake_quantize(source, low, high, low, high, 256)
    weights = ops.convert(ops.constant(np.full((16, channels, 1, 1), weight, np.int8)), np.float32)
    scaled = ops.multiply(weights, ops.constant(np.ones((16, 1, 1, 1), np.float32)))
    result = ops.convolution(quantised, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([result], [source], "saturation")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(model, "CPU", options)
    found = compiled(np.full((1, channels, 1, 8), largest, np.float32))[0]
    return not np.allclose(found, channels * largest * weight, rtol=1e-3)


#: OpenVINO's names of what may be asked for.
_HINTS = {"fp32": "f32", "bf16": "bf16"}
#: Variables that hide part of a CPU from OpenVINO.
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


class OpenvinoBackend:
    """A compiled model. One call at a time: it holds the memory of one run.

    Args:
        artifact: An ONNX or OpenVINO model.
        device: ``cpu``.
        threads: Threads to use; OpenVINO's own choice if not given.
        precision: None: float32 tensors in float32, 16-bit ones in 16 bits or in float32 as this CPU has it (see
            ``layers``), quantised ones in 8 bits. ``bf16``: floats in bfloat16. ``fp32``: as None, but
            what is quantised is rounded in the same way and computed in float32, and therefore not faster.

    Attributes:
        threads: Threads it really uses.
        layers: How many convolutions and matrix products run in which precision, as OpenVINO reports them.
        precision: The precisions among ``layers``, lowest first: ``fp32``, ``int8+fp32`` and so on.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, device: str, threads: int | None, precision: str | None = None) -> None:
        if device != "cpu":
            raise SetupError(f"OpenVINO runs on the CPU only, not on {device}.", remedy="Use --device cpu.")
        import_openvino(f"Running {artifact.path.name or artifact.kind} with OpenVINO")
        self.artifact = artifact
        self.device = device
        if artifact.kind not in {Kind.ONNX, Kind.OPENVINO}:
            raise UsageError(f"OpenVINO does not run an artifact of kind {artifact.kind}.", where=artifact.path)
        require_no_plugin(artifact)
        model = parse_model(str(artifact.path), where=artifact.path)
        self._outputs = [output.get_any_name() for output in model.outputs]
        self._compiled = compile_model(model, precision=precision, threads=threads, where=artifact.path)
        self._request, self._lock = self._compiled.create_infer_request(), threading.Lock()
        self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        self.layers = layer_precisions(self._compiled)
        known = ["int8", "bf16", "fp16", "fp32"]
        self.precision = "+".join(sorted(self.layers, key=lambda name: known.index(name) if name in known else 9))
        self.facts = {"runtime_threads": self.threads, "runtime_precision": self.precision}
        if artifact.precision.partition("+")[0] == "int8" and precision != "fp32" and "int8" not in self.layers:
            raise SetupError(
                "Its graph is quantised, and OpenVINO would run none of its layers in 8 bits on this CPU.",
                remedy="Ask for fp32 to run it emulated in float32, or run the float32 model.",
                where=artifact.path,
            )

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        check_input(images, self.artifact)
        try:
            with self._lock:  # one stream: requests of several threads would wait for each other all the same
                results = self._request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
        except RuntimeError as error:
            raise ArtifactError(
                f"It does not run on {images.dtype} {images.shape}: {_reason(error)}",
                remedy="'rtmo-deploy inspect' tells what input it takes.",
                where=self.artifact.path,
            ) from error
        return {name: results[at] for at, name in enumerate(self._outputs)}

    def timed(self, images: NDArray[np.float32], clock: Clock) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        outputs = self(images)
        clock.lap(graph_stage(self.artifact))
        return outputs


#: What :func:`rtmo_deploy.runtime.backends.open_backend` calls.
load = OpenvinoBackend


def import_openvino(purpose: str) -> ModuleType:
    """The package, or MissingDependencyError."""
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("openvino", purpose=purpose, extra="openvino") from error
    package: ModuleType = openvino
    return package


@lru_cache(maxsize=1)
def _core() -> Any:
    return import_openvino("Running a model").Core()


def require_no_plugin(artifact: Artifact) -> None:
    """Refuse a graph that has a TensorRT plugin in it."""
    if artifact.decode.mode is DecodeMode.PLUGIN:
        raise ArtifactError(
            "Its decoding is a TensorRT plugin (RTMODecode), which OpenVINO does not have.",
            remedy="Export the model with --decode onnx or fixed.",
            where=artifact.path,
        )


def parse_model(source: str | bytes, weights: bytes | None = None, *, where: object) -> Any:
    """An ``openvino.Model`` of a file, or of the bytes of an .onnx file or of an .xml file and its .bin."""
    ov = import_openvino("Reading a model")
    try:
        return _core().read_model(source) if weights is None else _core().read_model(source, weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"OpenVINO {ov.__version__.split('-')[0]} does not accept it: {_reason(error)}.",
            remedy="Export or convert it again, or use a newer OpenVINO.",
            where=where,
        ) from error


def compile_model(model: Any, *, precision: str | None = None, threads: int | None = None, where: object) -> Any:
    """An ``openvino.CompiledModel`` for the CPU, or SetupError where this CPU cannot compute without loss."""
    hint = _hint(precision)
    # A request at a time, as fast as can be: one stream.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    if precision == "fp32":
        options["LP_TRANSFORMS_MODE"] = "NO"  # 8-bit layers stay what they are in the graph: rounding around floats
    try:
        compiled = _core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        limit = next((name for name in _ISA_LIMITS if os.environ.get(name)), None)
        if limit is not None:
            raise SetupError(
                f"OpenVINO cannot run it under {limit}={os.environ[limit]}: {_reason(error)}.",
                remedy=f"Unset {limit}, or set it to AVX2 or more.",
                where=where,
            ) from error
        raise ArtifactError(
            f"OpenVINO does not accept it: {_reason(error)}.",
            remedy="Export or convert it again, or use a newer OpenVINO.",
            where=where,
        ) from error
    _audit(model, compiled, precision, where)
    return compiled


def _hint(precision: str | None) -> str:
    name = "fp32" if precision is None else precision
    if name not in _HINTS:
        raise UsageError(f"OpenVINO has no precision '{name}' here.", remedy=f"Those it has: {', '.join(_HINTS)}.")
    if name.upper() not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SetupError(
            f"This CPU has no {name} arithmetic; OpenVINO would run in float32 instead and say nothing.",
            remedy=f"Leave {name} away, or use a CPU with AVX512_BF16 or AMX.",
        )
    return _HINTS[name]


def _audit(model: Any, compiled: Any, precision: str | None, where: object) -> None:
    """Refuse what was compiled if it is not what was asked for."""
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    layers = layer_precisions(compiled)
    if used != _hint(precision) or (precision == "bf16" and "fp32" in layers and "bf16" not in layers):
        raise SetupError(
            f"OpenVINO was asked for {precision or 'fp32'} and would run in {used}.",
            remedy="Leave the precision away, or use another CPU.",
            where=where,
        )
    if precision == "fp32" and "int8" in layers:
        raise SetupError(
            "OpenVINO was asked for fp32 and would run layers in 8 bits.",
            remedy="Run the float32 model.",
            where=where,
        )
    if "int8" in layers and saturates() and not has_narrow_weights(model):
        raise SetupError(
            "OpenVINO's sums of 8-bit products saturate on this CPU, as on those without VNNI: it would find other "
            "people than the model does.",
            remedy=f"Ask for fp32 to run it emulated in float32, use a CPU with VNNI, or weights of at most {NARROW} "
            "in magnitude.",
            where=where,
        )


def _reason(error: RuntimeError) -> str:
    """What OpenVINO says in the end; the lines before tell where in its sources it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
