"""Compares a result with an earlier one: is it slower than it was?

On the same machine (processor, usable cores, GPUs) times are compared, on another one only ratios to one reference.
What differs in kind, precision, runtime, protocol or case is not compared; if nothing could be compared, nothing has
passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench.result import RESULT_VERSION
from rtmo_deploy.measure.bench.statistics import Ratio, independent_ratio
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.runtime.clock import DRAW

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from rtmo_deploy.measure.bench.options import BenchOptions

MAX_BYTES = 2**28
#: Why a ratio has no interval, and is not judged.
ONE_ROUND = "one round tells nothing of noise"
#: What must be the same for two numbers to be compared: options, and facts of a contender.
SAME_OPTIONS = ("protocol", "device", "images", "picture_hw", "spinning")
SAME_CONTENDER = ("kind", "architecture", "precision", "backend", "device", "compiled", "input_hw")


def load_baseline(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``rtmo-deploy bench --json`` wrote.

    Raises:
        UsageError: It is missing, not such a file, damaged, or of a newer release.
    """
    path = Path(path)
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
    """Raise a KeyError, TypeError or ValueError for a document that could not be compared."""
    str(document["machine"]["fingerprint"])
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
    for name in SAME_OPTIONS:
        if baseline["options"][name] != asked[name]:
            raise UsageError(
                f"The baseline was measured with {name} = {baseline['options'][name]}, this is {asked[name]}.",
                remedy="Measure both with the same options.",
                where=path,
            )


@dataclass(frozen=True)
class RowVerdict:
    """One contender in one case against the baseline."""

    label: str
    case: dict[str, Any]
    #: ``times`` or ``ratios to the reference``; None where it was not compared.
    how: str | None = None
    #: How many times as long it takes as in the baseline.
    change: Ratio | None = None
    #: It is slower by more than the bound, and beyond the noise.
    slower: bool = False
    #: Why it was not compared; empty where it was.
    reason: str = ""
    #: Of one that is slower on the same machine, the stage whose median grew most, and by how many milliseconds.
    stage: str = ""
    stage_ms: float | None = None


@dataclass(frozen=True)
class BaselineReport:
    """A whole result against a baseline."""

    file: str
    #: The bound, a share.
    max_slowdown: float
    #: Every contender in every case.
    rows: tuple[RowVerdict, ...]
    same_machine: bool
    #: What the reader should know.
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
        {_key(entry)[1]: entry for entry in document["entries"] if entry["contender"]["reference"]}
        for document in (result, baseline)
    )
    rows = []
    for entry in result["entries"]:
        label, case = _key(entry)
        if same_machine:
            rows.append(_judge(entry, before.get((label, case)), None, max_slowdown))
        elif not entry["contender"]["reference"]:
            rows.append(_judge(entry, before.get((label, case)), (now.get(case), then.get(case)), max_slowdown))
    notes = _notes(result, baseline, same_machine=same_machine, slower=any(row.slower for row in rows))
    return BaselineReport(file, max_slowdown, tuple(rows), same_machine, tuple(notes))


def _key(entry: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Contender and case of an entry, to look it up by."""
    return entry["contender"]["label"], tuple(sorted(entry["case"].items()))


def _judge(
    entry: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    references: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None] | None,
    max_slowdown: float,
) -> RowVerdict:
    """One row; ``references`` are those of its case, now and then, on another machine."""
    row = RowVerdict(entry["contender"]["label"], entry["case"])
    reason = _difference(entry, old) or _busy(entry, old)
    if not reason and references is not None:
        reason = _reference_difference(*references)
    if reason or old is None:
        return replace(row, reason=reason)
    times = [entry["rounds_ms"], old["rounds_ms"]]
    for place, reference in enumerate(references or ()):
        if reference is not None:
            times[place] = [mine / other for mine, other in zip(times[place], reference["rounds_ms"], strict=False)]
    change = widened_ratio(entry, old, *times)
    if change.low is None:
        return replace(row, change=change, reason=ONE_ROUND)
    slower = change.low > 1 + max_slowdown
    stage, grown = _grown(entry, old) if slower and references is None else ("", None)
    how = "times" if references is None else "ratios to the reference"
    return replace(row, how=how, change=change, slower=slower, stage=stage, stage_ms=grown)


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


def widened_ratio(
    entry: Mapping[str, Any], old: Mapping[str, Any], times: Sequence[float], old_times: Sequence[float]
) -> Ratio:
    """The ratio of two runs' times, its interval widened by what other work may explain in the two entries."""
    lost = max(float(one["interference"].get("lost", 0.0)) for one in (entry, old))
    return independent_ratio(times, old_times).widened(lost)


def _busy(entry: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Why a time on a busy machine is not compared; empty if neither was."""
    for document, when in ((entry, "now"), (old or {}, "then")):
        if "interference" not in document:
            return f"how busy the machine was {when} is not known"
        reasons = document["interference"].get("busy", ())
        if reasons:
            return f"machine busy {when}: {'; '.join(reasons)}"
    return ""


def _difference(entry: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Why two entries are not of the same thing; empty if they are."""
    if old is None:
        return "not in the baseline"
    now, then = (
        {**{name: one["contender"][name] for name in SAME_CONTENDER}, "decode mode": one["contender"]["decode"]["mode"]}
        for one in (entry, old)
    )
    different = (f"another {name}: {then[name]} then, {now[name]} now" for name in now if now[name] != then[name])
    return next(different, "")


def _reference_difference(reference: Mapping[str, Any] | None, old: Mapping[str, Any] | None) -> str:
    """Why ratios to the reference cannot be compared across machines."""
    if reference is None or old is None:
        return "another machine, and no reference on both to take ratios to"
    if reference["contender"]["label"] != old["contender"]["label"]:
        return "another machine, and another reference"
    difference = _difference(reference, old)
    return f"another machine, and of the reference {difference}" if difference else ""


def _notes(
    result: Mapping[str, Any], baseline: Mapping[str, Any], *, same_machine: bool, slower: bool
) -> Iterator[str]:
    if not same_machine:
        yield (
            f"The baseline was measured on another machine ({baseline['machine'].get('cpu', 'unknown')}; "
            f"fingerprint {baseline['machine']['fingerprint']}): only ratios to the reference are compared."
        )
    here, there = ({_key(entry): entry for entry in document["entries"]} for document in (result, baseline))
    shared = [
        key for key in here if key in there and all(side[key]["contender"]["reference"] for side in (here, there))
    ]
    if same_machine and slower and shared:
        now, then = ([time for key in shared for time in side[key]["rounds_ms"]] for side in (here, there))
        drift = independent_ratio(now, then)
        if drift.low is not None and drift.low > 1:
            yield f"The reference itself takes {drift} times as long as in the baseline."
    missing = dict.fromkeys(label for label, case in there if (label, case) not in here)
    if missing:
        yield f"In the baseline and not measured now: {', '.join(missing)}."
