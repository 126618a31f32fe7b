"""Rows and what they add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtmo_deploy.measure.doctor.facts import Facts


class Verdict(StrEnum):
    """What a row says."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"
    ABSENT = "absent"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        area: What it belongs to: ``software``, ``gpu``, ``pairs``, ``machine`` or ``extras``.
        name: What was looked at.
        verdict: ``broken``: it is installed, or needed by every command, and cannot be used. ``warning``: it can be
            used, and something should be known. ``absent``: it is optional, and not there.
        finding: What was found, and why that is so; sentences.
        remedy: What can be done about it; empty where nothing has to be.
    """

    area: str
    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """JSON-ready form."""
        return {
            "area": self.area,
            "name": self.name,
            "verdict": str(self.verdict),
            "finding": self.finding,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Report:
    """Everything that was looked at.

    Attributes:
        rows: In the order they are read.
        facts: What they were judged by.
    """

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
        """How many rows have which verdict."""
        found = Counter(row.verdict for row in self.rows)
        return {str(verdict): found[verdict] for verdict in Verdict}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "ok": self.ok,
            "counts": self.counts,
            "rows": [row.to_dict() for row in self.rows],
            "facts": self.facts.to_dict(),
        }
