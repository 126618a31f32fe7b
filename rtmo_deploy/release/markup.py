"""Elements of HTML and SVG: whatever is not an element is text, and is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rtmo_deploy.release.junit import xml_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "img", "meta", "line", "rect", "circle", "path", "polyline", "polygon", "link"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; ``class_`` is the attribute ``class``, an underscore within a name a hyphen, None leaves it away."""
    written = "".join(
        f' {name.strip("_").replace("_", "-")}="{escape(xml_text(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not children:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[object]) -> Markup:
    """Elements and texts, one after the other; None is nothing."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(xml_text(str(child)))
            for child in children
            if child is not None
        )
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = (), marks: Sequence[str] = ()
) -> Markup:
    """A table that scrolls on its own where it is too wide.

    Args:
        head: Headings.
        rows: Cells.
        numbers: Columns that are set right.
        marks: Class of each row; on a narrow screen such rows are cards.
    """
    right = set(numbers)

    def cells(tag: str, row: Sequence[object]) -> Markup:
        return join(
            el(
                tag,
                value,
                class_="number" if at in right else None,
                scope="col" if tag == "th" else None,
                data_label=head[at] if marks and tag == "td" else None,
            )
            for at, value in enumerate(row)
        )

    body = join(
        el("tr", cells("td", row), class_=marks[at] if at < len(marks) else None) for at, row in enumerate(rows)
    )
    return el(
        "div", el("table", el("thead", el("tr", cells("th", head))), el("tbody", body)), class_="wide", tabindex="0"
    )
