"""Reads a release's folder for a comparison: checks its files, and makes records of what the manifest says."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.files import human_size, read_bounded, reading
from rtmo_deploy.measure.bench.baseline import SAME_OPTIONS
from rtmo_deploy.plain import shorten
from rtmo_deploy.release.gates import case_of, known_entry
from rtmo_deploy.release.integrity import MANIFEST, SHOWN, require_folder, verified
from rtmo_deploy.release.record import GOOD
from rtmo_deploy.release.signature import SignatureStatus

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from rtmo_deploy.release.integrity import Verification

#: Bytes and lines of a recipe that is compared line by line.
MAX_RECIPE: Final = 256 << 10
MAX_LINES: Final = 5000
#: Of an artifact's record, what is no property of the model itself, or is compared elsewhere.
_LEFT_OUT: Final = {"parents", "versions", "verified", "schema_version", "skeleton", "companion"}
_FIGURES: Final = (
    "matched",
    "missed",
    "extra",
    "oks_mean",
    "oks_min",
    "keypoint_px_p99",
    "keypoint_px_max",
    "score_max",
)


@dataclass(frozen=True)
class Model:
    """The source, or an artifact that the recipe asks for."""

    status: str
    message: str
    #: Of the file that is meant; None where it was not made.
    sha256: str | None
    #: Of all its files.
    size: int
    #: Precision, input, thresholds and so on, by name.
    properties: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether it was made."""
        return self.status in GOOD


@dataclass(frozen=True)
class Measured:
    """A measurement: one figure that is judged, others beside it, and on what they were measured."""

    #: AP, mean OKS or the median in ms.
    value: float | None
    #: Why there are no figures; empty where there are.
    why: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    #: The data for a reader, and the texts by which they are known, one of which must be the same.
    data: str = ""
    known_by: frozenset[str] = frozenset()
    #: What else must be the same, by name.
    terms: Mapping[str, str] = field(default_factory=dict)
    #: An entry of a latency file, as ``known_entry`` gives it.
    entry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """A gate and what became of it."""

    status: str
    bound: str
    message: str

    @property
    def limit(self) -> str:
        """The bound, without the number of people that it was worked out for."""
        return re.sub(r"at most \d+ in one model only \((\S+ %) of \d+\)", r"at most \1 in one model only", self.bound)


@dataclass(frozen=True)
class ReadRelease:
    """A release's folder."""

    folder: Path
    #: Name, verdict, when it was made, version of rtmo-deploy.
    facts: Mapping[str, str]
    source: Mapping[str, str]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    models: Mapping[str, Model]
    gates: Mapping[str, Gate]
    #: By the model's name.
    accuracy: Mapping[str, Measured]
    #: By both models' names and which of several it is.
    parity: Mapping[tuple[str, str, int], Measured]
    #: By section, model and case.
    latency: Mapping[tuple[str, str, str], Measured]
    #: Latency sections that could not be measured, and why.
    unmeasured: Mapping[str, str]
    #: Entries of the manifest, by path.
    files: Mapping[str, Mapping[str, Any]]
    #: Lines; None where it is too long to be compared.
    recipe: tuple[str, ...] | None
    #: Files that the manifest does not know.
    extra: tuple[str, ...]
    #: Whether there is a signature; it is not checked.
    signed: bool


def read_release(path: str | os.PathLike[str]) -> ReadRelease:
    """Read a release whose files are as its manifest says; other files beside them do no harm.

    Raises:
        ArtifactError: It is no release, is unfinished, damaged or of a newer version, or a file is changed or missing.
    """
    folder = Path(path)
    require_folder(folder, "a release is a folder")
    found, manifest = verified(folder)
    remedy = "Get it again, or run the recipe again."
    wrong = {kind: names for kind, names in found.differences.items() if kind != "extra"}
    if wrong:
        told = "; ".join(f"{kind}: {shorten(names, SHOWN)}" for kind, names in wrong.items())
        raise ArtifactError(
            f"It is not what its manifest says, so the figures may be of something else: {clean(told)}.",
            remedy=remedy,
            where=folder,
        )
    with reading(folder / MANIFEST, damaged="the manifest of a release", remedy=remedy):
        return _read(folder, manifest, found)


def clean(text: object) -> str:
    """A text on one line, without control characters."""
    return _printable(" ".join(str(text).split()))


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in line)


def _read(folder: Path, manifest: Mapping[str, Any], found: Verification) -> ReadRelease:
    steps = [_Step.of(step) for step in manifest["steps"]]
    data = {step.name: step for step in steps if step.kind == "data"}
    files = {entry["path"]: entry for entry in manifest["files"]}
    latency = [step for step in steps if step.action == "latency"]
    versions: dict[str, set[str]] = {}
    for step in steps:
        for name, version in step.versions.items():
            versions.setdefault(name, set()).add(version)
    return ReadRelease(
        folder,
        {name: clean(manifest[name]) for name in ("name", "verdict", "made", "rtmo_deploy")},
        {name: clean(manifest["source"].get(name) or "") for name in ("name", "architecture", "sha256")},
        _flat(manifest["machine"]),
        {name: ", ".join(sorted(found)) for name, found in versions.items()},
        {step.name: _model(step, files.values()) for step in steps if step.kind in {"source", "artifact"}},
        dict(_gates(manifest["gates"])),
        {step.inputs["model"]: _accuracy(step, data) for step in steps if step.action == "accuracy"},
        dict(_parity([step for step in steps if step.action == "parity"])),
        {key: one for step in latency if step.good for key, one in _latency(step)},
        {step.section: f"{step.name}: {step.message}" for step in latency if not step.good},
        files,
        _recipe(folder / "recipe.yaml") if "recipe.yaml" in files else None,
        found.extra,
        found.signature.status is not SignatureStatus.NONE,
    )


@dataclass(frozen=True)
class _Step:
    """A step of the manifest, its fields checked."""

    name: str
    action: str
    kind: str
    status: str
    message: str
    key: str | None
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, step: Mapping[str, Any]) -> _Step:
        texts = {name: clean(step[name]) for name in ("name", "action", "kind", "status", "message")}
        inputs, versions = (
            {clean(key): clean(one) for key, one in step[name].items()} for name in ("inputs", "versions")
        )
        key = None if step["key"] is None else clean(step["key"])
        options, facts = dict(step["options"]), dict(step["facts"])
        return cls(**texts, key=key, inputs=inputs, versions=versions, options=options, facts=facts)

    @property
    def good(self) -> bool:
        return self.status in GOOD

    @property
    def section(self) -> str:
        return self.name.partition(":")[2]


def _model(step: _Step, files: Any) -> Model:
    own = [entry for entry in files if entry.get("step") == step.name]
    sha256 = own[0]["sha256"] if own else step.facts.get("sha256")
    properties = {name: clean(step.facts[name]) for name in ("kind", "architecture", "precision") if name in step.facts}
    described_by = dict(step.facts.get("artifact") or {})
    properties |= _flat({name: value for name, value in described_by.items() if name not in _LEFT_OUT})
    skeleton = described_by.get("skeleton")
    if skeleton:
        properties["skeleton"] = f"{clean(skeleton['name'])}, {len(skeleton['keypoints'])} keypoints"
    return Model(step.status, step.message, sha256, sum(entry["size"] for entry in own), properties)


def _flat(value: Any, place: str = "") -> dict[str, str]:
    """``{"input": {"height": 352}}`` as ``{"input height": "352"}``; without what is None or empty."""
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for name, one in value.items():
            found |= _flat(one, f"{place} {clean(name)}".strip().replace("_", " "))
        return found
    if isinstance(value, list):
        value = ", ".join(map(clean, value))
    elif place == "memory" and isinstance(value, int):
        value = human_size(value)
    return {} if value in (None, "") else {place: clean(value)}


def _gates(gates: list[Any]) -> Iterator[tuple[str, Gate]]:
    seen: Counter[str] = Counter()
    for gate in gates:
        name = clean(gate["name"])
        seen[name] += 1
        number = f" #{seen[name]}" if seen[name] > 1 else ""
        yield f"{name}{number}", Gate(*(clean(gate[part]) for part in ("status", "bound", "message")))


def _accuracy(step: _Step, data: Mapping[str, _Step]) -> Measured:
    if not step.good:
        return Measured(None, step.message or step.status)
    made, facts = data[step.inputs["data"]], step.facts
    # The key changes with versions too, so two that differ tell nothing.
    known_by = {f"key {made.key}"}
    if made.action == "draw":
        known_by.add(json.dumps([made.options, made.facts.get("generator")], sort_keys=True))
    elif "annotations_sha256" in made.facts:
        names = ("annotations_sha256", "images_sha256", "max_images")
        known_by.add(json.dumps([made.facts[name] for name in names]))
    terms = {name: clean(facts.get(name)) for name in ("protocol", "images", "people", "skeleton", "sigmas")}
    terms["score threshold"] = clean(step.options.get("score_thr"))
    figures = {clean(name): _number(value) for name, value in facts["metrics"].items() if name != "AP"}
    ap = _number(facts["ap"])
    if ap is not None and not -1 <= ap <= 1:  # -1: there was nobody to find
        raise ValueError(f"AP runs from 0 to 1, and this is {ap:g}")
    return Measured(ap, "", figures, clean(made.facts["source"]), frozenset(known_by), terms)


def _parity(steps: list[_Step]) -> Iterator[tuple[tuple[str, str, int], Measured]]:
    seen: Counter[tuple[str, str]] = Counter()
    for step in steps:
        pair = step.inputs["a"], step.inputs["b"]
        seen[pair] += 1
        key = (*pair, seen[pair])
        if not step.good:
            yield key, Measured(None, step.message or step.status)
            continue
        facts, count = step.facts, step.options.get("synthetic")
        source = clean(facts["source"])
        images = facts.get("images_sha256") if count is None else source
        known_by = {f"key {step.key}", *([json.dumps([count, images])] if images else [])}
        terms = {"score threshold": clean(facts["bounds"].get("score_thr"))}
        figures = {name: _number(facts["people"].get(name)) for name in _FIGURES}
        yield key, Measured(_mean_oks(facts["people"]), "", figures, source, frozenset(known_by), terms)


def _mean_oks(people: Mapping[str, Any]) -> float | None:
    """Mean OKS in which people of one model only count 0; None where there is nobody."""
    matched, missed, extra = (_number(people.get(name)) or 0.0 for name in ("matched", "missed", "extra"))
    everybody = matched + missed + extra
    return (_number(people.get("oks_mean")) or 0.0) * matched / everybody if everybody else None


def _latency(step: _Step) -> Iterator[tuple[tuple[str, str, str], Measured]]:
    options = dict(step.facts.get("options") or {})
    terms = {name.replace("_", " "): clean(options.get(name)) for name in SAME_OPTIONS}
    terms["protocol"] = clean(step.facts["protocol"])
    machine = step.facts["machine"]
    known_by = frozenset({clean(machine["fingerprint"])})
    for entry in step.facts["entries"]:
        known = {**known_entry(entry), "backend": clean(entry["contender"]["backend"])}
        median = _number(entry["total_ms"]["p50"])
        one = Measured(median, "", {}, clean(machine.get("cpu")), known_by, terms, known)
        yield (step.section, clean(entry["artifact"]), case_of(known)), one


def _number(value: Any) -> float | None:
    if value is not None and type(value) not in {int, float}:
        raise TypeError(f"{str(value)[:20]!r} is no number")
    return None if value is None else float(value)


def _recipe(path: Path) -> tuple[str, ...] | None:
    if path.stat().st_size > MAX_RECIPE:
        return None
    lines = read_bounded(path, max_bytes=MAX_RECIPE).decode("utf-8", "replace").splitlines()
    return None if len(lines) > MAX_LINES else tuple(_printable(line.expandtabs()) for line in lines)
