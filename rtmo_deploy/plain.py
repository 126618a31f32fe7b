"""Results and records as plain JSON values, and long lists in one short line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from rtmo_deploy.files import UnreadableError, read_bounded

#: Nesting of lists and objects that JSON may have unless the caller says otherwise.
MAX_DEPTH = 64
#: Characters that move the cursor, colour or reorder a terminal's text: all controls but tab and newline, and those of
#: bidirectional text.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
#: Items that :func:`shorten` names unless told otherwise.
SHOWN = 3


def plain(value: Any) -> Any:
    """JSON-ready form of a value: what ``json.dumps(..., allow_nan=False)`` takes.

    A dataclass becomes an object of its public fields, unless it has a ``to_dict`` of its own. Enums become their
    values, paths text, sequences and sets (sorted) lists, NumPy arrays and scalars numbers; NaN and infinity None.

    Raises:
        TypeError: The value, or something inside it, has no JSON form.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if not f.name.startswith("_")}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if hasattr(value, "tolist"):  # NumPy
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def shorten(items: Iterable[object], shown: int = SHOWN, *, separator: str = ", ") -> str:
    """``a, b, c and 4 more``: the first ``shown`` items in one line."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return separator.join(texts[:shown]) + more


def visible(text: str) -> str:
    r"""The text with control characters written as escapes, such as ``\x1b``: names of files may hold them."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def parse_json(text: str | bytes, *, max_depth: int = MAX_DEPTH, unique_keys: bool = False) -> Any:
    """Parse JSON of bounded depth with finite numbers (no ``Infinity``, ``NaN``, ``1e999``), else UnreadableError.

    With ``unique_keys`` an object that has a key twice is refused; else the last one counts.
    """
    hook = _unique if unique_keys else None
    try:
        document = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=hook)
    except RecursionError:
        raise UnreadableError(f"its JSON is nested deeper than {max_depth} levels") from None
    except UnicodeDecodeError:
        raise UnreadableError("it is not UTF-8 text") from None
    except ValueError as error:
        raise UnreadableError(f"it is not JSON ({error})") from error
    level, depth = [document], 0
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        if depth > max_depth:
            raise UnreadableError(f"its JSON is nested deeper than {max_depth} levels")
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return document


def read_json(path: Path, *, max_bytes: int) -> Any:
    """Parse a JSON file with :func:`read_bounded` and :func:`parse_json`."""
    data = read_bounded(path, max_bytes=max_bytes)
    try:
        return parse_json(data)
    except UnreadableError:
        from rtmo_deploy.file_kind import Kind, kind_of  # which is built on this module

        kind = kind_of(path)
        if kind in {Kind.JSON, Kind.ANNOTATION, Kind.ENGINE_RECORD, Kind.TEXT, Kind.UNKNOWN}:
            raise
        raise UnreadableError(f"it is {kind.article}, not JSON") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number, or too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found
