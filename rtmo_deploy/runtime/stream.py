"""Runs a model over images, videos and live streams; readers, network and consumer work at the same time."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Unpack, get_args

from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.media.frame import Event, Frame, ReducedFrame
from rtmo_deploy.media.sources import open_source
from rtmo_deploy.runtime.thresholds import decode_for, require_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.data.images import Decoded
    from rtmo_deploy.media.sources import Source
    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.thresholds import Thresholds

    Item = tuple[Frame, Any]


class Model(Protocol):
    """What is needed of a :class:`rtmo_deploy.RTMO`."""

    artifact: Artifact

    def place(self, image: NDArray[np.uint8] | Decoded, /) -> Any:
        """Letterbox an image, with ``fit_hw`` one decoded at a reduced scale too; called in the readers' threads."""

    def detect(self, placed: Sequence[Any], /, **thresholds: Unpack[Thresholds]) -> list[Poses]:
        """Poses in letterboxed images; called in one thread."""


Policy = Literal["all", "newest"]
#: Pixels that wait in one lane, at most; one frame may always wait. This is 78 frames of 640x480, 3 of 3840x2160.
_WAITING_PIXELS: Final = 24_000_000
#: Threads that decode image files.
_READERS: Final = max(1, min(4, os.cpu_count() or 1))
_log = logging.getLogger("rtmo_deploy")


def stream(
    model: Model,
    sources: Sequence[Source],
    *,
    stride: int = 1,
    policy: Policy = "all",
    batch: int = 8,
    hwaccel: str | None = None,
    fit_hw: tuple[int, int] | None = None,
    on_event: Callable[[Event], None] | None = None,
    track: bool = False,
    smooth: bool = False,
    **thresholds: Unpack[Thresholds],
) -> Generator[Frame]:
    """Frames of sources with their poses, in order within each source.

    Images and videos are read one after the other, live sources at the same time. Batches are filled across all of
    them. Memory does not grow with the length of a source: readers wait for the network, and the network for the
    consumer. Closing the iterator, or leaving the loop, stops all threads.

    Args:
        model: Finds the poses.
        sources: What to read.
        stride: Takes every n-th frame of a video or stream.
        policy: What happens to a live source that is faster than the network: ``all`` lets it wait, ``newest`` skips
            frames.
        batch: Most frames in one run of the network.
        hwaccel: Hardware that decodes videos, as :func:`open_source` takes it.
        fit_hw: As :func:`open_source` takes it.
        on_event: Told of what cannot be read, of lost streams and so on, from other threads; logged if not given.
        track: Whether to give people ids that last over the frames of a source.
        smooth: Whether to smooth keypoints and boxes over time; implies ``track``.
        thresholds: As in a call of the model. With ``track``, detections that ``score_thr`` and ``max_people`` leave
            out help to follow people.

    Raises:
        InputDataError: Nothing could be read, and no ``on_event`` was given.
        UsageError: A number or a threshold is out of range or cannot be had.
    """
    require_count(stride=stride, batch=batch)
    if policy not in get_args(Policy):
        raise UsageError(f"There is no policy '{policy}'.", remedy="Use 'all' or 'newest'.")
    decode_for(model.artifact, **thresholds)
    reading = _Reading(model, sources, model.artifact.input.batch or batch, newest=policy == "newest")
    how = {"stride": stride, "hwaccel": hwaccel, "fit_hw": fit_hw}
    if not (track or smooth):
        return _frames(model, reading, on_event, how, thresholds)
    asked, least = thresholds.get("score_thr"), model.artifact.decode.score_thr
    limits: Thresholds = {**thresholds, "score_thr": least if asked is None else min(least, asked), "max_people": None}
    frames = _frames(model, reading, on_event, how, limits)
    return _tracked(frames, asked, thresholds.get("max_people"), smooth=smooth)


def _tracked(frames: Generator[Frame], score_thr: float | None, most: int | None, *, smooth: bool) -> Generator[Frame]:
    """Frames whose people are tracked before any of them is left out."""
    from rtmo_deploy.track.frames import track_frames

    with contextlib.closing(frames):
        for frame in track_frames(frames, smooth=smooth):
            poses = frame.poses
            if poses is not None and score_thr is not None:
                poses = poses[poses.scores > score_thr]
            yield frame if poses is None else frame.with_poses(poses[:most])


def _frames(
    model: Model,
    reading: _Reading,
    on_event: Callable[[Event], None] | None,
    how: dict[str, Any],
    thresholds: Thresholds,
) -> Generator[Frame]:
    failures: list[Event] = []

    def log(event: Event) -> None:
        _log.warning("%s", event)
        if event.kind == "failed":
            failures.append(event)

    done: Queue[list[Frame] | BaseException] = Queue(1)
    runner = threading.Thread(target=_run, args=(model, reading, done, thresholds), daemon=True)

    def end() -> None:
        reading.close()
        while runner.is_alive():
            with contextlib.suppress(Empty):
                done.get(timeout=0.05)
        atexit.unregister(end)

    atexit.register(end)  # a thread that still runs the network at exit would abort Python
    count = 0
    try:
        reading.start(on_event or log, **how)
        runner.start()
        while frames := done.get():
            if isinstance(frames, BaseException):
                raise frames
            count += len(frames)
            yield from frames
    finally:
        end()
    if failures and not count and isinstance(failures[0].error, InputDataError):
        raise failures[0].error


def _run(model: Model, reading: _Reading, done: Queue[list[Frame] | BaseException], thresholds: Thresholds) -> None:
    """Give batches to the network until there are no more, then an empty one."""
    try:
        while items := reading.take():
            found = model.detect([placed for _, placed in items], **thresholds)
            done.put([frame.with_poses(poses) for (frame, _), poses in zip(items, found, strict=True)])
        done.put([])
    except BaseException as error:  # noqa: BLE001 - raised by the consumer
        done.put(error)


class _StoppedError(Exception):
    """The consumer wants no more frames."""


class _Lane:
    """Frames of one reader that wait for the network, in order."""

    def __init__(self, sources: Sequence[Source], most: int, *, newest: bool) -> None:
        self.sources = sources
        self.most = 1 if newest else most
        self.newest = newest  #: Whether a new frame replaces the one that waits.
        self.waiting: deque[Item] = deque()
        self.dropped = 0
        self.done = False

    @property
    def full(self) -> bool:
        pixels = sum(frame.image_hw[0] * frame.image_hw[1] for frame, _ in self.waiting)
        return len(self.waiting) >= self.most or pixels >= _WAITING_PIXELS


class _Reading:
    """Threads that read sources and letterbox their frames: one for all files, and one for each live source."""

    def __init__(self, model: Model, sources: Sequence[Source], batch: int, *, newest: bool) -> None:
        self._model, self._batch = model, batch
        live = [source for source in sources if source.kind == "live"]
        files = [source for source in sources if source.kind != "live"]
        self._lanes = [_Lane([source], 2 * batch, newest=newest) for source in live]
        self._live = bool(live)
        if files:
            self._lanes.append(_Lane(files, 2 * batch, newest=False))
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, on_event: Callable[[Event], None], **how: Any) -> None:
        """Start the threads; ``how`` goes to :func:`open_source`."""
        for lane in self._lanes:
            thread = threading.Thread(target=self._read, args=(lane, on_event, how), daemon=True)
            self._threads.append(thread)
            thread.start()

    def take(self) -> list[Item]:
        """The next frames, up to a batch, from the lanes in turn; none at the end.

        Waits for a whole batch, but not for frames of a live source, nor where no more can wait.
        """
        taken: list[Item] = []
        with self._changed:
            self._changed.wait_for(self._ready)
            if self._error is not None:
                raise self._error
            for _ in range(self._batch):
                lane = next((lane for lane in self._lanes if lane.waiting), None)
                if lane is None:
                    break
                taken.append(lane.waiting.popleft())
                self._lanes.append(self._lanes.pop(self._lanes.index(lane)))
            self._changed.notify_all()
        return [] if self._stop.is_set() else taken

    def _ready(self) -> bool:
        waiting = sum(len(lane.waiting) for lane in self._lanes)
        enough = waiting >= self._batch or (waiting and (self._live or any(lane.full for lane in self._lanes)))
        over = self._stop.is_set() or self._error is not None or all(lane.done for lane in self._lanes)
        return bool(enough or over)

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(10)  # a camera's driver may hang; the thread is a daemon

    def _read(self, lane: _Lane, on_event: Callable[[Event], None], how: dict[str, Any]) -> None:
        def frames(source: Source) -> Iterator[Item]:
            for frame in open_source(source, on_event=on_event, stop=self._stop, **how):
                decoded = frame.reduced if isinstance(frame, ReducedFrame) else None
                yield frame, self._model.place(frame.image if decoded is None else decoded)

        try:
            for source, items in _opened(lane.sources, frames):
                try:
                    for item in items():
                        self._put(lane, item)
                except InputDataError as error:
                    on_event(Event(source.title, "failed", str(error), error))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by take
            self._error = error
        finally:
            if lane.dropped:
                text = f"{lane.dropped} frames were skipped"
                on_event(Event(lane.sources[0].title, "dropped", text, frames=lane.dropped))
            with self._changed:
                lane.done = True
                self._changed.notify_all()

    def _put(self, lane: _Lane, item: Item) -> None:
        with self._changed:
            if lane.newest:
                lane.dropped += len(lane.waiting)
                lane.waiting.clear()
            self._changed.wait_for(lambda: self._stop.is_set() or not lane.full)
            if self._stop.is_set():
                raise _StoppedError
            lane.waiting.append(item)
            self._changed.notify_all()


def _opened(
    sources: Iterable[Source], frames: Callable[[Source], Iterator[Item]]
) -> Iterator[tuple[Source, Callable[[], Iterable[Item]]]]:
    """Each source with what reads it; image files are decoded ahead, several at a time."""
    ahead: deque[tuple[Source, Callable[[], Iterable[Item]]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for source in sources:
            if source.kind == "image":
                decoded: Future[list[Item]] = pool.submit(list, frames(source))
                ahead.append((source, decoded.result))
            else:
                ahead.append((source, partial(frames, source)))
            if len(ahead) > 2 * _READERS:
                yield ahead.popleft()
        yield from ahead
