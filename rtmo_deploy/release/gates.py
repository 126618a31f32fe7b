"""Gates: bounds of a recipe against what was measured. What was not measured never passes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.files import UnreadableError
from rtmo_deploy.plain import read_json
from rtmo_deploy.release.recipe import SOURCE
from rtmo_deploy.release.record import GateResult, GateStatus, Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.measure.bench.statistics import Ratio
    from rtmo_deploy.release.actions import Actions
    from rtmo_deploy.release.recipe import AccuracyGate, LatencyGate, LatencySection, ReleaseRecipe
    from rtmo_deploy.release.record import StepRecord

#: The step that judges the source.
SOURCE_AP = f"accuracy:{SOURCE}"
MAX_BASELINE = 64 << 20


def case_of(entry: Mapping[str, Any]) -> str:
    """The case of a latency entry, such as ``batch 1, 2 threads, 10 people``."""
    from rtmo_deploy.measure.bench.options import Case

    case = entry["case"]
    return str(Case(batch=case["batch"], threads=case.get("threads"), people=case.get("people")))


def evaluate_gates(
    recipe: ReleaseRecipe, results: Mapping[str, StepRecord], actions: Actions, folder: Path
) -> list[GateResult]:
    """Judge every gate of a recipe, in its order."""
    gates: list[GateResult] = []
    for gate in recipe.accuracy.gates if recipe.accuracy is not None else ():
        gates += _accuracy(gate, results)
    gates += [_parity(result) for result in results.values() if result.step.action == "parity"]
    for section in recipe.latency:
        for bound in section.gates:
            gates += _latency(section, bound, results[f"latency:{section.name}"], actions, folder)
    return gates


def _accuracy(gate: AccuracyGate, results: Mapping[str, StepRecord]) -> list[GateResult]:
    found = []
    own, against = results[f"accuracy:{gate.artifact}"], gate.against or SOURCE
    if gate.ap_min is not None:
        blank = _blank("accuracy", f"{gate.artifact}, AP", f"at least {gate.ap_min:g}")
        judged = _not_ready(blank, own) or _bounded(blank, own.facts.get("ap"), gate.ap_min, least=True)
        ap = results[SOURCE_AP].facts.get("ap") if gate.artifact != SOURCE and SOURCE_AP in results else None
        if judged.status is GateStatus.FAILED and ap is not None:
            judged = replace(judged, message=f"{judged.message}; AP of source {ap:.4f}")
        found.append(_explained(judged, own, against, results))
    if gate.ap_drop_max is not None:
        blank = _blank("accuracy", f"{gate.artifact}, AP lost against {against}", f"at most {gate.ap_drop_max:g}")
        published = against == "published"
        other = results[SOURCE if published else f"accuracy:{against}"]
        judged = _not_ready(blank, own, other) or _drop(blank, gate.ap_drop_max, own, other)
        shared = () if published else other.facts.get("causes", ())
        found.append(_explained(judged, own, SOURCE if published else against, results, shared))
    return found


def _drop(blank: GateResult, most: float, own: StepRecord, other: StepRecord) -> GateResult:
    """The loss of AP against another model, or against what was published of the source."""
    ap = own.facts.get("ap")
    if other.step.action == "source":
        published = other.facts["published"]
        if not published:
            return _unmeasured(blank, "the source is no published checkpoint")
        if published["protocol"] != own.facts["protocol"]:
            return _unmeasured(blank, f"the published figure is of {published['dataset']}")
        before = published["metrics"]["AP"]
        judged = _bounded(blank, None if ap is None else before - ap, most)
        return replace(judged, message=_joined([judged.message, f"published {before:.3f} on {published['dataset']}"]))
    before = other.facts.get("ap")
    if before == 0:
        return _unmeasured(blank, f"'{other.step.inputs['model']}' has an AP of 0: there is nothing to lose")
    judged = _bounded(blank, None if ap is None or before is None else before - ap, most)
    if judged.value is None:
        return judged
    return replace(judged, measured=f"{judged.measured} ({before:.4f} - {ap:.4f})")


def _explained(
    gate: GateResult,
    own: StepRecord,
    against: str,
    results: Mapping[str, StepRecord],
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
            found = [*result.facts["causes"]] or [f"parity measured {_instances(result.facts['people'])}"]
            told += [f"{pair['a']} and {pair['b']}: {one}" for one in found]
    if not told and name not in (SOURCE, against):
        told = [f"compare '{against}' and '{name}' with: rtmo-deploy parity --layers"]
    return replace(gate, message=_joined([gate.message, *told]))


def _joined(sentences: Sequence[str]) -> str:
    given = [one for one in sentences if one]
    return "; ".join([*(one.removesuffix(".") for one in given[:-1]), *given[-1:]])


def _instances(people: Mapping[str, Any]) -> str:
    """``55 matched, 4 missed, 10 extra, mean OKS 0.91`` of a parity step."""
    counts = ", ".join(f"{people[name]} {name}" for name in ("matched", "missed", "extra"))
    oks = people["oks_mean"]
    return counts if oks is None else f"{counts}, mean OKS {oks:.4f}"


def _parity(result: StepRecord) -> GateResult:
    pair, facts = result.step.inputs, result.facts
    checks = facts.get("checks", ())
    bound = "; ".join(f"{check['name']}: {check['bound']}" for check in checks) or "the bounds of their precisions"
    blank = _blank("parity", f"{pair['a']} and {pair['b']}", bound)
    ready = _not_ready(blank, result)
    if ready is not None:
        return ready
    failures, notes = facts["failures"], facts["notes"]
    measured = "; ".join(f"{check['name']}: {check['measured']}" for check in checks) or _instances(facts["people"])
    if facts["verdict"] == "agree" and not failures:
        return replace(blank, status=GateStatus.PASSED, measured=measured, message=_joined(notes))
    if facts["verdict"] == "nobody found" and not failures:
        return _unmeasured(blank, _joined(notes) or "no people were compared")
    message = _joined([*failures, *facts["causes"], *notes]) or "they differ"
    return replace(blank, status=GateStatus.FAILED, measured=measured, message=message)


def _latency(
    section: LatencySection, gate: LatencyGate, result: StepRecord, actions: Actions, folder: Path
) -> list[GateResult]:
    found = []
    entries = [entry for entry in result.facts.get("entries", ()) if entry["artifact"] == gate.artifact]
    if gate.p95_ms is not None:
        blank = _blank("latency", f"{section.name}, {gate.artifact}, 95th percentile", f"at most {gate.p95_ms:g} ms")
        found.append(_not_ready(blank, result) or _percentile(blank, gate.p95_ms, entries))
    if gate.max_ratio is not None:
        against = gate.against or str(gate.baseline)
        blank = _blank("latency", f"{section.name}, {gate.artifact}, ratio to {against}", f"at most {gate.max_ratio:g}")
        found.append(_not_ready(blank, result) or _ratio(blank, gate, entries, result, actions, folder))
    return found


def _percentile(blank: GateResult, most: float, entries: Sequence[Mapping[str, Any]]) -> GateResult:
    values = [entry["total_ms"]["p95"] for entry in entries]
    busy = _busy(blank, entries)
    if busy is not None:
        return busy
    if None in values:
        return _unmeasured(blank, "too few calls for a 95th percentile; raise 'duration'")
    return _bounded(blank, max(values, default=None), most, unit=" ms", digits=2)


def _ratio(
    blank: GateResult,
    gate: LatencyGate,
    entries: Sequence[Mapping[str, Any]],
    result: StepRecord,
    actions: Actions,
    folder: Path,
) -> GateResult:
    """The case that says most against it decides: the one whose interval begins highest."""
    if gate.baseline is not None:
        others, why = _baseline(folder / gate.baseline, gate.artifact, result.facts)
        if why:
            return _unmeasured(blank, why)
    else:
        others = [entry for entry in result.facts["entries"] if entry["artifact"] == gate.against]
    own = {case_of(entry): entry for entry in entries}
    pairs = [(case, own[case], other) for other in others if (case := case_of(other)) in own]
    if not pairs:
        return _unmeasured(blank, "there is no case in which both were measured")
    busy = _busy(blank, [one for _, *pair in pairs for one in pair])
    if busy is not None:
        return busy
    ratios = []
    for case, entry, other in pairs:
        ratio = actions.ratio(entry["rounds_ms"], other["rounds_ms"], paired=gate.against is not None)
        # Other work, though little, may explain as much.
        lost = max(float(one["interference"]["lost"]) for one in (entry, other))
        ratios.append((ratio.widened(lost), case))
    ratio, case = max(ratios, key=lambda one: _certain(one[0]))
    value = ratio.value
    interval = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
    blank = replace(blank, measured=f"{value:.3f}{interval}, {case}")
    assert gate.max_ratio is not None
    if math.isnan(value):
        return replace(blank, status=GateStatus.FAILED, message="not a number")
    if not _certain(ratio) <= gate.max_ratio:
        why = "the whole interval is above the bound"
        return replace(blank, status=GateStatus.FAILED, value=value, message=why)
    note = "" if value <= gate.max_ratio else "the value is above the bound, the interval reaches below it"
    return replace(blank, status=GateStatus.PASSED, value=value, message=note)


def _certain(ratio: Ratio) -> float:
    lowest = ratio.value if ratio.low is None else ratio.low
    return math.inf if math.isnan(lowest) else lowest


def _busy(blank: GateResult, entries: Sequence[Mapping[str, Any]]) -> GateResult | None:
    """The gate's result where other work disturbed one of the measurements too much."""
    reasons = max((entry["interference"]["busy"] for entry in entries), key=len, default=())
    return _unmeasured(blank, f"machine busy: {'; '.join(reasons)}") if reasons else None


def _baseline(path: Path, artifact: str, facts: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The entries of a file that an earlier release wrote, or why it cannot be compared with."""
    try:
        known = read_json(path, max_bytes=MAX_BASELINE)
        machine, protocol, there = known["machine"], known["protocol"], str(known["machine"]["fingerprint"])
        entries = [known_entry(entry) for entry in known["entries"] if entry["artifact"] == artifact]
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


def known_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
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


def _blank(kind: str, what: str, bound: str) -> GateResult:
    """A gate before it is judged."""
    return GateResult(f"{kind}: {what}", kind, GateStatus.NOT_MEASURED, bound)


def _unmeasured(blank: GateResult, why: str) -> GateResult:
    return replace(blank, message=why)


def _not_ready(blank: GateResult, *needed: StepRecord) -> GateResult | None:
    """The gate's result where a step that it needs has none."""
    for result in needed:
        if result.status in {Status.FAILED, Status.BLOCKED}:
            return replace(blank, status=GateStatus.BLOCKED, message=f"{result.name}: {result.message}")
    for result in needed:
        if result.status is Status.UNAVAILABLE:
            return _unmeasured(blank, f"{result.name}: {result.message}")
    return None


def _bounded(
    blank: GateResult, value: float | None, limit: float, *, least: bool = False, unit: str = "", digits: int = 4
) -> GateResult:
    if value is None:
        return _unmeasured(blank, "there was nothing to measure it on")
    if not math.isfinite(value):
        return replace(blank, status=GateStatus.FAILED, measured=str(value), message="not a finite number")
    met = value >= limit if least else value <= limit
    return replace(
        blank,
        status=GateStatus.PASSED if met else GateStatus.FAILED,
        measured=f"{value:.{digits}f}{unit}",
        value=value,
        message="" if met else "beyond the bound",
    )
