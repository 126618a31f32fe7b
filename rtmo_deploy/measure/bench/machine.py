"""What a time was measured on, how busy it was, and what a reader should be warned of."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.gpu import merge_states, read_gpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.bench.gpu import GpuState

#: Flags of a processor that decide which kernels run on it.
_KERNEL_FLAGS = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512", "amx", "asimd", "sve", "i8mm", "bf16")
#: Settings of the environment that change how many threads there are.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")
#: Share of the cores that others may take before a reader is warned.
BUSY_SHARE = 0.15
#: Share of the time that a hypervisor may take away.
STEAL_SHARE = 0.02
#: Of a GPU's highest clock.
LOW_CLOCK = 0.8


@dataclass(frozen=True)
class Machine:
    """The machine; only what does not change while it runs.

    Attributes:
        cpu: Name of the processor.
        flags: Those of its flags that decide which kernels run on it.
        cores: Logical cores that this process may use.
        cores_total: Logical cores there are.
        memory: Bytes; None where the system does not tell.
        system: Operating system and architecture.
        governor: Of the processor's frequency; None where it cannot be read, as in most virtual machines.
        gpus: Names, in NVML's order.
        gpu_driver: Version of the driver.
        environment: Settings that change the number of threads.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    cores_total: int
    memory: int | None
    system: str
    governor: str | None
    gpus: tuple[str, ...] = ()
    gpu_driver: str | None = None
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same for machines whose times can be compared: processor, flags, usable cores and GPUs."""
        facts = [self.cpu, list(self.flags), self.cores, list(self.gpus)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **asdict(self),
            "flags": list(self.flags),
            "gpus": list(self.gpus),
            "environment": dict(self.environment),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class Load:
    """How busy the machine was; None for what the system does not tell.

    Attributes:
        average: Load average of the last minute before the first worker started.
        busy: Share of all cores that others used, in a moment before the first worker started.
        steal: Share of the whole run's core time that a hypervisor gave to others.
        gpus: Each GPU over the run.
    """

    average: float | None
    busy: float | None
    steal: float | None
    gpus: tuple[GpuState, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "average": self.average,
            "busy": self.busy,
            "steal": self.steal,
            "gpus": [gpu.to_dict() for gpu in self.gpus],
        }


def read_machine(root: Path = Path("/")) -> Machine:
    """Look at this machine.

    Args:
        root: Where ``proc`` and ``sys`` are; another one in tests.
    """
    cpuinfo = _cpuinfo(root)
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    gpus = read_gpus()
    total = os.cpu_count() or 1
    return Machine(
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine() or "unknown",
        flags=tuple(sorted(flag for flag in set(flags) if flag.startswith(_KERNEL_FLAGS))),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total,
        cores_total=total,
        memory=_memory(root),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_driver=gpus[0].driver if gpus else None,
        environment=tuple((name, os.environ[name]) for name in _VARIABLES if name in os.environ),
    )


class MachineWatch:
    """Watches the machine through a run: made before the first worker, looked through after each round.

    Args:
        root: Where ``proc`` is; another one in tests.
        sleep: Waits the moment in which others are watched.
    """

    def __init__(self, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> None:
        self._root = root
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        before = read_ticks(root)
        if before is not None:
            sleep(0.3)
        self._start = read_ticks(root)
        self._busy = _share(before, self._start, lambda t: t.busy)
        self._seen: list[tuple[GpuState, ...]] = []
        self.look()

    def look(self) -> None:
        """Take the GPUs' state down."""
        self._seen.append(read_gpus())

    def load(self) -> Load:
        """What was seen so far."""
        steal = _share(self._start, read_ticks(self._root), lambda t: t.steal)
        rows = zip(*self._seen, strict=True) if len({len(seen) for seen in self._seen}) == 1 else ()
        return Load(self._average, self._busy, steal, tuple(merge_states(states) for states in rows))


def warnings_of(machine: Machine, load: Load, device: str) -> list[str]:
    """What makes the times less than they could be, in sentences."""
    found = []
    if load.busy is not None and load.busy > BUSY_SHARE:
        found.append(
            f"Before the run others used {load.busy:.0%} of the cores; the times hold for a machine as busy as that."
        )
    elif load.busy is None and load.average is not None and load.average > BUSY_SHARE * machine.cores_total:
        found.append(f"The load average was {load.average:.1f} before the run, on {machine.cores_total} cores.")
    if load.steal is not None and load.steal > STEAL_SHARE:
        found.append(f"A hypervisor took {load.steal:.0%} of the core time away during the run.")
    if machine.governor not in {None, "performance"}:
        found.append(f"The processor's frequency governor is '{machine.governor}', not 'performance'.")
    if device != "cpu":
        index = int(device.partition(":")[2] or 0)
        if not load.gpus:
            found.append(
                "The GPU's clocks, temperature and throttling are not known: there is no driver, or "
                "nvidia-ml-py is not installed: pip install nvidia-ml-py"
            )
        found += [text for gpu in load.gpus if gpu.index == index for text in _gpu_warnings(gpu)]
    return found


def _gpu_warnings(gpu: GpuState) -> list[str]:
    found = []
    slowed = gpu.slowed_by()
    if slowed:
        found.append(f"{gpu.name} was throttled: {', '.join(slowed)}.")
    if gpu.clock_mhz is not None and gpu.clock_max_mhz and gpu.clock_mhz < LOW_CLOCK * gpu.clock_max_mhz:
        found.append(f"{gpu.name} was seen at {gpu.clock_mhz} MHz; it can do {gpu.clock_max_mhz}.")
    return found


@dataclass(frozen=True)
class Ticks:
    """Core time since the start, in clock ticks, of all cores together; ``busy`` includes ``steal``."""

    total: int
    busy: int
    steal: int


def read_ticks(root: Path) -> Ticks | None:
    """Core time since the start, from ``/proc/stat``: user nice system idle iowait irq softirq steal."""
    text = _read(root / "proc/stat")
    if text is None or not text.startswith("cpu "):
        return None
    try:
        numbers = [int(part) for part in text.splitlines()[0].split()[1:9]]
    except ValueError:
        return None
    if len(numbers) < 8:
        return None
    return Ticks(sum(numbers), sum(numbers) - numbers[3] - numbers[4], numbers[7])


def _share(before: Ticks | None, after: Ticks | None, of: Callable[[Ticks], int]) -> float | None:
    if before is None or after is None or after.total <= before.total:
        return None
    return (of(after) - of(before)) / (after.total - before.total)


def _cpuinfo(root: Path) -> dict[str, str]:
    """Of the first core."""
    text = (_read(root / "proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory(root: Path) -> int | None:
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal" and value.split()[:1] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
