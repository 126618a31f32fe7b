"""The process that one contender lives in: ``python -m rtmo_deploy.measure.bench.worker``.

Commands come as JSON, one a line, on standard input; each is answered by one line on standard output. Between them the
process is blocked on that pipe and takes no core. What libraries print goes to standard error: the real standard output
is kept for the answers alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rtmo_deploy.artifact import installed_versions
from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.measure.bench.pipeline import Pipeline

#: Packages whose versions decide how fast something is.
PACKAGES = (
    *("rtmo-deploy", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy"),
    "opencv-python-headless",
)
#: Calls that a round begins with and that do not count: somebody else has had the caches.
SETTLE = 1
#: The least number of unmeasured calls before the first round.
LEAST_WARMUP = 2


class Worker:
    """Answers commands. Separate from the pipes, so that it can be tested without a process."""

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None
        self._batch = 1
        self._position = 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry a command out."""
        handlers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "open": self._open,
            "warm": self._warm,
            "measure": self._measure,
        }
        return handlers[command["command"]](command)

    def _open(self, command: dict[str, Any]) -> dict[str, Any]:
        import cv2

        from rtmo_deploy.measure.bench.options import Contender
        from rtmo_deploy.measure.bench.pipeline import Pipeline, contender_artifact
        from rtmo_deploy.measure.bench.runners import open_runner

        contender = Contender.from_dict(command["contender"])
        if contender.threads is not None:
            cv2.setNumThreads(contender.threads)
        started = time.perf_counter()
        artifact = contender_artifact(contender)
        self._pipeline = Pipeline(open_runner(contender, artifact), contender.input_hw)
        self._batch = contender.batch
        return {
            "artifact": artifact.to_dict(),
            "sha256": sha256_of(artifact.path),
            "facts": self._pipeline.facts(),
            "versions": _versions(),
            "open_s": time.perf_counter() - started,
            "memory": peak_memory(),
        }

    def _warm(self, command: dict[str, Any]) -> dict[str, Any]:
        """Unmeasured calls, for a time or a number."""
        step = self._step(command)
        started, calls = time.perf_counter(), 0
        least = int(command["calls"] or LEAST_WARMUP)
        while calls < least or (command["calls"] is None and time.perf_counter() - started < command["seconds"]):
            step()
            calls += 1
        return {"calls": calls, "seconds": time.perf_counter() - started}

    def _measure(self, command: dict[str, Any]) -> dict[str, Any]:
        """A round: calls for a time or a number, each with its stages; the first takes the picture that is said.

        What was found is told picture by picture: a slower contender sees fewer of them in its time.
        """
        step = self._step(command)
        cpu, switches = time.process_time(), _switches()
        for _ in range(SETTLE):
            step()
        self._position = int(command["start"])
        stages: dict[str, list[float]] = {}
        totals: list[float] = []
        people: dict[str, int] = {}
        started = time.perf_counter()
        while not totals or (
            len(totals) < command["calls"]
            if command["calls"] is not None
            else time.perf_counter() - started < command["seconds"]
        ):
            times, total, found = step()
            for name, value in times.items():
                stages.setdefault(name, []).append(round(value, 6))
            totals.append(round(total, 6))
            people |= found
        used, now = time.process_time() - cpu, _switches()
        return {
            "stages": stages,
            "totals": totals,
            "found": people,
            "memory": peak_memory(),
            "cpu_s": round(used, 6),
            "switches": None if switches is None or now is None else now - switches,
        }

    def _step(self, command: dict[str, Any]) -> Callable[[], tuple[dict[str, float], float, dict[str, int]]]:
        """What one call is; each takes the next pictures, and tells whom it found in each."""
        pipeline = self._pipeline
        if pipeline is None:
            raise RuntimeError("nothing has been opened")
        paths = [Path(path) for path in command["pictures"]]
        whole = bool(command["whole"])

        def step() -> tuple[dict[str, float], float, dict[str, int]]:
            chosen = [paths[(self._position + i) % len(paths)] for i in range(self._batch)]
            self._position += self._batch
            names = [str(path) for path in chosen]
            if whole:
                times, total, found = pipeline.call(chosen)
                return times, total, dict(zip(names, found, strict=True))
            times, found = pipeline.network(chosen)
            return times, sum(times.values()), dict(zip(names, found, strict=True))

        return step


def _switches() -> int | None:
    """Involuntary context switches of this process; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def peak_memory() -> int | None:
    """Most bytes of memory this process has had at a time; None where the system does not tell.

    On Linux from ``/proc/self/status``: ``getrusage`` counts what the process was before it became this program.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0], **installed_versions(PACKAGES)}
    if "rtmo-deploy" not in found:
        from rtmo_deploy._version import __version__

        found["rtmo-deploy"] = __version__
    return found


def serve(commands: TextIO, answers: TextIO) -> None:
    """Answer each line until there are no more, or one says ``stop``."""
    worker = Worker()
    for line in commands:
        command = json.loads(line)
        if command["command"] == "stop":
            return
        try:
            answer = {"ok": worker.answer(command)}
        except RtmoDeployError as error:
            names = {"finding": error.finding, "remedy": error.remedy, "where": error.where}
            answer = {"error": {"class": type(error).__name__, **names}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve on the process' own pipes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
