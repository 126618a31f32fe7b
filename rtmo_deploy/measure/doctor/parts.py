"""The parts of what was found on a machine: a record for each piece of software, GPU and folder.

None means that it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Compute capability of a GPU.
Capability = tuple[int, int]


class TroubleKind(StrEnum):
    """How a look at something ended that did not end well."""

    FAILED = "failed"
    CRASHED = "crashed"
    SLOW = "slow"


@dataclass(frozen=True)
class Trouble:
    """Why a look at something gave no answer, or only a part of one.

    Attributes:
        kind: How it ended.
        text: What was said last; a sentence.
    """

    kind: TroubleKind
    text: str


@dataclass(frozen=True)
class PythonFacts:
    """The interpreter: version, implementation, bits of a pointer, path, and the system it runs on."""

    version: tuple[int, ...]
    implementation: str
    bits: int
    executable: str
    system: str
    machine: str


@dataclass(frozen=True)
class PackageFacts:
    """This project as it was imported.

    Attributes:
        version: Of the files.
        recorded: Of the installation record; None if it was imported without being installed.
        folder: Where the files are.
    """

    version: str
    recorded: str | None
    folder: str


@dataclass(frozen=True)
class TorchFacts:
    """PyTorch.

    Attributes:
        version: Such as ``2.13.0+cu126``.
        cuda: CUDA it was built with; None in a CPU build.
        hip: ROCm it was built with; None in others.
        cudnn: Version of cuDNN it brings, as cuDNN numbers it: 90100, or 8902.
        archs: GPU code it holds, such as ``sm_90`` and ``compute_90``; empty where it sees no GPU.
        available: It says that it can use a GPU.
        computes: It did compute something on the GPU.
        why: What it said where it could not.
        trouble: It could not be looked at to the end.
    """

    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    cudnn: int | None = None
    archs: tuple[str, ...] = ()
    available: bool | None = None
    computes: bool | None = None
    why: str = ""
    trouble: Trouble | None = None


@dataclass(frozen=True)
class OrtFacts:
    """ONNX Runtime.

    Attributes:
        version: Such as ``1.31.1``.
        cuda: CUDA that the package was built with, where it tells (from 1.21 on).
        providers: Names of the execution providers that it lists.
        saturates: 8-bit sums lose what does not fit on this CPU.
        trouble: It could not be looked at to the end.
    """

    version: str | None = None
    cuda: str | None = None
    providers: tuple[str, ...] = ()
    saturates: bool | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True)
class ProviderFacts:
    """An execution provider that ONNX Runtime lists.

    Attributes:
        name: Such as ``CUDAExecutionProvider``.
        usable: A small network ran on it; None where it was not tried.
        why: What was said where it did not.
        trouble: Trying did not come to an end.
    """

    name: str
    usable: bool | None = None
    why: str = ""
    trouble: Trouble | None = None


@dataclass(frozen=True)
class OpenvinoFacts:
    """OpenVINO: its version, its devices by name, and whether 8-bit sums lose what does not fit on this CPU."""

    version: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    saturates: bool | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True)
class TrtFacts:
    """One of the two TensorRTs."""

    version: str | None = None
    trouble: Trouble | None = None


@dataclass(frozen=True)
class GpuFacts:
    """A GPU, as the driver tells.

    Attributes:
        index: As CUDA counts.
        name: Such as ``NVIDIA H200``.
        capability: Compute capability.
        memory: Bytes.
        kernel: The driver compiled the decode kernel for it; None where that was not tried.
        kernel_why: What it said where it did not.
    """

    index: int
    name: str
    capability: Capability
    memory: int | None = None
    kernel: bool | None = None
    kernel_why: str = ""


@dataclass(frozen=True)
class DriverFacts:
    """The CUDA driver.

    Attributes:
        version: Of the kernel module, such as ``580.65.06``, where the system tells it.
        cuda: Newest CUDA that it supports, such as (12, 8).
        error: Why it cannot be used; empty if it can.
        code: CUDA's number of that error.
        gpus: The GPUs it shows.
        trouble: It could not be looked at to the end.
    """

    version: str | None = None
    cuda: tuple[int, int] | None = None
    error: str = ""
    code: int | None = None
    gpus: tuple[GpuFacts, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True)
class BindingsFacts:
    """``cuda-bindings``, through which engines run: whether it finds a GPU, and what it says if not."""

    gpu: bool | None = None
    why: str = ""
    trouble: Trouble | None = None


@dataclass(frozen=True)
class CpuFacts:
    """The processor.

    Attributes:
        name: What it calls itself.
        flags: Those of its flags that decide which kernels run on it; empty where the system does not tell.
        cores: Cores that this process may use.
        cores_total: Cores there are.
        quota: Cores' worth of time that a container's limit allows; None without one.
        memory: Bytes.
        notes: What makes times on it less than they could be, in sentences.
        trouble: It could not be looked at to the end.
    """

    name: str = "unknown"
    flags: tuple[str, ...] = ()
    cores: int | None = None
    cores_total: int | None = None
    quota: float | None = None
    memory: int | None = None
    notes: tuple[str, ...] = ()
    trouble: Trouble | None = None


@dataclass(frozen=True)
class FolderFacts:
    """A folder that is written to.

    Attributes:
        path: Where; it need not exist.
        exists: It does.
        free: Bytes free on its disk.
        writable: A file could be made in it, or in the nearest folder above it that exists.
        why: What was said where it could not.
        size: Bytes of the files in it; None where they were not counted.
        trouble: It could not be looked at to the end.
    """

    path: str = ""
    exists: bool = False
    free: int | None = None
    writable: bool | None = None
    why: str = ""
    size: int | None = None
    trouble: Trouble | None = None


def release_of(version: str | None) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.13.0+cu126`` -> (2, 13, 0); empty where there are none."""
    numbers = []
    for part in (version or "").split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits or not digits.isascii():
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
