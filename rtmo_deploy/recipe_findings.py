"""Says what is wrong with a recipe: each finding with line and column, and what may have been meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic import ValidationError

Place = tuple[int | str, ...]
#: Findings that a message lists.
MOST = 20
#: Names up to this length are compared with what may have been meant.
LONGEST = 60
#: Fields whose value says which form a section has.
_DISCRIMINATORS = ("make", "type")


def findings(error: ValidationError, root: yaml.Node | None, recipe: type[BaseModel]) -> list[str]:
    """A sentence for each thing that is wrong, without its full stop, in the order of the file.

    Args:
        error: What validation found.
        root: The YAML text's nodes, for line and column; None where there is no text.
        recipe: The class of the whole recipe.
    """
    errors = error.errors(include_url=False, include_input=False)
    # A list whose entries are wrong is called too short as well.
    within = {one["loc"][:length] for one in errors for length in range(len(one["loc"]))}
    errors = [one for one in errors if one["type"] != "too_short" or one["loc"] not in within]
    found = []
    for one in errors[:MOST]:
        place = _written(one["loc"], root, recipe)
        found.append((_mark(place, root), located(root, place, _words(one, recipe))))
    more = [f"and {len(errors) - MOST} more"] if len(errors) > MOST else []
    return [text for _, text in sorted(found)] + more


def located(root: yaml.Node | None, place: Place, text: str) -> str:
    """``line 3, column 5: artifacts.fp16.from: <text>``."""
    line, column = _mark(place, root)
    at = "" if root is None else f"line {line}, column {column}: "
    return f"{at}{'.'.join(map(str, place)) or 'the recipe'}: {text}"


def close_name(name: str, names: Collection[str]) -> str:
    """``; perhaps 'fp16' is meant``, or an empty string where nothing is like it."""
    close = difflib.get_close_matches(name, names, n=1) if len(name) <= LONGEST else []
    return f"; perhaps '{close[0]}' is meant" if close else ""


def suggestion(name: str, recipe: type[BaseModel]) -> str:
    """Quoted full name, such as ``'optimizer.lr'``, of the field most like ``name``; empty where none is."""
    if len(name) > LONGEST:
        return ""
    names = {full.rsplit(".", 1)[-1]: full for full in _every_field(recipe)}
    close = difflib.get_close_matches(name, names.values(), n=1) or [
        names[one] for one in difflib.get_close_matches(name.rsplit(".", 1)[-1], names, n=1)
    ]
    return f"'{close[0]}'" if close else ""


def _words(error: Any, recipe: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such field{_meant(error['loc'], recipe)}"
    if kind == "missing":
        return "this field is missing"
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        name = str(context["discriminator"]).strip("'")
        tags = [tag for section in _every_section(recipe) for tag in get_args(_fields(section).get(name))]
        return f"'{name}' must be one of {', '.join(tags)}{close_name(str(context.get('tag', '')), tags)}"
    return str(error["msg"]).removeprefix("Value error, ")


def _written(loc: Place, root: yaml.Node | None, recipe: type[BaseModel]) -> Place:
    """The place as the file has it: pydantic also puts in which form of a section it took."""
    if root is None:
        tags = {tag for section in _every_section(recipe) for tag in _tags(section)}
        return tuple(part for part in loc if part not in tags)
    node = root
    place: list[int | str] = []
    for number, part in enumerate(loc):
        child = _child(node, part)
        if child is not None:
            node = child[0]
            place.append(part)
        elif number == len(loc) - 1 and part != "[key]":
            place.append(part)  # a field that is missing
    return tuple(place)


def _mark(place: Place, root: yaml.Node | None) -> tuple[int, int]:
    """Line and column, from 1, of the deepest part of a place that is written."""
    if root is None:
        return 1, 1
    node, mark = root, root.start_mark
    for part in place:
        child = _child(node, part)
        if child is None:
            break
        node, mark = child
    return mark.line + 1, mark.column + 1


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, Any] | None:
    """The value of a field or the entry of a list, and where it begins."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark
    return None


def _meant(loc: Place, recipe: type[BaseModel]) -> str:
    """What an unknown field may have been: one of its own section, else of any."""
    sections: list[type[BaseModel]] = [recipe]
    for part in loc[:-1]:
        inner = [found for section in sections for found in _models(_fields(section).get(str(part)))]
        tagged = [section for section in sections if part in _tags(section)]
        sections = inner or tagged or sections
    name = str(loc[-1])
    own = sorted({field for section in sections for field in _fields(section)})
    other = suggestion(name, recipe)
    return close_name(name, own) or (f"; perhaps {other} is meant" if other else "")


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """Annotations of a section's fields, by the names that recipes use."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Sections that a field can hold, itself or in a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]


def _tags(section: type[BaseModel]) -> tuple[Any, ...]:
    return tuple(tag for name in _DISCRIMINATORS for tag in get_args(_fields(section).get(name)))


def _every_section(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for annotation in _fields(section).values():
        for inner in _models(annotation):
            yield from _every_section(inner)


def _every_field(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Full names of all fields; inner ones first."""
    for name, annotation in _fields(section).items():
        for inner in _models(annotation):
            yield from _every_field(inner, f"{prefix}{name}.")
        yield prefix + name
