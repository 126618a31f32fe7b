"""Reads what a machine is and how busy it is: processor, memory, load, and the GPUs through NVML.

NVML needs nvidia-ml-py (``pynvml``), which is optional; without it nothing is known of the GPUs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rtmo_deploy.files import human_size
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Flags of a processor that decide which kernels run on it.
_KERNEL_FLAGS = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512", "amx", "asimd", "sve", "i8mm", "bf16")
#: Settings of the environment that change how many threads there are.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")
#: Bounds of a warning: share of the cores that others used, share of the time that a hypervisor took, share of a GPU's
#: highest clock.
_BUSY_SHARE, _STEAL_SHARE, _LOW_CLOCK = 0.15, 0.02, 0.8
#: Bits of NVML's ``nvmlClocksEventReasons``, whose numbers are part of its ABI.
_THROTTLE_REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
    0x100: "display clocks",
}
#: Those that make a measurement slower than the GPU could be.
_SLOWING = {"power cap", "hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"}


@dataclass(frozen=True)
class GpuState:
    """A GPU at a moment, or over a time; None for what it does not tell."""

    index: int
    name: str
    driver: str | None = None
    #: Clock of the multiprocessors; over a time the lowest.
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    #: Over a time the highest, as the power.
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    #: Percent of the last moments in which it worked.
    utilisation: int | None = None
    #: Bytes in use by everybody; over a time the most.
    memory_used: int | None = None
    #: Why its clock is not higher.
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """The machine; only what does not change while it runs."""

    cpu: str
    #: Those that decide which kernels run on the processor.
    flags: tuple[str, ...]
    #: Logical cores that this process may use, and that there are.
    cores: int
    cores_total: int
    #: Bytes; None where the system does not tell.
    memory: int | None
    system: str
    #: Of the processor's frequency; None where it cannot be read, as in most virtual machines.
    governor: str | None
    gpus: tuple[str, ...] = ()
    gpu_driver: str | None = None
    #: Settings that change the number of threads.
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The same for machines whose times can be compared: processor, flags, usable cores and GPUs."""
        facts = [self.cpu, list(self.flags), self.cores, list(self.gpus)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with the fingerprint."""
        return {**{name: plain(value) for name, value in vars(self).items()}, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class Load:
    """How busy the machine was; None for what the system does not tell."""

    #: Load average of the last minute before the first worker started.
    average: float | None
    #: Share of all cores that others used, in a moment before the first worker started.
    busy: float | None
    #: Share of the whole run's core time that a hypervisor gave to others.
    steal: float | None
    #: Each GPU over the run.
    gpus: tuple[GpuState, ...] = ()


class Ticks(NamedTuple):
    """Core time since the start, in clock ticks, of all cores together; ``busy`` includes ``steal``."""

    total: int
    busy: int
    steal: int

    def since(self, before: Ticks) -> Ticks:
        """The time between the two."""
        return Ticks(*(after - then for after, then in zip(self, before, strict=True)))


class MachineWatch:
    """Watches the machine through a run; made before the first worker. ``root`` and ``sleep`` are others in tests."""

    def __init__(self, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep) -> None:
        self._root = root
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        before = read_ticks(root)
        if before is not None:
            sleep(0.3)
        self._start = read_ticks(root)
        self._busy = None
        if before is not None and self._start is not None and self._start.total > before.total:
            moment = self._start.since(before)
            self._busy = moment.busy / moment.total
        self._seen: list[tuple[GpuState, ...]] = []
        self.look()

    def look(self) -> None:
        """Read the GPUs' state, as after each round."""
        self._seen.append(read_gpus())

    def load(self) -> Load:
        """What was seen so far."""
        now, steal = read_ticks(self._root), None
        if self._start is not None and now is not None and now.total > self._start.total:
            run = now.since(self._start)
            steal = run.steal / run.total
        rows = zip(*self._seen, strict=True) if len({len(seen) for seen in self._seen}) == 1 else ()
        return Load(self._average, self._busy, steal, tuple(merge_states(states) for states in rows))


def read_machine(root: Path = Path("/")) -> Machine:
    """Look at this machine; ``proc`` and ``sys`` are in ``root``."""
    cpu, flags = read_cpu(root)
    memory = first_pairs(root / "proc/meminfo").get("MemTotal", "").partition(" ")[0]  # KiB
    gpus = read_gpus()
    return Machine(
        cpu=cpu,
        flags=flags,
        cores=usable_cores(),
        cores_total=os.cpu_count() or 1,
        memory=int(memory) * 1024 if memory.isdecimal() else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_driver=gpus[0].driver if gpus else None,
        environment={name: os.environ[name] for name in _VARIABLES if name in os.environ},
    )


def read_cpu(root: Path = Path("/")) -> tuple[str, tuple[str, ...]]:
    """The processor's name, and those of its flags that decide which kernels run on it, sorted."""
    cpuinfo = first_pairs(root / "proc/cpuinfo")
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    name = cpuinfo.get("model name") or platform.processor() or platform.machine() or "unknown"
    return name, tuple(sorted(flag for flag in flags if flag.startswith(_KERNEL_FLAGS)))


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ticks(root: Path = Path("/")) -> Ticks | None:
    """Core time since the start, from ``/proc/stat``: user nice system idle iowait irq softirq steal."""
    words = (_read(root / "proc/stat") or "").partition("\n")[0].split()[:9]
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdecimal() for word in words[1:]):
        return None
    numbers = [int(word) for word in words[1:]]
    return Ticks(sum(numbers), sum(numbers) - numbers[3] - numbers[4], numbers[7])


def first_pairs(file: Path) -> dict[str, str]:
    """``name: value`` lines of the first paragraph."""
    lines = (_read(file) or "").split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def module_version(file: Path) -> str | None:
    """``NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun May ...`` -> ``580.65.06``."""
    words = first_pairs(file).get("NVRM version", "").split()
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def described_cpu(name: str, cores: int | None, cores_total: int | None, memory: int | None) -> str:
    """``AMD EPYC 7B13, 2 of 8 cores, 31.4 GiB of memory``; the memory is in bytes."""
    text = f"{name}, {cores} of {cores_total} cores" if cores != cores_total else f"{name}, {cores} cores"
    return f"{text}, {human_size(memory)} of memory" if memory else text


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def gpu_of(device: str, gpus: Sequence[GpuState] | None = None) -> GpuState | None:
    """The GPU ``cuda:N``, among ``gpus`` or those seen now; None for ``cpu``, and where NVML does not know it."""
    if device == "cpu":
        return None
    index = int(device.partition(":")[2] or 0)
    return next((gpu for gpu in (read_gpus() if gpus is None else gpus) if gpu.index == index), None)


def read_gpus() -> tuple[GpuState, ...]:
    """Every GPU of this machine; none where there is no driver, or no nvidia-ml-py."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        driver = _ask(nvml, "nvmlSystemGetDriverVersion")
        return tuple(_read_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    finally:
        nvml.nvmlShutdown()


def _read_gpu(nvml: Any, index: int, driver: str | None) -> GpuState:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(what: str, *arguments: Any) -> Any:
        return _ask(nvml, f"nvmlDeviceGet{what}", handle, *arguments)

    power, limit = ask("PowerUsage"), ask("EnforcedPowerLimit")
    memory, rates = ask("MemoryInfo"), ask("UtilizationRates")
    mask = ask("CurrentClocksThrottleReasons") or 0
    return GpuState(
        index,
        ask("Name") or "unknown",
        driver,
        clock_mhz=ask("ClockInfo", nvml.NVML_CLOCK_SM),
        clock_max_mhz=ask("MaxClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask("ClockInfo", nvml.NVML_CLOCK_MEM),
        temperature_c=ask("Temperature", nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        utilisation=None if rates is None else int(rates.gpu),
        memory_used=None if memory is None else int(memory.used),
        reasons=tuple(name for bit, name in _THROTTLE_REASONS.items() if mask & bit),
    )


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """What a call of NVML gives, bytes as text; None where this GPU does not support it."""
    try:
        value = getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def merge_states(states: Sequence[GpuState]) -> GpuState:
    """One GPU over a time: the worst of what was seen, at least once."""

    def over(choose: Callable[[list[Any]], Any], name: str) -> Any:
        known = [value for value in (getattr(state, name) for state in states) if value is not None]
        return choose(known) if known else None

    return replace(
        states[-1],
        clock_mhz=over(min, "clock_mhz"),
        **{name: over(max, name) for name in ("temperature_c", "power_w", "utilisation", "memory_used")},
        reasons=tuple(dict.fromkeys(reason for state in states for reason in state.reasons)),
    )


def warnings_of(machine: Machine, load: Load, device: str) -> list[str]:
    """What makes the times longer than they could be, in sentences."""
    found = []
    if load.busy is not None and load.busy > _BUSY_SHARE:
        found.append(
            f"Before the run others used {load.busy:.0%} of the cores; the times hold for a machine as busy as that."
        )
    elif load.busy is None and load.average is not None and load.average > _BUSY_SHARE * machine.cores_total:
        found.append(f"The load average was {load.average:.1f} before the run, on {machine.cores_total} cores.")
    if load.steal is not None and load.steal > _STEAL_SHARE:
        found.append(f"A hypervisor took {load.steal:.0%} of the core time away during the run.")
    if machine.governor not in {None, "performance"}:
        found.append(f"The processor's frequency governor is '{machine.governor}', not 'performance'.")
    if device != "cpu" and not load.gpus:
        found.append(
            "The GPU's clocks, temperature and throttling are not known: there is no driver, or nvidia-ml-py is not "
            "installed: pip install nvidia-ml-py"
        )
    gpu = gpu_of(device, load.gpus)
    if gpu is not None:
        slowing = [reason for reason in gpu.reasons if reason in _SLOWING]
        if slowing:
            found.append(f"{gpu.name} was throttled: {', '.join(slowing)}.")
        if gpu.clock_mhz is not None and gpu.clock_max_mhz and gpu.clock_mhz < _LOW_CLOCK * gpu.clock_max_mhz:
            found.append(f"{gpu.name} was seen at {gpu.clock_mhz} MHz; it can do {gpu.clock_max_mhz}.")
    return found
