"""Reads recipes: YAML of JSON's types only, of bounded size, depth and count, with line and column in every error.

Anchors, aliases, tags, dates and repeated fields are refused: a recipe is written out, plainly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import RECIPE, require
from rtmo_deploy.files import UnreadableError, read_bounded

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1_000_000
#: Sections within sections; the deepest recipe that makes sense has six.
MAX_DEPTH = 20
#: Fields, entries and sections altogether.
MAX_NODES = 10_000
MAX_NAME = 200
MAX_TEXT = 10_000
MAX_DIGITS = 40

_JSON_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}
_STRING, _FLOAT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:float"


_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _JSON_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _RefusedError(yaml.MarkedYAMLError):
    """It is YAML, but not what a recipe is made of."""


def _refuse(event: Any, why: str) -> NoReturn:
    raise _RefusedError(problem=why, problem_mark=event.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without anchors, aliases, tags, dates and merges, and with bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.yaml_implicit_resolvers = _RESOLVERS
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, "aliases are not taken")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            _refuse(event, "anchors are not taken")
        if getattr(event, "tag", None) is not None:
            _refuse(event, "tags are not taken")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _refuse(event, f"more than {MAX_NODES} fields and entries")
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        if self._depth > MAX_DEPTH:
            _refuse(event, f"more than {MAX_DEPTH} sections in each other")
        node = super().compose_node(parent, index)
        self._depth -= isinstance(event, yaml.CollectionStartEvent)
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
            if node.tag == _FLOAT and not math.isfinite(self.construct_yaml_float(node)):
                _refuse(node, "a number must be finite")
        elif isinstance(node, yaml.MappingNode):
            _check_names(node)
        return node


def _check_scalar(node: yaml.ScalarNode) -> None:
    text = node.value
    if len(text) > MAX_TEXT:
        _refuse(node, f"text of {len(text)} characters; at most {MAX_TEXT} are taken")
    if "\0" in text:
        _refuse(node, "text cannot have a zero character in it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        _refuse(node, "text cannot have half of a surrogate pair in it")
    if node.tag != _STRING and len(text) > MAX_DIGITS:
        _refuse(node, f"a number of more than {MAX_DIGITS} characters")


def _check_names(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse(key, "the name of a field is text")
        if key.tag != _STRING:
            _refuse(key, f"the name of a field is text; quote it: '{key.value}'")
        if len(key.value) > MAX_NAME:
            _refuse(key, f"the name of a field has at most {MAX_NAME} characters")
        if key.value in seen:
            _refuse(key, f"{key.value}: this field is given twice")
        seen.add(key.value)


def _load(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of the text and their value, or yaml.YAMLError with a mark where there is one."""
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except (ValueError, OverflowError, RecursionError) as error:
        mark = loader.get_mark() if loader is not None else None
        raise yaml.MarkedYAMLError(problem=f"a value cannot be read: {error}", problem_mark=mark) from error
    finally:
        if loader is not None:
            loader.dispose()
    return root, value


def read_recipe_text(path: Path) -> str:
    """The text of a recipe; UsageError where it is no regular file, too large, not UTF-8 or cannot be read."""
    require(path, RECIPE)
    try:
        return read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except (UnreadableError, UnicodeDecodeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not UTF-8 text"
        raise UsageError(f"The recipe cannot be read: {reason}.", remedy="Check the name.", where=path) from error


def parse_recipe_text(text: str, *, where: Path, remedy: str) -> tuple[yaml.Node, dict[str, Any]]:
    """The nodes, for line and column, and the fields of a recipe.

    Args:
        text: YAML.
        where: The file to name in errors.
        remedy: Where the reader finds what a recipe is.

    Raises:
        UsageError: It is not YAML, has what no recipe needs, is too large, or is no mapping of fields.
    """
    if len(text) > MAX_BYTES:
        raise UsageError(f"It has {len(text)} characters; that is no recipe.", remedy=remedy, where=where)
    try:
        root, values = _load(text)
    except _RefusedError as error:
        raise UsageError(
            f"The recipe is wrong: {_said(error)}.", remedy="Write it out, plainly.", where=where
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"This is not YAML: {_said(error)}.", remedy="Mend the line.", where=where) from error
    if root is None or not isinstance(values, dict):
        raise UsageError("The recipe is empty or no mapping of fields.", remedy=remedy, where=where)
    return root, values


def parse_value(text: str) -> Any:
    """A single value in YAML, with the bounds of a recipe, or ValueError that says why not."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} characters")
    try:
        return _load(text)[1]
    except yaml.YAMLError as error:
        raise ValueError(_said(error)) from error


def _said(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(str(getattr(error, "problem", None) or error).split())[:300]
