"""What came out of a benchmark: records that go to JSON, and that tables, charts and gates are made from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.interference import Interference
from rtmo_deploy.measure.bench.statistics import Ratio, Summary, paired_ratio
from rtmo_deploy.plain import plain
from rtmo_deploy.zoo import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.machine import Load, Machine
    from rtmo_deploy.measure.bench.options import BenchOptions, Case, Contender
    from rtmo_deploy.measure.bench.plan import ImageSet

#: Version of the form that :meth:`BenchResult.to_dict` writes.
RESULT_VERSION = 2
#: Conditions of upstream's published latencies.
CONDITIONS = "one V100, ONNX Runtime, batch 1; what is inside the number was never stated"


@dataclass(frozen=True)
class Opened:
    """A contender as its worker found it."""

    contender: Contender
    #: The artifact, JSON-ready.
    artifact: Mapping[str, Any]
    sha256: str
    #: Runtime, device, input size, threads, settings.
    facts: Mapping[str, Any]
    #: Of packages, in the worker.
    versions: Mapping[str, str]
    #: Seconds that opening took.
    open_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: what tells this contender from another one."""
        known = ("kind", "architecture", "variant", "precision", "decode")
        return {
            "label": self.contender.label,
            "model": self.contender.model,
            "sha256": self.sha256,
            **{name: self.artifact[name] for name in known},
            "reference": self.contender.reference,
            "compiled": self.contender.compiled,
            "open_s": round(self.open_s, 3),
            **self.facts,
        }


@dataclass(frozen=True)
class Entry:
    """One contender in one case."""

    opened: Opened
    case: Case
    #: Milliseconds a call, by stage, in the pipeline's order.
    stages: Mapping[str, Summary]
    #: Milliseconds a call from the file to the poses, without drawing; with ``v100`` of the network.
    total: Summary
    #: Median of the total in each round, milliseconds.
    rounds: tuple[float, ...]
    #: Instances found in an image, on average over the images that every contender of the case has seen.
    found: float = 0.0
    #: Most bytes the process had; None where the system does not tell.
    memory: int | None = None
    #: Bytes by which the GPU's used memory grew when it was opened and warmed up; None without one.
    device_memory: int | None = None
    #: Times as long as the reference in the same case; None for the reference itself, and on a busy machine.
    ratio: Ratio | None = None
    #: What disturbed the case.
    interference: Interference = field(default_factory=Interference)

    @property
    def label(self) -> str:
        """The contender's."""
        return self.opened.contender.label

    @property
    def throughput(self) -> float:
        """Images a second, one call after the other."""
        return 1000 * self.case.batch / self.total.mean

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "contender": self.opened.to_dict(),
            "versions": plain(self.opened.versions),
            "case": plain(self.case),
            "stages_ms": plain(self.stages),
            "total_ms": plain(self.total),
            "rounds_ms": [round(value, 6) for value in self.rounds],
            "throughput": round(self.throughput, 4),
            "found": round(self.found, 4),
            "memory": self.memory,
            "device_memory": self.device_memory,
            "ratio": plain(self.ratio),
            "interference": self.interference.to_dict(),
        }


@dataclass(frozen=True)
class PublishedLatency:
    """A published figure and whether it can be compared with a measured one."""

    #: Whose figure it is: the published checkpoint, or its architecture.
    model: str
    latency_ms: float
    conditions: str
    #: Whether the measurement was on a V100 too, and what else differs.
    same_hardware: bool
    differences: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether measured and published figure may be set against each other."""
        return self.same_hardware and not self.differences

    def verdict(self) -> str:
        """One sentence for the reader."""
        if self.comparable:
            return "the same hardware"
        parts = [] if self.same_hardware else ["other hardware"]
        return f"not comparable: {'; '.join((*parts, *self.differences))}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**vars(self), "differences": list(self.differences), "comparable": self.comparable}


@dataclass(frozen=True)
class BenchResult:
    """A benchmark."""

    options: BenchOptions
    machine: Machine
    #: How busy the machine was.
    load: Load
    pictures: tuple[ImageSet, ...]
    #: Every contender in every case, case by case, the reference first.
    entries: tuple[Entry, ...]
    #: What a reader should know before believing a number.
    warnings: tuple[str, ...]
    #: When, UTC, ISO 8601.
    started: str
    #: For ``v100``: the published figure of each contender that has one, by label.
    published: Mapping[str, PublishedLatency] = field(default_factory=dict)

    @property
    def reference(self) -> str | None:
        """Label of what the others are compared with; None where there is one contender only."""
        return next((entry.label for entry in self.entries if entry.opened.contender.reference), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        head = {"result_version": RESULT_VERSION, "protocol": self.options.protocol.value, "reference": self.reference}
        return {**head, **{name: plain(value) for name, value in vars(self).items()}}


def with_ratios(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The same entries, each with its ratio to the reference of its case, but for cases on a busy machine."""
    references = {entry.case: entry for entry in entries if entry.opened.contender.reference}
    result = []
    for entry in entries:
        reference = references.get(entry.case)
        if reference is not None and reference is not entry and not entry.interference.reasons:
            ratio = paired_ratio(entry.rounds, reference.rounds)
            entry = replace(entry, ratio=ratio.widened(entry.interference.lost))
        result.append(entry)
    return tuple(result)


def published_latency(
    artifact: Mapping[str, Any], facts: Mapping[str, Any], device_name: str | None
) -> PublishedLatency | None:
    """The published figure for a model, or None where there is none."""
    own = VARIANTS.get(artifact["variant"] or "")
    alike = [one for one in VARIANTS.values() if one.architecture.name == artifact["architecture"]]
    variant = next((one for one in (own, *alike) if one is not None and one.latency_v100_ms), None)
    if variant is None or variant.latency_v100_ms is None or len(artifact["skeleton"]["keypoints"]) != 17:
        return None
    height, width = facts["input_hw"]
    different = {
        f"the input is {height}x{width}": (height, width) != variant.input_hw,
        f"the runtime is {facts['backend']}": facts["backend"] != "onnxruntime",
        f"the precision is {artifact['precision']}": artifact["precision"] != "fp32",
        "a raw graph has no suppression inside": artifact["kind"] == "onnx" and artifact["decode"]["mode"] == "raw",
    }
    return PublishedLatency(
        variant.name if variant is own else variant.architecture.name,
        variant.latency_v100_ms,
        CONDITIONS,
        same_hardware=device_name is not None and "V100" in device_name,
        differences=tuple(text for text, differs in different.items() if differs),
    )
