"""Is it slower than it was? A result against an earlier one, and a verdict that is never given without a measurement.

On the same machine (processor, usable cores, GPUs) times are compared. On another one only ratios to the same reference
are, because a time says more of the machine than of the model. What differs in kind, precision, runtime, protocol or
case is not compared at all, and a comparison in which nothing could be compared has not been passed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.measure.bench.baseline_file import SAME_CONTENDER, case_of, key_of
from rtmo_deploy.measure.bench.clock import DRAW
from rtmo_deploy.measure.bench.statistics import Ratio, independent_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class RowVerdict:
    """One contender in one case against the baseline.

    Attributes:
        label, case: Which.
        how: ``times`` or ``ratios to the reference``; None where it was not compared.
        change: How many times as long it takes as in the baseline; None where it was not compared.
        slower: It is slower by more than the bound, and beyond the noise.
        reason: Why it was not compared; empty where it was.
        stage: Where it is slower, and that was measured on the same machine: the stage that grew most; else empty.
        stage_ms: By how many milliseconds that grew, in the median.
    """

    label: str
    case: dict[str, Any]
    how: str | None
    change: Ratio | None
    slower: bool
    reason: str = ""
    stage: str = ""
    stage_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class BaselineReport:
    """A whole result against a baseline.

    Attributes:
        file: The baseline.
        max_slowdown: The bound, a share.
        rows: Every contender in every case.
        same_machine: Whether the two machines are alike.
        notes: What the reader should know.
    """

    file: str
    max_slowdown: float
    rows: tuple[RowVerdict, ...]
    same_machine: bool
    notes: tuple[str, ...]

    @property
    def slower(self) -> list[RowVerdict]:
        """What became too slow."""
        return [row for row in self.rows if row.slower]

    @property
    def compared(self) -> list[RowVerdict]:
        """What could be compared."""
        return [row for row in self.rows if row.how is not None]

    @property
    def verdict(self) -> str:
        """``passed``, ``slower`` or ``not measured``."""
        if self.slower:
            return "slower"
        return "passed" if self.compared else "not measured"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "file": self.file,
            "max_slowdown": self.max_slowdown,
            "verdict": self.verdict,
            "same_machine": self.same_machine,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }


def compare_with_baseline(
    result: Mapping[str, Any], baseline: Mapping[str, Any], max_slowdown: float, *, file: str = "baseline"
) -> BaselineReport:
    """Judge a result by an earlier one.

    Args:
        result: What :meth:`BenchResult.to_dict` gives.
        baseline: What :func:`load_baseline` gives.
        max_slowdown: Share by which something may be slower, such as 0.05. It counts as slower only if the whole
            95 % interval of the change lies beyond that.
        file: What the baseline is called.
    """
    same_machine = result["machine"]["fingerprint"] == baseline["machine"]["fingerprint"]
    before = {key_of(entry): entry for entry in baseline["entries"]}
    references = [
        {case_of(entry): entry for entry in document["entries"] if entry["contender"]["reference"]}
        for document in (result, baseline)
    ]
    rows = []
    for entry in result["entries"]:
        old = before.get(key_of(entry))
        if entry["contender"]["reference"] and not same_machine:
            continue  # it is what the others are set against
        label, case = entry["contender"]["label"], entry["case"]
        reason = _difference(entry, old) or _busy(entry, old)
        if not reason and not same_machine:
            reason = _reference_difference(references[0].get(case_of(entry)), references[1].get(case_of(entry)))
        if reason or old is None:
            rows.append(RowVerdict(label, case, None, None, slower=False, reason=reason))
            continue
        if same_machine:
            how, change = "times", independent_ratio(entry["rounds_ms"], old["rounds_ms"])
        else:
            how = "ratios to the reference"
            change = _change_of_ratios(entry, references[0][case_of(entry)], old, references[1][case_of(entry)])
        change = change.widened(max(_lost(entry), _lost(old)))
        slower = change.low is not None and change.low > 1 + max_slowdown
        if change.low is None:
            rows.append(RowVerdict(label, case, None, change, slower=False, reason="one round tells nothing of noise"))
            continue
        stage, grown = _grown(entry, old) if slower and same_machine else ("", None)
        rows.append(RowVerdict(label, case, how, change, slower, stage=stage, stage_ms=grown))
    notes = _notes(result, baseline, rows, same_machine=same_machine)
    return BaselineReport(file, max_slowdown, tuple(rows), same_machine, tuple(notes))


def _grown(entry: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[str, float | None]:
    """The stage whose median grew most, and by how much; drawing is no part of what is compared."""
    before = old.get("stages_ms", {})
    growth = {
        name: now["p50"] - before[name]["p50"]
        for name, now in entry["stages_ms"].items()
        if name != DRAW and isinstance(before.get(name, {}).get("p50"), int | float)
    }
    stage = max(growth, key=lambda name: growth[name], default="")
    return (stage, round(growth[stage], 6)) if stage and growth[stage] > 0 else ("", None)


def _change_of_ratios(
    entry: Mapping[str, Any], reference: Mapping[str, Any], old: Mapping[str, Any], old_reference: Mapping[str, Any]
) -> Ratio:
    def by_round(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
        pairs = zip(one["rounds_ms"], other["rounds_ms"], strict=False)
        return [mine / theirs for mine, theirs in pairs]

    return independent_ratio(by_round(entry, reference), by_round(old, old_reference))


def _busy(entry: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Why a time on a busy machine is not compared; empty if neither was."""
    for document, when in ((entry, "now"), (old or {}, "then")):
        if document and "interference" not in document:
            return f"how busy the machine was {when} is not known"
        reasons = document.get("interference", {}).get("busy", ())
        if reasons:
            return f"machine busy {when}: {'; '.join(reasons)}"
    return ""


def _lost(entry: Mapping[str, Any]) -> float:
    return float(entry.get("interference", {}).get("lost", 0.0))


def _difference(entry: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Why two entries are not of the same thing; empty if they are."""
    if old is None:
        return "not in the baseline"
    for name in SAME_CONTENDER:
        now, then = entry["contender"][name], old["contender"][name]
        if now != then:
            return f"another {name}: {then} then, {now} now"
    now, then = entry["contender"]["decode"]["mode"], old["contender"]["decode"]["mode"]
    return "" if now == then else f"another decode mode: {then} then, {now} now"


def _reference_difference(reference: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> str:
    """Why ratios to the reference cannot be compared across machines."""
    if reference is None or old is None:
        return "another machine, and no reference on both to take ratios to"
    if reference["contender"]["label"] != old["contender"]["label"]:
        return "another machine, and another reference"
    difference = _difference(reference, old)
    return f"another machine, and of the reference {difference}" if difference else ""


def _notes(
    result: Mapping[str, Any], baseline: Mapping[str, Any], rows: list[RowVerdict], *, same_machine: bool
) -> list[str]:
    notes = []
    if not same_machine:
        notes.append(
            f"The baseline was measured on another machine ({baseline['machine'].get('cpu', 'unknown')}; "
            f"fingerprint {baseline['machine']['fingerprint']}): only ratios to the reference are compared."
        )
    elif any(row.slower for row in rows):
        drift = _drift(result, baseline)
        if drift is not None and drift.low is not None and drift.low > 1:
            notes.append(f"The reference itself takes {drift} times as long as in the baseline.")
    here = {key_of(entry) for entry in result["entries"]}
    gone = [entry for entry in baseline["entries"] if key_of(entry) not in here]
    if gone:
        names = ", ".join(dict.fromkeys(entry["contender"]["label"] for entry in gone))
        notes.append(f"In the baseline and not measured now: {names}.")
    return notes


def _drift(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> Ratio | None:
    """How the reference changed, over the cases that both have."""
    now, then = (
        {key_of(entry): entry["rounds_ms"] for entry in document["entries"] if entry["contender"]["reference"]}
        for document in (result, baseline)
    )
    shared = [key for key in now if key in then]
    if not shared:
        return None
    return independent_ratio(
        [value for key in shared for value in now[key]], [value for key in shared for value in then[key]]
    )
