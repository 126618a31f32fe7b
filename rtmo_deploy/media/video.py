"""Reads videos with PyAV: upright BGR frames with their timestamps; damaged frames are counted, not fatal.

What a frame looks like is what ``ffmpeg`` makes of it: its colour matrix and range are followed, more than 8 bits are
rounded, alpha is dropped, pixels that are not square stay as they are stored, and the display matrix (rotation,
mirroring) is applied.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from rtmo_deploy.address import without_credentials
from rtmo_deploy.data.images import TooManyPixelsError, max_pixels_allowed
from rtmo_deploy.errors import InputDataError, MissingDependencyError, SetupError
from rtmo_deploy.files import open_regular, reading
from rtmo_deploy.media.frame import Event, Frame

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

#: Suffixes of videos in a folder that is searched. Whether a file is one is decided by its bytes.
_KNOWN: Final = ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .wmv .flv .3gp .ogv .mjpg .mjpeg"
VIDEO_SUFFIXES: Final = frozenset(_KNOWN.split())
#: Hardware decoders that ``hwaccel="auto"`` tries, in this order.
_ACCELERATORS: Final = ("cuda", "videotoolbox", "d3d11va", "vaapi", "qsv")
_THREADS: Final = 4  # of a decoder; each holds a frame
_TIMEOUT_S: Final = 10.0  # to open an address, and to wait for data of it
_GAP_S: Final = 1.0  # by which the frames of a whole file may end before its sound
_AGAIN: Final = "Copy or download it again, or see whether a video player opens it."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself before it is decoded."""

    path: str  #: File or address.
    width: int  #: Pixels of an upright frame.
    height: int  #: Pixels of an upright frame.
    codec: str  #: Of the video, as FFmpeg calls it, such as ``h264``.
    time_base: Fraction  #: Unit of its timestamps, in seconds.
    start_s: Fraction = Fraction(0)  #: Timestamp of its first frame, in seconds; frames count from there.
    fps: Fraction | None = None  #: Frames a second, on average; None where it is not known.
    frames: int | None = None  #: Its number of frames: stored, or duration times rate; None where it is not known.
    duration_s: float | None = None  #: Seconds; None where it is not known, as of a live stream.
    size_bytes: int | None = None  #: Of the file, sound included; None where it is not known.
    pixel_aspect: Fraction | None = None  #: Width over height of an upright pixel; None for square.
    has_audio: bool = False


def require_av(purpose: str = "Reading a video") -> ModuleType:
    """PyAV, or MissingDependencyError with the command that installs it."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingDependencyError("av", purpose=purpose, extra="video") from error
    return av


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, rate, length and codec of a video file; its first frame is decoded.

    Raises:
        InputDataError: It cannot be read, or holds no video.
        MissingDependencyError: PyAV is not installed.
    """
    with opened(os.fspath(path)) as (container, stream):
        first = next(_decoded(container, stream, lambda _: None), None)
        if first is None:
            raise _empty(os.fspath(path))
        swap = _orientation(first)[0]
        rate: Fraction | None = stream.average_rate or stream.guessed_rate
        duration = None
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif container.duration:
            duration = container.duration / 1e6
        stored: Fraction | None = stream.sample_aspect_ratio
        aspect = None if not stored or stored == 1 else 1 / stored if swap else stored
        return VideoInfo(
            path=os.fspath(path),
            width=first.height if swap else first.width,
            height=first.width if swap else first.height,
            codec=stream.codec_context.codec.canonical_name,
            time_base=first.time_base or Fraction(1, 1000),
            start_s=(first.pts or 0) * (first.time_base or Fraction(0)),
            fps=rate or None,
            frames=stream.frames or (round(duration * rate) if duration and rate else None),
            duration_s=duration,
            size_bytes=container.size if container.size > 0 else None,
            pixel_aspect=aspect,
            has_audio=bool(container.streams.audio),
        )


def read_video(
    path: str,
    shown: str,
    *,
    stride: int = 1,
    hwaccel: str | None = None,
    on_event: Callable[[Event], None],
    stop: threading.Event,
) -> Iterator[Frame]:
    """The frames of a video file, every ``stride``-th; see :func:`rtmo_deploy.media.sources.open_source`."""

    def broken(reason: str) -> None:
        on_event(Event(shown, "broken", f"A frame is damaged: {reason}.", frames=1))

    count, time_s = -1, 0.0
    with opened(path, hwaccel=hwaccel) as (container, stream):
        try:
            for count, time_s, image in frames_of(container, stream, stride=stride, broken=broken):
                if stop.is_set():
                    return
                if image is not None:
                    yield Frame(image, shown, count, time_s)
        except require_av().FFmpegError as error:
            if count < 0:
                raise _empty(shown, f": {reason_of(error)}") from error
            on_event(Event(shown, "broken", f"It is damaged and ends here: {reason_of(error)}.", error))
        if count >= 0:
            _tell_if_cut_off(shown, container, stream, count, time_s, on_event)
    if count < 0:
        raise _empty(shown)


def frames_of(
    container: InputContainer, stream: VideoStream, *, stride: int, broken: Callable[[str], None]
) -> Iterator[tuple[int, float, NDArray[np.uint8] | None]]:
    """Number, seconds since the first frame, and the upright BGR image of each frame; None for those between strides.

    A frame that cannot be decoded is counted and told to ``broken``; one that was decoded with repairs, too, but comes.
    An error of the file or the stream itself is raised as PyAV's.
    """
    from av.video.reformatter import VideoReformatter

    lost = 0

    def lose(reason: str) -> None:
        nonlocal lost
        lost += 1
        broken(reason)

    reformatter, limit = VideoReformatter(), max_pixels_allowed()
    rate = stream.average_rate or stream.guessed_rate
    step = float(1 / rate) if rate else 0.04
    start: Fraction | None = None
    stamp: Fraction | None
    time_s, known, orientation = -step, None, (False, False, False)
    for number, frame in enumerate(_decoded(container, stream, lose)):
        count = number + lost
        stamp = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if start is None and stamp is not None:
            start = stamp - Fraction(time_s + step)
        now = time_s + step if stamp is None or start is None else float(stamp - start)
        time_s = now if number == 0 or now > time_s else time_s + step  # damaged timestamps never go back
        if frame.width * frame.height > limit:
            broken(f"it has {frame.width}x{frame.height} pixels; at most {limit:,} are read")
            yield count, time_s, None
            continue
        if frame.is_corrupt:
            broken("parts of it were guessed")
        if known != (known := (frame.rotation, frame.width, frame.height)):
            orientation = _orientation(frame)  # seldom: it leaves a cycle that holds the frame
        yield count, time_s, _image(reformatter, frame, orientation) if count % stride == 0 else None


def _decoded(container: InputContainer, stream: VideoStream, lose: Callable[[str], None]) -> Iterator[VideoFrame]:
    """The decoded frames; when the file or the stream fails, those that the decoder still holds come first."""
    errors = require_av().FFmpegError
    packets = container.demux(stream)
    failure = None
    while failure is None:
        try:
            packet = next(packets, None)
        except errors as error:
            packet, failure = None, error
        if packet is None and failure is None:
            return
        try:
            yield from stream.decode(packet)
        except EOFError:
            pass
        except errors as error:
            lose(reason_of(error))
    raise failure


def _image(reformatter: VideoReformatter, frame: VideoFrame, orientation: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    scaled = reformatter.reformat(frame, format="bgr24", interpolation="BICUBIC", threads=1)
    image = np.asarray(scaled.to_ndarray(), np.uint8)
    swap, flip_x, flip_y = orientation
    if swap:
        image = np.asarray(cv2.transpose(image), np.uint8)
    if flip_x or flip_y:
        image = np.asarray(cv2.flip(image, -1 if flip_x and flip_y else 1 if flip_x else 0), np.uint8)
    return np.ascontiguousarray(image)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to swap the axes, then to mirror left and right, then top and bottom. Only right angles are applied."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    # A point of the stored image comes to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    return (True, c < 0, b < 0) if abs(b) + abs(c) > abs(a) + abs(d) else (False, a < 0, d < 0)


@contextlib.contextmanager
def opened(
    path: str, *, hwaccel: str | None = None, live: bool = False
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file or address and its best video stream, ready to decode; live without the delay of frame threads.

    Raises:
        InputDataError: It cannot be opened or holds no video that can be decoded, or has too many pixels.
        SetupError: ``hwaccel`` names a decoder that does not work here.
    """
    av = require_av()
    shown = title_of(path)
    given, options = path, {"rtsp_transport": "tcp"}
    local = "://" not in path
    if local:
        with reading(path, InputDataError), open_regular(Path(path)) as file:
            if not file.read(1):
                raise InputDataError("The file is empty.", remedy=_AGAIN, where=shown)
        given = f"file:{os.path.abspath(path)}"  # noqa: PTH100 - a name with a colon is no address
        options = {"protocol_whitelist": "file"}  # a playlist in disguise opens nothing else

    def attempt(accelerator: str | None) -> InputContainer:
        chosen = accelerator and av.codec.hwaccel.HWAccel(device_type=accelerator, allow_software_fallback=False)
        container: InputContainer = av.open(
            given, options=options, timeout=None if local else _TIMEOUT_S, hwaccel=chosen, metadata_errors="replace"
        )
        if accelerator and not any(video.codec_context.is_hwaccel for video in container.streams.video):
            container.close()
            raise NotImplementedError("it does not decode this codec")
        return container

    try:
        container = _accelerated(attempt, hwaccel, shown) if hwaccel else attempt(None)
    except av.FFmpegError as error:
        raise InputDataError(f"It cannot be opened: {reason_of(error)}.", remedy=_again(shown), where=shown) from error
    with container:
        stream = _best(container, shown)
        decoder = stream.codec_context
        limit = max_pixels_allowed()
        if decoder.width * decoder.height > limit:
            size = f"{decoder.width}x{decoder.height} = {decoder.width * decoder.height:,}"
            remedy = "Shrink it, or allow more with --max-pixels."
            raise TooManyPixelsError(f"It has {size} pixels; at most {limit:,} are read.", remedy=remedy, where=shown)
        decoder.options = {**decoder.options, "max_pixels": str(2 * limit + 2**16)}  # its frames have edges
        decoder.thread_type = "SLICE" if live else "AUTO"
        decoder.thread_count = min(_THREADS, os.cpu_count() or 1)
        yield container, stream


def _accelerated(attempt: Callable[[str | None], InputContainer], hwaccel: str, where: str) -> InputContainer:
    """Open with a hardware decoder; which one is logged. Only ``auto`` may end with decoding on the CPU."""
    from av.codec.hwaccel import hwdevices_available

    here = hwdevices_available()
    names = [name for name in _ACCELERATORS if name in here] if hwaccel == "auto" else [hwaccel]
    reason: object = f"this FFmpeg has {', '.join(here) or 'none'}"
    for name in names:
        if name not in here:
            continue
        try:
            container = attempt(name)
        except (require_av().FFmpegError, NotImplementedError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            continue
        _log.info("%s is decoded by %s.", where, name)
        return container
    if hwaccel == "auto":
        _log.info("%s is decoded on the CPU: no hardware decoder works here.", where)
        return attempt(None)
    remedy = "Leave out --hwaccel, or take --hwaccel auto."
    raise SetupError(f"The hardware decoder '{hwaccel}' cannot be used: {reason}.", remedy=remedy, where=where)


def _best(container: InputContainer, where: str) -> VideoStream:
    """FFmpeg's choice among the video streams; a cover image is none."""
    from av.stream import Disposition

    stream: Any = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        what = "sound but no video" if container.streams.audio else "no video"
        raise InputDataError(f"It holds {what}.", remedy="Name a video, or an image.", where=where)
    if stream.codec_context is None:
        remedy = "Convert it to H.264 or VP9 first."
        raise InputDataError("Nothing here decodes its codec.", remedy=remedy, where=where)
    return stream  # type: ignore[no-any-return]


def _tell_if_cut_off(
    shown: str,
    container: InputContainer,
    stream: VideoStream,
    last: int,
    last_s: float,
    on_event: Callable[[Event], None],
) -> None:
    """An event where frames lie behind the end of the file, or where it ends long before it says."""
    if "://" in shown:
        return
    # Not by the number of frames alone: an edit list hides some.
    missing = sum(entry.pos + entry.size > container.size for entry in stream.index_entries) if stream.frames else 0
    length = (container.duration or 0) / 1e6
    if missing:
        missing = max(missing, stream.frames - last - 1)  # the index of an AVI ends with the file
        message = f"The file is cut off: {missing} of {stream.frames} frames are missing."
        on_event(Event(shown, "broken", message, frames=missing))
    elif not stream.frames and length - last_s > max(_GAP_S, length / 20):
        message = f"The last frame is at {last_s:.1f} s of {length:.1f} s: the file may be cut off."
        on_event(Event(shown, "broken", message))


def _empty(where: str, why: str = "") -> InputDataError:
    return InputDataError(f"It holds no frame that can be decoded{why}.", remedy=_again(where), where=where)


def _again(where: str) -> str:
    return _AGAIN if "://" not in where else "Check the address, or download the file and give that."


def title_of(name: str) -> str:
    """What messages call a file or an address: without a password."""
    return without_credentials(name) if "://" in name else name


def reason_of(error: Exception) -> str:
    """What PyAV says, as a clause."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
