"""Carries a recipe out: its steps in order, its gates, and the folder that can be handed over.

What is cached is taken; a step that failed blocks only those that need it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy._version import __version__
from rtmo_deploy.address import is_address
from rtmo_deploy.errors import CheckpointError, MissingDependencyError, RtmoDeployError
from rtmo_deploy.measure.bench.interference import BUSY
from rtmo_deploy.progress import Count
from rtmo_deploy.release.actions import Actions
from rtmo_deploy.release.gates import evaluate_gates
from rtmo_deploy.release.graph import build_steps, descendants, fingerprint, step_key
from rtmo_deploy.release.integrity import MANIFEST
from rtmo_deploy.release.lock import locked
from rtmo_deploy.release.publish import known_names, publish, require_no_loss, require_own_folder
from rtmo_deploy.release.recipe import SOURCE
from rtmo_deploy.release.record import Job, NotHereError, Release, Status, StepRecord
from rtmo_deploy.release.schema import load_release
from rtmo_deploy.release.signature import SIGSTORE
from rtmo_deploy.release.signer import open_signer
from rtmo_deploy.release.store import Store
from rtmo_deploy.zoo.locate import cfg_is_ignored, ignoring_cfg
from rtmo_deploy.zoo.records import is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rtmo_deploy.release.graph import Step
    from rtmo_deploy.release.recipe import ReleaseRecipe

CACHE_NAME: Final = ".cache"


def plan_release(
    recipe_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: str | None = None,
    actions: Actions | None = None,
    sign: str | os.PathLike[str] | None = None,
    password: str | None = None,
) -> list[tuple[Step, str]]:
    """What :func:`run_release` would do: each step and why it would be carried out, empty where a result holds.

    Nothing is written, fetched or locked. Errors are those of :func:`run_release`.
    """
    recipe_file, folder, actions = Path(recipe_file), Path(folder), actions or Actions()
    if sign is not None and sign != SIGSTORE:
        open_signer(sign, password, folder=folder)
    recipe, steps = _read(recipe_file, source, actions)
    store = Store(folder / CACHE_NAME)
    forced = descendants(steps, force) if force is not None else set()
    known: dict[str, StepRecord] = {}
    planned = []
    with ignoring_cfg(recipe.ignore_cfg):
        for step in steps:
            result = None
            if step.name in forced:
                why = "asked for" if step.name == force else f"'{force}' is made again"
            elif all(name in known for name in step.inputs.values()):
                external = actions.locate(step, fetch=False)
                if external is not None:
                    result = _stored(store, step, _key(step, known, external, actions), external)
                why = "" if result is not None else "never made like this, not whole any more, or on a busy machine"
            else:
                why = "what it is made of is made anew"
            if result is not None:
                known[step.name] = result
            planned.append((step, why))
    return planned


def run_release(
    recipe_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    force: str | None = None,
    strict: bool = False,
    actions: Actions | None = None,
    command: str | None = None,
    sign: str | os.PathLike[str] | None = None,
    password: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Release:
    """Make everything a recipe asks for, judge it, and write the release's folder.

    Results of earlier runs that still hold are taken from ``<folder>/.cache``. A run that was killed goes on where it
    was when it is called again. ``source``, a file or a model's name, replaces the recipe's source; a relative path is
    meant from the working directory, and a file is taken before a model of that name. The step ``force`` is carried out
    again, with all that takes its files; with ``strict`` what was not measured is a failure; ``command`` is the command
    line for the manifest, this process's own if not given. The release's ``error`` says whether something did not pass.

    With ``sign``, the PEM file of a private key (``password`` opens it) or ``"sigstore"``, the folder is signed, unless
    the verdict is ``failed``. Without it, the signature of an earlier release goes.

    A source that cannot be read or fetched is an error where a release is in the folder already, which stays; where
    there is none, it is the failure of a release.

    Raises:
        UsageError: The recipe is wrong, the folder holds other things, there is no step called ``force``, ``source``
            cannot be used with the recipe's gates, or the key cannot be used.
        CheckpointError: ``source`` is neither a file nor a model's name, or the source is no checkpoint.
        InputDataError: A file that the recipe names is not there, or cannot be read.
        SetupError: Another release is at work in the folder, it cannot be written to, or Sigstore does not sign.
        MissingDependencyError: A package that signs is not installed.
    """
    recipe_file, folder, actions = Path(recipe_file), Path(folder), actions or Actions()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    recipe, steps = _read(recipe_file, source, actions)
    recipe_text = recipe_file.read_bytes()
    require_own_folder(folder)
    inputs = _inputs(recipe, recipe_file, steps, folder)
    require_no_loss(folder, known_names(recipe), inputs)
    signer = None if sign is None else open_signer(sign, password, folder=folder)
    with locked(folder), ignoring_cfg(recipe.ignore_cfg):
        store = Store(folder / CACHE_NAME)
        store.clean()
        forced = descendants(steps, force) if force is not None else set()
        results: dict[str, StepRecord] = {}
        for number, step in enumerate(steps, 1):
            head = f"[{number}/{len(steps)}] {step.name}"

            def say(what: str, head: str = head) -> None:
                progress(what.under(head) if isinstance(what, Count) else f"{head}: {what}")

            results[step.name] = _run_step(step, results, store, actions, say, forced=step.name in forced)
        release = Release(
            recipe=recipe,
            recipe_text=recipe_text,
            results=results,
            gates=tuple(evaluate_gates(recipe, results, actions, recipe_file.parent)),
            strict=strict,
            machine=actions.machine(),
            command=command or f"rtmo-deploy {shlex.join(sys.argv[1:])} (rtmo-deploy {__version__})",
            started=started,
            folder=folder,
        )
        progress("writing the release")
        publish(release, inputs, signer)
    return release


def _read(
    recipe_file: Path, source: str | os.PathLike[str] | None, actions: Actions
) -> tuple[ReleaseRecipe, list[Step]]:
    """The recipe and its steps, checked; another ``source`` than the recipe's is looked up before anything is made."""
    source = None if source is None else os.fspath(source)
    recipe = load_release(recipe_file, source=source)
    checkpoint = None
    if source is not None and not is_address(source):
        if os.path.isfile(source):  # noqa: PTH113 - a name that no file can have is none
            checkpoint = Path(source)
        elif not is_known(source):
            raise CheckpointError(
                "There is no such file, and no model of this name.",
                remedy="Check the path from the working directory; 'rtmo-deploy models' lists the names.",
                where=source,
            )
    steps = build_steps(recipe, recipe_file.parent, checkpoint=checkpoint)
    actions.check(steps)
    actions.require_files(steps)
    return recipe, steps


def _inputs(recipe: ReleaseRecipe, recipe_file: Path, steps: Sequence[Step], folder: Path) -> list[Path]:
    """What a release reads; not a recipe that is the released copy, which is written as it is."""
    copy = folder / "recipe.yaml"
    own = [] if copy.exists() and copy.samefile(recipe_file) else [recipe_file]
    gates = [gate for section in recipe.latency for gate in section.gates]
    baselines = [recipe_file.parent / gate.baseline for gate in gates if gate.baseline is not None]
    return [*own, *baselines, *(path for step in steps for path in step.files.values())]


def _run_step(
    step: Step,
    results: Mapping[str, StepRecord],
    store: Store,
    actions: Actions,
    say: Callable[[str], None],
    *,
    forced: bool,
) -> StepRecord:
    """Carry a step out, unless its inputs are missing or an earlier result holds; the result is stored at once."""
    stopped = _stopped(step, results)
    if stopped is not None:
        say(f"{stopped.status}, {stopped.message}")
        return stopped
    started = time.monotonic()
    key = None
    try:
        external = actions.locate(step, fetch=True, progress=say)
        assert external is not None
        key = _key(step, results, external, actions)
        result = None if forced else _stored(store, step, key, external)
        if result is None:
            say("started")
            inputs = {role: results[name] for role, name in step.inputs.items()}
            with store.working(key) as folder:
                outcome = actions.run(step, Job(folder, step.options, inputs, external, say))
                seconds = time.monotonic() - started
                result = store.keep(step, key, folder, outcome, actions.versions(step.action), seconds)
                result = replace(result, external=external)
        if result.facts.get("busy"):
            result = replace(result, message=f"ratios {BUSY}")
        say(f"{result.status} ({result.seconds:.1f} s)")
    except RtmoDeployError as error:
        if step.kind == "source" and (store.folder.parent / MANIFEST).exists():
            raise  # nothing can be made, and the earlier release stays
        absent = isinstance(error, NotHereError | MissingDependencyError)
        # Files are named as the release has them, not as they lie in the cache.
        message = re.sub(rf"{re.escape(str(store.folder))}/[^/\s]+/", "", str(error))
        status = Status.UNAVAILABLE if absent else Status.FAILED
        seconds = time.monotonic() - started
        result = StepRecord(step, status, key, seconds=seconds, message=message, exit_code=error.exit_code)
        say(f"{'not available here' if absent else 'failed'}: {message}")
    return result


def _stopped(step: Step, results: Mapping[str, StepRecord]) -> StepRecord | None:
    """What becomes of a step whose inputs are not there."""
    bad = [results[name] for name in step.inputs.values() if not results[name].good]
    if not bad:
        return None
    blocking = [one for one in bad if one.status in {Status.FAILED, Status.BLOCKED}]
    names = " and ".join(dict.fromkeys(f"'{one.name}'" for one in blocking or bad))
    if blocking:
        return StepRecord(step, Status.BLOCKED, message=f"{names} failed")
    return StepRecord(step, Status.UNAVAILABLE, message=f"{names} could not be made on this machine")


def _stored(store: Store, step: Step, key: str, external: Mapping[str, Path]) -> StepRecord | None:
    """An earlier result; not one of a busy machine, which is measured again."""
    found = store.find(step, key)
    return None if found is None or found.facts.get("busy") else replace(found, external=external)


def _key(step: Step, results: Mapping[str, StepRecord], external: Mapping[str, Path], actions: Actions) -> str:
    """The step's cache key; an artifact counts by its bytes, a measurement by its own key."""
    inputs = {}
    for role, name in step.inputs.items():
        taken = results[name]
        is_artifact = taken.step.kind == "artifact"
        inputs[role] = [file.sha256 for file in taken.files] if is_artifact else [str(taken.key)]
    files = {role: fingerprint(path) for role, path in external.items()}
    facts: dict[str, Any] = {"versions": dict(actions.versions(step.action)), "revision": actions.revision(step.action)}
    if cfg_is_ignored() and SOURCE in (step.name, *step.inputs.values()):
        facts["ignore_cfg"] = True
    if actions.depends_on_machine(step):
        facts["machine"] = actions.machine()["fingerprint"]
    return step_key(step, inputs, files, facts)
