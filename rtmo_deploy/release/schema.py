"""Release recipes: YAML, checked field by field and name by name before anything is made.

A recipe says everything a release depends on; there is no inheritance between recipes, and YAML's anchors and aliases
are not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import PORTABLE_NAME, is_portable_name
from rtmo_deploy.release._findings import close_name, findings, located
from rtmo_deploy.release.judging import PLAIN_NAME, AccuracySection, LatencySection, ParitySection, ReportSection
from rtmo_deploy.release.sections import Artifact, EngineArtifact, ExportArtifact, QuantizeArtifact, Section
from rtmo_deploy.yaml_file import parse_recipe_text, read_recipe_text
from rtmo_deploy.zoo import EMBEDDED, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What the checkpoint is called among the artifacts.
SOURCE = "source"
RESERVED = frozenset({SOURCE, "published", "baseline"})
_REMEDY = "See recipes/ and docs/release.md."

Problem = tuple[tuple[int | str, ...], str]


class ReleaseRecipe(Section):
    """Everything a release depends on.

    Attributes:
        schema_version: 2. AP ran from 0 to 100 in version 1: a recipe of version 1 is taken only without bounds on AP.
        name: What files are called: letters, digits, ``.``, ``_``, ``-``.
        source: A checkpoint (a relative path is looked up from the recipe's folder), or a model's name.
        ignore_cfg: Do not follow the config inside the checkpoint: take the published models' settings.
        artifacts: What is made, by name.
        accuracy: AP and bounds on it.
        parity: Pairs of models that must find the same people.
        latency: Benchmarks and bounds on them.
        report: What the report shows.
    """

    schema_version: Literal[1, 2] = 2
    name: str = Field(pattern=PLAIN_NAME, max_length=60)
    source: str = Field(min_length=1)
    ignore_cfg: bool = False
    artifacts: dict[str, Artifact] = Field(min_length=1, max_length=100)
    accuracy: AccuracySection | None = None
    parity: tuple[ParitySection, ...] = ()
    latency: tuple[LatencySection, ...] = ()
    report: ReportSection = ReportSection()

    def order(self) -> list[str]:
        """Names of the artifacts, each after the one it is made of."""
        done: list[str] = []
        left = list(self.artifacts)
        while left:
            ready = [name for name in left if self.artifacts[name].origin in (SOURCE, *done)]
            done += ready
            left = [name for name in left if name not in ready]
        return done


def load_release(path: Path) -> ReleaseRecipe:
    """Read and check a recipe; relative paths in it are meant from its folder.

    Raises:
        UsageError: The file cannot be read, is no YAML, has a field that is missing, unknown or wrong, or names an
            artifact that is not there; the message gives line and column, and what may have been meant.
    """
    return parse_release(read_recipe_text(path), where=path)


def parse_release(text: str, *, where: Path) -> ReleaseRecipe:
    """A recipe from YAML text; as :func:`load_release`, with ``where`` as its place."""
    root, values = parse_recipe_text(text, where=where, remedy=_REMEDY)
    try:
        recipe = ReleaseRecipe.model_validate(values)
    except ValidationError as error:
        found = "; ".join(findings(error, root, ReleaseRecipe))
        raise UsageError(f"The recipe is wrong: {found}.", remedy=_REMEDY, where=where) from None
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
    wrong = list(_wrong_names(recipe))
    wrong += _points(recipe)
    if not wrong:
        wrong += _wrong_references(recipe)
    if not wrong:
        wrong += _wrong_origins(recipe)
    return wrong


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


def _wrong_references(recipe: ReleaseRecipe) -> list[Problem]:
    known = [SOURCE, *recipe.artifacts]
    named: list[tuple[tuple[int | str, ...], str | None, list[str]]] = [
        (("artifacts", name, "from"), section.origin, known) for name, section in recipe.artifacts.items()
    ]
    if recipe.accuracy is not None:
        for index, wanted in enumerate(recipe.accuracy.measure or ()):
            named.append((("accuracy", "measure", index), wanted, known))
        for index, gate in enumerate(recipe.accuracy.gates):
            here: tuple[int | str, ...] = ("accuracy", "gates", index)
            named.append(((*here, "artifact"), gate.artifact, known))
            named.append(((*here, "against"), gate.against, [*known, "published"]))
    for index, pair in enumerate(recipe.parity):
        named += [(("parity", index, side), getattr(pair, side), known) for side in ("a", "b")]
    for index, bench in enumerate(recipe.latency):
        here = ("latency", index)
        named += [((*here, "contenders", at), name, known) for at, name in enumerate(bench.contenders)]
        for at, bound in enumerate(bench.gates):
            for field in ("artifact", "against"):
                named.append(((*here, "gates", at, field), getattr(bound, field), list(bench.contenders)))
    wrong: list[Problem] = []
    for place, name, among in named:
        if name is not None and name not in among:
            where = "among the contenders" if "latency" in place and "gates" in place else "here"
            wrong.append((place, f"there is no '{name}' {where}{close_name(name, among)}"))
    return wrong + _wrong_published(recipe)


def _wrong_published(recipe: ReleaseRecipe) -> list[Problem]:
    accuracy = recipe.accuracy
    wrong: list[Problem] = []
    for index, gate in enumerate(accuracy.gates if accuracy is not None else ()):
        place = ("accuracy", "gates", index, "against")
        if gate.against == gate.artifact:
            wrong.append((place, "this is the artifact itself"))
        if gate.against != "published" or accuracy is None:
            continue
        if recipe.source.lower() in EMBEDDED and recipe.source.lower() not in VARIANTS:
            wrong.append((place, f"nobody has published figures of '{recipe.source}'"))
        elif accuracy.data.synthetic is not None or accuracy.data.max_images is not None:
            wrong.append((place, "published figures are of a whole published data set, and 'data' is not one"))
    return wrong


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
