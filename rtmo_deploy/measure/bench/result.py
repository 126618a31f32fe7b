"""What came out of a benchmark: records that go to JSON, and that tables, plots and gates are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.interference import Interference
from rtmo_deploy.measure.bench.statistics import Ratio, Summary, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.measure.bench.machine import Load, Machine
    from rtmo_deploy.measure.bench.options import BenchOptions, Case, Contender
    from rtmo_deploy.measure.bench.pictures import PictureSet
    from rtmo_deploy.measure.bench.published import PublishedLatency

#: Version of the form that :meth:`BenchResult.to_dict` writes.
RESULT_VERSION = 2


@dataclass(frozen=True)
class Opened:
    """A contender as its worker found it.

    Attributes:
        contender: What was asked for.
        artifact: What the file knows of itself, JSON-ready.
        sha256: Of the file.
        facts: Runtime, device, input size, threads, settings.
        versions: Of packages, in the worker.
        open_s: Seconds that opening took.
    """

    contender: Contender
    artifact: Mapping[str, Any]
    sha256: str
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    open_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: what tells this contender from another one."""
        artifact = self.artifact
        return {
            "label": self.contender.label,
            "model": self.contender.model,
            "sha256": self.sha256,
            "kind": artifact["kind"],
            "architecture": artifact["architecture"],
            "variant": artifact["variant"],
            "precision": artifact["precision"],
            "decode": artifact["decode"],
            "reference": self.contender.reference,
            "compiled": self.contender.compiled,
            "open_s": round(self.open_s, 3),
            **self.facts,
        }


@dataclass(frozen=True)
class Entry:
    """One contender in one case.

    Attributes:
        opened: The contender.
        case: The case.
        stages: Milliseconds a call, by stage, in the pipeline's order.
        total: Milliseconds a call from the file to the poses, without drawing; with ``v100`` of the network.
        rounds: Median of the total in each round, milliseconds.
        found: People found in a picture, on average over the pictures that every contender of the case has seen.
        memory: Most bytes the process had; None where the system does not tell.
        device_memory: Bytes by which the GPU's used memory grew when it was opened and warmed up; None without one.
        ratio: Times as long as the reference in the same case; None for the reference itself, and on a busy machine.
        interference: What disturbed the case.
    """

    opened: Opened
    case: Case
    stages: Mapping[str, Summary]
    total: Summary
    rounds: tuple[float, ...]
    found: float
    memory: int | None = None
    device_memory: int | None = None
    ratio: Ratio | None = None
    interference: Interference = field(default_factory=Interference)

    @property
    def label(self) -> str:
        """The contender's."""
        return self.opened.contender.label

    @property
    def throughput(self) -> float:
        """Pictures a second, one call after the other."""
        return 1000 * self.case.batch / self.total.mean

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "contender": self.opened.to_dict(),
            "versions": dict(self.opened.versions),
            "case": self.case.to_dict(),
            "stages_ms": {name: summary.to_dict() for name, summary in self.stages.items()},
            "total_ms": self.total.to_dict(),
            "rounds_ms": [round(value, 6) for value in self.rounds],
            "throughput": round(self.throughput, 4),
            "found": round(self.found, 4),
            "memory": self.memory,
            "device_memory": self.device_memory,
            "ratio": None if self.ratio is None else self.ratio.to_dict(),
            "interference": self.interference.to_dict(),
        }


@dataclass(frozen=True)
class BenchResult:
    """A benchmark.

    Attributes:
        options: What was asked for.
        machine: What it ran on.
        load: How busy that was.
        pictures: What was looked at.
        entries: Every contender in every case, case by case, the reference first.
        warnings: What a reader should know before believing a number.
        published: For ``v100``: the published figure of each contender that has one, by label.
        started: When, UTC, ISO 8601.
    """

    options: BenchOptions
    machine: Machine
    load: Load
    pictures: tuple[PictureSet, ...]
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]
    started: str
    published: Mapping[str, PublishedLatency] = field(default_factory=dict)

    @property
    def reference(self) -> str | None:
        """Label of what the others are compared with; None where there is one contender only."""
        return next((entry.label for entry in self.entries if entry.opened.contender.reference), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "result_version": RESULT_VERSION,
            "started": self.started,
            "protocol": self.options.protocol.value,
            "options": self.options.to_dict(),
            "machine": self.machine.to_dict(),
            "load": self.load.to_dict(),
            "pictures": [one.to_dict() for one in self.pictures],
            "reference": self.reference,
            "entries": [entry.to_dict() for entry in self.entries],
            "published": {label: figure.to_dict() for label, figure in self.published.items()},
            "warnings": list(self.warnings),
        }


def with_ratios(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The same entries, each with its ratio to the reference of its case, but for cases on a busy machine."""
    from dataclasses import replace

    references = {entry.case: entry for entry in entries if entry.opened.contender.reference}
    result = []
    for entry in entries:
        reference = references.get(entry.case)
        if reference is not None and reference is not entry and not entry.interference.reasons:
            ratio = paired_ratio(entry.rounds, reference.rounds)
            entry = replace(entry, ratio=ratio.widened(entry.interference.lost))
        result.append(entry)
    return tuple(result)
