"""The process that one contender lives in, and the parent's end of it.

Commands go to the child as JSON, one a line; each is answered by one line. Between them the child waits for its
standard input and takes no core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rtmo_deploy.artifact import made_with
from rtmo_deploy.child import Child, error_message, exit_name, open_answers, python_command, revived
from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.machine import first_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rtmo_deploy.measure.bench.options import Contender
    from rtmo_deploy.measure.bench.pipeline import Pipeline

COMMAND = python_command("-m", "rtmo_deploy.measure.bench.worker")
#: Packages whose versions decide how fast something is.
PACKAGES = (
    *("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy"),
    "opencv-python-headless",
)
#: Uncounted calls at the beginning of a round: another contender has had the caches.
SETTLE = 1
#: The least number of calls in a warm-up.
MIN_WARMUP = 2


class WorkerProcess:
    """The parent's end of a worker, which has opened nothing yet."""

    def __init__(self, contender: Contender, command: Sequence[str] = COMMAND) -> None:
        self._label = contender.label
        self._child = Child(command)
        #: Ends it; one that does not end is killed. May be called more than once.
        self.close = self._child.close

    def ask(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Args:
            command: What to do, JSON-ready.
            timeout_s: Seconds after which the worker counts as hung; it is killed then.

        Raises:
            RtmoDeployError: It crashed or hung, or could not carry the command out.
        """
        self._child.send(command)
        try:
            answer = self._child.receive(timeout_s)
        except TimeoutError:
            self._child.kill()
            finding = f"It did not answer '{command['command']}' within {timeout_s:.0f} s and was stopped."
            raise self._crash(finding, "Try it alone, with fewer threads or a smaller batch.") from None
        if answer is None:
            finding = f"Its process ended during '{command['command']}' ({exit_name(self._child.exit())})."
            remedy = "If it was killed, there was too little memory: try fewer models or a smaller batch at a time."
            raise self._crash(finding, remedy)
        if isinstance(answer.get("ok"), dict):
            found: dict[str, Any] = answer["ok"]
            return found
        if isinstance(answer.get("error"), dict):
            raise revived(answer["error"], self._label)
        self._child.kill()
        raise RtmoDeployError(
            f"Its process wrote something that is no answer: {str(answer)[:80]}.",
            remedy="Please report it, with the command.",
            where=self._label,
        )

    def _crash(self, finding: str, remedy: str) -> RtmoDeployError:
        return RtmoDeployError(f"{finding}{self._child.last_lines()}", remedy=remedy, where=self._label)


class Worker:
    """Answers commands, in the child."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None
        self._batch = 1
        self._position = 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry a command out: ``open``, ``warm`` or ``measure``."""
        handlers = {"open": self._open, "warm": self._warm, "measure": self._measure}
        return handlers[command["command"]](command)

    def _open(self, command: dict[str, Any]) -> dict[str, Any]:
        import cv2

        from rtmo_deploy.measure.bench.options import Contender
        from rtmo_deploy.measure.bench.pipeline import contender_artifact, open_pipeline

        contender = Contender.from_dict(command["contender"])
        if contender.threads is not None:
            cv2.setNumThreads(contender.threads)
        started = time.perf_counter()
        artifact = contender_artifact(contender)
        self._pipeline = open_pipeline(contender, artifact)
        self._batch = contender.batch
        return {
            "artifact": artifact.to_dict(),
            "sha256": sha256_of(artifact.path),
            "facts": self._pipeline.facts(),
            "versions": made_with(*PACKAGES),
            "open_s": time.perf_counter() - started,
            "memory": peak_memory(),
        }

    def _warm(self, command: dict[str, Any]) -> dict[str, Any]:
        """Unmeasured calls, for a time or a number."""
        step = self._step(command)
        started, calls = time.perf_counter(), 0
        enough = int(command["calls"] or MIN_WARMUP)
        while calls < enough or (command["calls"] is None and time.perf_counter() - started < command["seconds"]):
            step()
            calls += 1
        return {"calls": calls, "seconds": time.perf_counter() - started}

    def _measure(self, command: dict[str, Any]) -> dict[str, Any]:
        """A round: calls for a time or a number, each with its stages, from the image ``start`` on.

        ``found`` is by image: a slower contender sees fewer of them in its time.
        """
        step = self._step(command)
        cpu, switches = time.process_time(), _switches()
        for _ in range(SETTLE):
            step()
        self._position = int(command["start"])
        stages: dict[str, list[float]] = {}
        totals: list[float] = []
        found: dict[str, int] = {}
        calls, started = command["calls"], time.perf_counter()
        while not totals or (
            len(totals) < calls if calls is not None else time.perf_counter() - started < command["seconds"]
        ):
            times, total, counts = step()
            for name, value in times.items():
                stages.setdefault(name, []).append(round(value, 6))
            totals.append(round(total, 6))
            found |= counts
        used, now = time.process_time() - cpu, _switches()
        return {
            "stages": stages,
            "totals": totals,
            "found": found,
            "memory": peak_memory(),
            "cpu_s": round(used, 6),
            "switches": None if switches is None or now is None else now - switches,
        }

    def _step(self, command: dict[str, Any]) -> Callable[[], tuple[dict[str, float], float, dict[str, int]]]:
        """One call on the next images; it gives the instances found in each of them, too."""
        if self._pipeline is None:
            raise RuntimeError("nothing has been opened")
        call = self._pipeline.call if command["whole"] else self._pipeline.network
        paths = [Path(path) for path in command["pictures"]]

        def step() -> tuple[dict[str, float], float, dict[str, int]]:
            chosen = [paths[(self._position + i) % len(paths)] for i in range(self._batch)]
            self._position += self._batch
            times, total, counts = call(chosen)
            return times, total, dict(zip(map(str, chosen), counts, strict=True))

        return step


def _usage() -> Any:
    """What the system counts of this process; None where it does not (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF)


def _switches() -> int | None:
    """Involuntary context switches of this process."""
    usage = _usage()
    return None if usage is None else int(usage.ru_nivcsw)


def peak_memory() -> int | None:
    """Most bytes of memory this process has had at a time; None where the system does not tell.

    On Linux from ``/proc/self/status``: ``getrusage`` counts what the process was before it became this program.
    """
    kib = first_pairs(Path("/proc/self/status")).get("VmHWM", "").partition(" ")[0]
    if kib.isdecimal():
        return int(kib) * 1024
    usage = _usage()
    return None if usage is None else int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


class Answerer(Protocol):
    """What carries commands out in a child."""

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry one out."""
        ...


def serve(worker: Answerer, commands: Iterable[str], tell: Callable[..., None]) -> None:
    """Answer each line until there are no more."""
    for line in commands:
        try:
            tell(ok=worker.answer(json.loads(line)))
        except RtmoDeployError as error:
            tell(error=error_message(error))


if __name__ == "__main__":
    serve(Worker(), sys.stdin, open_answers())
