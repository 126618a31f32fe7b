"""A stopwatch with laps, and the names of the stages that a time can belong to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rtmo_deploy.artifact import DecodeMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from rtmo_deploy.artifact import Artifact

DECODE_FILE: Final = "decode file"
LETTERBOX: Final = "letterbox"
UPLOAD: Final = "host->device"
#: The network alone: nothing is decoded in it.
NETWORK: Final = "network"
#: The network with decoding and suppression in its graph, which no runtime tells apart from outside.
IN_GRAPH: Final = "network+NMS+DCC"
#: Decoding, suppression and coordinates, after the network: of PyTorch on its device, of a raw graph on the host.
NMS_DCC: Final = "NMS+DCC"
DOWNLOAD: Final = "device->host"
#: Rows of a graph that decodes inside, to people.
ROWS: Final = "rows to people"
UNLETTERBOX: Final = "un-letterbox"
DRAW: Final = "draw"
#: Every stage, in the order of the pipeline.
STAGES: Final = (DECODE_FILE, LETTERBOX, UPLOAD, NETWORK, IN_GRAPH, NMS_DCC, DOWNLOAD, ROWS, UNLETTERBOX, DRAW)


def graph_stage(artifact: Artifact) -> str:
    """What running an exported graph is called."""
    return NETWORK if artifact.decode.mode is DecodeMode.RAW else IN_GRAPH


class Clock:
    """Milliseconds of each stage of one call.

    Args:
        now: Seconds; ``time.perf_counter`` unless a test brings its own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._started = self._last = now()
        #: Milliseconds by stage.
        self.times: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Give the time since the last lap to a stage."""
        now = self._now()
        self.add(stage, 1000 * (now - self._last))
        self._last = now

    def add(self, stage: str, milliseconds: float) -> None:
        """Give a stage a time that something else has measured, such as the device."""
        self.times[stage] = self.times.get(stage, 0.0) + milliseconds

    def skip(self) -> None:
        """Give the time since the last lap to no stage; it stays in the total."""
        self._last = self._now()

    def total(self) -> float:
        """Milliseconds since the clock was made."""
        return 1000 * (self._now() - self._started)
