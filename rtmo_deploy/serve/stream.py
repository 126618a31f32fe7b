"""A camera's frames over a WebSocket: an image in, its people out, in order."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rtmo_deploy.data.images import decode_image
from rtmo_deploy.errors import UsageError
from rtmo_deploy.serve.batcher import BusyError
from rtmo_deploy.serve.gate import SUBPROTOCOL
from rtmo_deploy.serve.log import LOG
from rtmo_deploy.serve.refusals import RefusedError, refusal_of
from rtmo_deploy.serve.service import Wanted
from rtmo_deploy.track.smoother import Smoother
from rtmo_deploy.track.tracker import Tracker

if TYPE_CHECKING:
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.serve.service import Found, Service

#: Seconds without a frame after which a camera is let go.
_IDLE_S = 60.0


async def follow(socket: Any, service: Service, score_thr: float | None, *, track: bool, smooth: bool) -> None:
    """Answer the frames of one camera until it goes.

    Args:
        socket: Starlette's WebSocket, not yet accepted. Each binary message is an image file; the answer to it is the
            JSON document of ``/predict``, with ``frame`` (from 0) and, if tracked, ``track_id`` of each person. A frame
            that was not used is answered ``{"frame": n, "error": {...}}``.
        service: The model.
        score_thr: Detections with a score above this.
        track: Whether to give people ids.
        smooth: Whether to smooth keypoints as well.
    """
    from starlette.websockets import WebSocketDisconnect

    gauge = service.metrics.streams
    wanted = Wanted.of(service.artifact, {"score_thr": score_thr})
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", ()) else None
    await socket.accept(subprotocol=subprotocol)
    if service.cameras >= service.options.max_streams:
        service.metrics.rejected.labels("streams").inc()
        await socket.send_text(_text({"frame": None, "error": refusal_of(BusyError("streams", 5)).to_dict()}))
        await socket.close(1013)
        return
    service.cameras += 1
    gauge.inc()
    camera = _Camera(service, wanted, track=track, smooth=smooth)
    try:
        with suppress(WebSocketDisconnect):
            while (message := await _next(socket, service)) is not None:
                if message["type"] == "websocket.disconnect":
                    return
                answer = _text(await camera.answer(message.get("bytes")))
                async with asyncio.timeout(_IDLE_S):
                    await socket.send_text(answer)
            await socket.close(1012 if service.stopping.is_set() else 1001)
    except TimeoutError:  # nobody reads: the connection ends itself
        pass
    finally:
        service.cameras -= 1
        gauge.dec()
        facts = {"client": socket.client.host if socket.client else "", "route": "/stream"}
        LOG.info("stream", extra={"told": {**facts, "frames": camera.frames, "unused": camera.unused}})


async def _next(socket: Any, service: Service) -> dict[str, Any] | None:
    """The next message; None after a while without one, and at the server's end when there is none yet."""
    receive: asyncio.Task[Any] = asyncio.create_task(socket.receive())
    stop: asyncio.Task[Any] = asyncio.create_task(service.stopping.wait())
    try:
        await asyncio.wait({receive, stop}, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        return receive.result() if receive.done() else None
    finally:
        receive.cancel()
        stop.cancel()


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


class _Camera:
    def __init__(self, service: Service, wanted: Wanted, *, track: bool, smooth: bool) -> None:
        self._service, self._wanted = service, wanted
        self._tracker = Tracker() if track else None
        self._smoother = Smoother() if smooth else None
        self._start = time.monotonic()
        self.frames = self.unused = 0

    async def answer(self, data: bytes | None) -> dict[str, Any]:
        """The document for the next frame."""
        frame, self.frames = self.frames, self.frames + 1
        start = time.perf_counter()
        if data is None:
            return self._unused(frame, UsageError("A frame is a binary message.", remedy="Send an image file."))
        try:
            with self._service.batcher.slot() as slot:
                found = await self._service.find(slot, data, self._wanted)
                poses = found.poses
                if self._tracker is not None:
                    poses = await self._service.aside(self._followed, self._tracker, found, data)
        except Exception as error:  # noqa: BLE001 - told to the client, who goes on
            return self._unused(frame, error)
        timings = {**found.timings_ms, "total": round((time.perf_counter() - start) * 1000, 3)}
        self._service.metrics.timed(timings)
        poses = self._wanted.choose(poses)
        self._service.metrics.people.inc(len(poses))
        more = {"frame": frame, "timings_ms": timings, "batch": found.batch}
        return self._service.document(poses, found.image_hw, **more)

    def _followed(self, tracker: Tracker, found: Found, data: bytes) -> Poses:
        seconds = time.monotonic() - self._start
        pixels = decode_image(data) if found.pixels is None and self._service.model.fit_hw is None else found.pixels
        poses = tracker.update(found.poses, seconds, pixels)
        return poses if self._smoother is None else self._smoother.smooth(poses, seconds)

    def _unused(self, frame: int, error: Exception) -> dict[str, Any]:
        self.unused += 1
        if isinstance(error, BusyError):
            self._service.metrics.rejected.labels(error.reason).inc()
        refused: RefusedError = refusal_of(error)
        if refused.status == 500:
            LOG.error("%s", error, exc_info=error)
        return {"frame": frame, "error": refused.to_dict()}
