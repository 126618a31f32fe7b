"""Runs ONNX and OpenVINO models with OpenVINO on the CPU.

What OpenVINO would decide by itself is decided here and checked afterwards. Its own choice of precision is bfloat16
wherever the CPU has it, and where it has not, a request for bfloat16 is answered in float32 or in emulated bfloat16
without a word; each would be a precision that nobody asked for.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.artifact import DecodeMode, Target
from rtmo_deploy.errors import ArtifactError, MissingDependencyError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.runtime.backends import check_input
from rtmo_deploy.runtime.clock import graph_stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.clock import Clock


#: Largest magnitude of weights that cannot saturate.
NARROW = 64
#: Sizes of input that a model is kept compiled for.
_SIZES = 4
#: Most images that are computed side by side; more hold memory and gain nothing where a batch has eight.
_STREAMS = 8
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
    compiled = _core().compile_model(model, "CPU", options)
    found = compiled(np.full((1, channels, 1, 8), largest, np.float32))[0]
    return not np.allclose(found, channels * largest * weight, rtol=1e-3)


#: OpenVINO's names of what may be asked for.
_HINTS = {"fp32": "f32", "bf16": "bf16"}
#: Variables that hide part of a CPU from OpenVINO.
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: Words in their values that leave it bfloat16.
_WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10", "AVX2_VNNI_2", "ALL", "DEFAULT")


class OpenvinoBackend:
    """A model compiled for each size of input that comes, the sizes being constants for the compiler.

    One image runs on all threads. Several images run side by side, each on its share of the threads. One call at a
    time.

    Args:
        artifact: An ONNX or OpenVINO model. One that was quantised for another runtime is computed in float32, rounded
            as in 8 bits, and a warning says so.
        device: ``cpu``.
        threads: Threads to use; OpenVINO's own choice if not given.
        precision: None: float32 tensors in float32, 16-bit ones in 16 bits or in float32 as this CPU has it (see
            ``layers``), quantised ones in 8 bits. ``bf16``: floats in bfloat16, the decoding in float32. ``fp32``: as
            None, but what is quantised is rounded in the same way and computed in float32, and therefore not faster.

    Raises:
        ArtifactError: OpenVINO does not take the graph, or is known to compute it wrongly.
        UsageError: ``bf16`` for a model that was quantised for another runtime, or a precision that is not known.

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
        if artifact.precision == "int8+bf16":
            raise ArtifactError(
                "OpenVINO computes 8 bits wrongly in a graph whose other numbers are BF16.",
                remedy="Open the INT8 model that it was cast from, in OpenVINO with precision bf16.",
                where=artifact.path,
            )
        if precision != "fp32" and artifact.target not in {None, Target.OPENVINO}:
            if precision is not None:
                raise UsageError(
                    f"It was quantised for {artifact.target}; OpenVINO has no {precision} around those 8 bits.",
                    remedy="Leave the precision away (float32, rounded as in 8 bits), or 'quantize --target openvino'.",
                    where=artifact.path,
                )
            artifact.log_emulation("OpenVINO")
            precision = "fp32"
        self._model = parse_model(str(artifact.path), where=artifact.path)
        self._how: dict[str, Any] = {"precision": precision, "threads": threads, "where": artifact.path}
        self._compiled: OrderedDict[tuple[Any, ...], _Compiled] = OrderedDict()
        self._lock = threading.Lock()
        contract = artifact.input
        first = self._for((contract.batch or 1, contract.height, contract.width))
        self.threads = int(first.network.get_property("INFERENCE_NUM_THREADS"))
        self.layers = first.layers()
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
        count, _, *size = images.shape
        alone = count == 1 or self.artifact.input.batch is not None
        try:
            with self._lock:
                compiled = self._for((count if alone else 1, *size), several=not alone)
                if alone:
                    return compiled.run(images)
                return _together(compiled.run_each(images))
        except RuntimeError as error:
            raise ArtifactError(
                f"It does not run on {images.dtype} {images.shape}: {_reason(error)}",
                remedy="'rtmo-deploy inspect' tells what input it takes.",
                where=self.artifact.path,
            ) from error

    def timed(self, images: NDArray[np.float32], clock: Clock) -> dict[str, NDArray[np.float32]]:
        """See :class:`rtmo_deploy.runtime.backends.Backend`."""
        outputs = self(images)
        clock.lap(graph_stage(self.artifact))
        return outputs

    def _for(self, size: tuple[int, ...], *, several: bool = False) -> _Compiled:
        """The model for one size of input ``(B, H, W)``; the least recently used of more than ``_SIZES`` are dropped.

        ``several`` runs up to ``_STREAMS`` requests on their shares of the threads instead of one on all.
        """
        key = (*size, several)
        if key not in self._compiled:
            self._compiled[key] = _Compiled(
                self._model, size, streams=min(self.threads, _STREAMS) if several else 1, **self._how
            )
            if len(self._compiled) > _SIZES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]


class _Compiled:
    """A model compiled for one size of input: its network, and after it its decoding where that is computed apart."""

    def __init__(
        self,
        model: Any,
        size: tuple[int, ...],
        *,
        streams: int,
        precision: str | None,
        threads: int | None,
        where: object,
    ) -> None:
        sized = _sized(model, size)
        self._names = [output.get_any_name() for output in sized.outputs]
        parts = _apart(sized) if precision == "bf16" else [sized]
        how: dict[str, Any] = {"threads": threads, "streams": streams, "where": where}
        self.network = compile_model(parts[0], precision=precision, **how)
        # Angles and pixels: bfloat16 has 8 bits for them.
        self.decoding = compile_model(parts[1], precision="fp32", **how) if len(parts) > 1 else None
        self._free: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        for _ in range(streams):
            request = self.network.create_infer_request()
            second = None if self.decoding is None else self.decoding.create_infer_request()
            if second is not None:
                second.set_input_tensor(0, request.get_output_tensor(0))
            self._free.put((request, second))
        self._streams = streams

    def layers(self) -> Mapping[str, int]:
        counts = Counter(layer_precisions(self.network))
        if self.decoding is not None:
            counts.update(layer_precisions(self.decoding))
        return dict(counts)

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs by name, which later runs leave alone."""
        request, second = pair = self._free.get()
        try:
            results = request.infer({0: np.ascontiguousarray(images)}, share_inputs=True, share_outputs=True)
            if second is not None:
                results = second.infer({}, share_outputs=True)
            return {name: np.array(results[at]) for at, name in enumerate(self._names)}
        finally:
            self._free.put(pair)

    def run_each(self, images: NDArray[np.float32]) -> list[dict[str, NDArray[np.float32]]]:
        """The outputs of each image, computed side by side."""
        with ThreadPoolExecutor(self._streams) as pool:
            return list(pool.map(self.run, images[:, None]))


def _sized(model: Any, size: tuple[int, ...]) -> Any:
    """A copy for one size of input; as it was where its graph does not take one (it is compiled for any size then)."""
    copy, (batch, height, width) = model.clone(), size
    try:
        copy.reshape([batch, 3, height, width])
    except RuntimeError:
        return model.clone()
    return copy


def _apart(model: Any) -> list[Any]:
    """Network and decoding of a model of this project as two, of which the second reads the first's only output.

    The model itself becomes the second; one that cannot be taken apart is left as it is.
    """
    import openvino as ov
    from openvino import opset13 as ops

    def decoding(port: Any) -> bool:
        node = port.get_node()
        return bool(node.get_friendly_name().startswith("/decode/") and node.get_type_name() != "ShapeOf")

    def maps(of: Any) -> list[Any]:
        nodes = [node for node in of.get_ordered_ops() if node.get_friendly_name().startswith("/head/")]
        return [one for node in nodes for one in node.outputs() if any(map(decoding, one.get_target_inputs()))]

    found = maps(model)
    if len(found) != 1 or found[0].get_partial_shape().is_dynamic:
        return [model]
    copy = model.clone()
    entry = ops.parameter(found[0].get_shape(), np.float32)
    for port in filter(decoding, list(found[0].get_target_inputs())):
        port.replace_source_output(entry.output(0))
    network = ov.Model([ops.result(maps(copy)[0])], copy.get_parameters())
    return [network, ov.Model(model.get_results(), [entry, *model.get_parameters()])]


def _together(found: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """Outputs of single images as those of a batch, with rows of zeros where one has fewer."""
    outputs = {}
    for name in found[0]:
        parts = [one[name] for one in found]
        rows = max(part.shape[1] for part in parts)
        whole = np.zeros((len(parts), rows, *parts[0].shape[2:]), parts[0].dtype)
        for slot, part in zip(whole, parts, strict=True):
            slot[: part.shape[1]] = part[0]
        outputs[name] = whole
    return outputs


#: What :func:`rtmo_deploy.runtime.backends.open_backend` calls.
load = OpenvinoBackend

_STARTING = threading.Lock()


def import_openvino(purpose: str) -> ModuleType:
    """The package, or MissingDependencyError."""
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("openvino", purpose=purpose, extra="openvino") from error
    package: ModuleType = openvino
    return package


def _core() -> Any:
    with _STARTING:
        return _started()


@lru_cache(maxsize=1)
def _started() -> Any:
    """OpenVINO's core, after a first inference: its Python bindings deadlock if two threads make a process's first."""
    ov = import_openvino("Running a model")
    from openvino import opset13 as ops

    core, source = ov.Core(), ops.parameter([1], np.float32)
    compiled = core.compile_model(ov.Model([ops.relu(source)], [source], "first"), "CPU", {"INFERENCE_NUM_THREADS": 1})
    compiled.create_infer_request().infer({0: np.zeros(1, np.float32)}, share_inputs=True, share_outputs=True)
    return core


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


def compile_model(
    model: Any, *, precision: str | None = None, threads: int | None = None, streams: int = 1, where: object
) -> Any:
    """An ``openvino.CompiledModel`` for the CPU, or SetupError where this CPU cannot compute without loss.

    ``streams`` is how many requests share the threads at a time.
    """
    hint = _hint(precision)
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": streams}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    if precision == "fp32":
        options["LP_TRANSFORMS_MODE"] = "NO"  # 8-bit layers stay what they are in the graph: rounding around floats
        model = _without_8_bit_weights(model)
    try:
        compiled = _core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        limit = next((name for name in ISA_LIMITS if os.environ.get(name)), None)
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


def _without_8_bit_weights(model: Any) -> Any:
    """A copy with 8-bit weights multiplied by their scales; some layers would read them in 8 bits in float32 too."""
    from openvino.passes import ConstantFolding, Manager

    copy, steps = model.clone(), Manager()
    steps.register_pass(ConstantFolding())
    steps.run_passes(copy)
    return copy


def _hint(precision: str | None) -> str:
    name = "fp32" if precision is None else precision
    if name not in _HINTS:
        raise UsageError(f"OpenVINO has no precision '{name}' here.", remedy=f"Those it has: {', '.join(_HINTS)}.")
    if name.upper() not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SetupError(
            f"This CPU has no {name} arithmetic; OpenVINO would run in float32 instead and say nothing.",
            remedy=f"Leave {name} away, or use a CPU with AVX512_BF16 or AMX.",
        )
    limit = next((os.environ[one].upper() for one in ISA_LIMITS if os.environ.get(one)), "DEFAULT")
    if name == "bf16" and not any(word in limit for word in _WITH_BF16):
        raise SetupError(
            f"Under {limit} OpenVINO emulates bf16, several times slower than float32, and says nothing.",
            remedy=f"Unset {' and '.join(ISA_LIMITS)}, or leave bf16 away.",
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
