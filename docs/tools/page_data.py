"""MkDocs hook: the description of a page is its first paragraph, and search ranks the Python API last."""

from __future__ import annotations

import html
import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> None:
    """Set what the page's own front matter does not."""
    text = first_paragraph(markdown) or f"{page.title} - {config.site_description}"
    page.meta.setdefault("description", html.escape(textwrap.shorten(text, 200, placeholder=" …")))
    if page.file.src_uri.startswith("reference/python/"):
        page.meta.setdefault("search", {"boost": 0.3})


def first_paragraph(markdown: str) -> str:
    """The first paragraph of a line or more as plain text; empty if there is none."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n\s*\n", text):
        plain = " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", block)).split())
        if re.match(r"[A-Z`*]", block) and len(plain) > 60 and plain.endswith("."):
            return plain
    return ""
