"""Runs a benchmark: who meets whom, in which order, and what is made of it.

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
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.machine import MachineWatch, gpu_of, read_machine, warnings_of
from rtmo_deploy.measure.bench.images import image_sets
from rtmo_deploy.measure.bench.interference import Observer
from rtmo_deploy.measure.bench.options import V100_ITERATIONS, V100_WARMUP, BenchOptions, Case, Contender, Protocol
from rtmo_deploy.measure.bench.plan import plan_contenders
from rtmo_deploy.measure.bench.result import BenchResult, Entry, Opened, published_latency, with_ratios
from rtmo_deploy.measure.bench.statistics import Summary
from rtmo_deploy.measure.bench.worker import start_worker
from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.clock import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtmo_deploy.measure.bench.images import ImageSet
    from rtmo_deploy.measure.bench.result import PublishedLatency
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
        InputDataError: The images cannot be used.
        RtmoDeployError: A worker crashed or hung.
    """
    if not options.models:
        raise UsageError("There is no model to measure.", remedy="Name one or more.")
    started = datetime.now(UTC).isoformat(timespec="seconds")
    progress("looking at the machine")
    machine, watch = read_machine(), MachineWatch()
    plan = plan_contenders(options)
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="rtmo-bench-") as folder:
        sets: list[ImageSet] = []
        for case in [Case(batch, threads) for batch in plan.batches for threads in options.threads]:
            with contextlib.ExitStack() as stack:
                seats = []
                for contender in plan.of(case.batch, case.threads):
                    progress(f"opening {contender.label}")
                    seats.append(_open(contender, options, start, stack))
                _require_one_size(seats)
                if not sets:  # only now: models that cannot be opened should be told first
                    progress("preparing images")
                    sets = image_sets(options, Path(folder))
                entries += _measure(options, seats, sets, case, watch, progress, observe)
    load = watch.load()
    warnings = [*plan.notes, *warnings_of(machine, load, options.device), *_notes(entries, sets, options)]
    published: dict[str, PublishedLatency] = {}
    if options.protocol is Protocol.V100:
        figures = {entry.label: _published(entry) for entry in entries}
        published = {label: figure for label, figure in figures.items() if figure is not None}
    return BenchResult(options, machine, load, tuple(sets), with_ratios(entries), tuple(warnings), started, published)


@dataclass
class _Seat:
    """A contender whose process is alive, and the bytes of the GPU that it took."""

    worker: WorkerProcess
    opened: Opened
    device_memory: int | None


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


def _open(
    contender: Contender,
    options: BenchOptions,
    start: Callable[[Contender], WorkerProcess],
    stack: contextlib.ExitStack,
) -> _Seat:
    before = _device_used(contender.device)
    worker = start(contender)
    stack.callback(worker.close)
    answer = worker.ask({"command": "open", "contender": plain(contender)}, timeout_s=options.timeout_s)
    opened = Opened(contender, *(answer[name] for name in ("artifact", "sha256", "facts", "versions", "open_s")))
    return _Seat(worker, opened, before)


def _measure(
    options: BenchOptions,
    seats: Sequence[_Seat],
    sets: Sequence[ImageSet],
    base: Case,
    watch: MachineWatch,
    progress: Callable[[str], None],
    observe: Callable[[], Observer],
) -> list[Entry]:
    """Warm up, and then round by round let each contender have its turn with each set of images."""
    v100 = options.protocol is Protocol.V100

    def ask(
        seat: _Seat, command: str, images: ImageSet, seconds: float, calls: int | None, start: int = 0
    ) -> dict[str, Any]:
        asked = {
            "command": command,
            "pictures": [str(path) for path in images.paths],
            "whole": not v100,
            "seconds": seconds,
            "calls": calls,
            "start": start,
        }
        return seat.worker.ask(asked, timeout_s=options.timeout_s + 3 * seconds)

    for seat in seats:
        progress(f"warming up {seat.opened.contender.label} ({base})")
        for images in sets:
            ask(seat, "warm", images, options.warmup_s, V100_WARMUP if v100 else None)
        before, after = seat.device_memory, _device_used(seat.opened.contender.device)
        seat.device_memory = None if before is None or after is None else max(after - before, 0)
    rounds = min(options.rounds, V100_ITERATIONS) if v100 else options.rounds
    tallies = [[_Tally() for _ in seats] for _ in sets]
    observers = [observe() for _ in sets]
    for turn in range(rounds):
        progress(Count(f"measuring {base}, rounds", turn, rounds))
        calls = _share_of(V100_ITERATIONS, rounds, turn) if v100 else None
        for images, row, observer in zip(sets, tallies, observers, strict=True):
            for seat, tally in zip(seats, row, strict=True):
                observer.begin()
                answer = ask(seat, "measure", images, options.seconds / rounds, calls, turn * base.batch)
                observer.end(answer)
                tally.add(answer)
        watch.look()
    entries = []
    for images, row, observer in zip(sets, tallies, observers, strict=True):
        case, seen = replace(base, people=images.people), _seen_by_all(row)
        for seat, tally in zip(seats, row, strict=True):
            entry = _entry(seat, case, tally, seen)
            entries.append(replace(entry, interference=observer.result()))
    return entries


def _entry(seat: _Seat, case: Case, tally: _Tally, seen: Sequence[str]) -> Entry:
    names = sorted(tally.stages, key=STAGES.index)
    return Entry(
        seat.opened,
        case,
        {name: Summary.of(tally.stages[name]) for name in names},
        Summary.of(tally.totals),
        tuple(tally.rounds),
        statistics.fmean(tally.found[image] for image in seen or tally.found),
        tally.memory,
        seat.device_memory,
    )


def _seen_by_all(tallies: Sequence[_Tally]) -> list[str]:
    """The images that every contender has seen: what they found is compared on these."""
    seen = [tally.found for tally in tallies]
    return [image for image in seen[0] if all(image in other for other in seen)]


def _share_of(whole: int, parts: int, number: int) -> int:
    """Calls in one round, so that all rounds together have ``whole``."""
    return whole * (number + 1) // parts - whole * number // parts


def _require_one_size(seats: Sequence[_Seat]) -> None:
    sizes = {tuple(seat.opened.facts["input_hw"]): seat.opened.contender.label for seat in seats}
    if len(sizes) > 1:
        named = "; ".join(f"{label} takes {size[0]}x{size[1]}" for size, label in sizes.items())
        raise UsageError(
            f"These models would be measured on images of different sizes: {named}.",
            remedy="Give --imgsz H W, or measure them one by one.",
        )


def _device_used(device: str) -> int | None:
    """Bytes of a GPU's memory that are in use by everybody."""
    gpu = gpu_of(device)
    return None if gpu is None else gpu.memory_used


def _notes(entries: Sequence[Entry], sets: Sequence[ImageSet], options: BenchOptions) -> list[str]:
    few = [one for one in sets if options.images is None and len(one.paths) < options.pictures]
    notes = [f"Only {len(one.paths)} images with {one.people} people could be made." for one in few]
    if options.protocol is Protocol.V100:
        if options.images is None:
            notes.append("The images are synthetic ones, not photographs: --images DIR measures with real ones.")
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
    found: dict[Case, list[float]] = {}
    for entry in entries:
        found.setdefault(entry.case, []).append(entry.found)
    for case, numbers in found.items():
        if max(numbers) - min(numbers) > 0.02 * max(*numbers, 1):
            spread = f"{min(numbers):.2f} to {max(numbers):.2f}"
            notes.append(
                f"The contenders found different numbers of people in the same images ({case}: {spread} in an image), "
                "so they did not do the same work."
            )
    return notes


def _published(entry: Entry) -> PublishedLatency | None:
    facts = entry.opened.facts
    name = facts.get("device_name")
    if name is None and (gpu := gpu_of(facts["device"])) is not None:
        name = gpu.name
    return published_latency(entry.opened.artifact, facts, name)
