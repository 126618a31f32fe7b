"""Declares the options of a step once: the library takes them, and a command offers them."""

from __future__ import annotations

from dataclasses import field
from typing import Any


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
