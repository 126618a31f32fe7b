"""Compares two releases, row by row. What is not of the same thing in both is not compared, which is no pass."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import human_size
from rtmo_deploy.plain import counted, shorten
from rtmo_deploy.release.comparison.options import DiffOptions, Kind
from rtmo_deploy.release.comparison.reading import clean, read_release
from rtmo_deploy.release.comparison.result import Change, Figure, FileChange, ReleaseDiff, Result, Row
from rtmo_deploy.release.record import GateStatus, Status

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from rtmo_deploy.release.comparison.reading import Gate, Measured, Model, ReadRelease

#: By how much a figure may be beyond a bound because binary fractions are not decimal ones.
_ROUNDING: Final = 1e-9
#: Characters of a value that a reason quotes.
_QUOTED: Final = 40
_STATUSES: Final = ("changed", "removed", "added", "renamed", "unchanged")


def compare_releases(
    old: str | os.PathLike[str], new: str | os.PathLike[str], options: DiffOptions | None = None
) -> ReleaseDiff:
    """Compare a release with an earlier one.

    The figures are those of the manifests. Models are the same if the recipes call them the same, or if they have the
    same bytes. All files of both releases are compared with their hashes first.

    Args:
        old: Folder of the earlier release.
        new: Folder of the release to be judged.
        options: Bounds; the default ones if not given.

    Returns:
        What was found; its ``verdict`` is ``failed`` where something is worse than a bound allows.

    Raises:
        UsageError: Both are the same folder.
        ArtifactError: One is no release, is unfinished or of a newer version, or a file is not what its manifest says.
    """
    options = options or DiffOptions()
    one, two = read_release(old), read_release(new)
    if one.folder.resolve() == two.folder.resolve():
        raise UsageError("Both are the same release.", remedy="Give the folders of two releases.", where=two.folder)
    names = _same_models(one, two)
    rows = [
        *_artifacts(one, two, names),
        *_gates(one.gates, two.gates),
        *_judged(Kind.ACCURACY, _models(one.accuracy, names), two.accuracy, options),
        *_judged(Kind.PARITY, _pairs(one.parity, names), two.parity, options),
        *_latency(one, two, names, options),
        *_sizes(one, two, names, options),
    ]
    rows = [replace(row, result=Result.NOT_JUDGED) if row.kind in options.ignore else row for row in rows]
    rows.sort(key=lambda row: list(Result).index(row.result))
    return ReleaseDiff(
        {"folder": str(one.folder), **one.facts},
        {"folder": str(two.folder), **two.facts},
        options,
        tuple(rows),
        (
            *_figures(Kind.ACCURACY, _models(one.accuracy, names), two.accuracy),
            *_figures(Kind.PARITY, _pairs(one.parity, names), two.parity),
        ),
        tuple(_changes(one, two, names)),
        tuple(_files(one, two)),
        _recipe(one, two),
        tuple(_notes(one, two, names)),
    )


def _same_models(one: ReadRelease, two: ReadRelease) -> dict[str, str]:
    """What the new release calls each model of the old one, if it has it."""
    names = {name: name for name in one.models if name in two.models}
    new = {model.sha256: name for name, model in two.models.items() if model.good and name not in one.models}
    for name, model in one.models.items():
        if name not in names and model.good and model.sha256 in new:
            names[name] = new.pop(model.sha256)
    return names


def _models(measured: Mapping[str, Measured], names: Mapping[str, str]) -> dict[str, Measured]:
    """The old release's measurements by the new one's names; without those of models that are gone."""
    return {names[name]: one for name, one in measured.items() if name in names}


def _pairs(measured: Mapping[Any, Measured], names: Mapping[str, str]) -> dict[Any, Measured]:
    return {(names[a], names[b], number): one for (a, b, number), one in measured.items() if a in names and b in names}


def _artifacts(one: ReadRelease, two: ReadRelease, names: Mapping[str, str]) -> Iterator[Row]:
    for name, model in one.models.items():
        if "source" in (name, names.get(name)):
            continue
        other = two.models.get(names.get(name, ""))
        row = Row(Kind.ARTIFACTS, name, Result.NOT_WORSE, _made(model), _made(other))
        if other is None and model.good:
            yield replace(row, result=Result.WORSE, change="gone", note="NEW does not have it")
        elif other is None or not (model.good or other.good):
            yield replace(row, result=Result.NOT_COMPARED, note="OLD could not make it")
        elif not model.good:
            yield replace(row, result=Result.NEW, note="OLD could not make it")
        elif other.good:
            note = "" if names[name] == name else f"NEW calls it {names[name]}"
            yield replace(row, change="unchanged" if model.sha256 == other.sha256 else "other bytes", note=note)
        else:
            # As in a release: what this machine lacks is no failure.
            result = Result.NOT_COMPARED if other.status == Status.UNAVAILABLE else Result.WORSE
            yield replace(row, result=result, change="not made", note=other.message)
    for name in two.models.keys() - names.values():
        model = two.models[name]
        fine = model.good or model.status == Status.UNAVAILABLE
        note = "" if model.good else model.message
        yield Row(Kind.ARTIFACTS, name, Result.NEW if fine else Result.WORSE, "", _made(model), note=note)


def _made(model: Model | None) -> str:
    if model is None:
        return ""
    return model.properties.get("precision", "made") if model.good else model.status


def _gates(old: Mapping[str, Gate], new: Mapping[str, Gate]) -> Iterator[Row]:
    for name, gate in old.items():
        row = Row(Kind.GATES, name, Result.NOT_WORSE, gate.status)
        now = new.get(name)
        if now is None:
            yield replace(row, result=Result.NOT_COMPARED, note="NEW has no such gate")
            continue
        told = ["the bound differs"] if gate.limit != now.limit else []
        row = replace(row, new=now.status, bound=now.bound, note="; ".join([*told, *filter(None, [now.message])]))
        if GateStatus.NOT_MEASURED in (gate.status, now.status):
            row = replace(row, result=Result.NOT_COMPARED)
        elif gate.status == GateStatus.PASSED != now.status:
            row = replace(row, result=Result.WORSE)
        yield replace(row, change="" if gate.status == now.status else f"{gate.status}, now {now.status}")
    for name, gate in new.items():
        if name not in old:
            fine = gate.status in (GateStatus.PASSED, GateStatus.NOT_MEASURED)
            result = Result.NEW if fine else Result.WORSE
            yield Row(Kind.GATES, name, result, "", gate.status, bound=gate.bound, note=gate.message)


def _judged(
    kind: Kind, old: Mapping[Any, Measured], new: Mapping[Any, Measured], options: DiffOptions
) -> Iterator[Row]:
    """Rows of figures of which more is better, AP or mean OKS."""
    most = options.max_ap_drop if kind is Kind.ACCURACY else options.max_oks_drop
    for key in [*old, *(key for key in new if key not in old)]:
        before, now = old.get(key), new.get(key)
        row = _row(kind, _name(key), before, now, lambda value: f"{value:.4f}")
        reason = row.note or _other_data(before, now)
        if row.result is Result.NEW or reason or row.old_value is None or row.new_value is None:
            yield replace(row, note=reason)
            continue
        value = row.new_value - row.old_value
        result = Result.WORSE if -value > most + _ROUNDING else Result.NOT_WORSE
        row = replace(row, result=result, value=value, change=f"{value:+.4f}")
        yield replace(row, bound=f"lose at most {most:g}")


def _name(key: str | tuple[str, str, int]) -> str:
    if isinstance(key, str):
        return key
    return f"{key[0]} and {key[1]}" + (f" #{key[2]}" if key[2] > 1 else "")


def _row(kind: Kind, name: str, old: Measured | None, new: Measured | None, shown: Callable[[float], str]) -> Row:
    """A row with both figures, so far not compared; with the reason if one is missing."""
    before, now = (None if one is None else one.value for one in (old, new))
    texts = ["" if value is None else shown(value) for value in (before, now)]
    row = Row(kind, name, Result.NOT_COMPARED, texts[0], texts[1], old_value=before, new_value=now)
    if old is None:
        return replace(row, result=Result.NEW)
    if new is None:
        return replace(row, note="not measured in NEW")
    sides = (("OLD", old), ("NEW", new))
    missing = [f"{side}: {one.why or 'there is no figure'}" for side, one in sides if one.value is None]
    return replace(row, note="; ".join(missing))


def _other_data(old: Measured | None, new: Measured | None) -> str:
    """Why two figures are not of the same images or by the same rules; empty if they are."""
    if old is None or new is None or old.why or new.why:
        return ""
    terms = _other_terms(old, new)
    if terms or not old.known_by.isdisjoint(new.known_by):
        return terms
    if old.data != new.data:
        return f"other data: {old.data} in OLD, {new.data} in NEW"
    unknown = [side for side, one in (("OLD", old), ("NEW", new)) if len(one.known_by) < 2]
    if unknown:
        return f"{' and '.join(unknown)} did not write down which images these are"
    return f"other data: {new.data} has other content"


def _other_terms(old: Measured, new: Measured) -> str:
    for name, before in old.terms.items():
        now = new.terms.get(name, "")
        if before != now:
            return f"other {name}: {before[:_QUOTED]} in OLD, {now[:_QUOTED]} in NEW"
    return ""


def _latency(one: ReadRelease, two: ReadRelease, names: Mapping[str, str], options: DiffOptions) -> Iterator[Row]:
    old = {(section, names[name], case): entry for (section, name, case), entry in one.latency.items() if name in names}
    for key in [*old, *(key for key in two.latency if key not in old)]:
        before, now = old.get(key), two.latency.get(key)
        row = _row(Kind.LATENCY, ", ".join(key), before, now, lambda value: f"{value:.4g} ms")
        if now is None and key[0] in two.unmeasured:
            row = replace(row, note=two.unmeasured[key[0]])
        yield row if before is None or now is None or row.note else _ratio(row, before, now, options.max_slowdown)
    for section, why in one.unmeasured.items():
        yield Row(Kind.LATENCY, section, Result.NOT_COMPARED, note=f"OLD: {why}")


def _ratio(row: Row, old: Measured, new: Measured, most: float) -> Row:
    from rtmo_deploy.measure.bench.baseline import ONE_ROUND, widened_ratio

    if old.known_by != new.known_by:
        same = old.data == new.data
        return replace(row, note=f"other machine: {old.data} in OLD, {'another one' if same else new.data} in NEW")
    reason = _other_terms(old, new) or _busy(old, new)
    if reason:
        return replace(row, note=reason)
    found = widened_ratio(new.entry, old.entry, new.entry["rounds_ms"], old.entry["rounds_ms"])
    row = replace(row, value=found.value, low=found.low, high=found.high, change=f"x {found}")
    if found.low is None or not math.isfinite(found.value):
        return replace(row, note=ONE_ROUND)
    before, now = old.entry["backend"], new.entry["backend"]
    return replace(
        row,
        result=Result.WORSE if found.low > 1 + most else Result.NOT_WORSE,
        bound=f"at most {100 * most:g} % slower",
        note="" if before == now else f"runtime: {before} in OLD, {now} in NEW",
    )


def _busy(old: Measured, new: Measured) -> str:
    """On which side other work disturbed the measurement, and the first thing that told so; empty if on none."""
    told = {side: one.entry["interference"]["busy"] for side, one in (("OLD", old), ("NEW", new))}
    sides = [side for side, reasons in told.items() if reasons]
    return f"busy machine in {' and '.join(sides)}: {clean(told[sides[-1]][0])}" if sides else ""


def _sizes(one: ReadRelease, two: ReadRelease, names: Mapping[str, str], options: DiffOptions) -> Iterator[Row]:
    for name, new_name in names.items():
        model, other = one.models[name], two.models[new_name]
        if "source" in (name, new_name) or not (model.good and other.good):
            continue  # the artifact's own row tells it
        texts = human_size(model.size), human_size(other.size)
        row = Row(
            Kind.SIZES, new_name, Result.NOT_COMPARED, *texts, old_value=float(model.size), new_value=float(other.size)
        )
        if not model.size:
            yield replace(row, note="OLD has no bytes of it")
            continue
        value = other.size / model.size
        result = Result.WORSE if value - 1 > options.max_growth + _ROUNDING else Result.NOT_WORSE
        bound = f"at most {100 * options.max_growth:g} % larger"
        yield replace(row, result=result, value=value, change=f"{round(value - 1, 3) + 0:+.1%}", bound=bound)


def _figures(kind: Kind, old: Mapping[Any, Measured], new: Mapping[Any, Measured]) -> Iterator[Figure]:
    """What stands beside the judged figures, where both releases measured it on the same."""
    for key, before in old.items():
        now = new.get(key)
        if now is None or _other_data(before, now):
            continue
        for name in dict.fromkeys((*before.figures, *now.figures)):
            yield Figure(kind, _name(key), name, before.figures.get(name), now.figures.get(name))


def _changes(one: ReadRelease, two: ReadRelease, names: Mapping[str, str]) -> Iterator[Change]:
    parts: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = [
        (of, getattr(one, of), getattr(two, of)) for of in ("source", "machine", "versions")
    ]
    for name, new_name in names.items():
        model, other = one.models[name], two.models[new_name]
        if model.good and other.good:
            of = "source" if new_name == "source" else f"artifact {new_name}"
            parts.append((of, model.properties, other.properties))
    for name, gate in one.gates.items():
        if name in two.gates and gate.limit != two.gates[name].limit:
            yield Change(name, "bound", gate.bound, two.gates[name].bound)
    known = set()
    for of, old, new in parts:
        for name in dict.fromkeys((*old, *new)):
            if old.get(name, "") != new.get(name, "") and (of, name) not in known:
                known.add((of, name))
                yield Change(of, name, old.get(name, ""), new.get(name, ""))


def _files(one: ReadRelease, two: ReadRelease) -> list[FileChange]:
    """All files of both, by path; recipes' names do not count, nor does where a file with the same bytes lies."""
    old, new = dict(_by_key(one)), dict(_by_key(two))
    pairs = [(old[key], new[key]) for key in old if key in new]
    gone = [entry for key, entry in old.items() if key not in new]
    come = {entry["sha256"]: entry for key, entry in new.items() if key not in old}
    found = [_file(before, now) for before, now in pairs]
    found += [_file(before, come.pop(before["sha256"], None)) for before in gone]
    matched = {change.new_path for change in found}
    found += [_file(None, entry) for entry in new.values() if entry["path"] not in matched]
    found.sort(key=lambda change: (_STATUSES.index(change.status), change.new_path or change.old_path or ""))
    return found


def _by_key(release: ReadRelease) -> Iterator[tuple[str, Mapping[str, Any]]]:
    prefix = f"artifacts/{release.facts['name']}-"
    for path, entry in release.files.items():
        yield f"artifacts/*-{path.removeprefix(prefix)}" if path.startswith(prefix) else path, entry


def _file(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> FileChange:
    if old is None or new is None:
        status = "added" if old is None else "removed"
    elif old["sha256"] != new["sha256"]:
        status = "changed"
    else:
        status = "unchanged" if old["path"] == new["path"] else "renamed"
    parts = [None if entry is None else entry[name] for name in ("path", "sha256", "size") for entry in (old, new)]
    return FileChange(status, *parts)


def _recipe(one: ReadRelease, two: ReadRelease) -> tuple[str, ...]:
    if one.recipe is None or two.recipe is None or one.recipe == two.recipe:
        return ()
    return tuple(difflib.unified_diff(one.recipe, two.recipe, "OLD/recipe.yaml", "NEW/recipe.yaml", lineterm=""))


def _notes(one: ReadRelease, two: ReadRelease, names: Mapping[str, str]) -> Iterator[str]:
    for side, release in (("OLD", one), ("NEW", two)):
        if release.facts["verdict"] != "passed":
            yield f"{side} itself is {release.facts['verdict']}."
        if release.extra:
            yield f"{side} has {counted(len(release.extra), 'file')} that no release wrote: {shorten(release.extra)}."
    if one.signed != two.signed:
        yield f"{'OLD' if one.signed else 'NEW'} is signed, {'NEW' if one.signed else 'OLD'} is not."
    if one.facts["name"] != two.facts["name"]:
        yield f"OLD is called {one.facts['name']}, NEW {two.facts['name']}."
    if one.source["sha256"] != two.source["sha256"]:
        yield "They are made of different checkpoints."
    renamed = [f"{name} to {new}" for name, new in names.items() if name != new]
    if renamed:
        yield f"Renamed, by their bytes: {', '.join(renamed)}."
    if one.recipe is None or two.recipe is None:
        yield "The recipes were not compared: one is missing or too long."
