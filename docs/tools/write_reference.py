"""Writes the generated parts of docs/reference: what stands between ``<!-- begin: NAME -->`` and ``<!-- end -->``.

``python docs/tools/write_reference.py`` writes them; tests/test_site.py fails where they are not those of the code.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

sys.path.insert(0, str(Path(__file__).parent))

from comments import comments_of, without_roles

from rtmo_deploy import artifact, errors
from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.cli import app as program
from rtmo_deploy.cli.help import EXAMPLES, HelpCommand
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.release.schema import recipe_schema
from rtmo_deploy.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
_BLOCK = re.compile(r"(<!-- begin: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
#: Sections of a release recipe whose fields are options of a command.
_COMMAND_OF = {
    "ExportArtifact": "export",
    "CastArtifact": "cast",
    "QuantizeArtifact": "quantize",
    "EngineArtifact": "build-trt",
    "OpenvinoArtifact": "export",
}


def main() -> None:
    """Write every page whose generated parts are not those of the code."""
    for page in sorted(FOLDER.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = written(text)
        if new != text:
            page.write_text(new, encoding="utf-8")


def written(page: str) -> str:
    """The page with its generated parts as they are to be."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_PARTS[block[2]]().strip()}\n\n{block[3]}", page)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _prose(text: str) -> str:
    """Text of a help page or a docstring, for Markdown and a table's cell."""
    parts = re.split(r"(`[^`]*`)", " ".join(without_roles(text).split()))
    escaped = [part if part.startswith("`") else re.sub(r"([<*_\[\]])", r"\\\1", part) for part in parts]
    return "".join(escaped).replace("|", "&#124;")


def _code(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return f"<code>{text}</code>"


# --- commands ---------------------------------------------------------------------------------------------------------


def _commands() -> Iterator[tuple[str, Any, Any]]:
    """Name, command and context of every command that does something, in the order of the list of commands."""
    root = typer.main.get_command(program.app)
    parent = root.make_context("rtmo-deploy", ["--help"], resilient_parsing=True)
    for section in program._SECTIONS.values():
        for name in section:
            command = root.get_command(parent, name)
            context = command.make_context(name, ["--help"], parent=parent, resilient_parsing=True)
            if not hasattr(command, "list_commands"):
                yield name, command, context
                continue
            for inner in command.list_commands(context):
                below = command.get_command(context, inner)
                yield (
                    f"{name} {inner}",
                    below,
                    below.make_context(inner, ["--help"], parent=context, resilient_parsing=True),
                )


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _summary() -> str:
    rows = [
        (f"[`{name}`](#{_anchor(name)})", _prose((command.help or "").partition("\n\n")[0]))
        for name, command, _ in _commands()
    ]
    return _table(("command", "what it does"), rows)


def _cli() -> str:
    found = []
    for name, command, context in _commands():
        usage = " ".join(command.collect_usage_pieces(context))
        lines = [f"## {name}", "", f"```text\nrtmo-deploy {name} {usage}\n```", ""]
        lines += [
            "\n".join(_prose(line) for line in part.splitlines()) + "\n" for part in (command.help or "").split("\n\n")
        ]
        for heading, records in HelpCommand.sections(command, context).items():
            rows = []
            for names, text in records:
                kept, limits = _limits(text)
                rows.append((_code(names), _prose(kept), _prose(limits)))
            lines += [f"**{heading}**", "", _table(("name", "meaning", "default, limits"), rows), ""]
        if name in EXAMPLES:
            lines += ["```bash-session", *(f"rtmo-deploy {example}" for example in EXAMPLES[name]), "```", ""]
        found.append("\n".join(lines))
    return "\n".join(found)


def _limits(text: str) -> tuple[str, str]:
    """A help text without what stands in brackets at its end, and that: default, range, whether it is required."""
    limits = []
    text = text.strip()
    while found := re.search(r"\s*\[([^\[\]]+)\]$", text):
        limits.insert(0, found[1].removeprefix("default: "))
        text = text[: found.start()]
    inner = re.search(r"\s*\[default: ([^\[\]]+)\]", text)
    if inner:
        limits.insert(0, inner[1])
        text = text.replace(inner[0], "")
    return text, "; ".join(limits)


# --- recipes ----------------------------------------------------------------------------------------------------------


def _schema(schema: dict[str, Any], title: str) -> str:
    """Tables of a recipe's JSON schema: the recipe itself, then its sections in the order of their use."""
    known = {title: schema, **schema["$defs"]}
    order, found = [title], []
    for name in order:
        texts = json.dumps(known[name].get("properties", {}))
        order += [one for one in re.findall(r"#/\$defs/(\w+)", texts) if one not in order]
    for name in dict.fromkeys(order):
        section = known[name]
        model = _model(name, title)
        about = inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0]
        lines = [f"## {name}", "", _prose(about), ""]
        described = _descriptions(model)
        rows = []
        for field, values in section.get("properties", {}).items():
            text = described.get(field) or values.get("description") or ""
            if "const" in values and not text:
                text = "The kind of this section."
            if not text:
                raise SystemExit(f"{name}.{field} has no description: write a comment '#: ...' behind it")
            default = "required" if field in section.get("required", ()) else _default(values)
            rows.append((f"`{field}`", _type(values), default, _prose(text)))
        found.append("\n".join([*lines, _table(("field", "value", "default", "meaning"), rows), ""]))
    return "\n".join(found)


def _model(name: str, title: str) -> Any:
    from rtmo_deploy.release import recipe
    from rtmo_deploy.train import sections

    if title == "Recipe":
        return Recipe if name == title else getattr(sections, name)
    return getattr(recipe, name)


def _descriptions(model: Any) -> dict[str, str]:
    """By field: its comment, its entry under "Attributes:", or the help of the command's option of that name."""
    found: dict[str, str] = {}
    command = _COMMAND_OF.get(model.__name__)
    if command is not None:
        (context,) = (context for name, _, context in _commands() if name == command)
        for parameter in context.command.params:
            found[parameter.name] = _limits(getattr(parameter, "help", None) or "")[0]
    for one in reversed(model.__mro__):
        if not one.__module__.startswith("rtmo_deploy."):
            continue
        comments = comments_of(inspect.getsource(sys.modules[one.__module__]))
        found |= {key.partition(".")[2]: text for key, text in comments.items() if key.startswith(f"{one.__name__}.")}
    attributes = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    for field, text in re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", attributes, re.MULTILINE):
        found[field] = text
    return {("from" if key == "origin" else key): text for key, text in found.items()}


def _default(values: dict[str, Any]) -> str:
    value = values.get("default")
    if isinstance(value, dict):
        return "its defaults"
    return f"`{json.dumps(value)}`"


def _type(values: dict[str, Any]) -> str:
    """What a field takes, in words; sections are links."""
    if "$ref" in values:
        name = values["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in values or "oneOf" in values:
        kinds = [one for one in values.get("anyOf", values.get("oneOf")) if one.get("type") != "null"]
        return " or ".join(_type(one) for one in kinds)
    if "const" in values or "enum" in values:
        return ", ".join(f"`{json.dumps(one)}`" for one in values.get("enum", [values.get("const")]))
    kind = values.get("type")
    if kind == "array":
        if "prefixItems" in values:
            return f"{len(values['prefixItems'])} values, each {_type(values['prefixItems'][0])}"
        return f"list of {_type(values['items'])}"
    if kind == "object":
        inner = values.get("additionalProperties") or next(iter(values["patternProperties"].values()))
        return f"names, each with {_type(inner)}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    words = "path" if values.get("format") == "path" else names[str(kind)]
    return ", ".join([words, *_bounds(values)])


def _bounds(values: dict[str, Any]) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {values[key]:g}" for key, sign in signs.items() if key in values and abs(values[key]) < 1e6]
    bounds += [f"{sign} {values[key]}" for key, sign in signs.items() if key in values and abs(values[key]) >= 1e6]
    return bounds + ([f"a multiple of {values['multipleOf']}"] if "multipleOf" in values else [])


# --- exit codes, JSON documents, metadata -----------------------------------------------------------------------------


def _errors() -> str:
    classes = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RtmoDeployError)
    ]
    rows = [
        (
            f"`{one.__name__}`",
            "-" if one is errors.RtmoDeployError else f"`{one.__mro__[1].__name__}`",
            str(one.exit_code),
            _prose((one.__doc__ or "").partition("\n\n")[0]),
        )
        for one in sorted(classes, key=lambda one: one.exit_code)
    ]
    return _table(("class", "is a", "exit code", "raised where"), rows)


def _documents() -> str:
    surface = json.loads((ROOT / "tests" / "data" / "surface.json").read_text(encoding="utf-8"))
    found = []
    for name, keys in surface["keys"].items():
        listed = ", ".join(f"`{key.removeprefix('.')}`" for key in keys)
        found.append(f"**{name}**\n\n{listed}\n")
    return "\n".join(found)


def _metadata() -> str:
    """Keys of an exported model's metadata, with the values of an example."""
    example = Artifact(
        path=Path("rtmo-s.onnx"),
        kind=Kind.ONNX,
        architecture="rtmo-s",
        skeleton=Skeleton("pair", ("left_eye", "right_eye"), ((0, 1),), ((0, 1),), (0.025, 0.025)),
        input=InputContract(640, 640),
        decode=DecodeContract(DecodeMode.ONNX),
        variant="rtmo-s-coco",
        parents=(Parent("rtmo-s-coco.pth", "ab" * 32),),
        versions={"rtmo-deploy": "0.1.0", "torch": "2.13.0"},
    )
    meanings = {
        key.partition(".")[2]: text
        for key, text in comments_of(inspect.getsource(artifact)).items()
        if key.startswith("Artifact.")
    }
    meanings |= {"kind": "What the file is.", "schema_version": "Version of these keys."}
    metadata = example.to_metadata()
    own = [
        (f"`{key}`", _prose(meanings[key.removeprefix(artifact.PREFIX)]), _code(value).replace(", ", ", &#8203;"))
        for key, value in metadata.items()
        if key.startswith(artifact.PREFIX)
    ]
    return _table(("key", "meaning", "example"), own)


def _shared_metadata() -> str:
    example = Artifact(
        path=Path("rtmo-s.onnx"),
        kind=Kind.ONNX,
        architecture="rtmo-s",
        skeleton=Skeleton("pair", ("left_eye", "right_eye")),
        input=InputContract(640, 640),
        decode=DecodeContract(DecodeMode.ONNX),
    )
    metadata = {**example.to_metadata(), "version": "of rtmo-deploy"}
    rows = [(f"`{key}`", _code(value)) for key, value in metadata.items() if not key.startswith(artifact.PREFIX)]
    return _table(("key", "example"), rows)


def _contract(kind: type[Any]) -> str:
    meanings = comments_of(inspect.getsource(artifact))
    rows = [
        (f"`{field.name}`", _prose(meanings.get(f"{kind.__name__}.{field.name}", "As height.")))
        for field in fields(kind)
    ]
    return _table(("field", "meaning"), rows)


_PARTS: dict[str, Callable[[], str]] = {
    "commands": _summary,
    "cli": _cli,
    "release-recipe": lambda: _schema(recipe_schema(), "ReleaseRecipe"),
    "train-recipe": lambda: _schema(Recipe.model_json_schema(), "Recipe"),
    "errors": _errors,
    "documents": _documents,
    "metadata": _metadata,
    "shared-metadata": _shared_metadata,
    "input-contract": lambda: _contract(InputContract),
    "decode-contract": lambda: _contract(DecodeContract),
}

if __name__ == "__main__":
    main()
