"""The process that an rtmlib client lives in: the worker of ``rtmo-deploy bench``, with rtmlib in it.

Started by ``rtmlib_end_to_end.py``. The client is rtmlib's own, and so is every step from the image to the
keypoints; its session alone is made here, so that all contenders have as many threads, and theirs stop spinning when a
call ends.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rtmo_deploy.child import open_answers
from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.measure.bench import worker
from rtmo_deploy.measure.bench.options import Contender, spinning_entries
from rtmo_deploy.measure.bench.pipeline import contender_artifact
from rtmo_deploy.runtime.clock import DECODE_FILE, IN_GRAPH, LETTERBOX, ROWS, Clock
from rtmo_deploy.runtime.onnxruntime_backend import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

#: The graph has done the suppression with the model's threshold. Lower than this and rtmlib's own one, whose boxes are
#: a pixel larger, would drop people once more; this much drops MMDeploy's repeated row.
OUT_OF_THE_WAY = 0.99


class RtmlibPipeline:
    """An rtmlib client that is ready to be measured; what ``Pipeline`` is for this project's models."""

    def __init__(self, contender: Contender, artifact: Artifact) -> None:
        import rtmlib  # type: ignore[import-untyped]

        if contender.batch != 1:
            raise UsageError("rtmlib takes one image at a time.", remedy="Leave the batch size at 1.")
        height, width = contender.input_hw or (artifact.input.height, artifact.input.width)
        self.input_hw = (height, width)
        self.client = rtmlib.RTMO(
            str(artifact.path),
            model_input_size=self.input_hw,
            nms_thr=OUT_OF_THE_WAY,
            score_thr=artifact.decode.score_thr,
        )
        self.config = spinning_entries(contender.spinning)
        self.threads = contender.threads
        self.client.session = open_session(
            artifact.path, threads=contender.threads, where=artifact.path, config=self.config
        )

    def call(self, paths: Sequence[Path]) -> tuple[dict[str, float], float, list[int]]:
        """The steps of ``rtmlib.RTMO.__call__``, with a stopwatch between them; see ``Pipeline.call``."""
        client, clock, found = self.client, Clock(), []
        for path in paths:
            image = read_image(path)
            clock.lap(DECODE_FILE)
            padded, ratio = client.preprocess(image)
            clock.lap(LETTERBOX)
            outputs = client.inference(padded)
            clock.lap(IN_GRAPH)
            _, scores = client.postprocess(outputs, ratio, client.nms_thr, client.score_thr)
            clock.lap(ROWS)
            found.append(int(scores.any(axis=1).sum()))  # nobody is a row of zeros
        return clock.times, clock.total(), found

    def facts(self) -> dict[str, Any]:
        """What a result says of this contender."""
        return {
            "backend": f"rtmlib {version('rtmlib')}",
            "device": "cpu",
            "input_hw": list(self.input_hw),
            "threads": self.threads,
            "config": self.config,
        }


class RtmlibWorker(worker.Worker):
    """Opens rtmlib's client; all else is the bench's."""

    def _open(self, command: dict[str, Any]) -> dict[str, Any]:
        import cv2

        contender = Contender.from_dict(command["contender"])
        if contender.threads is not None:
            cv2.setNumThreads(contender.threads)
        started = time.perf_counter()
        artifact = contender_artifact(contender)
        pipeline: Any = RtmlibPipeline(contender, artifact)
        self._pipeline, self._batch = pipeline, contender.batch
        return {
            "artifact": artifact.to_dict(),
            "sha256": sha256_of(artifact.path),
            "facts": pipeline.facts(),
            "versions": {"rtmlib": version("rtmlib"), "onnxruntime": version("onnxruntime")},
            "open_s": time.perf_counter() - started,
            "memory": worker.peak_memory(),
        }


if __name__ == "__main__":
    worker.serve(RtmlibWorker(), sys.stdin, open_answers())
