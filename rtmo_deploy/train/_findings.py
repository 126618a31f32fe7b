"""What is wrong with a recipe, in words, with line and column, and what may have been meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from rtmo_deploy.train.sections import CocoSource, SyntheticSource

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Findings that a message lists.
MOST = 20
#: Names are compared with what may have been meant up to this length.
LONGEST = 60
#: The values of ``type`` in a source, which pydantic puts into the place of an error.
_SOURCES: dict[int | str, type[BaseModel]] = {"synthetic": SyntheticSource, "coco": CocoSource}


def findings(error: ValidationError, root: yaml.Node | None, recipe: type[BaseModel]) -> list[str]:
    """A sentence for each thing that is wrong, without its full stop.

    Args:
        error: What validation found.
        root: The YAML text's nodes, for line and column; None where there is no text.
        recipe: The class of the whole recipe.
    """
    errors = error.errors()
    # A list whose entries are wrong is called too short as well.
    within = {one["loc"][:length] for one in errors for length in range(len(one["loc"]))}
    errors = [one for one in errors if one["type"] != "too_short" or one["loc"] not in within]
    more = [f"and {len(errors) - MOST} more"] if len(errors) > MOST else []
    return [_finding(one, root, recipe) for one in errors[:MOST]] + more


def _finding(error: Any, root: yaml.Node | None, recipe: type[BaseModel]) -> str:
    place = [part for part in error["loc"] if part not in _SOURCES]
    mark, node = (root.start_mark if root is not None else None), root
    for part in place:
        node, found = _child(node, part)
        if found is None:
            break
        mark = found
    at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    name = ".".join(str(part) for part in place) or "the recipe"
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        meant = _meant(error["loc"], recipe)
        text = "there is no such field" + (f"; perhaps {meant} is meant" if meant else "")
    elif error["type"] == "missing":
        text = "this field is missing"
    elif error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        text = f"'type' must be one of {', '.join(str(one) for one in _SOURCES)}"
    return f"{at}{name}: {text}"


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node | None, Any]:
    """The value of a field or the entry of a list, and where it begins; None twice where it is not written."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark
    return None, None


def _meant(place: tuple[int | str, ...], recipe: type[BaseModel]) -> str:
    """What an unknown field may have been: one of its own section, else of any."""
    section: type[BaseModel] = recipe
    for part in place[:-1]:
        if part in _SOURCES:
            section = _SOURCES[part]
        elif isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else section
    if len(str(place[-1])) > LONGEST:
        return ""
    close = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"'{close[0]}'" if close else suggestion(str(place[-1]), recipe)


def suggestion(name: str, recipe: type[BaseModel]) -> str:
    """Quoted full name of the field that is most like ``name``, or an empty string where none is."""
    if len(name) > LONGEST:
        return ""
    names = dict(_names(recipe, ""))
    last = name.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(name, names.values(), n=1) or [
        names[one] for one in difflib.get_close_matches(last, names, n=1)
    ]
    return f"'{close[0]}'" if close else ""


def _names(section: type[BaseModel], prefix: str) -> list[tuple[str, str]]:
    """Last and full name of each field."""
    found = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += _names(annotation, f"{prefix}{name}.")
        found.append((name, prefix + name))
    return found
