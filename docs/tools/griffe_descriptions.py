"""Griffe extension: descriptions of attributes from comments, and links from the roles in docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, NameResolutionError, Object

sys.path.insert(0, str(Path(__file__).parent))

from comments import comments_of

#: A Python session that is a paragraph of its own.
_SESSION = re.compile(r"(\A|\n\n)(>>> (?:.+\n)+)")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


class Descriptions(Extension):
    """Gives attributes the docstrings that their comments are, and links what roles name."""

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Path, dict[str, str]] = {}

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Describe an attribute by its comment; turn roles into links and Python sessions into blocks of code."""
        if isinstance(obj, Attribute) and obj.docstring is None and isinstance(obj.filepath, Path):
            path = obj.filepath
            if path not in self._found:
                self._found[path] = comments_of(path.read_text(encoding="utf-8"))
            text = self._found[path].get(obj.path.removeprefix(f"{obj.module.path}."))
            if text:
                obj.docstring = Docstring(text, lineno=obj.lineno, endlineno=obj.endlineno, parent=obj)
        if obj.docstring is not None:
            text = _ROLE.sub(lambda role: _link(obj, role[1]), obj.docstring.value)
            text = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
            obj.docstring.value = _SESSION.sub(r"\1```pycon\n\2```\n", text + "\n").rstrip("\n")


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
