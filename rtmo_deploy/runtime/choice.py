"""Which runtime and precision are fastest for a model on this CPU: what ``rtmo-deploy tune`` measured, kept as JSON.

A decision holds for the model file, the INT8 files beside it, the CPU, the versions, the threads and the input size
that it was made with. Anything else is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rtmo_deploy.artifact import PREFIX, Artifact, Target, made_with
from rtmo_deploy.child import Child, python_command
from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import UnreadableError, read_bounded, sha256_of, write_whole
from rtmo_deploy.machine import read_cpu, usable_cores
from rtmo_deploy.plain import parse_json, plain, read_json, shorten
from rtmo_deploy.zoo.cache import cache_dir, cache_errors, waiting_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_log = logging.getLogger("rtmo_deploy")

SCHEMA_VERSION: Final = 1
#: Decisions that a file keeps, one for each set of sample images.
KEPT: Final = 8
#: Share by which a time may be longer than the shortest and count as equal.
TIE: Final = 0.03
_RANKS: Final = ("fp32", "fp16", "bf16", "int8")
#: Packages whose versions decide how fast and how right a runtime is.
_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu", "openvino")
_MAX_BYTES, _MAX_MODEL = 2**20, 2**31 - 1


@dataclass(frozen=True)
class Trial:
    """A way to run a model, and what was measured of it.

    Attributes:
        backend: Runtime.
        precision: ``fp32``, ``bf16``, ``int8`` and so on.
        file: Name of the file that runs, in the model's folder; empty where there is none.
        asked: The precision that the runtime is asked for; None where the file says it.
        verdict: ``accepted``, ``refused``, ``not available``, or empty before the trial.
        reason: Why it is not accepted.
        ms: Median of single-image calls over the rounds, milliseconds; None where it was not timed.
        rounds: The median of each round, milliseconds.
        people: Detections of the reference on the samples.
        matched, missed, extra: Detections of both, of the reference only, of this one only.
        oks: Mean OKS of the matched ones; None of nobody.
        shift_px: Mean signed displacement of their keypoints in x and y, pixels of the network input.
        distance_px: Median distance of their keypoints, pixels of the network input.
    """

    backend: str
    precision: str
    file: str = ""
    asked: str | None = None
    verdict: str = ""
    reason: str = ""
    ms: float | None = None
    rounds: tuple[float, ...] = ()
    people: int | None = None
    matched: int = 0
    missed: int = 0
    extra: int = 0
    oks: float | None = None
    shift_px: tuple[float, float] | None = None
    distance_px: float | None = None

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def accepted(self) -> bool:
        """Whether it finds the same people as the reference, and was timed."""
        return self.verdict == "accepted" and self.ms is not None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """Inverse of :func:`rtmo_deploy.plain.plain`; TypeError, KeyError or ValueError for anything else."""
        values = {one.name: data[one.name] for one in fields(cls)}
        for name in ("rounds", "shift_px"):
            values[name] = None if values[name] is None else tuple(map(float, values[name]))
        texts = [values[name] for name in ("backend", "precision", "file", "verdict", "reason")]
        if not all(isinstance(text, str) for text in texts) or Path(values["file"]).name != values["file"]:
            raise ValueError("a trial is not told in words")
        if values["ms"] is not None:
            values["ms"] = float(values["ms"])
            if not values["ms"] > 0:
                raise ValueError(f"a time is {values['ms']}")
        return cls(**values)


@dataclass(frozen=True)
class Decision:
    """All trials of a model, the reference first where it is one of them.

    ``samples`` is the SHA-256 of the sample images; ``facts`` are machine, load, versions and notes, JSON-ready.
    """

    samples: str
    trials: tuple[Trial, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> Trial | None:
        """The fastest of all."""
        return fastest(self.trials)

    def speedup(self, trial: Trial) -> float | None:
        """How many times as fast as the first trial, which is FP32 in ONNX Runtime unless the model is OpenVINO's.

        None where one was not timed, or the model is INT8 itself.
        """
        first = self.trials[0]
        if trial.ms is None or first.ms is None or first.precision.startswith("int8"):
            return None
        return first.ms / trial.ms


def fastest(trials: tuple[Trial, ...], backend: str | None = None, precision: str | None = None) -> Trial | None:
    """The fastest accepted trial; within 3 % ONNX Runtime goes first, then the higher precision.

    Args:
        trials: What was measured.
        backend: Only this runtime.
        precision: Only this precision.

    Returns:
        None where nothing is accepted.
    """
    found = [one for one in trials if one.accepted and fits(one, backend, precision)]
    times = {id(one): one.ms or 0.0 for one in found}
    least = min(times.values(), default=0.0)
    equal = [one for one in found if times[id(one)] <= least * (1 + TIE)]
    return min(equal, key=lambda one: (one.backend != "onnxruntime", _rank(one), times[id(one)]), default=None)


def fits(trial: Trial, backend: str | None, precision: str | None) -> bool:
    """Whether a trial is of this runtime and precision; None and ``auto`` are any."""
    return backend in {None, "auto", trial.backend} and precision in {None, "auto", trial.precision.partition("+")[0]}


def _rank(trial: Trial) -> int:
    name = trial.precision.partition("+")[0]
    return _RANKS.index(name) if name in _RANKS else len(_RANKS)


def is_measured(kind: Kind, backend: str | None, precision: str | None) -> bool:
    """Whether these choices ask for the fastest: ``precision`` is ``auto``, or is named where the backend is ``auto``.

    Checkpoints and engines have one runtime and one precision.
    """
    asked = precision == "auto" or (backend == "auto" and precision is not None)
    return asked and kind in {Kind.ONNX, Kind.OPENVINO}


class Int8File(NamedTuple):
    """An INT8 model beside its float model."""

    path: Path
    sha256: str
    precision: str
    backend: str  #: The runtime that it is for.
    #: Why it is not one of this model; empty if it is.
    problem: str = ""


def int8_beside(model: Artifact, sha256: str) -> list[Int8File]:
    """The INT8 files in a model's folder: those that name its SHA-256 as a parent, and those of its name."""
    path = model.path
    named = {f"{path.stem}.int8.onnx", f"{path.stem}.openvino.int8.onnx"}
    shas = {sha256} | {parent.sha256 for parent in model.parents if model.kind is Kind.OPENVINO}
    found: list[Int8File | None] = []
    for file in sorted(path.parent.glob("*.onnx")):
        if file.name == path.name:
            continue
        try:
            content = read_bounded(file, max_bytes=_MAX_MODEL)
        except OSError as error:
            if file.name in named:
                problem = f"it cannot be read: {error.strerror or error}"
                found.append(Int8File(file, "", "int8", "onnxruntime", problem))
            continue
        if file.name in named or any(sha.encode() in content for sha in shas):
            found.append(_int8_file(file, content, shas, told=file.name in named))
    return [one for one in found if one is not None]


def _int8_file(file: Path, content: bytes, shas: set[str], *, told: bool) -> Int8File | None:
    import onnx
    from google.protobuf.message import DecodeError

    digest = hashlib.sha256(content).hexdigest()
    try:
        said = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
        precision, parents, target = (
            parse_json(said.get(PREFIX + key, "null")) for key in ("precision", "parents", "target")
        )
        hashes = {parent["sha256"] for parent in parents or ()}
    except (DecodeError, ValueError, KeyError, TypeError):
        return Int8File(file, digest, "int8", "onnxruntime", "it is damaged") if told else None
    if not str(precision).startswith("int8") or (not told and not hashes & shas):
        return None
    problem = "" if hashes & shas else "it was not made from this model"
    runtime = target if target in {Target.OPENVINO, Target.ONNXRUNTIME} else Target.TENSORRT
    if runtime == Target.TENSORRT:
        problem = problem or "it was quantised for TensorRT"
    return Int8File(file, digest, str(precision), str(runtime), problem)


def key_of(artifact: Artifact, *, threads: int | None, input_hw: tuple[int, int] | None) -> dict[str, Any]:
    """What a decision depends on besides the sample images, JSON-ready; ``int8`` is each INT8 file by name."""
    from rtmo_deploy.runtime.onnx_check import external_files
    from rtmo_deploy.runtime.onnx_file import read_graph
    from rtmo_deploy.runtime.openvino_backend import ISA_LIMITS

    cpu, flags = read_cpu()
    sha256 = sha256_of(artifact.path)
    files = [] if artifact.precision.startswith("int8") else int8_beside(artifact, sha256)
    weights = set(external_files(read_graph(artifact.path))) if artifact.kind is Kind.ONNX else ()
    return {
        "model": sha256,
        "weights": {name: sha256_of(artifact.path.parent / name) for name in sorted(weights)},
        "name": artifact.path.name,
        "int8": {one.path.name: one.sha256 for one in files},
        "cpu": cpu,
        "flags": list(flags),
        "cores": usable_cores(),
        "limits": {name: os.environ[name] for name in ISA_LIMITS if name in os.environ},
        "versions": made_with(*_PACKAGES),
        "threads": threads,
        "input_hw": list(input_hw or (artifact.input.height, artifact.input.width)),
    }


def decision_file(key: Mapping[str, Any]) -> Path:
    """Where the decisions of a key are kept; the file need not exist."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir("tune") / f"{digest[:32]}.json"


def read_decisions(key: Mapping[str, Any]) -> list[Decision]:
    """The decisions of a key, the newest last; none where there are none, or, which is logged, the file is damaged.

    SetupError where the cache cannot be read.
    """
    path = decision_file(key)
    with cache_errors(path), contextlib.suppress(FileNotFoundError):
        try:
            return _parsed(read_json(path, max_bytes=_MAX_BYTES), key)
        except (UnreadableError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("%s is damaged (%s); the model is tuned again.", path, error)
    return []


def _parsed(content: Any, key: Mapping[str, Any]) -> list[Decision]:
    if content["schema_version"] != SCHEMA_VERSION or content["key"] != dict(key):
        raise ValueError("it is of another version or model")
    decisions = [
        Decision(str(one["samples"]), tuple(map(Trial.from_dict, one["trials"])), dict(one["facts"]))
        for one in content["decisions"]
    ]
    if not decisions or not all(one.trials for one in decisions):
        raise ValueError("it decides nothing")
    return decisions


def keep_decision(key: Mapping[str, Any], decision: Decision) -> None:
    """Write a decision, as the newest of its key; SetupError where the cache cannot be written to."""
    others = [one for one in read_decisions(key) if one.samples != decision.samples]
    kept = [plain(one) for one in [*others, decision][-KEPT:]]
    content = {"schema_version": SCHEMA_VERSION, "key": dict(key), "decisions": kept}
    write_whole(decision_file(key), json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def tuning_alone() -> Iterator[None]:
    """Keep other processes of this user from tuning: they would measure each other. Waits for one that does."""
    folder = cache_dir("tune")
    with contextlib.ExitStack() as held:
        with cache_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(waiting_lock(folder / ".lock", "Another process is tuning a model"))
        yield


class Choice(NamedTuple):
    """What is opened in a model's place, and a sentence that says why."""

    path: Path
    backend: str
    precision: str | None
    sentence: str


def choose(
    artifact: Artifact,
    *,
    backend: str | None = "auto",
    precision: str | None = "auto",
    threads: int | None = None,
    input_hw: tuple[int, int] | None = None,
) -> Choice:
    """The fastest way to run a model on this CPU that finds the same people; measured now if it never was.

    Args:
        artifact: An ONNX or OpenVINO model.
        backend: Only this runtime; ``auto`` or None for all.
        precision: Only this precision: ``fp32``, ``bf16`` or ``int8``; ``auto`` or None for all.
        threads: Threads a runtime may use; its own choice if not given.
        input_hw: Height and width of the network input; the model's own if not given.

    Raises:
        UsageError: There is no such precision.
        ArtifactError: Nothing that is asked for finds the same people as the model in ONNX Runtime.
        SetupError: It could not be measured, or the decision could not be kept.
    """
    if precision not in (None, "auto", *_RANKS):
        raise UsageError(f"There is no precision '{precision}'.", remedy=f"Use auto, {', '.join(_RANKS)}.")
    key = key_of(artifact, threads=threads, input_hw=input_hw)
    decisions = read_decisions(key)
    if not decisions:
        _tune(artifact, threads, input_hw)
        decisions = read_decisions(key)
    if not decisions:
        raise SetupError(
            "It was tuned, and the decision was not found afterwards.",
            remedy="If its folder or this machine changed meanwhile, try again; or name a backend and no precision.",
            where=artifact.path,
        )
    decision = decisions[-1]
    trial = fastest(decision.trials, backend, precision)
    if trial is None:
        near = [f"{one}: {one.verdict}, {one.reason}" for one in decision.trials if fits(one, backend, precision)]
        raise ArtifactError(
            f"Nothing that was asked for can run it here and finds the same people: {shorten(near) or 'no candidate'}.",
            remedy="Ask for another backend or precision; 'rtmo-deploy tune' shows the table.",
            where=artifact.path,
        )
    return Choice(artifact.path.with_name(trial.file), trial.backend, trial.asked, sentence(decision, trial))


def sentence(decision: Decision, trial: Trial) -> str:
    """What runs and what is gained, as it is logged."""
    times, first = decision.speedup(trial), decision.trials[0]
    if times is None or trial == first:
        gain = "the fastest here that was asked for and finds the same people"
    else:
        gain = f"{times:.1f} times as fast as {first} here"
    return f"Runs in {trial.backend}, {trial.precision} ({trial.file}): {gain}; 'rtmo-deploy tune' shows the table."


def _tune(artifact: Artifact, threads: int | None, input_hw: tuple[int, int] | None) -> None:
    """Have ``rtmo-deploy tune`` measure, in a process of its own."""
    _log.info("%s: measuring which runtime is fastest on this CPU; this is done once.", artifact.path.name)
    words = ["-m", "rtmo_deploy", "tune", str(artifact.path.absolute())]
    words += [] if threads is None else ["--threads", str(threads)]
    words += [] if input_hw is None else ["--imgsz", f"{input_hw[0]},{input_hw[1]}"]
    with Child(python_command(*words)) as child:
        for _ in child.messages():
            pass
        code = child.exit()
        said = child.printed().partition("Error: ")[2] or child.last_lines().strip()
    if code:
        kinds: dict[int, type[RtmoDeployError]] = {ArtifactError.exit_code: ArtifactError}
        raise kinds.get(code, SetupError)(
            f"It could not be tuned: {' '.join(said.split())}",
            remedy="Without precision 'auto' it runs as before.",
            where=artifact.path,
        )
