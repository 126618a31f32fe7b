"""What was found on a machine, which is all that the rules of the doctor see, and what they make of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Compute capability of a GPU, or a version of CUDA: major, minor.
Capability = tuple[int, int]

#: Keys of a piece of software in the JSON form: those of the fields that a probe of it can fill.
_KEYS = {
    "torch": ("version", "cuda", "hip", "cudnn", "archs", "available", "computes", "why", "trouble"),
    "onnxruntime": ("version", "cuda", "providers", "saturates", "trouble"),
    "openvino": ("version", "devices", "saturates", "trouble"),
    "tensorrt": ("version", "trouble"),
    "tensorrt_rtx": ("version", "trouble"),
    "bindings": ("gpu", "why", "trouble"),
    "providers": ("name", "usable", "why", "trouble"),
}


@dataclass(frozen=True)
class Trouble:
    """Why a probe gave no answer, or only a part of one; the text is a sentence."""

    kind: Literal["failed", "crashed", "slow"]
    text: str


@dataclass(frozen=True)
class Software:
    """PyTorch, a runtime, or an execution provider of ONNX Runtime. None: not known, or not a fact about this one."""

    version: str | None = None
    #: CUDA and ROCm that it was built with.
    cuda: str | None = None
    hip: str | None = None
    #: Version of cuDNN that it brings, as cuDNN numbers it: 90100, or 8902.
    cudnn: int | None = None
    #: GPU code that it holds, such as ``sm_90`` and ``compute_90``; empty where it sees no GPU.
    archs: tuple[str, ...] = ()
    #: It says that it can use a GPU.
    available: bool | None = None
    #: It did compute something on the GPU.
    computes: bool | None = None
    #: Names of the execution providers that it lists.
    providers: tuple[str, ...] = ()
    #: Devices by their short name.
    devices: Mapping[str, str] = field(default_factory=dict)
    #: 8-bit sums lose what does not fit on this CPU.
    saturates: bool | None = None
    #: It finds a GPU.
    gpu: bool | None = None
    #: Name of an execution provider, such as ``CUDAExecutionProvider``, and whether a small network ran on it.
    name: str = ""
    usable: bool | None = None
    #: What it said where it could not.
    why: str = ""
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU, as the driver shows it; the memory is in bytes."""

    index: int
    name: str
    capability: Capability
    memory: int | None = None
    #: The driver compiled the decode kernel for it; None where that was not tried.
    kernel: bool | None = None
    kernel_why: str = ""


@dataclass(frozen=True)
class Driver:
    """The CUDA driver: version of its kernel module, newest CUDA that it supports, CUDA's error where it fails."""

    version: str | None = None
    cuda: Capability | None = None
    error: str = ""
    code: int | None = None
    gpus: tuple[Gpu, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Processor:
    """The processor; the memory is in bytes."""

    name: str = "unknown"
    #: Flags that decide which kernels run on it; empty where the system does not tell.
    flags: tuple[str, ...] = ()
    #: Cores that this process may use, and cores there are.
    cores: int | None = None
    cores_total: int | None = None
    #: Cores' worth of time that a container's limit allows; None without one.
    quota: float | None = None
    memory: int | None = None
    #: What makes times on it longer than they could be, in sentences.
    notes: tuple[str, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Folder:
    """A folder that is written to, or the nearest one above it that exists; sizes are in bytes."""

    path: str = ""
    exists: bool = False
    free: int | None = None
    writable: bool | None = None
    why: str = ""
    size: int | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Facts:
    """A machine and what is installed on it. None: not known, or, for a piece of software, not installed."""

    #: Version (a tuple), implementation, bits of a pointer, executable, system and machine.
    python: Mapping[str, Any]
    #: This project: version of the files, version that pip has recorded (None: not installed), folder.
    package: Mapping[str, str | None]
    #: Version by normalised name (``onnxruntime-gpu``) of what pip has installed.
    distributions: Mapping[str, str] = field(default_factory=dict)
    #: What required packages with compiled code said when they could not be imported, by import name.
    imports: Mapping[str, str] = field(default_factory=dict)
    imports_trouble: Trouble | None = None
    #: What is wrong with the shipped decode kernel, and with a variable that governs downloads; empty if nothing.
    kernel_file: str = ""
    cache_setting: str = ""
    #: Distributions that pip has recorded and whose module is gone.
    shells: tuple[str, ...] = ()
    torch: Software | None = None
    onnxruntime: Software | None = None
    providers: tuple[Software, ...] = ()
    openvino: Software | None = None
    tensorrt: Software | None = None
    tensorrt_rtx: Software | None = None
    driver: Driver | None = None
    #: The PCI bus shows an NVIDIA graphics card.
    nvidia_card: bool | None = None
    #: Value of ``CUDA_VISIBLE_DEVICES``.
    hidden: str | None = None
    #: The package ``cuda-bindings``, through which engines run.
    bindings: Software | None = None
    cpu: Processor = field(default_factory=Processor)
    working: Folder = field(default_factory=Folder)
    cache: Folder = field(default_factory=Folder)
    #: How long the probes took.
    seconds: float = 0.0

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that the driver shows."""
        return self.driver.gpus if self.driver is not None else ()

    def provider(self, name: str) -> Software | None:
        """An execution provider that ONNX Runtime lists."""
        return next((found for found in self.providers if found.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        result = {part.name: plain(getattr(self, part.name)) for part in fields(self)}
        for name, keys in _KEYS.items():
            if isinstance(result[name], list):
                result[name] = [{key: one[key] for key in keys} for one in result[name]]
            elif result[name] is not None:
                result[name] = {key: result[name][key] for key in keys}
        return result


class Verdict(StrEnum):
    """What a row says.

    ``broken``: it is installed, or needed by every command, and cannot be used. ``warning``: it can be used, and
    something should be known. ``absent``: it is optional, and not there.
    """

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"
    ABSENT = "absent"


@dataclass(frozen=True)
class Row:
    """What was found about one thing, in sentences, and what can be done about it (empty where nothing has to be).

    The area is ``software``, ``gpu``, ``pairs``, ``machine`` or ``extras``.
    """

    area: str
    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All rows in the order in which they are read, and the facts they were judged by."""

    rows: tuple[Row, ...]
    facts: Facts

    @property
    def broken(self) -> tuple[Row, ...]:
        """What is broken."""
        return tuple(row for row in self.rows if row.verdict is Verdict.BROKEN)

    @property
    def ok(self) -> bool:
        """Nothing is broken."""
        return not self.broken

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict."""
        found = Counter(row.verdict for row in self.rows)
        return {str(verdict): found[verdict] for verdict in Verdict}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "counts": self.counts, "rows": plain(self.rows), "facts": self.facts.to_dict()}
