"""Finds what is meant by files, folders, patterns, lists, cameras and addresses, and opens each as frames.

A file is an image or a video by its bytes. An animated GIF, WebP or PNG is an image: its first frame. An address is an
image or a video by the suffix of its path, else a live stream; what a server then sends decides.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from rtmo_deploy.address import is_file_address, local_path
from rtmo_deploy.data.images import IMAGE_SUFFIXES, find_files, read_to_fit, require_image
from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.file_kind import Kind, kind_of
from rtmo_deploy.files import read_bounded, reading
from rtmo_deploy.media.fetch import fetch_image
from rtmo_deploy.media.frame import Event, Frame, ReducedFrame
from rtmo_deploy.media.live import read_live
from rtmo_deploy.media.video import VIDEO_SUFFIXES, read_video, title_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    Given = str | os.PathLike[str] | int  # an integer is a camera's index

ADDRESS: Final = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt|rtp)://", re.IGNORECASE)
_LIST_BYTES: Final = 2**24
#: Kinds of files whose suffix decides: a rare video has no signature that is known here.
_UNSURE: Final = {Kind.UNKNOWN, Kind.EMPTY, Kind.SPECIAL}


@dataclass(frozen=True)
class Source:
    """An image, a video, or a live stream (a camera's index, an address)."""

    name: str  #: Path, address or index, as it was given or found.
    kind: Literal["image", "video", "live"]
    number: int = 1  #: Among sources whose names differ in what a title does not show.

    @property
    def title(self) -> str:
        """The name without a password: what frames and messages call it."""
        return title_of(self.name) + (f" ({self.number})" if self.number > 1 else "")


def find_sources(
    given: Given | Sequence[Given], *, recursive: bool = False
) -> tuple[list[Source], list[InputDataError]]:
    """What is meant, without duplicates, in the order given, folders and patterns sorted; and what cannot be used.

    Args:
        given: Files; folders and glob patterns (files in them with the suffix of an image or a video, hidden ones left
            out); addresses (file, rtsp, rtmp, http(s), udp, tcp, srt, rtp); a camera's index (``0``) or
            ``/dev/video0``; a ``.txt`` file with one of these on each line (one that begins with ``#`` is a comment;
            paths start at the file's folder); ``-`` for such lines on standard input.
        recursive: Whether to search folders in folders. Links to folders are not followed.

    Returns:
        The sources, and for each that is missing or of another kind an error. Images and videos are not decoded:
        :func:`open_source` finds the damaged ones.

    Raises:
        UsageError: Something is neither a name nor an index.
    """
    found: dict[str, Source] = {}
    failures: list[InputDataError] = []
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    for item in given if several else [given]:  # type: ignore[union-attr]
        try:
            name = _name(item)
            listed = _listed(name)
        except InputDataError as error:
            failures.append(error)
            continue
        if listed == []:
            where = "standard input" if name == "-" else name
            failures.append(InputDataError("It names no source.", remedy="Write one on each line.", where=where))
        for one in [name] if listed is None else listed:
            if listed is not None and _is_list(one):
                remedy = "Name both lists."
                failures.append(InputDataError("A list in a list is not read.", remedy=remedy, where=one))
                continue
            try:
                for source in _sources_of(one, failures, recursive=recursive):
                    key = source.name if source.kind == "live" else os.path.abspath(source.name)  # noqa: PTH100
                    found.setdefault(key, source)
            except InputDataError as error:
                failures.append(error)
    titles: Counter[str] = Counter()
    for key, source in found.items():
        titles[source.title] += 1
        found[key] = replace(source, number=titles[source.title])
    return list(found.values()), failures


def open_source(
    source: Source,
    *,
    stride: int = 1,
    hwaccel: str | None = None,
    fit_hw: tuple[int, int] | None = None,
    on_event: Callable[[Event], None],
    stop: threading.Event,
) -> Iterator[Frame]:
    """The frames of a source, one after the other as they are decoded; waits for them where it is live.

    Args:
        source: From :func:`find_sources`.
        stride: Every how many frames one is wanted. Those between are decoded where the codec needs them.
        hwaccel: Hardware decoder of videos and streams, as FFmpeg calls it (``cuda``, ``vaapi``, ``videotoolbox``),
            or ``auto`` for one that works, else the CPU. Which one is used is logged.
        fit_hw: Height and width that images are letterboxed to; a large JPEG is then decoded at a reduced scale and
            comes as a :class:`ReducedFrame`. None to decode all of every image.
        on_event: Called with every frame that cannot be decoded, and when a live source stops and comes back.
        stop: Ends the frames soon after it is set, also while a live source is waited for.

    Yields:
        Frame: Without poses. A frame of a video or a stream has its time since the source's first frame, from its
            timestamp; over a reconnect, from the clock.

    Raises:
        InputDataError: The source cannot be opened, or is no image and holds no frame.
        MissingDependencyError: A video or an address needs PyAV, which is not installed.
        SetupError: ``hwaccel`` does not work here.
        UsageError: ``stride`` is less than 1.
    """
    if stride < 1:
        raise UsageError(f"A stride of {stride} takes no frame.", remedy="Take 1 for every frame, 2 for every other.")
    if source.kind == "image":
        file = fetch_image(source.name) if ADDRESS.match(source.name) else source.name
        decoded, title = read_to_fit(file, fit_hw, where=source.title), source.title
        yield Frame(decoded.pixels, title) if decoded.factor == 1 else ReducedFrame.of(file, decoded, title)
    elif source.kind == "video":
        yield from read_video(source.name, source.title, stride=stride, hwaccel=hwaccel, on_event=on_event, stop=stop)
    else:
        yield from read_live(source.name, source.title, stride=stride, hwaccel=hwaccel, on_event=on_event, stop=stop)


def _listed(name: str) -> list[str] | None:
    """The sources that a list names; None where it is no list."""
    if name == "-":
        return [str(local_path(line, InputDataError)) if is_file_address(line) else line for line in _lines(sys.stdin)]
    if not _is_list(name):
        return None
    path = Path(name)
    damaged, remedy = "a list of sources: UTF-8 text, one on each line", "Check its permissions, and that it is text."
    with reading(path, InputDataError, damaged=damaged, remedy=remedy):
        lines = read_bounded(path, max_bytes=_LIST_BYTES).decode("utf-8-sig").splitlines()
    return [line if ADDRESS.match(line) or line.isdecimal() else _beside(path, line) for line in _lines(lines)]


def _beside(path: Path, line: str) -> str:
    return str(local_path(line, InputDataError) if is_file_address(line) else path.parent / line)


def _name(given: object) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, str | os.PathLike) and isinstance(name := os.fspath(given), str):
        return str(local_path(name, InputDataError)) if is_file_address(name) else name
    remedy = "Give paths, patterns, addresses or the index of a camera; call the model with images that are at hand."
    raise UsageError(f"A {type(given).__name__} is not a source.", remedy=remedy)


def _is_list(name: str) -> bool:
    path = Path(name)
    try:
        text = path.suffix.lower() == ".txt" and path.is_file()
        return text and kind_of(path) is not Kind.VIDEO and not kind_of(path).is_image
    except OSError:  # reading says why
        return True


def _lines(lines: Iterable[str]) -> list[str]:
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _sources_of(name: str, failures: list[InputDataError], *, recursive: bool) -> Iterator[Source]:
    if ADDRESS.match(name):
        try:
            suffix = PurePosixPath(urlsplit(name).path).suffix.lower()
        except ValueError as error:
            finding = f"The address cannot be understood: {error}."
            raise InputDataError(finding, remedy="Check it.", where=title_of(name)) from error
        web = name[:4].lower() == "http"
        kind: Literal["image", "video", "live"] = "live"
        if web and suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES - {".ts", ".mjpg", ".mjpeg"}:
            kind = "image" if suffix in IMAGE_SUFFIXES else "video"
        yield Source(name, kind)
        return
    if name.startswith("/dev/video") or (name.isascii() and name.isdecimal() and not os.path.lexists(name)):
        yield Source(name, "live")
        return
    wanted = {"suffixes": IMAGE_SUFFIXES | VIDEO_SUFFIXES, "what": "image or video"}
    files = find_files(name, recursive=recursive, failures=failures, **wanted)  # type: ignore[arg-type]
    for path in files:
        source = _file(path)
        if source.kind == "image" and str(path) == str(Path(name)):
            require_image(path)  # what is named is refused before a model is opened
        yield source


def _file(path: Path) -> Source:
    try:
        kind = kind_of(path)
    except OSError:
        kind = Kind.UNKNOWN
    video = kind is Kind.VIDEO or (kind in _UNSURE and path.suffix.lower() in VIDEO_SUFFIXES)
    return Source(str(path), "video" if video else "image")
