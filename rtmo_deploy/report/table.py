"""Tables of texts: for the terminal and for Markdown; the templates have them for HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPECIAL = str.maketrans(
    {letter: f"\\{letter}" for letter in "\\`*_{}[]()#+!|~"}
    # GitHub notifies whom a bare @name mentions, also behind a backslash.
    | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@<!-- -->"}
)


@dataclass(frozen=True)
class Table:
    """A table of texts, as many in a row as there are headings."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    #: Below it.
    caption: str = ""
    #: Whether all columns but the first are numbers, which are set right.
    numbers: bool = True

    def markdown(self) -> list[str]:
        """Lines of a table as GitHub and GitLab show it, without title and caption."""
        other = " ---: |" if self.numbers else " --- |"
        lines = [f"| {' | '.join(map(markdown_text, self.headings))} |"]
        lines.append(f"| --- |{other * (len(self.headings) - 1)}")
        return lines + [f"| {' | '.join(markdown_text(cell) or '-' for cell in row)} |" for row in self.rows]


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(text.translate(_SPECIAL).split())
