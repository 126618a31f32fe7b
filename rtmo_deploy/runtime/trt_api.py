"""Every difference between ``tensorrt`` 10.0 to 11.x and ``tensorrt_rtx``; the rest of this project sees one TensorRT.

What some release lacks is asked for with :meth:`TrtApi.has` before it is used.
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
    from collections.abc import Callable, Mapping, Sequence

#: The remedy for a V100.
VOLTA = (
    "TensorRT 10.4 with CUDA 12 is the last that supports Volta (V100, compute capability 7.0): "
    "pip install 'tensorrt-cu12==10.4.0'"
)
#: The first TensorRT without Volta.
_WITHOUT_VOLTA = (10, 5)
_VOLTA, _TURING = "7.0", "7.5"


@dataclass(frozen=True)
class TrtVariant:
    """One of the two packages, and what it can do."""

    name: str  #: On the command line and in file names.
    module: str  #: What is imported.
    extra: str  #: The extra of this project that installs it.
    #: It builds engines on a machine without a GPU; the other one builds for the GPU it finds.
    builds_without_gpu: bool
    plugins: bool  #: It takes plugin nodes. The RTX parser ends the process on them.
    timing_cache: bool  #: A timing cache does something.
    portable: bool  #: ``--version-compatible`` and ``--hardware-compatible`` do something.
    #: ONNX operators that it has no kernel for, though its parser may accept them.
    no_operators: frozenset[str] = frozenset()
    #: Compute capabilities that cannot be built for, and why.
    no_targets: Mapping[str, str] = field(default_factory=dict)


TRT_VARIANTS: Mapping[str, TrtVariant] = MappingProxyType(
    {
        "tensorrt": TrtVariant(
            "tensorrt", "tensorrt", "trt", builds_without_gpu=False, plugins=True, timing_cache=True, portable=True
        ),
        "tensorrt-rtx": TrtVariant(
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


@dataclass(frozen=True)
class TrtApi:
    """One of the two packages, imported."""

    variant: TrtVariant
    trt: Any  #: The module.

    @property
    def version(self) -> str:
        """Such as ``10.13.3.9``."""
        return str(self.trt.__version__)

    def has(self, name: str) -> bool:
        """Whether this release has an attribute, such as ``IBuilderConfig.set_compute_capability``."""
        place = self.trt
        for part in name.split("."):
            if not hasattr(place, part):
                return False
            place = getattr(place, part)
        return True

    def compute_capabilities(self, targets: Sequence[str]) -> list[Any]:
        """The package's own values of compute capabilities such as ``8.6``.

        Raises:
            UsageError: It cannot build for one of them.
        """
        remedy = "Choose another --compute-capability or --backend."
        head = f"{self.variant.name} {self.version}"
        if targets and not self.has("ComputeCapability.__members__"):
            raise UsageError(f"{head} builds for the GPU of this machine only.", remedy=remedy)
        known = self.trt.ComputeCapability.__members__ if targets else {}
        names = [f"SM{target.replace('.', '')}" for target in targets]
        for target, name in zip(targets, names, strict=True):
            if name not in known:
                offered = ", ".join(f"{key[2:-1]}.{key[-1]}" for key in known if key.startswith("SM"))
                finding = f"{head} cannot build for compute capability {target}; it offers {offered}."
                raise UsageError(finding, remedy=remedy)
        return [known[name] for name in names]

    def network_flags(self) -> int:
        """Flags of a strongly typed network: the bit is another one in 10.x (1) than in 11.x (0)."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def logger(self, sink: Callable[[str, str], None]) -> Any:
        """A TensorRT logger. ``sink`` gets each severity (error, warning, info, verbose) and text, from any thread."""
        trt = self.trt

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                name = str(severity).rpartition(".")[2].lower()
                sink("error" if name == "internal_error" else name, message)

        return Logger()


def installed_backends() -> tuple[str, ...]:
    """Names of the variants that are installed, ``tensorrt`` first.

    Packages of type stubs put a folder ``tensorrt`` of nothing but ``.pyi`` files beside the real ones; Python takes
    it for a namespace package, which has no origin. That is not TensorRT.
    """
    return tuple(name for name, variant in TRT_VARIANTS.items() if _installed(variant.module))


def _installed(module: str) -> bool:
    if module in sys.modules:
        # None is what blocks an import; a namespace package has no file.
        return getattr(sys.modules[module], "__file__", None) is not None
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def choose_variant(backend: str) -> TrtVariant:
    """The variant of ``auto``, ``tensorrt`` or ``tensorrt-rtx``; ``auto`` takes ``tensorrt`` where both are installed.

    A UsageError where there is no such backend, a MissingDependencyError where it is not installed.
    """
    if backend == "auto":
        backend = next(iter(installed_backends()), "tensorrt")
    if backend not in TRT_VARIANTS:
        raise UsageError(
            f"There is no TensorRT called '{backend}'.", remedy=f"Choose auto, {' or '.join(TRT_VARIANTS)}."
        )
    _require_installed(TRT_VARIANTS[backend])
    return TRT_VARIANTS[backend]


def _require_installed(variant: TrtVariant) -> None:
    if not _installed(variant.module):
        raise MissingDependencyError(
            variant.module, purpose=f"Building or running a {variant.name} engine", extra=variant.extra
        )


def load_api(variant: TrtVariant) -> TrtApi:
    """Import a variant's package; a SetupError where it is not installed or its libraries cannot be loaded."""
    _require_installed(variant)
    try:
        return TrtApi(variant, importlib.import_module(variant.module))
    except (ImportError, OSError) as error:
        raise SetupError(
            f"The package '{variant.module}' is installed and cannot be loaded: {error}",
            remedy=f"Install it again, in a fresh environment: pip install 'rtmo-deploy[{variant.extra}]'",
        ) from error


def gpu_problem(variant: TrtVariant, version: str, gpu: str, capability: str) -> SetupError | None:
    """Why a TensorRT cannot use a GPU; None if nothing is known against it.

    From NVIDIA's release notes: TensorRT 10 begins at compute capability 7.0, and 10.5 took 7.0 away. ``version`` is
    TensorRT's, such as ``10.13.3.9``; ``gpu`` and ``capability`` are the GPU's name and such as ``9.0``.
    """
    others = "Use ONNX Runtime or PyTorch on this GPU."
    if variant.name == "tensorrt":
        head = f"TensorRT {version} does not know the {gpu}"
        if capability == _VOLTA and version_numbers(version)[:2] >= _WITHOUT_VOLTA:
            return SetupError(f"{head}.", remedy=VOLTA)
        if version_numbers(capability) < version_numbers(_VOLTA):
            begins = "it begins at 7.0, from 10.5 on at 7.5"
            return SetupError(f"{head} (compute capability {capability}): {begins}.", remedy=others)
        return None
    head = f"{variant.name} {version} does not run on the {gpu} (compute capability {capability}):"
    if version_numbers(capability) < version_numbers(_TURING):
        return SetupError(f"{head} it begins at {_TURING}.", remedy=VOLTA if capability == _VOLTA else others)
    if capability in variant.no_targets:
        remedy = MissingDependencyError("tensorrt", purpose="This", extra="trt").remedy
        return SetupError(f"{head} {variant.no_targets[capability]}", remedy=remedy)
    return None


def version_numbers(text: str) -> tuple[int, ...]:
    """``10.13.3`` -> (10, 13, 3); it ends at the first part that is no number."""
    found = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)
