"""Runs a benchmark: contenders take turns, and their answers become a result.

Contenders take turns, A B A B, a round each, so that a machine that becomes slower becomes slower for all of them. Each
lives in a process of its own, which waits for its next command while the others run.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import temporary_folder
from rtmo_deploy.machine import MachineWatch, gpu_of, read_machine, warnings_of
from rtmo_deploy.measure.bench.interference import Observer
from rtmo_deploy.measure.bench.options import V100_ITERATIONS, V100_WARMUP, BenchOptions, Case, Contender, Protocol
from rtmo_deploy.measure.bench.plan import image_sets, plan_contenders
from rtmo_deploy.measure.bench.result import BenchResult, Entry, Opened, published_latency, with_ratios
from rtmo_deploy.measure.bench.statistics import Summary
from rtmo_deploy.measure.bench.worker import WorkerProcess
from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.clock import NETWORK, STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rtmo_deploy.measure.bench.plan import ImageSet
    from rtmo_deploy.measure.bench.result import PublishedLatency

    Answer = dict[str, Any]


def run_bench(
    options: BenchOptions,
    *,
    start: Callable[[Contender], WorkerProcess] = WorkerProcess,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure.

    Args:
        options: What is asked for.
        start: Starts a worker for a contender.
        progress: Told of each step.

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
    contenders, batches, notes = plan_contenders(options)
    entries: list[Entry] = []
    with temporary_folder() as folder:
        sets: list[ImageSet] = []
        for case in [Case(batch, threads) for batch in batches for threads in options.threads]:
            with contextlib.ExitStack() as stack:
                seats = []
                for contender in contenders:
                    progress(f"opening {contender.label}")
                    placed = replace(contender, batch=case.batch, threads=case.threads)
                    seats.append(_Seat(placed, options, start, stack))
                _require_one_size([seat.opened for seat in seats])
                if not sets:  # only now: models that cannot be opened should be told first
                    progress("preparing images")
                    sets = image_sets(options, folder)
                entries += _measure(seats, sets, case, options, watch, progress)
    load = watch.load()
    warnings = [*notes, *warnings_of(machine, load, options.device), *_notes(entries, sets, options)]
    published: dict[str, PublishedLatency] = {}
    if options.protocol is Protocol.V100:
        figures = {entry.label: _published(entry.opened) for entry in entries}
        published = {label: figure for label, figure in figures.items() if figure is not None}
    return BenchResult(options, machine, load, tuple(sets), with_ratios(entries), tuple(warnings), started, published)


class _Seat:
    """A contender whose process is alive.

    ``device_memory`` is the bytes of its GPU that opening and warming up took; None without one.
    """

    def __init__(
        self,
        contender: Contender,
        options: BenchOptions,
        start: Callable[[Contender], WorkerProcess],
        stack: contextlib.ExitStack,
    ) -> None:
        self._options, self._used_before = options, _device_used(contender.device)
        self._worker = start(contender)
        stack.callback(self._worker.close)
        opening = {"command": "open", "contender": plain(contender)}
        answer = self._worker.ask(opening, timeout_s=options.timeout_s)
        self.opened = Opened(
            contender, *(answer[name] for name in ("artifact", "sha256", "facts", "versions", "open_s"))
        )
        self.device_memory: int | None = None

    def warm(self, sets: Sequence[ImageSet]) -> None:
        """Unmeasured calls."""
        calls = V100_WARMUP if self._options.protocol is Protocol.V100 else None
        for images in sets:
            self._ask("warm", images, self._options.warmup_s, calls)
        before, after = self._used_before, _device_used(self.opened.contender.device)
        self.device_memory = None if before is None or after is None else max(after - before, 0)

    def measure(self, images: ImageSet, turn: int, rounds: int) -> Answer:
        """A round; all rounds begin with the same image for every contender."""
        calls = None
        if self._options.protocol is Protocol.V100:  # so that all rounds together have that many
            calls = V100_ITERATIONS * (turn + 1) // rounds - V100_ITERATIONS * turn // rounds
        first = turn * self.opened.contender.batch
        return self._ask("measure", images, self._options.seconds / rounds, calls, first)

    def _ask(self, command: str, images: ImageSet, seconds: float, calls: int | None, start: int = 0) -> Answer:
        asked = {
            "command": command,
            "pictures": [str(path) for path in images.paths],
            "whole": self._options.protocol is Protocol.E2E,
            "seconds": seconds,
            "calls": calls,
            "start": start,
        }
        return self._worker.ask(asked, timeout_s=self._options.timeout_s + 3 * seconds)


def _measure(
    seats: Sequence[_Seat],
    sets: Sequence[ImageSet],
    base: Case,
    options: BenchOptions,
    watch: MachineWatch,
    progress: Callable[[str], None],
) -> list[Entry]:
    """Warm up, and then round by round let each contender have its turn with each set of images."""
    for seat in seats:
        progress(f"warming up {seat.opened.contender.label} ({base})")
        seat.warm(sets)
    rounds = min(options.rounds, V100_ITERATIONS) if options.protocol is Protocol.V100 else options.rounds
    answers: list[list[list[Answer]]] = [[[] for _ in seats] for _ in sets]
    observers = [Observer() for _ in sets]
    for turn in range(rounds):
        progress(Count(f"measuring {base}, rounds", turn, rounds))
        for images, row, observer in zip(sets, answers, observers, strict=True):
            for seat, given in zip(seats, row, strict=True):
                observer.begin()
                answer = seat.measure(images, turn, rounds)
                observer.end(answer)
                given.append(answer)
        watch.look()
    entries = []
    for images, row, observer in zip(sets, answers, observers, strict=True):
        case, interference = replace(base, people=images.people), observer.result()
        found = [{image: count for answer in given for image, count in answer["found"].items()} for given in row]
        shared = set.intersection(*map(set, found))
        for seat, given, counts in zip(seats, row, found, strict=True):
            mean = statistics.fmean(counts[image] for image in shared or counts)
            entries.append(replace(_entry(seat, case, given), found=mean, interference=interference))
    return entries


def _entry(seat: _Seat, case: Case, answers: Sequence[Answer]) -> Entry:
    stages = {
        name: Summary.of([time for answer in answers for time in answer["stages"][name]])
        for name in sorted(answers[0]["stages"], key=STAGES.index)
    }
    return Entry(
        seat.opened,
        case,
        stages,
        Summary.of([time for answer in answers for time in answer["totals"]]),
        tuple(statistics.median(answer["totals"]) for answer in answers),
        memory=answers[-1]["memory"],
        device_memory=seat.device_memory,
    )


def _require_one_size(opened: Sequence[Opened]) -> None:
    sizes = {tuple(one.facts["input_hw"]): one.contender.label for one in opened}
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


def _is_emulated(entry: Entry) -> bool:
    artifact, facts = entry.opened.artifact, entry.opened.facts
    on_cpu = facts["backend"] in {"onnxruntime", "openvino"} and facts["device"] == "cpu"
    return on_cpu and artifact.get("target") not in {None, facts["backend"]}


def _notes(entries: Sequence[Entry], sets: Sequence[ImageSet], options: BenchOptions) -> list[str]:
    few = [one for one in sets if options.images is None and len(one.paths) < options.pictures]
    notes = [f"Only {len(one.paths)} images with {one.people} people could be made." for one in few]
    if options.protocol is Protocol.V100:
        if options.images is None:
            notes.append("The images are synthetic ones, not photographs: --images DIR measures with real ones.")
        raw = dict.fromkeys(entry.label for entry in entries if list(entry.stages) == [NETWORK])
        notes += [f"{label} is a raw graph: no suppression is inside its figure." for label in raw]
    cases: dict[Case, list[Entry]] = {}
    for entry in entries:
        cases.setdefault(entry.case, []).append(entry)
    for case, rivals in cases.items():
        reasons = rivals[0].interference.reasons
        if reasons:
            notes.append(
                f"The machine was busy ({case}): {'; '.join(reasons)}. The times are those of a busy machine, and no "
                "ratio is given. Measure again when nothing else runs."
            )
    told = {one.label: one.opened.artifact["target"] for one in entries if _is_emulated(one)}
    notes += [
        f"{name} was quantised for {runtime}: its 8 bits are computed in float32." for name, runtime in told.items()
    ]
    if any(entry.interference.others is None for entry in entries):
        notes.append(
            "What other processes used was not measured: the system does not tell, or the turns were too short. Only a "
            "spin loop between the turns watched for interference."
        )
    if options.rounds == 1 and len(entries) > 1:
        notes.append("One round gives no interval.")
    for case, rivals in cases.items():
        least, most = min(one.found for one in rivals), max(one.found for one in rivals)
        if most - least > 0.02 * max(most, 1):
            notes.append(
                "The contenders found different numbers of people in the same images "
                f"({case}: {least:.2f} to {most:.2f} in an image), so they did not do the same work."
            )
    return notes


def _published(opened: Opened) -> PublishedLatency | None:
    name = opened.facts.get("device_name")
    if name is None and (gpu := gpu_of(opened.facts["device"])) is not None:
        name = gpu.name
    return published_latency(opened.artifact, opened.facts, name)
