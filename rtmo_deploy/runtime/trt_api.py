"""Every difference between ``tensorrt`` 10.0 to 11.x and ``tensorrt_rtx``: the rest of this project sees one TensorRT.

Two things are data here. ``FLAVOURS`` says what each of the two packages can and cannot do. ``API`` is the table of
every attribute of their Python API that this project touches, with the releases that lack it; a contract test checks
it against real bindings, and that no code touches anything else. What some release lacks is asked for with
:meth:`TrtApi.has` before it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What there is to know of the V100, in one sentence.
VOLTA = (
    "TensorRT 10.4 with CUDA 12 is the last that supports Volta (V100, compute capability 7.0): "
    "pip install 'tensorrt-cu12==10.4.0'"
)


@dataclass(frozen=True)
class Flavour:
    """One of the two packages.

    Attributes:
        name: What it is called on the command line and in file names.
        module: What is imported.
        extra: The extra of this project that installs it.
        builds_without_gpu: It builds engines on a machine without a GPU; the other one builds for the GPU it finds.
        plugins: It takes plugin nodes. The RTX parser ends the process on them.
        timing_cache: A timing cache does something.
        portable: ``--version-compatible`` and ``--hardware-compatible`` do something.
        no_operators: ONNX operators it has no kernel for, though its parser may accept them.
        no_targets: Compute capabilities that cannot be built for, and why.
    """

    name: str
    module: str
    extra: str
    builds_without_gpu: bool
    plugins: bool
    timing_cache: bool
    portable: bool
    no_operators: frozenset[str] = frozenset()
    no_targets: Mapping[str, str] = field(default_factory=dict)


FLAVOURS: Mapping[str, Flavour] = MappingProxyType(
    {
        "tensorrt": Flavour(
            "tensorrt", "tensorrt", "trt", builds_without_gpu=False, plugins=True, timing_cache=True, portable=True
        ),
        "tensorrt-rtx": Flavour(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "trt-rtx",
            builds_without_gpu=True,
            plugins=False,
            timing_cache=False,
            portable=False,
            no_operators=frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique"}),
            no_targets=MappingProxyType(
                {
                    "7.0": f"it begins at 7.5. {VOLTA}",
                    "9.0": "it is not for Hopper; use --backend tensorrt on such a machine.",
                    "10.0": "it is not for data-centre Blackwell; use --backend tensorrt on such a machine.",
                }
            ),
        ),
    }
)

#: Releases whose bindings ``API`` was checked against. ``rtx`` is tensorrt_rtx 1.7.
RELEASES = ("10.0", "10.4", "10.13", "11.4", "rtx")
_CLASSIC = ("10.0", "10.4", "10.13", "11.4")

#: Attribute, under the module: releases that lack it.
API: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "__version__": (),
        "Builder.create_network": (),
        "Builder.create_builder_config": (),
        "Builder.create_optimization_profile": (),
        "Builder.build_serialized_network": (),
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (),
        "OnnxParser.parse_from_file": (),
        "OnnxParser.num_errors": (),
        "OnnxParser.get_error": (),
        "ParserError.desc": (),
        "ParserError.node_name": (),
        "ParserError.node_operator": (),
        "INetworkDefinition.num_inputs": (),
        "INetworkDefinition.get_input": (),
        "INetworkDefinition.num_outputs": (),
        "INetworkDefinition.get_output": (),
        "INetworkDefinition.num_layers": (),
        "INetworkDefinition.get_layer": (),
        "ITensor.name": (),
        "ITensor.shape": (),
        "ITensor.dtype": (),
        "ILayer.name": (),
        "ILayer.type": (),
        "ILayer.num_inputs": (),
        "ILayer.num_outputs": (),
        "ILayer.get_input": (),
        "ILayer.get_output": (),
        "IOptimizationProfile.set_shape": (),
        "IBuilderConfig.add_optimization_profile": (),
        "IBuilderConfig.profiling_verbosity": (),
        "IBuilderConfig.progress_monitor": (),
        "IBuilderConfig.builder_optimization_level": (),
        "IBuilderConfig.set_memory_pool_limit": (),
        "IBuilderConfig.set_flag": (),
        "IBuilderConfig.clear_flag": (),
        "IBuilderConfig.create_timing_cache": (),
        "IBuilderConfig.set_timing_cache": (),
        "IBuilderConfig.get_timing_cache": (),
        "IBuilderConfig.hardware_compatibility_level": (),
        "IBuilderConfig.num_compute_capabilities": _CLASSIC,
        "IBuilderConfig.set_compute_capability": _CLASSIC,
        "ComputeCapability.__members__": _CLASSIC,
        "ITimingCache.serialize": (),
        "IProgressMonitor.__init__": (),
        "ProfilingVerbosity.DETAILED": (),
        "MemoryPoolType.WORKSPACE": (),
        "HardwareCompatibilityLevel.AMPERE_PLUS": (),
        "BuilderFlag.TF32": (),
        "BuilderFlag.VERSION_COMPATIBLE": (),
        "ILogger.__init__": (),
        "ILogger.Severity": (),
        "Runtime.deserialize_cuda_engine": (),
        "Runtime.engine_host_code_allowed": (),
        "Runtime.get_engine_validity": _CLASSIC,
        "ICudaEngine.num_io_tensors": (),
        "ICudaEngine.num_optimization_profiles": (),
        "ICudaEngine.get_tensor_name": (),
        "ICudaEngine.get_tensor_mode": (),
        "ICudaEngine.get_tensor_dtype": (),
        "ICudaEngine.get_tensor_shape": (),
        "ICudaEngine.get_tensor_profile_shape": (),
        "ICudaEngine.create_execution_context": (),
        "ICudaEngine.create_engine_inspector": (),
        "EngineInspector.get_engine_information": (),
        "LayerInformationFormat.JSON": (),
        "TensorIOMode.INPUT": (),
        "IExecutionContext.set_optimization_profile_async": (),
        "IExecutionContext.set_input_shape": (),
        "IExecutionContext.get_tensor_shape": (),
        "IExecutionContext.set_tensor_address": (),
        "IExecutionContext.execute_async_v3": (),
        "IExecutionContext.is_stream_capturable": _CLASSIC,
    }
)


@dataclass(frozen=True)
class TrtApi:
    """One of the two packages, imported.

    Attributes:
        flavour: Which one.
        trt: The module.
    """

    flavour: Flavour
    trt: Any

    @property
    def version(self) -> str:
        """Such as ``10.13.3.9``."""
        return str(self.trt.__version__)

    def has(self, name: str) -> bool:
        """Whether this release has an attribute of ``API``; one that is not in the table is a bug."""
        if name not in API:
            raise KeyError(name)
        place = self.trt
        for part in name.split("."):
            if not hasattr(place, part):
                return False
            place = getattr(place, part)
        return True

    def network_flags(self) -> int:
        """Flags of a strongly typed network: the bit is another one in 10.x (1) than in 11.x (0)."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def logger(self, sink: Callable[[str, str], None]) -> Any:
        """A TensorRT logger.

        Args:
            sink: Told each message's severity (``error``, ``warning``, ``info`` or ``verbose``) and its text; from
                any thread.
        """
        trt = self.trt

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                name = str(severity).rpartition(".")[2].lower()
                sink("error" if name == "internal_error" else name, message)

        return Logger()


def installed_backends() -> tuple[str, ...]:
    """Names of the flavours that are installed, ``tensorrt`` first.

    Packages of type stubs put a folder ``tensorrt`` of nothing but ``.pyi`` files beside the real ones; Python takes
    it for a namespace package, which has no origin. That is not TensorRT.
    """
    return tuple(name for name, flavour in FLAVOURS.items() if _installed(flavour.module))


def _installed(module: str) -> bool:
    if module in sys.modules:
        # None is what blocks an import; a namespace package has no file.
        return getattr(sys.modules[module], "__file__", None) is not None
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def choose_flavour(backend: str) -> Flavour:
    """The flavour that is meant; of several installed ones ``auto`` takes ``tensorrt``.

    Args:
        backend: ``auto``, ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        UsageError: No such backend.
        MissingDependencyError: It is not installed; with ``auto``, none is.
    """
    if backend == "auto":
        installed = installed_backends()
        if not installed:
            raise MissingDependencyError("tensorrt", purpose="Building or running a TensorRT engine", extra="trt")
        return FLAVOURS[installed[0]]
    if backend not in FLAVOURS:
        raise UsageError(f"There is no TensorRT called '{backend}'.", remedy=f"Choose auto, {' or '.join(FLAVOURS)}.")
    if not _installed(FLAVOURS[backend].module):
        raise MissingDependencyError(
            FLAVOURS[backend].module,
            purpose=f"Building or running a {backend} engine",
            extra=FLAVOURS[backend].extra,
        )
    return FLAVOURS[backend]


def load_api(flavour: Flavour) -> TrtApi:
    """Import a flavour's package.

    Raises:
        MissingDependencyError: It is not installed.
        SetupError: It is, and its libraries cannot be loaded.
    """
    if not _installed(flavour.module):
        raise MissingDependencyError(
            flavour.module, purpose=f"Building or running a {flavour.name} engine", extra=flavour.extra
        )
    try:
        return TrtApi(flavour, importlib.import_module(flavour.module))
    except (ImportError, OSError) as error:
        raise SetupError(
            f"The package '{flavour.module}' is installed and cannot be loaded: {error}",
            remedy=f"Install it again, in a fresh environment: pip install 'rtmo-deploy[{flavour.extra}]'",
        ) from error
