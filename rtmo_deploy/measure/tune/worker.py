"""The process that one candidate lives in: it opens a model, finds people in images, and times single calls."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from rtmo_deploy.child import open_answers, python_command
from rtmo_deploy.measure.bench.worker import serve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.runtime.backends import Backend
    from rtmo_deploy.runtime.estimator import RTMO

COMMAND: Final = python_command("-m", "rtmo_deploy.measure.tune.worker")
#: Calls before those that count, and the least number of these.
WARMUP, LEAST_CALLS = 3, 5


class Worker:
    """Answers commands, in the child."""

    def __init__(self) -> None:
        self._model: RTMO | None = None
        self._tensor: NDArray[np.float32] | None = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry a command out: ``find`` opens the model and finds people, ``time`` times it afterwards."""
        handlers = {"find": self._find, "time": self._time}
        return handlers[command["command"]](command)

    def _find(self, command: dict[str, Any]) -> dict[str, Any]:
        """People by image: boxes, scores and keypoints in pixels of the network input."""
        from rtmo_deploy.data.images import read_image
        from rtmo_deploy.runtime.estimator import RTMO

        size = command["input_hw"]
        self._model = RTMO(self.open(command), input_hw=None if size is None else tuple(size))
        people = []
        for path in command["images"]:
            placed = self._model.place(read_image(Path(path)))
            if self._tensor is None:
                tensor: Any = self._model.tensor([placed])
                self._tensor = tensor
            found = self._model.detect([placed])[0]
            boxes = placed.transform.to_input(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
            keypoints = placed.transform.to_input(found.keypoints)
            values = {"boxes": boxes, "scores": found.scores, "keypoints": keypoints}
            people.append({name: value.tolist() for name, value in values.items()})
        return {"people": people}

    def open(self, command: dict[str, Any]) -> Backend:
        """The candidate's backend; with ``exact`` a quantised graph is computed as it is written."""
        from rtmo_deploy.runtime.backends import open_backend
        from rtmo_deploy.runtime.estimator import read_artifact

        artifact, threads = read_artifact(Path(command["model"])), command["threads"]
        if command["exact"] and command["backend"] == "onnxruntime":
            from rtmo_deploy.runtime.onnxruntime_backend import EXACT, OnnxRuntimeBackend

            backend: Any = OnnxRuntimeBackend(artifact, "cpu", threads, EXACT)
            return cast("Backend", backend)
        precision = "fp32" if command["exact"] else command["precision"]
        return open_backend(artifact, "cpu", backend=command["backend"], threads=threads, precision=precision)

    def _time(self, command: dict[str, Any]) -> dict[str, Any]:
        """Median milliseconds of calls with one image, for a time."""
        if self._model is None or self._tensor is None:
            raise RuntimeError("nothing has been opened")
        run, times = self._model.backend, list[float]()
        for _ in range(WARMUP):
            run(self._tensor)
        started = time.perf_counter()
        while len(times) < LEAST_CALLS or time.perf_counter() - started < command["seconds"]:
            before = time.perf_counter()
            run(self._tensor)
            times.append(time.perf_counter() - before)
        return {"ms": 1000 * statistics.median(times), "calls": len(times)}


if __name__ == "__main__":
    serve(Worker(), sys.stdin, open_answers())
