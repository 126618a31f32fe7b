"""Griffe extension: descriptions of attributes from comments, and links from the roles in docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, NameResolutionError, Object

sys.path.insert(0, str(Path(__file__).parent))

from comments import comments_of

_ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Descriptions(Extension):
    """Gives attributes the docstrings that their comments are, and links what roles name."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Path, dict[str, str]] = {}

    def on_attribute(self, *, attr: Attribute, **_: Any) -> None:
        """An attribute without a docstring has its comment."""
        path = attr.filepath
        if attr.docstring is None and isinstance(path, Path):
            if path not in self._found:
                self._found[path] = comments_of(path.read_text(encoding="utf-8"))
            text = self._found[path].get(attr.path.removeprefix(f"{attr.module.path}."))
            if text:
                attr.docstring = Docstring(text, lineno=attr.lineno, endlineno=attr.endlineno, parent=attr)

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Roles become links, or code where their target is not in the pages."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(obj, role[1]), obj.docstring.value)


def _link(obj: Object, name: str) -> str:
    relative = name.startswith(".")
    name = name.lstrip(".")
    target = f"{obj.module.path.rpartition('.')[0]}.{name}" if relative else name
    if not target.startswith("rtmo_deploy."):
        head, _, tail = target.partition(".")
        try:
            target = obj.resolve(head) + (f".{tail}" if tail else "")
        except NameResolutionError:
            return f"`{name}`"
    shown = name.rpartition(".")[2] if name.startswith("rtmo_deploy.") else name
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'
