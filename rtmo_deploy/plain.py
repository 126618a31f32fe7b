"""Results and records as plain JSON values, and long lists in one short line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

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
