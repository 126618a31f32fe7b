"""What a bug report needs of this machine: versions, processor, GPUs. Nothing heavy is imported, nothing is run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from rtmo_deploy._version import __version__
from rtmo_deploy.doctor.requirements import EXTRAS, requirements, shortfall
from rtmo_deploy.machine import described_cpu, first_pairs, module_version, read_machine
from rtmo_deploy.packages import ONNXRUNTIMES, OPENCVS, installed
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Distributions whose version is told, as they are installed.
_TOLD = (
    *("torch", "numpy", "onnx", *ONNXRUNTIMES, "openvino", *OPENCVS),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    *("cuda-bindings", "typer"),
)
#: Extras that tell nothing of what users run.
_UNTOLD = {"test", "dev", "docs"}


@dataclass(frozen=True)
class About:
    """This package and the machine; without paths and names of users or hosts. None: not known."""

    version: str
    python: str
    #: The distribution of the operating system, and its kernel or release.
    os: str
    kernel: str
    machine: str
    cpu: str
    #: Cores that this process may use, and cores there are.
    cores: int
    cores_total: int
    #: Bytes.
    memory: int | None
    gpus: tuple[str, ...]
    gpu_driver: str | None
    #: Version by distribution, of the packages that matter.
    packages: Mapping[str, str]
    #: Extras of this package all of whose requirements are installed.
    extras: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        packages = [{"name": name, "version": version} for name, version in self.packages.items()]
        return {**{name: plain(value) for name, value in vars(self).items()}, "packages": packages}

    def lines(self) -> list[str]:
        """For people; the first is the package's name and version alone."""
        driver = f"driver {self.gpu_driver}" if self.gpu_driver else "no NVIDIA driver found"
        rows = {
            "Python": self.python,
            "system": f"{self.os}, {self.kernel} {self.machine}",
            "CPU": described_cpu(self.cpu, self.cores, self.cores_total, self.memory),
            "GPU": ", ".join([*self.gpus, driver]),
            "packages": ", ".join(f"{name} {version}" for name, version in self.packages.items()),
            "extras": ", ".join(self.extras) or "none",
        }
        return [f"rtmo-deploy {self.version}", *(f"{name:9} {text}" for name, text in rows.items())]


def read_about() -> About:
    """Read this machine."""
    machine, nvidia = read_machine(), Path("/proc/driver/nvidia")
    wanted = {canonicalize_name(one.name) for extra in EXTRAS for one in requirements(extra)}
    versions = installed((*_TOLD, *sorted(wanted.difference(_TOLD))))
    return About(
        version=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        os=_system(),
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=machine.cpu,
        cores=machine.cores,
        cores_total=machine.cores_total,
        memory=machine.memory,
        gpus=machine.gpus or _gpus_of(nvidia / "gpus"),
        gpu_driver=machine.gpu_driver or module_version(nvidia / "version"),
        packages={name: versions[name] for name in _TOLD if name in versions},
        extras=tuple(
            extra
            for extra in EXTRAS
            if extra not in _UNTOLD and requirements(extra) and not shortfall(requirements(extra), versions)[0]
        ),
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        version = platform.mac_ver()[0] or platform.version()
        return f"{platform.system()} {version}"


def _gpus_of(folder: Path) -> tuple[str, ...]:
    """Names of the GPUs as NVIDIA's kernel module shows them, for where nvidia-ml-py is not installed."""
    try:
        found = [first_pairs(gpu / "information").get("Model") for gpu in sorted(folder.iterdir())]
    except OSError:
        return ()
    return tuple(name for name in found if name)
