"""Turns a recipe into steps: what is made and measured, of what; and the cache key of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rtmo_deploy.address import is_address
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.files import reading, sha256_of
from rtmo_deploy.recipe_findings import close_name
from rtmo_deploy.release.recipe import SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.recipe import DataSection, ReleaseRecipe


@dataclass(frozen=True)
class Step:
    """One thing that is made or measured."""

    #: Unique in a recipe: an artifact's own, or ``accuracy:fp16`` and so on.
    name: str
    action: str
    #: What the action is told, JSON values; no paths.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Role to name of the step whose files are taken.
    inputs: Mapping[str, str] = field(default_factory=dict)
    #: Role to a file or folder from outside.
    files: Mapping[str, Path] = field(default_factory=dict)
    kind: Literal["source", "artifact", "data", "measurement"] = "artifact"


def build_steps(recipe: ReleaseRecipe, folder: Path, *, checkpoint: Path | None = None) -> list[Step]:
    """The steps of a recipe, each after those it takes files of; relative paths are meant from ``folder``.

    ``checkpoint`` is the file of the source, where it is not the recipe that names it.
    """
    # A model's name has neither dots nor slashes; everything else is a file or an address.
    word = is_address(recipe.source) or all(letter.isalnum() or letter == "-" for letter in recipe.source)
    named = checkpoint is None and word
    files = {} if named else {"checkpoint": checkpoint or folder / recipe.source}
    steps = [Step(SOURCE, "source", {"source": recipe.source if named else None}, {}, files, "source")]
    steps += [step for name in recipe.order() for step in _artifact_steps(recipe, name, folder)]
    steps += _accuracy_steps(recipe, folder)
    for pair in recipe.parity:
        name = f"parity:{pair.a}:{pair.b}"
        count = sum(step.name.partition("#")[0] == name for step in steps)
        options = {
            "synthetic": pair.synthetic,
            "bounds": pair.bounds.model_dump(exclude_none=True),
            "devices": [pair.device_a, pair.device_b],
            "pictures": recipe.report.pictures,
        }
        files = {} if pair.images is None else {"images": folder / pair.images}
        name = f"{name}#{count + 1}" if count else name
        steps.append(Step(name, "parity", options, {"a": pair.a, "b": pair.b}, files, "measurement"))
    for section in recipe.latency:
        options = section.model_dump(mode="json", exclude={"gates"})
        inputs = {name: name for name in section.contenders}
        steps.append(Step(f"latency:{section.name}", "latency", options, inputs, {}, "measurement"))
    return steps


def _artifact_steps(recipe: ReleaseRecipe, name: str, folder: Path) -> list[Step]:
    section = recipe.artifacts[name]
    options = section.model_dump(mode="json", exclude={"make", "origin", "judge"})
    options["file_stem"] = f"{recipe.name}-{name}"
    files: dict[str, Path] = {}
    inputs = {"model": section.origin}
    before: list[Step] = []
    if section.make == "quantize":
        if (folder / section.calibration).is_dir():
            files["calibration"] = folder / section.calibration
            options["calibration"] = None
        if section.judge is not None:
            data = _data_step(f"judge:{name}", section.judge, folder)
            before, inputs = [data], {**inputs, "judge": data.name}
    return [*before, Step(name, section.make, options, inputs, files, "artifact")]


def _data_step(name: str, data: DataSection, folder: Path) -> Step:
    if data.synthetic is not None:
        return Step(name, "draw", data.synthetic.model_dump(mode="json"), {}, {}, "data")
    assert data.annotations is not None
    assert data.images is not None
    files = {"annotations": folder / data.annotations, "images": folder / data.images}
    return Step(name, "annotated", {"max_images": data.max_images}, {}, files, "data")


def _accuracy_steps(recipe: ReleaseRecipe, folder: Path) -> list[Step]:
    accuracy = recipe.accuracy
    if accuracy is None:
        return []
    wanted = {name for gate in accuracy.gates for name in (gate.artifact, gate.against or SOURCE)} - {"published"}
    chosen = [SOURCE, *recipe.artifacts] if accuracy.measure is None else sorted(wanted | set(accuracy.measure))
    data = _data_step("pictures", accuracy.data, folder)
    options = {"device": accuracy.device, "batch": accuracy.batch, "score_thr": accuracy.score_thr}
    steps = [
        Step(f"accuracy:{name}", "accuracy", options, {"model": name, "data": data.name}, {}, "measurement")
        for name in [SOURCE, *recipe.artifacts]
        if name in chosen
    ]
    return [data, *steps] if steps else []


def descendants(steps: Sequence[Step], name: str) -> set[str]:
    """A step and all that take its files, directly or not."""
    names = [step.name for step in steps]
    if name not in names:
        raise UsageError(
            f"There is no step '{name}'{close_name(name, names)}.", remedy=f"Steps are: {', '.join(names)}."
        )
    found = {name}
    for step in steps:  # each stands after those it takes files of
        if found.intersection(step.inputs.values()):
            found.add(step.name)
    return found


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content; of a folder, of the names, sizes and times of the files in it."""
    with reading(path, InputDataError, remedy="The recipe names it; relative paths are meant from its folder."):
        if not path.is_dir():
            return sha256_of(path)
        entries = [
            [found.relative_to(path).as_posix(), (stat := found.stat()).st_size, stat.st_mtime_ns]
            for found in sorted(path.rglob("*"))
            if found.is_file()
        ]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def step_key(step: Step, inputs: Mapping[str, Any], files: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """Cache key of a step's result, 64 hex digits; the step's name does not count."""
    known = [step.action, dict(step.options), dict(inputs), dict(files), dict(facts)]
    return hashlib.sha256(json.dumps(known, sort_keys=True, allow_nan=False).encode()).hexdigest()
