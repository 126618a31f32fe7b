"""Runs a build in a child process, and turns whatever becomes of it into an answer or an error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError, UsageError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rtmo_deploy.convert.trt.job import Job

#: What a build runs as; -P keeps the current folder from hiding packages.
COMMAND = (sys.executable, "-P", "-m", "rtmo_deploy.convert.trt.child")
#: The folder that holds the package ``rtmo_deploy``.
_PACKAGES = Path(__file__).resolve().parents[3]
_KEPT_LINES = 40
_TOLD_LINES = 3


@dataclass
class ChildAnswer:
    """What a build in a child process gave.

    Attributes:
        network: Inputs, outputs and layers of the parsed network.
        done: Version, GPU, seconds, layer table and inspector's answer.
        warnings: What TensorRT warned of, each once.
    """

    network: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def run_child(
    job: Job,
    *,
    where: Path,
    timeout: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
    command: Sequence[str] | None = None,
) -> ChildAnswer:
    """Build in a child process.

    Args:
        job: The build.
        where: The model, named by errors.
        timeout: Seconds after which it is ended.
        progress: Told of each step.
        command: What to run; :data:`COMMAND` if not given.

    Raises:
        ArtifactError: TensorRT does not take the model, or crashes on it.
        SetupError: It was ended from outside, took too long, or the environment lacks something.
        UsageError: The backend does not know an option.
    """
    answer, lines = ChildAnswer(), deque[str](maxlen=_KEPT_LINES)
    failed: dict[str, Any] | None = None
    told = ""
    with tempfile.TemporaryFile() as stderr, _started(list(command or COMMAND), job, stderr) as child:
        overdue = threading.Event()
        watchdog = _watchdog(child, timeout, overdue)
        for event in _events(child, lines):
            kind = event.pop("event", None)
            if kind == "progress":
                told = _tell(event, told, progress)
            elif kind == "network":
                answer.network = event
            elif kind == "log":
                lines.append(str(event["message"]))
                if event["severity"] == "warning" and event["message"] not in answer.warnings:
                    answer.warnings.append(event["message"])
            elif kind == "failed":
                failed = event
            elif kind == "done":
                answer.done = event
        code = child.wait()
        if watchdog is not None:
            watchdog.cancel()
        printed = _tail(stderr)
    if failed is not None:
        raise _failure(failed, job, where)
    if overdue.is_set():
        raise SetupError(
            f"The build took more than {timeout:g} seconds and was ended.",
            remedy="Give it more time (--timeout), or a lower --opt-level.",
            where=where,
        )
    if code != 0 or not answer.done:
        raise _death(code, [*lines, *printed], job, where)
    return answer


@contextlib.contextmanager
def _started(command: list[str], job: Job, stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that has its job; whatever happens in the block, it has ended after it."""
    try:
        child = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=_environment()
        )
    except OSError as error:
        raise SetupError(f"The building process could not be started: {error.strerror or error}.") from error
    try:
        assert child.stdin is not None
        # It may be dead already: then its end tells more than this pipe's.
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(job.to_json().encode())
            child.stdin.flush()
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _environment() -> dict[str, str]:
    """This process's, and the folder that this package lies in, wherever it was imported from."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _watchdog(
    child: subprocess.Popen[bytes], timeout: float | None, overdue: threading.Event
) -> threading.Timer | None:
    if timeout is None:
        return None

    def end() -> None:
        if child.poll() is None:
            overdue.set()
            child.kill()

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    return timer


def _events(child: subprocess.Popen[bytes], lines: deque[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for raw in child.stdout:
        try:
            event = json.loads(raw)
        except ValueError:
            event = None
        if isinstance(event, dict):
            yield event
        else:
            lines.append(raw.decode(errors="replace").strip())


def _tell(event: dict[str, Any], told: str, progress: Callable[[str], None]) -> str:
    """Tell a step unless it was the last one told; phases of the optimiser repeat."""
    text = str(event["text"])
    if event.get("done") and event.get("total", 0) > 1:
        text = Count(text, event["done"], event["total"])
    if text != told:
        progress(text)
    return text


def _tail(stderr: IO[bytes]) -> list[str]:
    stderr.seek(0)
    text = stderr.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-_KEPT_LINES:]


def _failure(event: dict[str, Any], job: Job, where: Path) -> RtmoDeployError:
    """The error that the child told of."""
    kind, message = event["kind"], " ".join(str(event["message"]).split()).rstrip(".")
    if kind == "usage":
        return UsageError(f"{message}.", remedy="Choose another --compute-capability or --backend.")
    if kind == "setup":
        remedy = (
            event.get("remedy") or "Build where the GPU is, or use --backend tensorrt-rtx, which needs none to build."
        )
        return SetupError(f"{message}.", remedy=remedy)
    if kind == "disk":
        return SetupError(f"The engine could not be written: {message}.", remedy="Free some space.", where=job.plan)
    if kind == "timing-cache":
        return ArtifactError(
            f"The timing cache cannot be used: {message}.",
            remedy="Remove it, or name another.",
            where=job.timing_cache_in,
        )
    if kind == "parse" and event.get("operator"):
        finding = f"{job.backend} does not take its node {event['node']} ({event['operator']}): {message}."
    elif kind == "parse":
        finding = f"{job.backend} cannot parse it: {message}."
    else:
        finding = f"{job.backend} cannot build it: {message}."
    return ArtifactError(
        finding, remedy="Export it with 'rtmo-deploy export --decode fixed', which every backend builds.", where=where
    )


def _death(code: int, lines: list[str], job: Job, where: Path) -> RtmoDeployError:
    """The error of a child that ended without a word."""
    said = [line for line in lines if line][-_TOLD_LINES:]
    tail = f" The last it said: {' | '.join(said)}" if said else " It said nothing."
    name = _signal_name(code)
    if name in {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}:
        return SetupError(
            f"The building process was ended from outside ({name}); the system does that too, when memory is short."
            f"{tail}",
            remedy="Try again with more memory, or smaller --max sizes.",
            where=where,
        )
    how = f"crashed ({name})" if name else f"ended with code {code}"
    return ArtifactError(
        f"{job.backend} {how} on this model.{tail}",
        remedy="Nothing was written. Export it again with --decode fixed and another --opset; if it stays, please "
        "report it.",
        where=where,
    )


def _signal_name(code: int) -> str:
    if code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
