"""Messages that the guides quote occur in the source, so that a search by message finds the page."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
PAGE = GUIDES / "troubleshooting.md"
#: Stands for what differs: in the source a value that is put in, on a page the sign for it.
HOLE = "…"
#: Lines of ``doctor``, ``click`` and other programs, which no literal here holds.
ELSEWHERE = "## Messages of other programs"


@cache
def literals() -> tuple[str, ...]:
    """Every text in the package, with a hole for each value that is put in."""
    found: set[str] = set()
    for path in (ROOT / "rtmo_deploy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return tuple(found)


def occurs(message: str) -> bool:
    """Whether a literal has the parts of a message between the holes, in their order."""
    parts = [part for part in message.split(HOLE) if part.strip()]
    pattern = re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)
    return any(pattern.search(text) for text in literals())


def headings() -> list[str]:
    own = PAGE.read_text("utf-8").partition(ELSEWHERE)[0]
    return re.findall(r"^### `(.*)`$", own, re.MULTILINE)


def tables() -> list[tuple[str, str]]:
    """Page and message of each row of the tables of messages in the guides."""
    found = []
    for page in sorted(GUIDES.glob("*.md")):
        for table in re.findall(r"^\| message \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", page.read_text("utf-8"), re.MULTILINE):
            found += [(page.name, row) for row in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)]
    return found


@pytest.mark.parametrize("message", headings())
def test_a_message_of_the_page_is_in_the_source(message: str) -> None:
    assert occurs(message)


@pytest.mark.parametrize(("page", "message"), tables())
def test_a_message_in_a_guide_is_in_the_source(page: str, message: str) -> None:
    assert occurs(message), page


def test_the_pages_quote_messages_and_a_wrong_one_is_noticed() -> None:
    assert len(headings()) > 40
    assert len({page for page, _ in tables()}) >= 4
    assert not occurs("This model was … yesterday.")


def test_messages_of_other_programs_are_not_those_of_this_one() -> None:
    others = re.findall(r"^### (.*)$", PAGE.read_text("utf-8").partition(ELSEWHERE)[2], re.MULTILINE)
    assert len(others) > 6
    assert not [message for message in others if occurs(message)]
