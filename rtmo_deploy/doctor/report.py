"""What the rules say about a machine: rows, and what they add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from rtmo_deploy.doctor.facts import Facts


class Verdict(StrEnum):
    """What a row says.

    ``broken``: it is installed, or needed by every command, and cannot be used. ``warning``: it can be used, and
    something should be known. ``absent``: it is optional, and not there.
    """

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"
    ABSENT = "absent"


@dataclass(frozen=True)
class Row:
    """What was found about one thing, in sentences, and what can be done about it (empty where nothing has to be).

    The area is ``software``, ``gpu``, ``pairs``, ``machine`` or ``extras``.
    """

    area: str
    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All rows in the order in which they are read, and the facts they were judged by."""

    rows: tuple[Row, ...]
    facts: Facts

    @property
    def broken(self) -> tuple[Row, ...]:
        """What is broken."""
        return tuple(row for row in self.rows if row.verdict is Verdict.BROKEN)

    @property
    def ok(self) -> bool:
        """Nothing is broken."""
        return not self.broken

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict."""
        found = Counter(row.verdict for row in self.rows)
        return {str(verdict): found[verdict] for verdict in Verdict}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "counts": self.counts, "rows": plain(self.rows), "facts": self.facts.to_dict()}
