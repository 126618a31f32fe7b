"""Plans the candidates of a model, compares each with the reference, times those that agree, and keeps the decision."""

from __future__ import annotations

import hashlib
import importlib.util
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.artifact import Target
from rtmo_deploy.errors import RtmoDeployError, SetupError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of, temporary_folder
from rtmo_deploy.machine import MachineWatch, read_cpu, read_machine, warnings_of
from rtmo_deploy.measure.bench.options import Contender
from rtmo_deploy.measure.bench.worker import WorkerProcess
from rtmo_deploy.measure.tune.judge import SCORE, compare, poses_of
from rtmo_deploy.measure.tune.worker import COMMAND
from rtmo_deploy.plain import counted, plain
from rtmo_deploy.progress import Count
from rtmo_deploy.runtime.choice import (
    Decision,
    Trial,
    fastest,
    int8_beside,
    keep_decision,
    key_of,
    read_decisions,
    tuning_alone,
)
from rtmo_deploy.runtime.estimator import read_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.poses import Poses

#: The synthetic images: their seed, how many there are, and the people in each.
SEED, COUNT, PEOPLE = 20240611, 12, (1, 4)
#: Images of the user's that are taken.
MOST_IMAGES: Final = 24
#: Rounds of timing, seconds of each, and the share by which a candidate's rounds may differ before one more is made.
ROUNDS, SECONDS, UNSTEADY = 2, 1.0, 0.2
#: Flags of CPUs that multiply 8-bit numbers without saturating sums.
VNNI: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True)
class TuneOptions:
    """How a model will run, and what it is tried on.

    Attributes:
        threads: Threads a runtime may use; its own choice if not given.
        input_hw: Height and width of the network input; the model's own if not given.
        images: Folder or file of sample images; synthetic ones if not given.
        force: Measure again even if there is a decision.
        seconds: Seconds of a round.
        reference_s: Seconds after which the reference counts as hung.
        timeout_s: The least seconds after which a candidate counts as hung; ten times the reference's time otherwise.
    """

    threads: int | None = None
    input_hw: tuple[int, int] | None = None
    images: Path | None = None
    force: bool = False
    seconds: float = SECONDS
    reference_s: float = 600.0
    timeout_s: float = 60.0


def start_worker(trial: Trial) -> WorkerProcess:
    """The process of a candidate, which has opened nothing yet."""
    return WorkerProcess(Contender(str(trial), trial.file), COMMAND)


def tune(
    path: Path,
    options: TuneOptions,
    *,
    progress: Callable[[str], None] = lambda _: None,
    start: Callable[[Trial], WorkerProcess] = start_worker,
) -> Decision:
    """The decision for a model on this machine: the one that is kept, or a new one, which is kept.

    Args:
        path: An ONNX or OpenVINO model.
        options: How it will run.
        progress: Told what is done at the moment.
        start: Starts a candidate's process.

    Raises:
        ModelError: The model cannot be read, or does not run.
        InputDataError: A sample image cannot be read.
        SetupError: A package is missing, or the cache cannot be written to.
    """
    artifact = read_artifact(path)
    with temporary_folder() as folder, tuning_alone():
        key = key_of(artifact, threads=options.threads, input_hw=options.input_hw)
        chosen = _chosen_images(options)
        samples = _fingerprint(chosen)
        known = [] if options.force else [one for one in read_decisions(key) if one.samples == samples]
        if known:
            decision = known[-1]
        else:
            images = _synthetic(folder) if chosen is None else chosen
            source = counted(len(images), "synthetic image" if chosen is None else "image")
            trials, facts = _measure(artifact, options, images, progress, start)
            facts |= {name: key[name] for name in ("cpu", "flags", "versions", "input_hw")} | {"images": source}
            decision = Decision(samples, trials, plain(facts))
        keep_decision(key, decision)
    return decision


def _chosen_images(options: TuneOptions) -> list[Path] | None:
    from rtmo_deploy.data.images import find_images

    if options.images is None:
        return None
    return [path.resolve() for path in find_images([options.images])[:MOST_IMAGES]]


def _fingerprint(images: Sequence[Path] | None) -> str:
    """SHA-256 of the images, or of what synthetic ones are drawn from."""
    from rtmo_deploy.data.synthetic import GENERATOR_VERSION

    made = (GENERATOR_VERSION, SEED, COUNT, PEOPLE)
    text = f"synthetic {made}" if images is None else " ".join(map(sha256_of, images))
    return hashlib.sha256(text.encode()).hexdigest()


def _synthetic(folder: Path) -> list[Path]:
    import cv2

    from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

    people = SyntheticPeople(COUNT, seed=SEED, options=SyntheticOptions(people=PEOPLE))
    paths = [folder / f"{index:02d}.png" for index in range(COUNT)]
    for index, path in enumerate(paths):
        path.write_bytes(cv2.imencode(".png", people[index].image)[1].tobytes())
    return paths


def plan(artifact: Artifact, flags: Sequence[str]) -> list[Trial]:
    """The candidates of a model on a CPU with these flags; what cannot be had says why.

    An INT8 model has itself only, in the runtime that it was made for, or as it is written.
    """
    name, precision = artifact.path.name, artifact.precision
    int8, for_openvino = precision.startswith("int8"), artifact.target is Target.OPENVINO
    missing = "" if importlib.util.find_spec("openvino") else "OpenVINO is not installed"
    trials = []
    if artifact.kind is Kind.ONNX and not for_openvino:
        trials.append(Trial("onnxruntime", precision, name))
    if not int8 or artifact.kind is Kind.OPENVINO or for_openvino:
        trials.append(_had(Trial("openvino", precision, name), missing))
    if precision == "fp32":
        trials.append(_had(Trial("openvino", "bf16", name, "bf16"), missing))
    if int8:
        return [*trials, _had(Trial("openvino", "int8+bf16", name, "bf16"), missing)] if for_openvino else trials
    slow = "" if VNNI & set(flags) else "this CPU has no VNNI"
    files = int8_beside(artifact, sha256_of(artifact.path))
    for one in files:
        absent = missing if one.backend == "openvino" else ""
        trials.append(_had(Trial(one.backend, one.precision, one.path.name), slow or one.problem or absent))
        if one.backend == "openvino":
            mixed = Trial(one.backend, f"{one.precision}+bf16", one.path.name, "bf16")
            trials.append(_had(mixed, slow or one.problem or absent))
    if not files:
        trials.append(_had(Trial("any", "int8"), slow or "there is no INT8 file of it beside it"))
    return trials


def _had(trial: Trial, missing: str) -> Trial:
    return replace(trial, verdict="not available", reason=missing) if missing else trial


def _reference(artifact: Artifact, trials: Sequence[Trial]) -> tuple[Trial, bool, bool]:
    """What the candidates are compared with, whether it is computed exactly, and whether it is the first of them.

    That is a float graph in ONNX Runtime: the model, or the parent beside it of an INT8 or OpenVINO model. Where there
    is none, it is the model itself, rounded as it is written and computed in float32.
    """
    float_graph = not artifact.precision.startswith("int8")
    if artifact.kind is Kind.ONNX and float_graph:
        return trials[0], False, True
    for parent in artifact.parents:
        file = artifact.path.with_name(parent.name)
        if file.suffix == ".onnx" and file.is_file() and sha256_of(file) == parent.sha256:
            return Trial("onnxruntime", read_artifact(file).precision, file.name), False, False
    backend = "onnxruntime" if artifact.kind is Kind.ONNX else "openvino"
    return Trial(backend, artifact.precision, artifact.path.name), True, False


class _Seat:
    """A candidate's process; what goes wrong in it makes the trial a refused one."""

    def __init__(self, trial: Trial, start: Callable[[Trial], WorkerProcess], stack: ExitStack) -> None:
        self.trial, self.timeout_s = trial, 0.0
        self._worker = start(trial)
        stack.callback(self._worker.close)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        return self._worker.ask(command, timeout_s=self.timeout_s)

    def try_to(self, act: Callable[[_Seat], Trial]) -> None:
        """Let the trial become what ``act`` makes of it."""
        try:
            self.trial = act(self)
        except RtmoDeployError as error:
            # What this CPU or installation lacks is no fault of the candidate.
            verdict = "not available" if isinstance(error, SetupError) else "refused"
            self.refuse(error.finding, verdict)
        except (KeyError, TypeError, ValueError) as error:
            self.refuse(f"its process answered nonsense ({type(error).__name__}: {error})")

    def refuse(self, reason: str, verdict: str = "refused") -> None:
        self.trial = replace(self.trial, verdict=verdict, reason=" ".join(reason.split()).rstrip("."), ms=None)


def _measure(
    artifact: Artifact,
    options: TuneOptions,
    images: Sequence[Path],
    progress: Callable[[str], None],
    start: Callable[[Trial], WorkerProcess],
) -> tuple[tuple[Trial, ...], dict[str, Any]]:
    """All trials, in the order of the plan, and the facts."""
    machine, watch = read_machine(), MachineWatch()
    trials = plan(artifact, read_cpu()[1])
    first, exact, candidate = _reference(artifact, trials)
    seats: list[_Seat | None] = [None] * len(trials)
    with ExitStack() as stack:
        seat = _Seat(first, start, stack)
        seat.timeout_s = options.reference_s
        progress(f"finding people: {first}, the reference")
        began = time.monotonic()
        reference = poses_of(
            seat.ask(_finding(artifact, first, options, images, exact=exact))["people"], artifact.skeleton
        )
        limit = max(options.timeout_s, 10 * (time.monotonic() - began))
        for place, trial in enumerate(trials):
            if trial.verdict:
                continue
            own = seat if candidate and place == 0 else _Seat(trial, start, stack)
            own.timeout_s, seats[place] = limit, own
            progress(Count("finding people", place, len(trials), str(trial)))
            own.try_to(lambda one: _judged(one, artifact, options, images, reference, own=one is seat))
        notes = _time([one for one in seats if one is not None], options, progress)
    load = watch.load()
    notes += warnings_of(machine, load, "cpu")
    threads, when = options.threads, datetime.now(UTC).isoformat(timespec="seconds")
    measured = tuple(trial if one is None else one.trial for trial, one in zip(trials, seats, strict=True))
    facts = {"reference": f"{first} ({first.file})", "cores": machine.cores, "threads": threads, "load": load}
    return measured, {**facts, "measured": when, "notes": notes}


def _finding(
    artifact: Artifact, trial: Trial, options: TuneOptions, images: Sequence[Path], *, exact: bool = False
) -> dict[str, Any]:
    """The command that opens a candidate and finds people."""
    return {
        "command": "find",
        "model": str(artifact.path.with_name(trial.file).absolute()),
        "backend": trial.backend,
        "precision": trial.asked,
        "threads": options.threads,
        "input_hw": options.input_hw or [artifact.input.height, artifact.input.width],
        "images": [str(path) for path in images],
        "exact": exact,
    }


def _judged(
    seat: _Seat,
    artifact: Artifact,
    options: TuneOptions,
    images: Sequence[Path],
    reference: Sequence[Poses],
    *,
    own: bool,
) -> Trial:
    """The trial with its people compared; the reference's own need not be found again."""
    found = reference
    if not own:
        answer = seat.ask(_finding(artifact, seat.trial, options, images))
        found = poses_of(answer["people"], artifact.skeleton)
    figures = compare(reference, found, score_thr=max(SCORE, artifact.decode.score_thr))
    problem = "" if own else figures.problem(seat.trial.precision)
    return replace(seat.trial, **vars(figures), verdict="refused" if problem else "accepted", reason=problem)


def _time(seats: Sequence[_Seat], options: TuneOptions, progress: Callable[[str], None]) -> list[str]:
    """Time the accepted ones in turns, in every other round the other way round; gives notes."""
    rounds = ROUNDS
    done = 0
    while done < rounds:
        progress(Count("timing, rounds", done, rounds))
        for seat in seats[:: 1 if done % 2 == 0 else -1]:
            if seat.trial.verdict == "accepted":
                seat.try_to(lambda one: _timed(one, options.seconds))
        done += 1
        if done == ROUNDS and any(_unsteady(seat.trial) for seat in seats):
            rounds += 1
    return [
        f"The rounds of {seat.trial} differ by {_spread(seat.trial):.0%}: something else was running."
        for seat in seats
        if _unsteady(seat.trial)
    ]


def _timed(seat: _Seat, seconds: float) -> Trial:
    ms = float(seat.ask({"command": "time", "seconds": seconds})["ms"])
    if not ms > 0:
        raise ValueError(f"a call took {ms} ms")
    rounds = (*seat.trial.rounds, ms)
    return replace(seat.trial, rounds=rounds, ms=statistics.median(rounds))


def _spread(trial: Trial) -> float:
    return max(trial.rounds) / min(trial.rounds) - 1 if trial.rounds else 0.0


def _unsteady(trial: Trial) -> bool:
    return trial.verdict == "accepted" and _spread(trial) > UNSTEADY


def verdict_of(decision: Decision, trial: Trial) -> str:
    """What is said of a trial: ``chosen``, ``accepted``, ``refused: reason`` or ``not available: reason``."""
    if trial.accepted:
        return "chosen" if trial == fastest(decision.trials) else "accepted"
    return f"{trial.verdict}: {trial.reason}"


def to_dict(decision: Decision) -> dict[str, Any]:
    """JSON-ready form of a decision, each trial with ``speedup`` and what is said of it."""
    trials = [
        {**plain(trial), "verdict": verdict_of(decision, trial).partition(":")[0], "speedup": decision.speedup(trial)}
        for trial in decision.trials
    ]
    facts: Mapping[str, Any] = decision.facts
    return {**facts, "samples": decision.samples, "chosen": plain(decision.chosen), "trials": trials}
