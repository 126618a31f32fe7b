"""Writes videos with PyAV: timestamps as they are given, sound copied, the file whole or absent.

No encoder under the GPL is used. Frames are written upright, in their own size, odd ones too. MP4 and MOV keep
timestamps exactly, MKV and WebM to the millisecond; AVI has a constant frame rate, to which they are rounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import cv2
import numpy as np

from rtmo_deploy.errors import InputDataError, SetupError, UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.media.video import VideoInfo, reason_of, require_av

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from av import Packet
    from av.container import InputContainer, OutputContainer
    from numpy.typing import NDArray

Codec = Literal["mpeg4", "vp9", "av1"]

#: Of each suffix, FFmpeg's name of the format, and the codec unless another is asked for.
_FORMATS: Final[dict[str, tuple[str, Codec]]] = {
    ".mp4": ("mp4", "mpeg4"),
    ".m4v": ("mp4", "mpeg4"),
    ".mov": ("mov", "mpeg4"),
    ".mkv": ("matroska", "mpeg4"),
    ".webm": ("webm", "vp9"),
    ".avi": ("avi", "mpeg4"),
}
#: Of each codec, its encoder, its settings (constant quality) and its threads: their number changes the bytes.
_ENCODERS: Final[dict[str, tuple[str, dict[str, str], int]]] = {
    "mpeg4": ("mpeg4", {"flags": "+qscale", "global_quality": str(3 * 118)}, 1),
    "vp9": ("libvpx-vp9", {"crf": "24", "deadline": "realtime", "cpu-used": "6", "tile-columns": "2", "g": "120"}, 4),
    "av1": ("libsvtav1", {"crf": "30", "preset": "10", "g": "120"}, 4),
}
#: BT.601 of limited range, as FFmpeg numbers them: what its tools take where a file does not tell, as MPEG-4's.
_MATRIX, _RANGE = 6, 1

_log = logging.getLogger(__name__)

#: Suffixes of the videos that can be written.
WRITABLE_VIDEO_SUFFIXES: Final = frozenset(_FORMATS)


@contextlib.contextmanager
def _usual_scheduling() -> Iterator[None]:
    """Undo that SVT-AV1, run by root, makes its threads and the one that opens it real-time (SCHED_FIFO).

    All other programs would wait for them.
    """
    tasks, own = Path("/proc/self/task"), threading.get_native_id()
    if sys.platform != "linux" or not tasks.is_dir():
        yield
        return
    before, policy, param = set(tasks.iterdir()) - {tasks / str(own)}, os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for task in set(tasks.iterdir()) - before:
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setscheduler(int(task.name), policy, param)


class VideoWriter:
    """Writes one video. It is opened by the first frame; without a frame there is no file.

    The video is written beside ``path`` and renamed when it is complete, after an interrupt (Ctrl-C) too. When another
    error leaves the ``with`` block, what was written becomes ``NAME.partial.SUFFIX``, and ``path`` is not touched.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: VideoInfo | None = None,
        *,
        fps: float | Fraction | None = None,
        codec: Codec | None = None,
        audio: bool = True,
    ) -> None:
        """Check what is asked for; nothing is written yet.

        Args:
            path: ``.mp4``, ``.m4v``, ``.mov``, ``.mkv``, ``.webm`` or ``.avi``.
            like: The video whose frames these are, by ``video_info``: its time base is kept and its sound copied, as
                far as the frames go. A format that cannot hold the sound is told in the log.
            fps: Frames a second, where frames come without times; by default those of ``like``, else 30.
            codec: ``mpeg4``, ``vp9`` or ``av1``; by default ``vp9`` for WebM, else ``mpeg4``.
            audio: Whether to copy the sound.

        Raises:
            UsageError: No video is written with this suffix.
            MissingDependencyError: PyAV is not installed.
        """
        require_av("Writing a video")
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in _FORMATS:
            finding = f"A video cannot be written as '{suffix or self.path.name}'."
            raise UsageError(finding, remedy=f"Name it {', '.join(_FORMATS)}.", where=self.path)
        self.format, usual = _FORMATS[suffix]
        self.codec = codec or usual
        self.like = like
        rate = Fraction(fps or (like and like.fps) or 30).limit_denominator(1001)
        self.rate = min(max(rate, Fraction(1)), Fraction(240))
        self.time_base = 1 / self.rate if suffix == ".avi" else like.time_base if like else Fraction(1, 90000)
        self.frames = 0  #: Frames written so far.
        self._stretched = False
        self._stack = contextlib.ExitStack()
        self._container: OutputContainer | None = None
        self._stamps: dict[int, int] = {}  # of each frame in the encoder, in units of the time base
        self._last = -1  # stamp of the last frame
        self._sound: Iterator[tuple[float, Packet[Any]]] | None = (
            None if like and like.has_audio and audio else iter(())
        )
        self._waiting: tuple[float, Packet[Any]] | None = None

    def write(self, image: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Add a frame.

        Args:
            image: ``(h, w, 3)`` uint8, BGR. One of another size than the first is stretched to it.
            time_s: Seconds since the first frame, rising; None for the next of a constant rate.

        Raises:
            SetupError: The file cannot be written, or this build of FFmpeg has no such encoder.
        """
        from av import VideoFrame

        with self._errors():
            if self._container is None:
                self._begin(*image.shape[1::-1])
            width, height = self._video.width, self._video.height
            if image.shape[:2] != (height, width):
                if not self._stretched:
                    _log.warning("%s: Frames of other sizes are stretched to %dx%d.", self.path, width, height)
                self._stretched = True
                image = np.asarray(cv2.resize(image, (width, height)), np.uint8)
            seconds = float(self.frames / self.rate) if time_s is None else time_s
            self._last = self._stamps[self.frames] = max(round(seconds / self.time_base), self._last + 1)
            frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="bgr24").reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG", interpolation="BICUBIC", threads=1
            )
            frame.pts, frame.time_base = self.frames, 1 / self.rate
            self.frames += 1
            self._mux(self._video.encode(frame))
            self._copy_sound(float(self._last * self.time_base))

    def close(self) -> None:
        """Finish the file and give it its name. A second call does nothing."""
        if self._container is None:
            return
        interrupt = None
        with self._errors(), self._stack:
            try:
                self._flush()
            except KeyboardInterrupt as error:  # what the encoder held is lost, what was written is not
                interrupt = error
            self._finish()
        if interrupt is not None:
            raise interrupt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt | GeneratorExit):
            self.close()
        elif self._container is not None:
            partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
            with contextlib.suppress(require_av().FFmpegError, OSError):
                with contextlib.suppress(require_av().FFmpegError):  # perhaps the encoder is what failed
                    self._flush()
                self._finish()
                self._temporary.replace(partial)
                _log.warning("%s is not complete: what was written is kept as %s.", self.path, partial.name)
            with contextlib.suppress(BaseException):
                self._stack.__exit__(kind, error, trace)

    def _begin(self, width: int, height: int) -> None:
        self._temporary = self._stack.enter_context(atomic_write(self.path))
        if self._sound is None:
            try:
                self._start(width, height, sound=True)
            except (ValueError, InputDataError, require_av().FFmpegError) as error:
                _log.warning("%s: The sound is not copied (%s).", self.path, error)
                self._sound = iter(())
            else:
                return
        self._start(width, height, sound=False)

    def _start(self, width: int, height: int, *, sound: bool) -> None:
        """Open the file and write its header."""
        av = require_av()
        encoder, settings, threads = _ENCODERS[self.codec]
        if self.codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # it prints its settings to stderr
        output = av.open(os.fspath(self._temporary), "w", format=self.format, options={"fflags": "+bitexact"})
        try:
            self._video = output.add_stream(encoder, rate=self.rate, options=settings)
        except ValueError as error:  # also PyAV's UnknownCodecError
            output.close()
            raise SetupError(
                f"Video cannot be written as {self.codec} in {self.format}: {error}.",
                remedy="Choose another codec or suffix, or install PyAV's own wheel.",
                where=self.path,
            ) from error
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.time_base = self.time_base
        context = self._video.codec_context
        context.thread_count = threads
        if self.like is not None and self.like.pixel_aspect is not None:
            context.sample_aspect_ratio = self.like.pixel_aspect
        context.colorspace, context.color_range = _MATRIX, _RANGE
        try:
            self._sound = self._sound_of(output) if sound else self._sound
            with _usual_scheduling():
                output.start_encoding()
        except BaseException:
            with contextlib.suppress(av.FFmpegError):
                output.close()
            raise
        self._container = output

    def _sound_of(self, output: OutputContainer) -> Iterator[tuple[float, Packet[Any]]]:
        """Add the sound's stream; its packets come with the time at which they are to be heard."""
        assert self.like is not None
        start = self.like.start_s
        source: InputContainer = self._stack.enter_context(
            require_av().open(f"file:{os.path.abspath(self.like.path)}", metadata_errors="replace")  # noqa: PTH100
        )
        stream: Any = source.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise ValueError("its codec is not known")
        if self.format == "mp4" and stream.codec_context.name.startswith("pcm"):
            raise ValueError("few players take PCM in MP4")
        target = output.add_stream_from_template(stream)

        def packets() -> Iterator[tuple[float, Packet[Any]]]:
            for packet in source.demux(stream):
                if packet.pts is None or packet.dts is None or packet.time_base is None:
                    continue
                shift = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = target
                if packet.pts >= 0:
                    yield float(packet.pts * packet.time_base), packet

        return packets()

    def _copy_sound(self, until_s: float) -> None:
        assert self._container is not None
        assert self._sound is not None
        try:
            while True:
                self._waiting = self._waiting or next(self._sound, None)
                if self._waiting is None or self._waiting[0] >= until_s:
                    return
                packet, self._waiting = self._waiting[1], None
                self._container.mux(packet)
        except require_av().FFmpegError as error:  # damaged sound is no reason to lose the video
            _log.warning("%s: The sound ends at %.1f s (%s).", self.path, until_s, reason_of(error))
            self._sound = iter(())

    def _mux(self, packets: list[Packet[Any]]) -> None:
        """Write encoded frames: the encoders here keep their order, so each packet takes its frame's timestamp."""
        assert self._container is not None
        for packet in packets:
            assert packet.pts is not None
            packet.pts = packet.dts = self._stamps.pop(packet.pts)
            packet.time_base = self.time_base
            packet.duration = max(1, round(1 / self.rate / self.time_base))
            packet.stream = self._video
            self._container.mux(packet)

    def _flush(self) -> None:
        self._mux(self._video.encode(None))
        self._copy_sound(float(self._last * self.time_base + 1 / self.rate))

    def _finish(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except require_av().FFmpegError as error:
            remedy = "Check that the disk has space left, and that a player opens what was read."
            finding = f"The video could not be written: {reason_of(error)}."
            raise SetupError(finding, remedy=remedy, where=self.path) from error
