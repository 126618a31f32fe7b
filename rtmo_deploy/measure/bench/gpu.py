"""What NVIDIA's management library tells of a GPU: clocks, power, temperature, and why it is slower than it could be.

Through nvidia-ml-py (``pynvml``), which is optional; without it nothing is known, and that is what the result says.
Where this was written there was no GPU: it is tested against a stand-in of that library.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Bits of the mask of reasons (NVML's ``nvmlClocksEventReasons``; the numbers are part of its ABI).
THROTTLE_REASONS = {
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
SLOWING = frozenset(
    {"power cap", "hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"}
)


@dataclass(frozen=True)
class GpuState:
    """A GPU at a moment, or over a time; None for what it does not tell.

    Attributes:
        index: As NVML counts.
        name: Such as ``NVIDIA H200``.
        driver: Version of the driver.
        clock_mhz: Clock of the multiprocessors; over a time the lowest.
        clock_max_mhz: The highest it can have.
        memory_clock_mhz: Clock of the memory.
        temperature_c: Over a time the highest.
        power_w, power_limit_w: Watts drawn (over a time the most), and allowed.
        utilisation: Percent of the last moments in which it worked.
        memory_used: Bytes in use by everybody; over a time the most.
        reasons: Why its clock is not higher.
    """

    index: int
    name: str
    driver: str | None = None
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation: int | None = None
    memory_used: int | None = None
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "reasons": list(self.reasons)}

    def slowed_by(self) -> list[str]:
        """Reasons that make a measurement slower than the GPU could be."""
        return [reason for reason in self.reasons if reason in SLOWING]


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
        driver = _asked(nvml, nvml.nvmlSystemGetDriverVersion)
        return tuple(_read(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, index: int, driver: Any) -> GpuState:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        return _asked(nvml, function, handle, *arguments)

    power, limit = ask(nvml.nvmlDeviceGetPowerUsage), ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
    memory, rates = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetUtilizationRates)
    mask = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
    return GpuState(
        index,
        _text(ask(nvml.nvmlDeviceGetName)) or "unknown",
        _text(driver),
        clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
        clock_max_mhz=ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        utilisation=None if rates is None else int(rates.gpu),
        memory_used=None if memory is None else int(memory.used),
        reasons=tuple(name for bit, name in THROTTLE_REASONS.items() if mask & bit),
    )


def _asked(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, None where this GPU does not support it."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def merge_states(states: Sequence[GpuState]) -> GpuState:
    """One GPU over a time: the worst of what was seen.

    Args:
        states: At least one, of the same GPU.
    """

    def over(choose: Callable[[list[Any]], Any], name: str) -> Any:
        known = [value for value in (getattr(state, name) for state in states) if value is not None]
        return choose(known) if known else None

    reasons = [reason for state in states for reason in state.reasons]
    return replace(
        states[-1],
        clock_mhz=over(min, "clock_mhz"),
        temperature_c=over(max, "temperature_c"),
        power_w=over(max, "power_w"),
        utilisation=over(max, "utilisation"),
        memory_used=over(max, "memory_used"),
        reasons=tuple(dict.fromkeys(reasons)),
    )
