"""Tells how much other work disturbed a measurement, and whether its ratios can still be believed.

Observed around every turn: the system's core time less the contender's own, core time that a hypervisor took away,
involuntary context switches; and between the turns a fixed piece of work on every core.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.machine import read_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rtmo_deploy.machine import Ticks

#: What a ratio that is not given says instead.
BUSY: Final = "not measured: machine busy"
#: Bounds: share of all cores that others used; share that a hypervisor took; share of the spin loop's time spent
#: waiting for a core; 90th percentile of the spin loop over its 10th, less one; switches a second of own core time.
OTHERS: Final = 0.08
STEAL: Final = 0.02
WAITING: Final = 0.08
SPREAD: Final = 0.35
SWITCHES: Final = 100.0
#: Spin loops below which their spread says nothing; own core seconds below which switches and shares say nothing.
LEAST_SPINS: Final = 5
LEAST_SECONDS: Final = 0.2
#: Most threads that spin.
MOST_THREADS: Final = 16
_WORK: Final = bytes(2 << 20)


@dataclass(frozen=True)
class Interference:
    """What disturbed a case; None for what the system does not tell."""

    #: Share of all cores' time that other processes used.
    others: float | None = None
    #: Share of all cores' time that a hypervisor gave to others.
    steal: float | None = None
    #: Share of the spin loop's time in which it waited for a core.
    waiting: float | None = None
    #: The spin loop's 90th percentile over its 10th, less one.
    spread: float | None = None
    #: Involuntary context switches of the contenders, a second of their core time.
    switches: float | None = None

    @property
    def reasons(self) -> list[str]:
        """Why the machine counts as busy, each with its bound; empty if it does not."""
        told = (
            (self.others, OTHERS, "other processes used {:.0%} of the cores (bound {:.0%})"),
            (self.steal, STEAL, "a hypervisor took {:.0%} of the cores' time (bound {:.0%})"),
            (self.waiting, WAITING, "a spin loop waited for a core in {:.0%} of its time (bound {:.0%})"),
            (self.spread, SPREAD, "a spin loop's time varied by {:.0%} (bound {:.0%})"),
            (self.switches, SWITCHES, "{:.0f} involuntary context switches a second (bound {:.0f})"),
        )
        return [text.format(value, bound) for value, bound, text in told if value is not None and not value <= bound]

    @property
    def lost(self) -> float:
        """Share of the time that the disturbance may explain at most, by which intervals are widened.

        Others that take a share of the cores may hold up a contender with as many threads as cores by twice that.
        """
        return min(0.5, 2 * (self.others or 0.0) + 2 * (self.steal or 0.0) + (self.waiting or 0.0))

    @property
    def observed(self) -> bool:
        """Whether the system tells what others do."""
        return self.others is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with ``lost`` and the reasons (``busy``)."""
        values = {name: None if value is None else round(value, 4) for name, value in vars(self).items()}
        return {**values, "lost": round(self.lost, 4), "busy": self.reasons}


class Observer:
    """Sums up what is seen around the turns of one case.

    Args:
        ticks: Reads the system's core time; another one in tests.
        probe: Does a fixed piece of work on every core and gives (seconds, core seconds) of each thread.
    """

    def __init__(
        self,
        ticks: Callable[[], Ticks | None] = lambda: read_ticks(Path("/")),
        probe: Callable[[], list[tuple[float, float | None]]] | None = None,
    ) -> None:
        self._ticks, self._probe = ticks, probe or spin
        self._before: Ticks | None = None
        self._total = self._busy = self._steal = self._switches = 0
        self._own = 0.0
        self._counted = True
        self._spins: list[tuple[float, float | None]] = []

    def begin(self) -> None:
        """Before a turn."""
        self._spins += self._probe()
        self._before = self._ticks()

    def end(self, answer: Mapping[str, Any]) -> None:
        """After it, with what the worker answered: ``cpu_s`` and ``switches`` of its own."""
        after, cpu = self._ticks(), answer.get("cpu_s")
        if answer.get("switches") is None:
            self._counted = False
        else:
            self._switches += int(answer["switches"])
        if self._before is None or after is None or cpu is None:
            return
        self._total += after.total - self._before.total
        self._busy += after.busy - self._before.busy - (after.steal - self._before.steal)
        self._steal += after.steal - self._before.steal
        self._own += float(cpu)

    def result(self) -> Interference:
        """What was seen so far."""
        others = steal = None
        seconds = _seconds(self._total)
        if seconds >= LEAST_SECONDS:
            # A system that counts less than the contender's own time tells nothing.
            free = (_seconds(self._busy) - self._own) / seconds
            others, steal = (max(0.0, free), self._steal / self._total) if free > -0.1 else (None, None)
        switches = self._switches / self._own if self._counted and self._own >= LEAST_SECONDS else None
        waiting, spread = self._spun()
        return Interference(others, steal, waiting, spread, switches)

    def _spun(self) -> tuple[float | None, float | None]:
        if len(self._spins) < LEAST_SPINS:
            return None, None
        walls = np.array([wall for wall, _ in self._spins])
        own = [cpu for _, cpu in self._spins if cpu is not None]
        waiting = max(0.0, 1 - sum(own) / float(walls.sum())) if len(own) == len(walls) else None
        low, high = np.percentile(walls, (10, 90))
        return waiting, float(high / low - 1)


def spin() -> list[tuple[float, float | None]]:
    """Hash a fixed block on every usable core at once; seconds and core seconds of each thread.

    The hash lets go of the interpreter's lock. Core seconds are None where the system counts them too coarsely.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fine = time.get_clock_info("thread_time").resolution < 1e-4
    found: list[tuple[float, float | None]] = []

    def work() -> None:
        started, before = time.perf_counter(), time.thread_time() if fine else None
        hashlib.sha256(_WORK).digest()
        used = None if before is None else time.thread_time() - before
        found.append((time.perf_counter() - started, used))

    threads = [Thread(target=work) for _ in range(min(usable, MOST_THREADS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _seconds(ticks: float) -> float:
    return ticks / (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
