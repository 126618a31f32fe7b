"""Puts the pages together: one self-contained HTML document each, and the Content-Security-Policy it runs under."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

from markupsafe import Markup

from rtmo_deploy.report.template import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jinja2

_ASSETS: Final = files("rtmo_deploy.web") / "assets"
#: Scripts of each page, in their order, and the sentence below its title.
_PAGES: Final = {
    "serve": (("draw.js", "view.js", "remote.js"), "Images and webcam frames go to the server that sent this page."),
    "web": (
        ("draw.js", "letterbox.js", "view.js", "local.js"),
        "Everything runs in this browser: no image leaves it.",
    ),
}
_COMMON: Final = (
    "default-src 'none'; img-src 'self' blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)


def page(name: Literal["serve", "web"], setup: Mapping[str, Any] | None = None, *, title: str = "RTMO poses") -> str:
    """A page as one HTML document: its script and style stand in it, nothing else is loaded to show it.

    Args:
        name: ``serve``: it asks the server that sent it, by addresses relative to its own. ``web``: it runs
            ``onnx/model.onnx`` beside it.
        setup: What the page ``web`` is told of its model, JSON-ready.
        title: Of the document, until the model's name is known.
    """
    scripts, lead = _PAGES[name]
    data = None
    if setup is not None:
        data = Markup(json.dumps(setup, allow_nan=False).replace("<", "\\u003c"))  # noqa: S704 - "</script>" cannot be in it
    html = _template().render(
        title=title,
        lead=lead,
        tracks=name == "serve",
        setup=data,
        style=Markup(asset("style.css")),  # noqa: S704 - our own file
        script=Markup("\n".join(map(asset, scripts))),  # noqa: S704 - our own files
    )
    if setup is None:
        return html
    # A folder is served by anybody: the page brings its policy along.
    policy = f'<meta http-equiv="Content-Security-Policy" content="{content_security_policy(html)}">'
    return html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}', 1)


def script_hashes(html: str) -> tuple[str, ...]:
    """Each script of a page, in its order, as a source of a Content-Security-Policy: ``'sha256-...'``."""
    return _hashes(r'<script type="module">(.*?)</script>', html)


def content_security_policy(html: str) -> str:
    """The header Content-Security-Policy that lets a page do what it does, and nothing else.

    A page that runs a model itself, told by its setup, may also compile WebAssembly and start workers of its folder.
    """
    scripts, styles = script_hashes(html), _hashes(r"<style>(.*?)</style>", html)
    runs, workers = [], ""
    if '<script type="application/json" id="setup">' in html:
        runs, workers = ["'self'", "'wasm-unsafe-eval'", "blob:"], "; worker-src 'self' blob:"
    return f"{_COMMON}; script-src {' '.join([*scripts, *runs])}; style-src {' '.join(styles)}{workers}"


def asset(name: str) -> str:
    """The text of one of the files that pages are made of."""
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")


def _hashes(pattern: str, html: str) -> tuple[str, ...]:
    texts = re.findall(pattern, html, re.DOTALL)
    return tuple(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    return environment(autoescape=True).from_string(asset("page.html").removesuffix("\n"))
