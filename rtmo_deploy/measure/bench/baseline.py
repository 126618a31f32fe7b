"""Compares a result with an earlier one: is it slower than it was? No verdict is given without a measurement.

On the same machine (processor, usable cores, GPUs) times are compared. On another one only ratios to the same reference
are, because a time says more of the machine than of the model. What differs in kind, precision, runtime, protocol or
case is not compared at all, and a comparison in which nothing could be compared has not been passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.result import RESULT_VERSION
from rtmo_deploy.measure.bench.statistics import Ratio, independent_ratio
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.measure.bench.options import BenchOptions

#: Bytes of a baseline.
MAX_BYTES = 2**28
#: Options that must be the same for any number to be compared, and what of a contender.
SAME_OPTIONS = ("device", "images", "picture_hw", "spinning")
SAME_CONTENDER = ("kind", "architecture", "precision", "backend", "device", "compiled", "input_hw")


def load_baseline(path: Path) -> dict[str, Any]:
    """Read what ``rtmo-deploy bench --json`` wrote.

    Raises:
        UsageError: It is not there, or not such a file, or of a newer release.
    """
    write_one = "Write one with: rtmo-deploy bench MODEL --json"
    try:
        document = read_json(path, max_bytes=MAX_BYTES)
    except OSError as error:  # UnreadableError too
        finding = f"The baseline cannot be read: {error.strerror or error}."
        raise UsageError(finding, remedy=write_one, where=path) from error
    if not isinstance(document, dict) or document.get("command") != "bench":
        raise UsageError("It is no result of 'rtmo-deploy bench'.", remedy=write_one, where=path)
    version = document.get("result_version")
    if type(version) is not int or version > RESULT_VERSION:
        raise UsageError(
            f"It has result version {version!r}; this release knows up to {RESULT_VERSION}.",
            remedy="Upgrade rtmo-deploy, or measure the baseline again.",
            where=path,
        )
    try:
        _check(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"The baseline is damaged ({type(error).__name__}: {error}).", remedy="Measure it again.", where=path
        ) from error
    return document


def _check(document: Mapping[str, Any]) -> None:
    """Refuse, with a KeyError, TypeError or ValueError, what could not be compared."""
    str(document["machine"]["fingerprint"]), str(document["protocol"])
    for name in SAME_OPTIONS:
        document["options"][name]
    keys = set()
    for entry in document["entries"]:
        for name in (*SAME_CONTENDER, "label", "reference", "decode"):
            entry["contender"][name]
        rounds = entry["rounds_ms"]
        if not isinstance(rounds, list) or not rounds:
            raise ValueError("an entry has no rounds")
        if any(type(value) not in (int, float) or not math.isfinite(value) or value <= 0 for value in rounds):
            raise ValueError("a round's time is no positive number")
        key = _key(entry)
        if key in keys:
            raise ValueError(f"{key[0]} occurs twice in one case")
        keys.add(key)


def require_comparable(baseline: Mapping[str, Any], options: BenchOptions, path: Path) -> None:
    """Check before anything is measured that the two ask for the same.

    Raises:
        UsageError: They do not; nothing could be compared.
    """
    asked = options.to_dict()
    if baseline["protocol"] != asked["protocol"]:
        raise UsageError(
            f"The baseline was measured with --protocol {baseline['protocol']}, this is {asked['protocol']}: their "
            "numbers do not have the same in them.",
            remedy="Use the same protocol.",
            where=path,
        )
    for name in SAME_OPTIONS:
        if baseline["options"][name] != asked[name]:
            raise UsageError(
                f"The baseline was measured with {name} = {baseline['options'][name]}, this is {asked[name]}.",
                remedy="Measure both with the same options.",
                where=path,
            )


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
    how: str | None = None
    change: Ratio | None = None
    slower: bool = False
    reason: str = ""
    stage: str = ""
    stage_ms: float | None = None


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
        """JSON-ready form, with the verdict."""
        return {"verdict": self.verdict, **{name: plain(value) for name, value in vars(self).items()}}


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
    before = {_key(entry): entry for entry in baseline["entries"]}
    now, then = (
        {_case(entry): entry for entry in document["entries"] if entry["contender"]["reference"]}
        for document in (result, baseline)
    )
    rows = []
    for entry in result["entries"]:
        if entry["contender"]["reference"] and not same_machine:
            continue  # it is what the others are set against
        references = None if same_machine else (now.get(_case(entry)), then.get(_case(entry)))
        rows.append(_judge(entry, before.get(_key(entry)), references, max_slowdown))
    notes = _notes(result, baseline, rows, same_machine=same_machine)
    return BaselineReport(file, max_slowdown, tuple(rows), same_machine, tuple(notes))


def _judge(
    entry: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    references: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] | None,
    max_slowdown: float,
) -> RowVerdict:
    """One row; ``references`` are those of its case, now and then, on another machine."""
    label, case = entry["contender"]["label"], entry["case"]
    reason = _difference(entry, old) or _busy(entry, old)
    if not reason and references is not None:
        reason = _reference_difference(*references)
    if reason or old is None:
        return RowVerdict(label, case, reason=reason)
    if references is None:
        change = independent_ratio(entry["rounds_ms"], old["rounds_ms"])
    else:
        change = independent_ratio(_ratios(entry, references[0]), _ratios(old, references[1]))
    change = change.widened(max(_lost(entry), _lost(old)))
    if change.low is None:
        return RowVerdict(label, case, change=change, reason="one round tells nothing of noise")
    slower = change.low > 1 + max_slowdown
    stage, grown = _grown(entry, old) if slower and references is None else ("", None)
    how = "times" if references is None else "ratios to the reference"
    return RowVerdict(label, case, how, change, slower, stage=stage, stage_ms=grown)


def _case(entry: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(entry["case"].items()))


def _key(entry: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Contender and case of an entry, to look it up by."""
    return entry["contender"]["label"], _case(entry)


def _ratios(entry: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[float]:
    """Of the rounds' times to the reference's; there is one, :func:`_reference_difference` has seen to that."""
    assert reference is not None
    return [mine / theirs for mine, theirs in zip(entry["rounds_ms"], reference["rounds_ms"], strict=False)]


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
    here = {_key(entry) for entry in result["entries"]}
    gone = [entry for entry in baseline["entries"] if _key(entry) not in here]
    if gone:
        names = ", ".join(dict.fromkeys(entry["contender"]["label"] for entry in gone))
        notes.append(f"In the baseline and not measured now: {names}.")
    return notes


def _drift(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> Ratio | None:
    """How the reference changed, over the cases that both have."""
    now, then = (
        {_key(entry): entry["rounds_ms"] for entry in document["entries"] if entry["contender"]["reference"]}
        for document in (result, baseline)
    )
    shared = [key for key in now if key in then]
    if not shared:
        return None
    return independent_ratio(
        [value for key in shared for value in now[key]], [value for key in shared for value in then[key]]
    )
