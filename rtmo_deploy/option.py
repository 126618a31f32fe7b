"""Declares the options of a step once: the library takes them, and a command offers them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, fields
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rtmo_deploy.errors import UsageError


def option(default: Any, help_text: str, *names: str, several: bool = False, **settings: Any) -> Any:
    """A field of an options dataclass that a command offers.

    Args:
        default: The value where nothing is given.
        help_text: What the help page says of it.
        names: Names on the command line; the field's own where there are none.
        several: Whether it can be given several times; the value is a tuple.
        settings: What ``typer.Option`` takes besides. With ``parser`` the text given becomes the value.
    """
    return field(
        default=default, metadata={"help": help_text, "names": names, "several": several, "settings": settings}
    )


def settle(options: Any, **names: Any) -> None:
    """Make each field of an options dataclass what its annotation says; called from ``__post_init__``.

    A list or a single value becomes a tuple, text a path or an enum's member, a number of NumPy Python's own.

    Args:
        options: The dataclass, of which fields may have bounds (``min``, ``max``; see :func:`option`).
        names: What annotations name and the module imports for type checkers alone.

    Raises:
        UsageError: A value is of another type or out of its bounds.
    """
    hints = get_type_hints(type(options), localns=names)
    for one in fields(options):
        given, settings = getattr(options, one.name), one.metadata.get("settings", {})
        least, most = settings.get("min", -math.inf), settings.get("max", math.inf)
        try:
            value = converted(given, hints[one.name])
            fits = "min" not in settings or value is None or least <= value <= most
        except (TypeError, ValueError):
            value, fits = None, False
        if not fits:
            bounds = f" from {least} to {most}" if most < math.inf else f", {least} or more"
            wanted = _wanted(hints[one.name]) + (bounds if "min" in settings else "")
            raise UsageError(f"{one.name} is {given!r}.", remedy=f"Give {wanted}.", where=_flag(one))
        object.__setattr__(options, one.name, value)


def converted(value: Any, hint: Any) -> Any:
    """A value as an annotation says, or TypeError or ValueError where it is something else.

    A list or a single value becomes a tuple, text a path or an enum's member, a number of NumPy Python's own.
    """
    if hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else converted(value, inner[0])
    if origin is tuple:
        return _several(value, inner)
    if origin is Literal:
        return inner[inner.index(value)]
    if hint is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    if isinstance(value, bool) and hint is not bool:
        raise TypeError
    if hint is float and isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if hint is int and isinstance(value, Integral):
        return int(value)
    if issubclass(hint, Enum):
        return hint(value)
    if issubclass(hint, tuple) and isinstance(value, list | tuple):  # a NamedTuple
        return hint(*_several(value, tuple(get_type_hints(hint).values())))
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise TypeError


def _several(value: Any, inner: tuple[Any, ...]) -> tuple[Any, ...]:
    if inner[-1] is Ellipsis:
        try:
            return (converted(value, inner[0]),)
        except (TypeError, ValueError):
            if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
                raise
        return tuple(converted(one, inner[0]) for one in value)
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(converted(one, hint) for one, hint in zip(value, inner, strict=True))


def _flag(one: Field[Any]) -> str | None:
    """What a field is called on the command line, if it is offered there."""
    if "help" not in one.metadata:
        return None
    return str((*one.metadata["names"], f"--{one.name.replace('_', '-')}")[0])


def _wanted(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _wanted(inner[0])
    if origin is tuple:
        more = inner[-1] is Ellipsis
        return f"a list, each entry {_wanted(inner[0])}" if more else f"{len(inner)} values, each {_wanted(inner[0])}"
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if issubclass(hint, Enum):
        return " or ".join(repr(one.value) for one in hint)
    if issubclass(hint, tuple):
        return f"({', '.join(hint._fields)})"
    named = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", Path: "a path"}
    return named[hint]
