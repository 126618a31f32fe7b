"""Renders HTML pages: one file each, no script, nothing from the network, everything escaped."""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rtmo_deploy.report.template import environment

if TYPE_CHECKING:
    import jinja2

#: Characters that XML 1.0 does not have, not even escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text with U+FFFD for characters that XML cannot hold."""
    return _NO_XML.sub("�", text)


def render(template: str, **values: Any) -> str:
    """A page from a template of this package; well-formed XML, too.

    Args:
        template: Its file name, such as ``release.html``.
        values: What it shows. Text is escaped; ``markupsafe.Markup`` is not.
    """
    return xml_text(_environment().get_template(template).render(**values))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = environment("rtmo_deploy.report", autoescape=True)
    made.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    made.filters["number"] = number
    return made


def number(value: Any, form: str = ".4g") -> str:
    """A number in four digits or another format; a count as it is; ``-`` for what is no number."""
    if not isinstance(value, int | float):
        return "-"
    return str(value) if isinstance(value, int) else format(value, form)
