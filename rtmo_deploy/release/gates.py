"""Gates: bounds of a recipe against what was measured. What was not measured never passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rtmo_deploy.files import UnreadableError
from rtmo_deploy.plain import read_json
from rtmo_deploy.release.results import Status, case_of
from rtmo_deploy.release.schema import SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.actions import Actions
    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.judging import AccuracyGate, LatencyGate, LatencySection
    from rtmo_deploy.release.results import StepResult
    from rtmo_deploy.release.schema import ReleaseRecipe

#: The step that judges the source.
SOURCE_AP = f"accuracy:{SOURCE}"
MAX_BASELINE = 64 << 20


class GateStatus(StrEnum):
    """What became of a gate.

    * ``passed``: measured, and within the bound.
    * ``failed``: measured, and not within the bound.
    * ``not measured``: this machine lacks what it takes, or there was nothing to measure. No pass.
    * ``blocked``: a step that it needs failed.
    """

    PASSED = "passed"
    FAILED = "failed"
    NOT_MEASURED = "not measured"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class GateResult:
    """A gate and what became of it.

    Attributes:
        name: Such as ``accuracy: fp16, AP lost against source``.
        kind: ``accuracy``, ``parity`` or ``latency``.
        status: See :class:`GateStatus`.
        bound: The bound, in words.
        measured: What was measured, in words; empty if nothing was.
        value: What was measured, where it is one number.
        message: Why it did not pass, or what a reader should know.
    """

    name: str
    kind: str
    status: GateStatus
    bound: str
    measured: str = ""
    value: float | None = None
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**vars(self), "status": self.status.value}


def evaluate_gates(
    recipe: ReleaseRecipe,
    steps: Sequence[Step],
    results: Mapping[str, StepResult],
    actions: Actions,
    folder: Path,
) -> list[GateResult]:
    """Judge every gate of a recipe, in its order.

    Args:
        recipe: The recipe.
        steps: Its steps.
        results: What became of them.
        actions: For ratios.
        folder: Where the recipe's relative paths are meant from.
    """
    gates: list[GateResult] = []
    if recipe.accuracy is not None:
        for gate in recipe.accuracy.gates:
            gates += _accuracy(gate, results)
    gates += [_parity(results[step.name]) for step in steps if step.action == "parity"]
    for section in recipe.latency:
        for bound in section.gates:
            gates += _latency(section, bound, results[f"latency:{section.name}"], actions, folder)
    return gates


def _accuracy(gate: AccuracyGate, results: Mapping[str, StepResult]) -> list[GateResult]:
    found = []
    own = results[f"accuracy:{gate.artifact}"]
    if gate.ap_min is not None:
        name, bound = f"accuracy: {gate.artifact}, AP", f"at least {gate.ap_min:g}"
        ready = _not_ready(name, "accuracy", bound, own)
        judged = ready or _bounded(name, "accuracy", bound, own.facts.get("ap"), gate.ap_min, least=True)
        ap = results[SOURCE_AP].facts.get("ap") if gate.artifact != SOURCE and SOURCE_AP in results else None
        if judged.status is GateStatus.FAILED and ap is not None:
            judged = replace(judged, message=f"{judged.message}; AP of source {ap:.4f}")
        found.append(_explained(judged, own, gate.against or SOURCE, results))
    if gate.ap_drop_max is not None:
        against = gate.against or SOURCE
        name = f"accuracy: {gate.artifact}, AP lost against {against}"
        bound = f"at most {gate.ap_drop_max:g}"
        if against == "published":
            judged = _against_published(name, bound, gate.ap_drop_max, own, results[SOURCE])
            return [*found, _explained(judged, own, SOURCE, results)]
        other = results[f"accuracy:{against}"]
        ready = _not_ready(name, "accuracy", bound, own, other)
        drop = _difference(other.facts.get("ap"), own.facts.get("ap"))
        if ready is None and other.facts.get("ap") == 0:
            ready = _unmeasured(name, "accuracy", bound, f"'{against}' has an AP of 0: there is nothing to lose")
        judged = ready or _bounded(name, "accuracy", bound, drop, gate.ap_drop_max)
        if judged.value is not None:
            judged = replace(judged, measured=f"{drop:.4f} ({other.facts['ap']:.4f} - {own.facts['ap']:.4f})")
        found.append(_explained(judged, own, against, results, other.facts.get("causes", ())))
    return found


def _explained(
    gate: GateResult,
    own: StepResult,
    against: str,
    results: Mapping[str, StepResult],
    other_causes: Sequence[str] = (),
) -> GateResult:
    """A failed gate on AP with what was measured that may lead to the cause: by the judge, else by parity.

    What was found of the model that it is held against too (``other_causes``) is no cause of a loss.
    """
    if gate.status is not GateStatus.FAILED:
        return gate
    name = own.step.inputs["model"]
    shared = {cause.split(" (")[0] for cause in other_causes}
    told = [cause for cause in own.facts.get("causes", ()) if cause.split(" (")[0] not in shared]
    for result in results.values() if not told else ():
        pair = result.step.inputs
        if result.step.action == "parity" and result.good and name in pair.values():
            found = [*result.facts.get("causes", ())] or [f"parity measured {_people(result)}"]
            told += [f"{pair['a']} and {pair['b']}: {one}" for one in found]
    if not told and name not in (SOURCE, against):
        told = [f"compare '{against}' and '{name}' with: rtmo-deploy parity --layers"]
    return replace(gate, message=_joined([gate.message, *told]))


def _joined(sentences: Sequence[str]) -> str:
    return "; ".join([*(one.removesuffix(".") for one in sentences[:-1]), *sentences[-1:]])


def _people(result: StepResult) -> str:
    """``55 matched, 4 missed, 10 extra, mean OKS 0.91`` of a parity step."""
    people = result.facts.get("people", {})
    counts = ", ".join(f"{people.get(name, 0)} {name}" for name in ("matched", "missed", "extra"))
    oks = people.get("oks_mean")
    return f"{counts}, mean OKS {oks:.4f}" if isinstance(oks, int | float) else counts


def _against_published(name: str, bound: str, most: float, own: StepResult, source: StepResult) -> GateResult:
    ready = _not_ready(name, "accuracy", bound, own, source)
    if ready is not None:
        return ready
    published = source.facts.get("published")
    if not published:
        return _unmeasured(name, "accuracy", bound, "the source is no published checkpoint")
    if published["protocol"] != own.facts.get("protocol"):
        return _unmeasured(name, "accuracy", bound, f"the published figure is of {published['dataset']}")
    drop = _difference(published["metrics"]["AP"], own.facts.get("ap"))
    result = _bounded(name, "accuracy", bound, drop, most)
    note = f"published {published['metrics']['AP']:.3f} on {published['dataset']}"
    return GateResult(**{**vars(result), "message": "; ".join(filter(None, (result.message, note)))})


def _parity(result: StepResult) -> GateResult:
    pair = result.step.inputs
    name, facts = f"parity: {pair['a']} and {pair['b']}", result.facts
    checks = facts.get("checks", ())
    bound = "; ".join(f"{check['name']}: {check['bound']}" for check in checks) or "the bounds of their precisions"
    ready = _not_ready(name, "parity", bound, result)
    if ready is not None:
        return ready
    measured = "; ".join(f"{check['name']}: {check['measured']}" for check in checks) or _people(result)
    failures, notes = list(facts.get("failures", ())), facts.get("notes", ())
    if facts.get("verdict") == "agree" and not failures:
        return GateResult(name, "parity", GateStatus.PASSED, bound, measured, message=_joined(notes))
    if facts.get("verdict") == "nobody found" and not failures:
        return _unmeasured(name, "parity", bound, _joined(notes) or "no people were compared")
    message = _joined([*failures, *facts.get("causes", ()), *notes]) or "they differ"
    return GateResult(name, "parity", GateStatus.FAILED, bound, measured, message=message)


def _latency(
    section: LatencySection, gate: LatencyGate, result: StepResult, actions: Actions, folder: Path
) -> list[GateResult]:
    found = []
    entries = {case_of(entry): entry for entry in result.facts.get("entries", ()) if entry["artifact"] == gate.artifact}
    head = f"latency: {section.name}, {gate.artifact}"
    if gate.p95_ms is not None:
        name, bound = f"{head}, 95th percentile", f"at most {gate.p95_ms:g} ms"
        values = [entry["total_ms"]["p95"] for entry in entries.values()]
        worst = max((value for value in values if value is not None), default=None)
        ready = _not_ready(name, "latency", bound, result) or _busy(name, bound, [*entries.values()])
        if ready is None and None in values:
            ready = _unmeasured(name, "latency", bound, "too few calls for a 95th percentile; raise 'duration'")
        found.append(ready or _bounded(name, "latency", bound, worst, gate.p95_ms, unit=" ms", digits=2))
    if gate.max_ratio is None:
        return found
    against = gate.against or str(gate.baseline)
    name, bound = f"{head}, ratio to {against}", f"at most {gate.max_ratio:g}"
    ready = _not_ready(name, "latency", bound, result)
    if ready is not None:
        return [*found, ready]
    if gate.against is not None:
        others = [entry for entry in result.facts["entries"] if entry["artifact"] == gate.against]
    else:
        assert gate.baseline is not None
        others, why = _baseline(folder / gate.baseline, gate.artifact, result.facts)
        if why:
            return [*found, _unmeasured(name, "latency", bound, why)]
    pairs = [(case, entry, other) for other in others if (entry := entries.get(case := case_of(other))) is not None]
    if not pairs:
        return [*found, _unmeasured(name, "latency", bound, "there is no case in which both were measured")]
    busy = _busy(name, bound, [one for _, entry, other in pairs for one in (entry, other)])
    if busy is not None:
        return [*found, busy]
    ratios = [
        (case, *_widened(actions.ratio(entry["rounds_ms"], other["rounds_ms"], paired=gate.against is not None), pair))
        for case, *pair in pairs
        for entry, other in [pair]
    ]
    return [*found, _worst_ratio(name, bound, gate.max_ratio, ratios)]


def _busy(name: str, bound: str, entries: Sequence[Mapping[str, Any]]) -> GateResult | None:
    """The gate's result where other work disturbed one of the measurements too much."""
    reasons = dict.fromkeys(why for entry in entries for why in entry.get("interference", {}).get("busy", ()))
    return _unmeasured(name, "latency", bound, f"machine busy: {'; '.join(reasons)}") if reasons else None


def _widened(
    ratio: tuple[float, float | None, float | None], pair: Sequence[Mapping[str, Any]]
) -> tuple[float, float | None, float | None]:
    """An interval that also covers what little other work there was."""
    value, low, high = ratio
    lost = max(float(entry.get("interference", {}).get("lost", 0.0)) for entry in pair)
    return value, None if low is None else low * (1 - lost), None if high is None else high / (1 - lost)


def _worst_ratio(
    name: str, bound: str, most: float, ratios: Sequence[tuple[str, float, float | None, float | None]]
) -> GateResult:
    """The case that says most against it decides: the one whose interval begins highest."""

    def certain(ratio: tuple[str, float, float | None, float | None]) -> float:
        lowest = ratio[1] if ratio[2] is None else ratio[2]
        return math.inf if math.isnan(lowest) else lowest

    case, value, low, high = max(ratios, key=certain)
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    measured = f"{value:.3f}{interval}, {case}"
    if math.isnan(value):
        return GateResult(name, "latency", GateStatus.FAILED, bound, measured, None, "not a number")
    if not certain((case, value, low, high)) <= most:
        return GateResult(
            name, "latency", GateStatus.FAILED, bound, measured, value, "the whole interval is above the bound"
        )
    note = "" if value <= most else "the value is above the bound, the interval reaches below it"
    return GateResult(name, "latency", GateStatus.PASSED, bound, measured, value, note)


def _baseline(path: Path, artifact: str, facts: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The entries of a file that an earlier release wrote, or why it cannot be compared with."""
    try:
        known = read_json(path, max_bytes=MAX_BASELINE)
        machine, protocol, there = known["machine"], known["protocol"], str(known["machine"]["fingerprint"])
        entries = [_known_entry(entry) for entry in known["entries"] if entry["artifact"] == artifact]
    except FileNotFoundError:
        return [], f"there is no {path.name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = str(error) if isinstance(error, UnreadableError) else type(error).__name__
        return [], f"{path.name} is no latency file of a release ({why})"
    if there != facts["machine"]["fingerprint"]:
        return [], f"{path.name} was measured on another machine ({machine.get('cpu', 'unknown')})"
    if protocol != facts["protocol"]:
        return [], f"{path.name} was measured by protocol {protocol}"
    return entries, ""


def _known_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of an earlier release's entry; ValueError or TypeError where it is none."""
    rounds = [float(value) for value in entry["rounds_ms"]]
    interference = entry["interference"]
    lost = float(interference["lost"])
    case = {name: entry["case"].get(name) for name in ("batch", "threads", "people")}
    if not rounds or min(rounds) <= 0 or not 0 <= lost < 1:
        raise ValueError("times must be positive")
    if type(case["batch"]) is not int or any(value is not None and type(value) is not int for value in case.values()):
        raise TypeError("a case is made of counts")
    busy = [str(why) for why in interference.get("busy", ())]
    return {"case": case, "rounds_ms": rounds, "interference": {"lost": lost, "busy": busy}}


def _not_ready(name: str, kind: str, bound: str, *needed: StepResult) -> GateResult | None:
    """The gate's result where a step that it needs has none."""
    for result in needed:
        if result.status in {Status.FAILED, Status.BLOCKED}:
            return GateResult(name, kind, GateStatus.BLOCKED, bound, message=f"{result.name}: {result.message}")
    for result in needed:
        if result.status is Status.UNAVAILABLE:
            return _unmeasured(name, kind, bound, f"{result.name}: {result.message}")
    return None


def _bounded(
    name: str,
    kind: str,
    bound: str,
    value: float | None,
    limit: float,
    *,
    least: bool = False,
    unit: str = "",
    digits: int = 4,
) -> GateResult:
    if value is None:
        return _unmeasured(name, kind, bound, "there was nothing to measure it on")
    if not math.isfinite(value):
        return GateResult(name, kind, GateStatus.FAILED, bound, str(value), None, "not a finite number")
    met = value >= limit if least else value <= limit
    status = GateStatus.PASSED if met else GateStatus.FAILED
    return GateResult(name, kind, status, bound, f"{value:.{digits}f}{unit}", value, "" if met else "beyond the bound")


def _unmeasured(name: str, kind: str, bound: str, why: str) -> GateResult:
    return GateResult(name, kind, GateStatus.NOT_MEASURED, bound, message=why)


def _difference(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two
