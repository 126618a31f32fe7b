"""Makes the Jinja environments of all templates: pages, documents, configurations and sources."""

from __future__ import annotations

from typing import Any

import jinja2


def environment(package: str | None = None, **settings: Any) -> jinja2.Environment:
    """Templates in which a value that is missing is an error, and a line with a block alone leaves no line.

    Args:
        package: Its folder ``templates`` has them; None for templates that are given as text.
        settings: Further ones of Jinja, such as ``autoescape``: without it, text is not escaped.
    """
    return jinja2.Environment(  # noqa: S701  the caller escapes
        loader=jinja2.PackageLoader(package) if package else None,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **settings,
    )
