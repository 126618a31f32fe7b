"""Reads cameras and network streams: a source that stops is opened again, after pauses that grow.

Frames are taken in a thread of their own, so that a wait for the network can be left at once.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rtmo_deploy.data.images import decode_image
from rtmo_deploy.errors import InputDataError
from rtmo_deploy.media.fetch import fetch_image
from rtmo_deploy.media.frame import Event, Frame
from rtmo_deploy.media.video import frames_of, opened, reason_of, require_av

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Taken = tuple[int, float, NDArray[np.uint8] | None]  #: Number, seconds, image; None between strides.

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_POLL_S: Final = 0.1
_STEP_S: Final = 0.001  # between frames whose timestamps do not rise
_IMAGES: Final = ("image2", "gif", "apng")  # FFmpeg's formats of one image, beside those that end in _pipe
_UNTIMED: Final = ("mjpeg", "mpjpeg")  # formats without timestamps: the clock counts


def read_live(
    name: str,
    shown: str,
    *,
    stride: int,
    hwaccel: str | None,
    on_event: Callable[[Event], None],
    stop: threading.Event,
) -> Iterator[Frame]:
    """The frames of a camera or an address until ``stop``; see :func:`rtmo_deploy.media.sources.open_source`.

    An address whose server has a file ends with the file, and one that has an image is an image.
    """
    so_far = _SoFar()
    while not stop.is_set():
        try:
            if "://" in name:
                taken = _stream(name, shown, stride=stride, hwaccel=hwaccel, on_event=on_event)
            else:
                taken = _camera(int(name.removeprefix("/dev/video")), shown, stride=stride)
            yield from _framed(_pumped(taken, stop), shown, so_far, on_event)
        except _StillImageError:
            yield Frame(decode_image(fetch_image(name), where=shown), shown)
            return
        except InputDataError as error:
            if so_far.index < 0:
                raise
            reason = error.finding
        except (OSError, require_av().FFmpegError) as error:
            reason = reason_of(error)
        else:
            return
        if so_far.index < 0:
            raise InputDataError(f"It gives no frame: {reason}.", remedy="See whether a player opens it.", where=shown)
        if not so_far.failures:
            on_event(Event(shown, "lost", f"The stream is lost ({reason}). It is opened again."))
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(so_far.failures, 10))
        so_far.failures += 1
        stop.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - many readers shall not come back at once


@dataclass
class _SoFar:
    """Where the frames of a live source stand, over all its connections."""

    index: int = -1  # of the last frame
    time_s: float = 0.0  # of the last frame
    began: float = 0.0  # the clock's time at the first frame
    failures: int = 0  # connections that failed since the last frame


def _framed(taken: Iterator[Taken], shown: str, so_far: _SoFar, on_event: Callable[[Event], None]) -> Iterator[Frame]:
    """The frames of one connection: their numbers and times go on where those of the last one ended."""
    before, offset = so_far.index + 1, None
    for count, seconds, image in taken:
        if offset is None:
            so_far.began = so_far.began or time.monotonic()
            offset = time.monotonic() - so_far.began if before else 0.0
            if so_far.failures:
                on_event(Event(shown, "reconnected", "It is connected again."))
            so_far.failures = 0
        so_far.time_s = max(offset + seconds, so_far.time_s + _STEP_S) if so_far.index >= 0 else 0.0
        so_far.index = before + count
        if image is not None:
            yield Frame(image, shown, so_far.index, so_far.time_s)


class _StillImageError(Exception):
    """What the server sends is one image."""


def _stream(
    name: str, shown: str, *, stride: int, hwaccel: str | None, on_event: Callable[[Event], None]
) -> Iterator[Taken]:
    """Frames of one connection. It returns at the end of a file and raises ConnectionError at that of a stream."""
    seen = False

    def broken(reason: str) -> None:
        if seen:  # who joins in the middle cannot decode before the next key frame
            on_event(Event(shown, "broken", f"A frame is damaged: {reason}.", frames=1))

    with opened(name, hwaccel=hwaccel, live=True) as (container, stream):
        kind = container.format.name
        if kind.endswith("_pipe") or kind in _IMAGES:
            raise _StillImageError
        began = time.monotonic()
        try:
            for count, seconds, image in frames_of(container, stream, stride=stride, broken=broken):
                seen = True
                yield count, time.monotonic() - began if kind in _UNTIMED else seconds, image
        except require_av().FFmpegError as error:
            if container.duration is None or not seen:
                raise
            # A file: opened again, it would begin again.
            on_event(Event(shown, "broken", f"It ends here: {reason_of(error)}.", error))
        if container.duration is None or not seen:
            raise ConnectionError("the server ended it")


def _camera(index: int, shown: str, *, stride: int) -> Iterator[Taken]:
    """Frames of a camera, by OpenCV: it knows the cameras of each system by their index."""
    import cv2

    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            remedy = "Check its index and the permissions, and that no other program uses it."
            raise InputDataError(f"Camera {index} cannot be opened.", remedy=remedy, where=shown)
        began = time.monotonic()
        for count in itertools.count():
            if not camera.grab():
                raise ConnectionError("the camera gives no frame")
            image = camera.retrieve()[1] if count % stride == 0 else None
            yield count, time.monotonic() - began, None if image is None else np.asarray(image, np.uint8)
    finally:
        camera.release()


def _pumped(frames: Iterator[Taken], stop: threading.Event) -> Iterator[Taken]:
    """The frames, taken in a thread; ends at once when ``stop`` is set. The thread ends with its own wait."""
    items: queue.Queue[Any] = queue.Queue(2)
    left = threading.Event()

    def offer(item: object) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=_POLL_S)
                break

    def run() -> None:
        try:
            for frame in frames:
                offer(frame)
                if left.is_set():
                    break
            offer(None)
        except Exception as error:  # noqa: BLE001 - raised below
            offer(error)
        finally:
            frames.close()  # type: ignore[attr-defined]

    threading.Thread(target=run, name="rtmo-deploy-live", daemon=True).start()
    try:
        while not stop.is_set():
            try:
                item = items.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        left.set()
