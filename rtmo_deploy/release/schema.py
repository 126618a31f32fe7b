"""Reads release recipes: YAML, checked field by field and name by name before anything is made.

A recipe says everything a release depends on; there is no inheritance between recipes, and YAML's anchors and aliases
are not taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rtmo_deploy.address import is_address, without_credentials
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import PORTABLE_NAME, is_portable_name
from rtmo_deploy.recipe_findings import Place, close_name, findings, located
from rtmo_deploy.release.recipe import SOURCE, EngineArtifact, ExportArtifact, QuantizeArtifact, ReleaseRecipe
from rtmo_deploy.yaml_file import parse_recipe_text, read_recipe_text
from rtmo_deploy.zoo import EMBEDDED, VARIANTS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

RESERVED = frozenset({SOURCE, "published", "baseline"})
_REMEDY = "See recipes/ and docs/guides/release.md."

Problem = tuple[Place, str]


def load_release(path: str | os.PathLike[str], *, source: str | None = None) -> ReleaseRecipe:
    """Read and check a recipe; relative paths in it are meant from its folder. ``source`` replaces its source.

    Raises:
        UsageError: The file cannot be read, is no YAML, has a field that is missing, unknown or wrong, or names an
            artifact that is not there; the message gives line and column, and what may have been meant.
    """
    path = Path(path)
    return parse_release(read_recipe_text(path), where=path, source=source)


def parse_release(text: str, *, where: Path, source: str | None = None) -> ReleaseRecipe:
    """A recipe from YAML text; as :func:`load_release`, with ``where`` as its place."""
    root, values = parse_recipe_text(text, where=where, remedy=_REMEDY)
    try:
        recipe = ReleaseRecipe.model_validate(values)
    except ValidationError as error:
        found = "; ".join(findings(error, root, ReleaseRecipe))
        raise UsageError(f"The recipe is wrong: {found}.", remedy=_REMEDY, where=where) from None
    if source is not None:
        recipe = recipe.model_copy(update={"source": source})
    wrong = [located(root, place, said) for place, said in _problems(recipe)]
    if wrong:
        raise UsageError(f"The recipe is wrong: {'; '.join(wrong)}.", remedy=_REMEDY, where=where)
    return recipe


def recipe_schema() -> dict[str, Any]:
    """The recipe's JSON schema, for editors."""
    schema = ReleaseRecipe.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rtmo-deploy release recipe"}
    return {**head, **{key: value for key, value in schema.items() if key != "title"}}


def _problems(recipe: ReleaseRecipe) -> list[Problem]:
    """What no section can know by itself: names that are not there, cycles, bounds that cannot be measured."""
    wrong = [*_wrong_names(recipe), *_points(recipe)]
    wrong = wrong or [*_wrong_references(recipe), *_wrong_published(recipe)]
    return wrong or [*_wrong_source(recipe), *_wrong_origins(recipe)]


def _points(recipe: ReleaseRecipe) -> list[Problem]:
    """Bounds on AP of a recipe of version 1, which were in points of 100: taken as they stand they bound nothing."""
    quantised = [section for section in recipe.artifacts.values() if isinstance(section, QuantizeArtifact)]
    gates = recipe.accuracy.gates if recipe.accuracy is not None else ()
    if recipe.schema_version > 1 or not (gates or any(one.max_ap_drop is not None for one in quantised)):
        return []
    why = (
        "version 1 gave AP in points of 100, version 2 from 0 to 1; divide ap_min, ap_drop_max and max_ap_drop by 100 "
        "and write schema_version: 2"
    )
    return [(("schema_version",), why)]


def _wrong_names(recipe: ReleaseRecipe) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    if not is_portable_name(recipe.name):
        yield ("name",), PORTABLE_NAME.format(60)
    for name in recipe.artifacts:
        place = ("artifacts", name)
        if not is_portable_name(name, 40):
            yield place, PORTABLE_NAME.format(40)
        elif name.lower() in RESERVED:
            yield place, "this name has a meaning of its own; take another"
        elif name.lower() in seen:
            yield place, f"differs from '{seen[name.lower()]}' by capitals only, which some disks do not tell apart"
        seen[name.lower()] = name
    titles: set[str] = set()
    for index, section in enumerate(recipe.latency):
        if not is_portable_name(section.name, 40):
            yield ("latency", index, "name"), PORTABLE_NAME.format(40)
        elif section.name.lower() in titles:
            yield ("latency", index, "name"), f"two benchmarks are called '{section.name}'"
        titles.add(section.name.lower())


def _references(recipe: ReleaseRecipe) -> Iterator[tuple[Place, str | None, list[str]]]:
    """Place, name and the names it may be, of everything that is named."""
    known = [SOURCE, *recipe.artifacts]
    for name, section in recipe.artifacts.items():
        yield ("artifacts", name, "from"), section.origin, known
    if recipe.accuracy is not None:
        for index, wanted in enumerate(recipe.accuracy.measure or ()):
            yield ("accuracy", "measure", index), wanted, known
        for index, gate in enumerate(recipe.accuracy.gates):
            yield ("accuracy", "gates", index, "artifact"), gate.artifact, known
            yield ("accuracy", "gates", index, "against"), gate.against, [*known, "published"]
    for index, pair in enumerate(recipe.parity):
        yield ("parity", index, "a"), pair.a, known
        yield ("parity", index, "b"), pair.b, known
    for index, bench in enumerate(recipe.latency):
        for at, name in enumerate(bench.contenders):
            yield ("latency", index, "contenders", at), name, known
        for at, bound in enumerate(bench.gates):
            place = ("latency", index, "gates", at)
            yield (*place, "artifact"), bound.artifact, list(bench.contenders)
            yield (*place, "against"), bound.against, list(bench.contenders)


def _wrong_references(recipe: ReleaseRecipe) -> Iterator[Problem]:
    for place, name, among in _references(recipe):
        if name is not None and name not in among:
            where = "among the contenders" if "latency" in place and "gates" in place else "here"
            yield place, f"there is no '{name}' {where}{close_name(name, among)}"


def _wrong_published(recipe: ReleaseRecipe) -> Iterator[Problem]:
    if recipe.accuracy is None:
        return
    data = recipe.accuracy.data
    for index, gate in enumerate(recipe.accuracy.gates):
        place = ("accuracy", "gates", index, "against")
        if gate.against == gate.artifact:
            yield place, "this is the artifact itself"
        if gate.against != "published":
            continue
        if recipe.source.lower() in EMBEDDED and recipe.source.lower() not in VARIANTS:
            yield place, f"nobody has published figures of '{recipe.source}'"
        elif data.synthetic is not None or data.max_images is not None:
            yield place, "published figures are of a whole published data set, and 'data' is not one"


def _wrong_source(recipe: ReleaseRecipe) -> Iterator[Problem]:
    if is_address(recipe.source) and without_credentials(recipe.source) != recipe.source:
        yield ("source",), "it holds a password or a token, and the recipe is published with the release"


def _wrong_origins(recipe: ReleaseRecipe) -> Iterator[Problem]:
    for name, section in recipe.artifacts.items():
        place = ("artifacts", name, "from")
        chain, at = [name], section.origin
        while at != SOURCE and at not in chain:
            chain.append(at)
            at = recipe.artifacts[at].origin
        if at != SOURCE:
            yield place, f"goes round in a circle: {' from '.join([*chain, at])}"
            continue
        origin = None if section.origin == SOURCE else recipe.artifacts[section.origin]
        if isinstance(section, ExportArtifact):
            if origin is not None:
                yield place, "an export is made from 'source'"
        elif origin is None:
            yield place, f"'{section.make}' takes an ONNX model, and 'source' is a checkpoint; export it first"
        elif isinstance(origin, EngineArtifact) or origin.make == "openvino":
            yield place, f"'{section.make}' takes an ONNX model, and '{section.origin}' is of another kind"
        elif section.make in {"cast", "quantize"} and origin.make != "export":
            yield place, f"'{section.make}' takes a float32 model, and '{section.origin}' is none any more"
