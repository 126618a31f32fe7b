"""Declares the options of a step once: the library takes them, and a command offers them."""

from __future__ import annotations

import numbers
from dataclasses import field
from typing import Any, Literal, get_args, get_origin, get_type_hints

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


def require_valid(options: Any, kind: type[Any]) -> None:
    """Refuse what the command line would refuse of the fields that ``kind`` declares.

    Raises:
        UsageError: A number is none or out of its bounds, a text is none, or a choice does not exist.
    """
    for name, hint in get_type_hints(kind).items():
        value, settings = getattr(options, name), kind.__dataclass_fields__[name].metadata["settings"]
        fits, wanted = True, ""
        if hint in (int, float):
            number = numbers.Integral if hint is int else numbers.Real
            fits = isinstance(value, number) and settings["min"] <= value <= settings["max"]
            wanted = f"a {'whole ' if hint is int else ''}number from {settings['min']} to {settings['max']}"
        elif hint is str:
            fits, wanted = isinstance(value, str), "a text"
        elif get_origin(hint) is Literal:
            fits, wanted = value in get_args(hint), " or ".join(map(repr, get_args(hint)))
        if not fits:
            raise UsageError(f"{name} is {value!r}.", remedy=f"Give {wanted}.", where=f"--{name.replace('_', '-')}")
