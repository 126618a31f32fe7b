"""What a comparison of two releases found: records that go to JSON, and that tables and pages are made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import GateFailedError
from rtmo_deploy.plain import plain, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.release.comparison.options import DiffOptions, Kind

#: Names of rows that an error lists.
NAMED = 5


class Result(StrEnum):
    """What became of a row. The worst come first."""

    #: Worse than the bound allows.
    WORSE = "worse"
    #: There is nothing to compare, or it is not of the same thing. No pass.
    NOT_COMPARED = "not compared"
    NOT_WORSE = "not worse"
    #: Only the new release has it.
    NEW = "new"
    #: Of a kind that is ignored.
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Row:
    """One thing in both releases, such as the AP of ``int8``."""

    kind: Kind
    name: str
    result: Result
    #: In words, empty where there is none.
    old: str = ""
    new: str = ""
    change: str = ""
    bound: str = ""
    #: Why it was not compared, or what a reader should know.
    note: str = ""
    #: AP, mean OKS, milliseconds (median) or bytes; None where there is none.
    old_value: float | None = None
    new_value: float | None = None
    #: The difference of AP and OKS, the ratio of times and sizes (new to old); None where it was not compared.
    value: float | None = None
    #: Ends of the ratio's 95 % interval.
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Figure:
    """A figure beside the one that is judged, such as AP75, of the same data in both releases."""

    kind: Kind
    #: The model, or the pair of models.
    of: str
    name: str
    old: float | None
    new: float | None


@dataclass(frozen=True)
class Change:
    """A fact that differs, such as a version; empty text where one of the two has none."""

    #: ``source``, ``machine``, ``versions``, ``artifact NAME`` or a gate.
    of: str
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class FileChange:
    """A file of one or both releases, by path; None for the one that does not have it.

    ``status`` is ``added``, ``removed``, ``changed``, ``renamed`` (the same bytes) or ``unchanged``.
    """

    status: str
    old_path: str | None
    new_path: str | None
    old_sha256: str | None
    new_sha256: str | None
    #: Bytes.
    old_size: int | None
    new_size: int | None


@dataclass(frozen=True)
class ReleaseDiff:
    """A release beside an earlier one."""

    #: Folder, name, verdict, when it was made, version of rtmo-deploy.
    old: Mapping[str, str]
    new: Mapping[str, str]
    options: DiffOptions
    #: The worst first.
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    changes: tuple[Change, ...]
    #: Of all files of both.
    files: tuple[FileChange, ...]
    #: Lines of a unified diff; empty where the recipes are the same.
    recipe: tuple[str, ...]
    #: What a reader should know.
    notes: tuple[str, ...]

    def of(self, *results: Result) -> list[Row]:
        """The rows with one of these results."""
        return [row for row in self.rows if row.result in results]

    @property
    def failed(self) -> list[Row]:
        """What stands in the way: what is worse; with ``strict`` what was not compared too."""
        return self.of(Result.WORSE, *([Result.NOT_COMPARED] if self.options.strict else []))

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``incomplete``: nothing is worse, and not everything was compared."""
        nothing = not self.of(Result.WORSE, Result.NOT_WORSE)
        if self.failed or (nothing and self.options.strict):
            return "failed"
        return "incomplete" if nothing or self.of(Result.NOT_COMPARED) else "passed"

    @property
    def sentence(self) -> str:
        """How many rows there are of each result, in words."""
        counts = {result: len(self.of(result)) for result in Result}
        found = ", ".join(f"{count} {result.value}" for result, count in counts.items() if count)
        strict = " Strict: what was not compared is a failure." if self.options.strict else ""
        return f"{found or 'Nothing could be compared'}.{strict}"

    @property
    def error(self) -> GateFailedError | None:
        """What the command ends with if it failed."""
        if self.verdict != "failed":
            return None
        if not self.failed:
            return GateFailedError(
                "Nothing was compared.", remedy="Compare releases of one recipe.", where=self.new["folder"]
            )
        texts = [f"{row.kind}: {row.name}: {row.change or row.note}" for row in self.failed]
        named = shorten(texts, NAMED, separator="; ")
        worse = "The release is worse" if self.of(Result.WORSE) else "Not everything could be compared"
        return GateFailedError(
            f"{worse} ({len(self.failed)} of {len(self.rows)}): {named}.",
            remedy="--html and --md tell all of it; a bound can be changed, and a kind ignored with --ignore.",
            where=self.new["folder"],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with the verdict."""
        return {"verdict": self.verdict, **{name: plain(value) for name, value in vars(self).items()}}
