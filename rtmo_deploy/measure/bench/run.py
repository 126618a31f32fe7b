"""The benchmark itself: who meets whom, in which order, and what is made of it.

Contenders take turns, A B A B, a round each, so that a machine that becomes slower becomes slower for all of them. Each
lives in a process of its own and is blocked on a pipe while the others run.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.clock import STAGES
from rtmo_deploy.measure.bench.gpu import read_gpus
from rtmo_deploy.measure.bench.interference import Observer
from rtmo_deploy.measure.bench.machine import MachineWatch, read_machine, warnings_of
from rtmo_deploy.measure.bench.options import V100_ITERATIONS, V100_WARMUP, BenchOptions, Case, Contender, Protocol
from rtmo_deploy.measure.bench.pictures import picture_sets
from rtmo_deploy.measure.bench.plan import plan_contenders
from rtmo_deploy.measure.bench.published import published_latency
from rtmo_deploy.measure.bench.result import BenchResult, Entry, Opened, with_ratios
from rtmo_deploy.measure.bench.statistics import Summary
from rtmo_deploy.measure.bench.worker import start_worker
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtmo_deploy.measure.bench.interference import Interference
    from rtmo_deploy.measure.bench.pictures import PictureSet
    from rtmo_deploy.measure.bench.published import PublishedLatency
    from rtmo_deploy.measure.bench.worker import WorkerProcess


def run_bench(
    options: BenchOptions,
    *,
    start: Callable[[Contender], WorkerProcess] = start_worker,
    progress: Callable[[str], None] = lambda _: None,
    observe: Callable[[], Observer] = Observer,
) -> BenchResult:
    """Measure.

    Args:
        options: What is asked for.
        start: Starts a worker for a contender.
        progress: Told of each step.
        observe: Makes what watches the machine through a case.

    Raises:
        UsageError: The models cannot be compared as asked, or one does not take the size or the batch.
        ModelError: A model cannot be used.
        SetupError: A package or the device is missing. A CPU is never taken in a GPU's place.
        InputDataError: The pictures cannot be used.
        RtmoDeployError: A worker crashed or hung.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    progress("looking at the machine")
    machine, watch = read_machine(), MachineWatch()
    plan = plan_contenders(options)
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="rtmo-bench-") as folder:
        sets: list[PictureSet] = []
        for batch in plan.batches:
            for threads in options.threads:
                with _Group(options, plan.of(batch, threads), start, progress, observe) as group:
                    if not sets:  # only now: models that cannot be opened should be told first
                        progress("preparing pictures")
                        sets = picture_sets(options, Path(folder))
                    entries += group.measure(sets, Case(batch, threads), watch)
    load = watch.load()
    warnings = [*plan.notes, *warnings_of(machine, load, options.device), *_notes(entries, sets, options)]
    result = BenchResult(options, machine, load, tuple(sets), with_ratios(entries), tuple(warnings), started)
    if options.protocol is Protocol.V100:
        figures = {entry.label: _published(entry) for entry in entries}
        result = replace(result, published={label: one for label, one in figures.items() if one is not None})
    return result


@dataclass
class _Tally:
    """What one contender gave in one case so far."""

    stages: dict[str, list[float]] = field(default_factory=dict)
    totals: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    memory: int | None = None

    def add(self, answer: dict[str, Any]) -> None:
        for name, times in answer["stages"].items():
            self.stages.setdefault(name, []).extend(times)
        self.totals += answer["totals"]
        self.rounds.append(statistics.median(answer["totals"]))
        self.found |= answer["found"]
        self.memory = answer["memory"]


class _Group:
    """The contenders that run with one batch size and one number of threads, alive at the same time."""

    def __init__(
        self,
        options: BenchOptions,
        contenders: Sequence[Contender],
        start: Callable[[Contender], WorkerProcess],
        progress: Callable[[str], None],
        observe: Callable[[], Observer],
    ) -> None:
        self._options = options
        self._contenders = contenders
        self._start = start
        self._progress = progress
        self._observe = observe
        self._stack = contextlib.ExitStack()
        self._workers: list[WorkerProcess] = []
        self._opened: list[Opened] = []
        self._device_memory: list[int | None] = []

    def __enter__(self) -> Self:
        try:
            for contender in self._contenders:
                self._progress(f"opening {contender.label}")
                before = _device_used(contender.device)
                worker = self._start(contender)
                self._stack.callback(worker.close)
                self._workers.append(worker)
                self._opened.append(self._open(worker, contender))
                self._device_memory.append(before)
            _require_one_size(self._opened)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, worker: WorkerProcess, contender: Contender) -> Opened:
        command = {"command": "open", "contender": contender.to_dict()}
        answer = worker.ask(command, timeout_s=self._options.patience_s)
        return Opened(
            contender, answer["artifact"], answer["sha256"], answer["facts"], answer["versions"], answer["open_s"]
        )

    def measure(self, sets: Sequence[PictureSet], base: Case, watch: MachineWatch) -> list[Entry]:
        """Warm up, and then round by round let each contender have its turn with each set of pictures."""
        options, v100 = self._options, self._options.protocol is Protocol.V100
        tallies = [[_Tally() for _ in self._workers] for _ in sets]
        for number, worker in enumerate(self._workers):
            self._progress(f"warming up {self._contenders[number].label} ({base})")
            for pictures in sets:
                self._ask(worker, "warm", pictures, options.warmup_s, V100_WARMUP if v100 else None)
            self._device_memory[number] = _growth(self._device_memory[number], self._contenders[number].device)
        rounds = min(options.rounds, V100_ITERATIONS) if v100 else options.rounds
        observers = [self._observe() for _ in sets]
        for turn in range(rounds):
            self._progress(Count(f"measuring {base}, rounds", turn, rounds))
            calls = _share_of(V100_ITERATIONS, rounds, turn) if v100 else None
            for pictures, row, observer in zip(sets, tallies, observers, strict=True):
                for worker, tally in zip(self._workers, row, strict=True):
                    share, first = options.seconds / rounds, turn * base.batch
                    observer.begin()
                    answer = self._ask(worker, "measure", pictures, share, calls, start=first)
                    observer.end(answer)
                    tally.add(answer)
            watch.look()
        return [
            self._entry(number, replace(base, people=pictures.people), tally, _seen_by_all(row), observer.result())
            for pictures, row, observer in zip(sets, tallies, observers, strict=True)
            for number, tally in enumerate(row)
        ]

    def _ask(
        self,
        worker: WorkerProcess,
        command: str,
        pictures: PictureSet,
        seconds: float,
        calls: int | None,
        *,
        start: int = 0,
    ) -> dict[str, Any]:
        asked = {
            "command": command,
            "pictures": [str(path) for path in pictures.paths],
            "whole": self._options.protocol is Protocol.E2E,
            "seconds": seconds,
            "calls": calls,
            "start": start,
        }
        return worker.ask(asked, timeout_s=self._options.patience_s + 3 * seconds)

    def _entry(self, number: int, case: Case, tally: _Tally, seen: Sequence[str], interference: Interference) -> Entry:
        order = {name: place for place, name in enumerate(STAGES)}
        names = sorted(tally.stages, key=lambda name: order.get(name, len(order)))
        return Entry(
            self._opened[number],
            case,
            {name: Summary.of(tally.stages[name]) for name in names},
            Summary.of(tally.totals),
            tuple(tally.rounds),
            statistics.fmean(tally.found[picture] for picture in seen or tally.found),
            tally.memory,
            self._device_memory[number],
            interference=interference,
        )


def _seen_by_all(tallies: Sequence[_Tally]) -> list[str]:
    """The pictures that every contender has seen: whom they found is compared on these."""
    seen = [tally.found for tally in tallies]
    return [picture for picture in seen[0] if all(picture in other for other in seen)]


def _share_of(whole: int, parts: int, number: int) -> int:
    """Calls in one round, so that all rounds together have ``whole``."""
    return whole * (number + 1) // parts - whole * number // parts


def _require_one_size(opened: Sequence[Opened]) -> None:
    sizes = {tuple(one.facts["input_hw"]): one.contender.label for one in opened}
    if len(sizes) > 1:
        named = "; ".join(f"{label} takes {size[0]}x{size[1]}" for size, label in sizes.items())
        raise UsageError(
            f"These models would be measured on pictures of different sizes: {named}.",
            remedy="Give --imgsz H W, or measure them one by one.",
        )


def _device_used(device: str) -> int | None:
    """Bytes of a GPU's memory that are in use by everybody."""
    if device == "cpu":
        return None
    index = int(device.partition(":")[2] or 0)
    return next((gpu.memory_used for gpu in read_gpus() if gpu.index == index), None)


def _growth(before: int | None, device: str) -> int | None:
    after = _device_used(device)
    return None if before is None or after is None else max(after - before, 0)


def _notes(entries: Sequence[Entry], sets: Sequence[PictureSet], options: BenchOptions) -> list[str]:
    few = [one for one in sets if options.images is None and len(one.paths) < options.pictures]
    notes = [f"Only {len(one.paths)} pictures with {one.people} people could be drawn." for one in few]
    if options.protocol is Protocol.V100:
        if options.images is None:
            notes.append("The pictures are drawn ones, not photographs: --images DIR measures with real ones.")
        raw = [entry.label for entry in entries if list(entry.stages) == ["network"]]
        notes += [f"{label} is a raw graph: no suppression is inside its figure." for label in dict.fromkeys(raw)]
    for case, entry in {entry.case: entry for entry in entries}.items():
        if entry.interference.reasons:
            notes.append(
                f"The machine was busy ({case}): {'; '.join(entry.interference.reasons)}. The times are those of a "
                "busy machine, and no ratio is given. Measure again when nothing else runs."
            )
    if entries and not all(entry.interference.observed for entry in entries):
        notes.append(
            "What other processes used was not measured: the system does not tell, or the turns were too short. Only a "
            "spin loop between the turns watched for interference."
        )
    if options.rounds == 1 and len(entries) > 1:
        notes.append("One round gives no interval.")
    for case, numbers in _people_found(entries).items():
        if max(numbers) - min(numbers) > 0.02 * max(*numbers, 1):
            spread = f"{min(numbers):.2f} to {max(numbers):.2f}"
            notes.append(
                f"The contenders found different numbers of people in the same pictures ({case}: {spread} in a "
                "picture), so they did not do the same work."
            )
    return notes


def _people_found(entries: Sequence[Entry]) -> dict[Case, list[float]]:
    found: dict[Case, list[float]] = {}
    for entry in entries:
        found.setdefault(entry.case, []).append(entry.found)
    return found


def _published(entry: Entry) -> PublishedLatency | None:
    facts = entry.opened.facts
    name = facts.get("device_name")
    if name is None and facts["device"] != "cpu":
        index = int(facts["device"].partition(":")[2] or 0)
        name = next((gpu.name for gpu in read_gpus() if gpu.index == index), None)
    return published_latency(entry.opened.artifact, facts, name)
