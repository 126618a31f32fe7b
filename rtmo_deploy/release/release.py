"""From a recipe to a release: steps, gates, and a folder that can be handed over."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import GateFailedError, InputDataError, ModelError, RtmoDeployError, SetupError, UsageError
from rtmo_deploy.release.actions import RealActions
from rtmo_deploy.release.gates import GateStatus, evaluate_gates
from rtmo_deploy.release.graph import build_steps
from rtmo_deploy.release.results import Status
from rtmo_deploy.release.run import locked, plan_steps, run_steps
from rtmo_deploy.release.schema import SOURCE, load_release
from rtmo_deploy.release.store import Store
from rtmo_deploy.zoo.locate import ignoring_cfg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.actions import Actions
    from rtmo_deploy.release.gates import GateResult
    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.results import StepResult
    from rtmo_deploy.release.run import Planned
    from rtmo_deploy.release.schema import ReleaseRecipe

CACHE_NAME: Final = ".cache"
_ERRORS: Final = {1: RtmoDeployError, 2: UsageError, 3: InputDataError, 4: ModelError, 5: SetupError}


@dataclass(frozen=True)
class Release:
    """A release, carried out.

    Attributes:
        recipe: What was asked for.
        recipe_text: Its bytes.
        results: What became of each step, in order.
        gates: What became of each gate.
        strict: Whether what was not measured is a failure.
        machine: What it ran on.
        command: The command line.
        started: When, UTC, ISO 8601.
        folder: Where the release lies.
    """

    recipe: ReleaseRecipe
    recipe_text: bytes
    results: Mapping[str, StepResult]
    gates: tuple[GateResult, ...]
    strict: bool
    machine: Mapping[str, Any]
    command: str
    started: str
    folder: Path

    @property
    def ranked_gates(self) -> list[GateResult]:
        """All gates, those that failed first and those that passed last."""
        order = (GateStatus.FAILED, GateStatus.BLOCKED, GateStatus.NOT_MEASURED, GateStatus.PASSED)
        return sorted(self.gates, key=lambda gate: order.index(gate.status))

    @property
    def failed_gates(self) -> list[GateResult]:
        """Gates that stand in the way."""
        bad = {GateStatus.FAILED} | ({GateStatus.NOT_MEASURED, GateStatus.BLOCKED} if self.strict else set())
        return [gate for gate in self.gates if gate.status in bad]

    @property
    def failed_steps(self) -> list[StepResult]:
        """Steps that raised an error; with ``strict``, those that were not possible here too."""
        bad = {Status.FAILED} | ({Status.UNAVAILABLE} if self.strict else set())
        return [result for result in self.results.values() if result.status in bad]

    @property
    def incomplete(self) -> bool:
        """Whether something was not measured or made, though nothing failed."""
        return any(gate.status is not GateStatus.PASSED for gate in self.gates) or not all(
            result.good for result in self.results.values()
        )

    @property
    def verdict(self) -> str:
        """``passed``, ``failed``, or ``incomplete``: nothing failed, and not everything was measured."""
        if self.failed_gates or self.failed_steps:
            return "failed"
        return "incomplete" if self.incomplete else "passed"

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
            first = self.failed_steps[0]
            kind = _ERRORS.get(first.exit_code, SetupError)
            more = f" And {len(self.failed_steps) - 1} more steps failed." if len(self.failed_steps) > 1 else ""
            return kind(f"The step '{first.name}' failed: {first.message}{more}", remedy="Run it again to go on there.")
        return None

    def source(self) -> StepResult:
        """The checkpoint's step."""
        return self.results[SOURCE]


def plan_release(
    recipe_file: Path, folder: Path, *, force: str | None = None, actions: Actions | None = None
) -> list[Planned]:
    """What :func:`run_release` would do; nothing is written, fetched or locked.

    Raises:
        UsageError: The recipe is wrong, or there is no step called ``force``.
        InputDataError: A file that it names is not there.
    """
    actions = actions or RealActions()
    recipe = load_release(recipe_file)
    steps = build_steps(recipe, recipe_file.parent)
    actions.check(steps)
    with ignoring_cfg(recipe.ignore_cfg):
        return plan_steps(steps, Store(folder / CACHE_NAME), actions, force=force)


def run_release(
    recipe_file: Path,
    folder: Path,
    *,
    force: str | None = None,
    strict: bool = False,
    actions: Actions | None = None,
    command: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Release:
    """Make everything a recipe asks for, judge it, and write the release's folder.

    Results of earlier runs that still hold are taken from ``<folder>/.cache``. A run that was killed goes on where it
    was when it is called again.

    Args:
        recipe_file: The recipe.
        folder: Where to; an empty folder, a new one, or one of an earlier release.
        force: A step that is carried out again, with all that takes its files.
        strict: What was not measured is a failure.
        actions: What carries the steps out; this package's own if not given.
        command: The command line for the manifest; this process's own if not given.
        progress: Told of each step.

    Returns:
        The release; its ``error`` says whether something did not pass.

    Raises:
        UsageError: The recipe is wrong, the folder holds other things, or there is no step called ``force``.
        SetupError: Another release is at work in the folder, or it cannot be written to.
    """
    from rtmo_deploy.release.publish import known_names, publish, require_no_loss, require_own_folder

    actions = actions or RealActions()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    recipe, recipe_text = load_release(recipe_file), recipe_file.read_bytes()
    steps = build_steps(recipe, recipe_file.parent)
    actions.check(steps)
    require_own_folder(folder)
    inputs = _inputs(recipe, recipe_file, steps, folder)
    require_no_loss(folder, known_names(recipe), inputs)
    with locked(folder), ignoring_cfg(recipe.ignore_cfg):
        store = Store(folder / CACHE_NAME)
        store.clean()
        results = run_steps(steps, store, actions, force=force, progress=progress)
        gates = evaluate_gates(recipe, steps, results, actions, recipe_file.parent)
        release = Release(
            recipe=recipe,
            recipe_text=recipe_text,
            results=results,
            gates=tuple(gates),
            strict=strict,
            machine=actions.machine(),
            command=command or f"rtmo-deploy {shlex.join(sys.argv[1:])} (rtmo-deploy {__version__})",
            started=started,
            folder=folder,
        )
        progress("writing the release")
        publish(release, inputs)
    return release


def _inputs(recipe: ReleaseRecipe, recipe_file: Path, steps: Sequence[Step], folder: Path) -> list[Path]:
    """What a release reads; not a recipe that is the released copy, which is written as it is."""
    copy = folder / "recipe.yaml"
    own = [] if copy.exists() and copy.samefile(recipe_file) else [recipe_file]
    gates = [gate for section in recipe.latency for gate in section.gates]
    baselines = [recipe_file.parent / gate.baseline for gate in gates if gate.baseline is not None]
    return [*own, *baselines, *(path for step in steps for path in step.files.values())]
