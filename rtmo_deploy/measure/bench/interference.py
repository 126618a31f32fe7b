"""Measures how much other work disturbed a benchmark, and whether its ratios can still be believed.

Around every turn it reads the system's core time less the contender's own, the core time that a hypervisor took, and
involuntary context switches; between the turns it times a fixed piece of work on every core.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.machine import Ticks, read_ticks, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Shown in place of a ratio.
BUSY: Final = "not measured: machine busy"
#: Bounds: share of all cores' time that other processes used; share that a hypervisor gave to others; share of the spin
#: loop's time in which it waited for a core; 90th percentile of the spin loop's time over its 10th, less one;
#: involuntary context switches of the contenders, a second of their core time, where others used more than ``SOME``:
#: with less, a contender's own threads are more than the cores, as OpenCV's beside those of the runtime.
OTHERS: Final = 0.08
SOME: Final = 0.03
STEAL: Final = 0.02
WAITING: Final = 0.08
SPREAD: Final = 0.35
SWITCHES: Final = 100.0
#: Spin loops below which their spread says nothing; own core seconds below which switches and shares say nothing.
MIN_SPINS: Final = 5
MIN_SECONDS: Final = 0.2
#: Most threads that spin.
MAX_THREADS: Final = 16
_WORK: Final = bytes(2 << 20)


@dataclass(frozen=True)
class Interference:
    """What disturbed a case, measured as the bounds above say; None for what the system does not tell."""

    others: float | None = None
    steal: float | None = None
    waiting: float | None = None
    spread: float | None = None
    switches: float | None = None

    @property
    def reasons(self) -> list[str]:
        """Why the machine counts as busy, each with its bound; empty if it does not."""
        alone = self.others is not None and self.others <= SOME
        told = (
            (self.others, OTHERS, "other processes used {:.0%} of the cores (bound {:.0%})"),
            (self.steal, STEAL, "a hypervisor took {:.0%} of the cores' time (bound {:.0%})"),
            (self.waiting, WAITING, "a spin loop waited for a core in {:.0%} of its time (bound {:.0%})"),
            (self.spread, SPREAD, "a spin loop's time varied by {:.0%} (bound {:.0%})"),
            (None if alone else self.switches, SWITCHES, "{:.0f} involuntary context switches a second (bound {:.0f})"),
        )
        return [text.format(value, bound) for value, bound, text in told if value is not None and not value <= bound]

    @property
    def lost(self) -> float:
        """Share of the time that the disturbance may explain at most, by which intervals are widened.

        Others that take a share of the cores may hold up a contender with as many threads as cores by twice that.
        """
        return min(0.5, 2 * (self.others or 0.0) + 2 * (self.steal or 0.0) + (self.waiting or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with ``lost`` and the reasons (``busy``)."""
        values = {name: None if value is None else round(value, 4) for name, value in vars(self).items()}
        return {**values, "lost": round(self.lost, 4), "busy": self.reasons}


class Observer:
    """Sums up what is seen around the turns of one case; ``ticks`` and ``probe`` are others in tests."""

    def __init__(
        self,
        ticks: Callable[[], Ticks | None] = read_ticks,
        probe: Callable[[], list[tuple[float, float | None]]] | None = None,
    ) -> None:
        self._ticks, self._probe = ticks, probe or spin
        self._before: Ticks | None = None
        #: Ticks of the turns, and core seconds of the contenders in them.
        self._turns: list[tuple[Ticks, float]] = []
        self._switches: list[int | None] = []
        self._spins: list[tuple[float, float | None]] = []

    def begin(self) -> None:
        """Before a turn."""
        self._spins += self._probe()
        self._before = self._ticks()

    def end(self, answer: Mapping[str, Any]) -> None:
        """After it, with the worker's answer: ``cpu_s`` and ``switches`` of its own."""
        after, cpu = self._ticks(), answer.get("cpu_s")
        self._switches.append(answer.get("switches"))
        if self._before is not None and after is not None and cpu is not None:
            self._turns.append((after.since(self._before), float(cpu)))

    def result(self) -> Interference:
        """What was seen so far."""
        others = steal = switches = None
        total, busy, stolen = (sum(ticks[place] for ticks, _ in self._turns) for place in range(3))
        own = sum(cpu for _, cpu in self._turns)
        tick = 1 / (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
        if total * tick >= MIN_SECONDS:
            # A system that counts less than the contender's own time tells nothing.
            free = ((busy - stolen) * tick - own) / (total * tick)
            others, steal = (max(0.0, free), stolen / total) if free > -0.1 else (None, None)
        counts = [count for count in self._switches if count is not None]
        if own >= MIN_SECONDS and len(counts) == len(self._switches):
            switches = sum(counts) / own
        return Interference(others, steal, *self._spun(), switches)

    def _spun(self) -> tuple[float | None, float | None]:
        if len(self._spins) < MIN_SPINS:
            return None, None
        walls = np.array([wall for wall, _ in self._spins])
        own = [cpu for _, cpu in self._spins if cpu is not None]
        waiting = max(0.0, 1 - sum(own) / float(walls.sum())) if len(own) == len(walls) else None
        low, high = np.percentile(walls, (10, 90))
        return waiting, float(high / low - 1)


def spin() -> list[tuple[float, float | None]]:
    """Hash a fixed block on every usable core at once; seconds and core seconds of each thread.

    The hash releases the interpreter's lock. Core seconds are None where the system counts them too coarsely.
    """
    fine = time.get_clock_info("thread_time").resolution < 1e-4
    found: list[tuple[float, float | None]] = []

    def work() -> None:
        started, before = time.perf_counter(), time.thread_time() if fine else None
        hashlib.sha256(_WORK).digest()
        used = None if before is None else time.thread_time() - before
        found.append((time.perf_counter() - started, used))

    threads = [Thread(target=work) for _ in range(min(usable_cores(), MAX_THREADS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
