"""Carrying the steps of a recipe out: what is cached is taken, what failed blocks only what needs it."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import MissingDependencyError, RtmoDeployError, SetupError
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.progress import Count
from rtmo_deploy.release.graph import descendants, fingerprint, step_key
from rtmo_deploy.release.results import Job, NotHereError, Status, StepResult
from rtmo_deploy.release.schema import SOURCE
from rtmo_deploy.zoo.locate import cfg_is_ignored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.release.actions import Actions
    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.store import Store

LOCK_NAME: Final = ".lock"


@dataclass(frozen=True)
class Planned:
    """What a run would do with a step.

    Attributes:
        step: The step.
        cached: Whether its result is there.
        why: Why it would be carried out; empty if it would not.
    """

    step: Step
    cached: bool
    why: str


def plan_steps(steps: Sequence[Step], store: Store, actions: Actions, *, force: str | None = None) -> list[Planned]:
    """What a run would do; nothing is written or fetched.

    Args:
        steps: They, in order.
        store: Earlier results.
        actions: What carries them out.
        force: Step that is carried out again, with all that takes its files.
    """
    forced = descendants(steps, force) if force is not None else set()
    known: dict[str, StepResult] = {}
    planned = []
    for step in steps:
        result = None
        if step.name in forced:
            why = "asked for" if step.name == force else f"'{force}' is made again"
        elif all(name in known for name in step.inputs.values()):
            external = actions.locate(step, fetch=False)
            if external is not None:
                result = _stored(store, step, _key(step, known, external, actions))
            why = "" if result is not None else "never made like this, not whole any more, or on a busy machine"
        else:
            why = "what it is made of is made anew"
        if result is not None:
            known[step.name] = result
        planned.append(Planned(step, result is not None, why))
    return planned


def run_steps(
    steps: Sequence[Step],
    store: Store,
    actions: Actions,
    *,
    force: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, StepResult]:
    """Carry the steps out, each result stored as soon as it is there.

    Args:
        steps: They, each after those it takes files of.
        store: Earlier results, and where new ones go.
        actions: What carries them out.
        force: Step that is carried out again, with all that takes its files.
        progress: Told of each step.

    Returns:
        What became of each, by name.

    Raises:
        UsageError: There is no step called ``force``.
    """
    forced = descendants(steps, force) if force is not None else set()
    results: dict[str, StepResult] = {}
    found: dict[str, Mapping[str, Path]] = {}
    for number, step in enumerate(steps, 1):
        head = f"[{number}/{len(steps)}] {step.name}"
        stopped = _stopped(step, results)
        if stopped is not None:
            results[step.name] = stopped
            progress(f"{head}: {stopped.status}, {stopped.message}")
            continue

        def say(what: str, head: str = head) -> None:
            progress(what.under(head) if isinstance(what, Count) else f"{head}: {what}")

        started = time.monotonic()
        key = None
        try:
            external = actions.locate(step, fetch=True, progress=say)
            assert external is not None
            found[step.name] = external
            key = _key(step, results, external, actions)
            result = None if step.name in forced else _stored(store, step, key)
            if result is None:
                say("started")
                inputs = {role: results[name].made(found[name]) for role, name in step.inputs.items()}
                with store.working(key) as folder:
                    outcome = actions.run(step, Job(folder, step.options, inputs, external, say))
                    versions = actions.versions(step.action)
                    result = store.keep(step, key, folder, outcome, versions, time.monotonic() - started)
            if result.facts.get("busy"):
                result = replace(result, message=f"ratios {BUSY}")
            say(f"{result.status} ({result.seconds:.1f} s)")
        except (NotHereError, MissingDependencyError) as error:
            result = _ended(step, Status.UNAVAILABLE, error, key, store, time.monotonic() - started)
            say(f"not available here: {result.message}")
        except RtmoDeployError as error:
            result = _ended(step, Status.FAILED, error, key, store, time.monotonic() - started)
            say(f"failed: {result.message}")
        results[step.name] = result
    return results


def _stored(store: Store, step: Step, key: str) -> StepResult | None:
    """An earlier result; not one of a busy machine, which is measured again."""
    found = store.find(step, key)
    return None if found is not None and found.facts.get("busy") else found


def _key(step: Step, results: Mapping[str, StepResult], external: Mapping[str, Path], actions: Actions) -> str:
    inputs = {role: results[name].identity() for role, name in step.inputs.items()}
    files = {role: fingerprint(path) for role, path in external.items()}
    facts: dict[str, Any] = {"versions": dict(actions.versions(step.action)), "revision": actions.revision(step.action)}
    if cfg_is_ignored() and SOURCE in (step.name, *step.inputs.values()):
        facts["ignore_cfg"] = True
    if actions.depends_on_machine(step):
        facts["machine"] = actions.machine()["fingerprint"]
    return step_key(step, inputs, files, facts)


def _stopped(step: Step, results: Mapping[str, StepResult]) -> StepResult | None:
    """What becomes of a step whose inputs are not there."""
    bad = [results[name] for name in step.inputs.values() if not results[name].good]
    if not bad:
        return None
    blocking = [one for one in bad if one.status in {Status.FAILED, Status.BLOCKED}]
    status = Status.BLOCKED if blocking else Status.UNAVAILABLE
    names = " and ".join(dict.fromkeys(f"'{one.name}'" for one in blocking or bad))
    what = "failed" if blocking else "could not be made on this machine"
    return StepResult(step, status, message=f"{names} {what}")


def _ended(
    step: Step, status: Status, error: RtmoDeployError, key: str | None, store: Store, seconds: float
) -> StepResult:
    """An error as a result; files are named as the release has them, not as they lie in the cache."""
    message = re.sub(rf"{re.escape(str(store.folder))}/[^/\s]+/", "", str(error))
    return StepResult(step, status, key, seconds=seconds, message=message, exit_code=error.exit_code)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other release out of a folder; the system lets go of the lock when a process dies.

    Raises:
        SetupError: Another release is at work in it, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK_NAME, timeout=0):
            yield
    except Timeout as error:
        raise SetupError(
            "Another release is at work in this folder.",
            remedy="Wait for it, or give another --output.",
            where=folder,
        ) from error
    except OSError as error:
        raise SetupError(
            f"The folder cannot be used: {error.strerror or error}.",
            remedy="Give another --output.",
            where=error.filename or folder,
        ) from error
