"""What became of a release: of each step, of each gate, and of the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import GateFailedError, InputDataError, ModelError, RtmoDeployError, SetupError, UsageError
from rtmo_deploy.release.recipe import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.recipe import ReleaseRecipe

_ERRORS: Final = {1: RtmoDeployError, 2: UsageError, 3: InputDataError, 4: ModelError, 5: SetupError}


class NotHereError(SetupError):
    """This machine lacks what a step needs: a GPU, or a package. The step is not measured, which is no pass."""


class Status(StrEnum):
    """What became of a step."""

    DONE = "done"
    #: An earlier run's result still holds.
    CACHED = "cached"
    FAILED = "failed"
    #: This machine lacks something it needs, or a step it takes files of was unavailable.
    UNAVAILABLE = "unavailable"
    #: A step it takes files of failed.
    BLOCKED = "blocked"


#: Of a step whose result can be used.
GOOD: Final = (Status.DONE, Status.CACHED)


@dataclass(frozen=True)
class FileRecord:
    """A file that a step made: its path within the step's folder, SHA-256 and bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Outcome:
    """What an action gives back: names of the files it made in its folder, the one that is meant first, and facts.

    Facts are JSON values. Files in ``hidden`` do not go into the release's folder: images for the report.
    """

    files: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepRecord:
    """A step and what became of it; also what it gives to the steps that take its files."""

    step: Step
    status: Status
    #: Its cache key; None where it did not come to that.
    key: str | None = None
    #: Where its files lie.
    folder: Path | None = None
    files: tuple[FileRecord, ...] = ()
    hidden: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: Of the packages that it depends on.
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: Why it failed, is unavailable or blocked; of a good one, what it could not measure.
    message: str = ""
    exit_code: int = 0
    #: Files and folders from outside, by role.
    external: Mapping[str, Path] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether its result can be used."""
        return self.status in GOOD

    @property
    def name(self) -> str:
        """The step's."""
        return self.step.name

    @property
    def main(self) -> Path | None:
        """The file that is meant: the first it made, else the checkpoint it was given."""
        if self.files and self.folder is not None:
            return self.folder / self.files[0].name
        return self.external.get("checkpoint")

    @property
    def sha256(self) -> str | None:
        """Of :attr:`main`."""
        return self.files[0].sha256 if self.files else self.facts.get("sha256")


@dataclass(frozen=True)
class Job:
    """What an action works with."""

    #: An empty folder; what is in it afterwards is the step's.
    folder: Path
    options: Mapping[str, Any]
    #: What other steps made, by role.
    inputs: Mapping[str, StepRecord]
    #: Files and folders from outside, by role.
    files: Mapping[str, Path]
    progress: Callable[[str], None]

    def model(self, role: str = "model") -> Path:
        """The file that another step made."""
        path = self.inputs[role].main
        assert path is not None  # artifacts and the source are files
        return path


class GateStatus(StrEnum):
    """What became of a gate. The worst come first."""

    FAILED = "failed"
    #: A step that it needs failed.
    BLOCKED = "blocked"
    #: This machine lacks what it takes, or there was nothing to measure. No pass.
    NOT_MEASURED = "not measured"
    PASSED = "passed"


@dataclass(frozen=True)
class GateResult:
    """A gate, such as ``accuracy: fp16, AP lost against source``, and what became of it."""

    name: str
    #: ``accuracy``, ``parity`` or ``latency``.
    kind: str
    status: GateStatus
    #: In words, as ``measured`` is; that is empty if nothing was measured.
    bound: str
    measured: str = ""
    #: What was measured, where it is one number.
    value: float | None = None
    #: Why it did not pass, or what a reader should know.
    message: str = ""


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release; the fields but ``origin`` are its entry in the manifest."""

    #: In the release's folder, with ``/``.
    path: str
    sha256: str
    #: Bytes.
    size: int
    #: ``onnx``, ``engine``, ``report`` and so on.
    kind: str
    #: The step that made it; None for what the release itself writes.
    step: str | None = None
    #: The files it was made of, by step and SHA-256.
    parents: tuple[Mapping[str, str], ...] = ()
    #: Of the packages it was made with.
    versions: Mapping[str, str] = field(default_factory=dict)
    #: Where it lies before it is put there.
    origin: Path | None = None


@dataclass(frozen=True)
class Release:
    """A release, carried out."""

    recipe: ReleaseRecipe
    recipe_text: bytes
    #: By the step's name, in order.
    results: Mapping[str, StepRecord]
    gates: tuple[GateResult, ...]
    #: Whether what was not measured is a failure.
    strict: bool
    machine: Mapping[str, Any]
    command: str
    #: UTC, ISO 8601.
    started: str
    folder: Path

    @property
    def source(self) -> StepRecord:
        """The checkpoint's step."""
        return self.results[SOURCE]

    @property
    def ranked_gates(self) -> list[GateResult]:
        """All gates, those that failed first and those that passed last."""
        return sorted(self.gates, key=lambda gate: list(GateStatus).index(gate.status))

    @property
    def failed_gates(self) -> list[GateResult]:
        """Gates that stand in the way."""
        bad = {*GateStatus} - {GateStatus.PASSED} if self.strict else {GateStatus.FAILED}
        return [gate for gate in self.gates if gate.status in bad]

    @property
    def failed_steps(self) -> list[StepRecord]:
        """Steps that raised an error; with ``strict``, those that were not possible here too."""
        bad = {Status.FAILED} | ({Status.UNAVAILABLE} if self.strict else set())
        return [result for result in self.results.values() if result.status in bad]

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``incomplete``: nothing failed, and not everything was measured or made."""
        if self.failed_gates or self.failed_steps:
            return "failed"
        passed = all(gate.status is GateStatus.PASSED for gate in self.gates)
        return "passed" if passed and all(result.good for result in self.results.values()) else "incomplete"

    @property
    def error(self) -> RtmoDeployError | None:
        """What the command ends with: exit code 6 for a gate, else that of the first step that failed."""
        if self.failed_gates or any(result.exit_code == GateFailedError.exit_code for result in self.failed_steps):
            named = [gate.name for gate in self.failed_gates] or [result.name for result in self.failed_steps]
            return GateFailedError(
                f"{len(named)} of {len(self.gates)} gates did not pass: {'; '.join(named)}.",
                remedy="The report says what was measured.",
                where=self.folder,
            )
        if self.failed_steps:
            first, *others = self.failed_steps
            kind = _ERRORS.get(first.exit_code, SetupError)
            more = f" And {len(others)} more steps failed." if others else ""
            return kind(f"The step '{first.name}' failed: {first.message}{more}", remedy="Run it again to go on there.")
        return None

    def of(self, action: str) -> list[StepRecord]:
        """The steps of an action."""
        return [result for result in self.results.values() if result.step.action == action]

    @property
    def sentence(self) -> str:
        """What the verdict rests on."""
        gates = _counted(GateStatus, [gate.status for gate in self.gates])
        text = f"{len(self.gates)} gates: {gates}." if gates else "The recipe has no gates."
        bad = (Status.FAILED, Status.UNAVAILABLE, Status.BLOCKED)
        ended = _counted(bad, [result.status for result in self.results.values()])
        text += f" {len(self.results)} steps" + (f": {ended}." if ended else ", all carried out.")
        text += "".join(f" {one.name}: {one.message}." for one in self.results.values() if one.good and one.message)
        return text + (" Strict: what was not measured is a failure." if self.strict else "")


def _counted(kinds: Iterable[StrEnum], found: Sequence[StrEnum]) -> str:
    return ", ".join(f"{found.count(kind)} {kind.value}" for kind in kinds if kind in found)
