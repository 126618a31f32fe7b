"""What became of each step, and the error for what this machine cannot do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rtmo_deploy.release.graph import Step


def case_of(entry: Mapping[str, Any]) -> str:
    """The case of a latency entry, such as ``batch 1, 2 threads, 10 people``."""
    from rtmo_deploy.measure.bench.options import Case

    case = entry["case"]
    return str(Case(batch=case["batch"], threads=case.get("threads"), people=case.get("people")))


class NotHereError(SetupError):
    """This machine lacks what a step needs: a GPU, or a package. The step is not measured, which is no pass."""


class Status(StrEnum):
    """What became of a step.

    * ``done``: carried out now.
    * ``cached``: an earlier run's result still holds.
    * ``failed``: it raised an error.
    * ``unavailable``: this machine lacks something it needs, or a step it takes files of was.
    * ``blocked``: a step it takes files of failed.
    """

    DONE = "done"
    CACHED = "cached"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class FileRecord:
    """A file that a step made: its path within the step's folder, SHA-256 and bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Made:
    """What a step gives to those that take its files.

    Attributes:
        main: The file that is meant; None where the step made none.
        external: Files and folders from outside, by role.
        facts: What it found out.
        sha256: Of ``main``.
    """

    main: Path | None
    external: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True)
class Job:
    """What an action works with.

    Attributes:
        folder: An empty folder; what is in it afterwards is the step's.
        options: As in :class:`~rtmo_deploy.release.graph.Step`.
        inputs: What other steps made, by role.
        files: Files and folders from outside, by role.
        progress: Told what is being done.
    """

    folder: Path
    options: Mapping[str, Any]
    inputs: Mapping[str, Made]
    files: Mapping[str, Path]
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What an action gives back.

    Attributes:
        files: Names of the files it made in its folder, the one that is meant first.
        facts: What it found out; JSON values, no NaN.
        hidden: Of ``files``, those that do not go into the release's folder: pictures for the report.
    """

    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepResult:
    """What became of a step.

    Attributes:
        step: The step.
        status: See :class:`Status`.
        key: By what it is known again; None where it did not come to that.
        folder: Where its files lie.
        files: They; the one that is meant first.
        hidden: Names of those that do not go into the release's folder.
        facts: What it found out.
        versions: Packages that it depends on.
        seconds: How long it took, when it was carried out.
        message: Why it failed, is not available, or is blocked; of a good one, what it could not measure.
        exit_code: Of the error, 0 if there was none.
    """

    step: Step
    status: Status
    key: str | None = None
    folder: Path | None = None
    files: tuple[FileRecord, ...] = ()
    hidden: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""
    exit_code: int = 0

    @property
    def good(self) -> bool:
        """Whether its result can be used."""
        return self.status in {Status.DONE, Status.CACHED}

    @property
    def name(self) -> str:
        """The step's."""
        return self.step.name

    def made(self, external: Mapping[str, Path]) -> Made:
        """What others take of it; ``external`` are the files that it takes from outside."""
        main = external.get("checkpoint")
        sha256 = self.facts.get("sha256") if main is not None else None
        if self.files and self.folder is not None:
            main, sha256 = self.folder / self.files[0].name, self.files[0].sha256
        return Made(None if main is None else Path(main), external, self.facts, sha256)

    def identity(self) -> list[str]:
        """What the keys of those that take its files depend on."""
        if self.step.kind == "artifact":
            return [file.sha256 for file in self.files]
        return [str(self.key)]


def clean(value: Any) -> Any:
    """The same value with ``None`` for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
