"""Where frames with poses go: drawn images and videos, crops, result files and a window."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import numpy as np

from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.media.results import STDOUT, open_results
from rtmo_deploy.runtime.draw import WRITABLE_SUFFIXES, draw_poses, write_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from rtmo_deploy.media.frame import Frame
    from rtmo_deploy.media.sources import Source
    from rtmo_deploy.media.video_writer import VideoWriter
    from rtmo_deploy.poses import Poses, Skeleton

#: Suffixes that a drawn video keeps; others become .mp4.
_VIDEO_SUFFIXES: Final = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
_MOST_OPENED: Final = 100  # videos that are opened only to know their lengths


@dataclass(frozen=True)
class Outputs:
    """What is made of frames with poses; None for what is not."""

    vis_out_dir: Path | None = None  #: Folder for drawn images, and a drawn video of each video.
    save_video: Path | None = None  #: A file for one drawn video, or a folder.
    crops: Path | None = None  #: Folder for the cut-out people of each source.
    results: Mapping[str, Path] = field(default_factory=dict)  #: Result files by kind, as of :func:`open_results`.
    show: bool = False  #: Whether a window shows the drawn frames.
    draw_thr: float = 0.5  #: People with a score above this are drawn and cut out.
    keypoint_thr: float = 0.3  #: Keypoints with a score of at least this are drawn.

    def drawn(self, sources: Sequence[Source]) -> dict[str, list[Path]]:
        """The drawn files of each source, by its title; no two are equal.

        Raises:
            UsageError: Several videos and one file for them, or no video for ``save_video``.
        """
        names = target_names(sources)
        files: dict[str, list[Path]] = defaultdict(list)
        if self.vis_out_dir is not None:
            for source in sources:
                files[source.title].append(self.vis_out_dir / names[source.title])
        if self.save_video is not None:
            videos = [source.title for source in sources if source.kind != "image"]
            one = bool(self.save_video.suffix) and not os.path.isdir(self.save_video)  # noqa: PTH112 - any name
            if not videos or (one and len(videos) > 1):
                what = f"{len(videos)} videos cannot be one file." if videos else "There is no video to draw in."
                remedy = "Name a folder." if videos else "Draw images into a folder with --vis-out-dir."
                raise UsageError(what, remedy=remedy, where=self.save_video)
            if one:
                from rtmo_deploy.media.video_writer import VideoWriter

                VideoWriter(self.save_video)  # refuses a suffix before any work
            for name in videos:
                files[name].append(self.save_video if one else self.save_video / names[name])
        return dict(files)

    def files(self, drawn: Mapping[str, list[Path]]) -> list[Path]:
        """All files that are known before the first frame: :meth:`drawn`'s and result files.

        Raises:
            UsageError: The folder for cut-out people is not empty.
        """
        if self.crops is not None and self.crops.is_dir() and any(self.crops.iterdir()):
            raise UsageError("The folder is not empty.", remedy="Name a new folder.", where=self.crops)
        results = [path for path in self.results.values() if path != STDOUT]
        return [*(file for files in drawn.values() for file in files), *results]


def target_names(sources: Sequence[Source]) -> dict[str, str]:
    """A file name for each source's drawing, by its title; different ones for files of one name in two folders."""
    pairs = {source.title: _stem_and_suffix(source) for source in sources}
    return _distinct(pairs)


def _distinct(pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Stem and suffix together, with a number behind a stem where another has that name already."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for key, (stem, suffix) in pairs.items():
        name = first = f"{stem}{suffix}"
        while name.lower() in taken:
            copies[first] = copies.get(first, 1) + 1
            name = f"{stem}_{copies[first]}{suffix}"
        taken.add(name.lower())
        names[key] = name
    return names


def _stem_and_suffix(source: Source) -> tuple[str, str]:
    name = source.name
    if "://" in name:
        address = urlsplit(name)
        path = PurePosixPath(address.path)
        if source.kind == "live" or not path.stem:
            text = f"{address.hostname or address.scheme}{address.path}"
            return re.sub(r"[^\w.-]+", "_", text).strip("_"), ".mp4" if source.kind != "image" else ".png"
        name = path.name
    elif source.kind == "live":
        return re.sub(r"[^\w.-]+", "_", f"camera_{name.strip('/')}"), ".mp4"
    file = Path(name)
    known, other = (WRITABLE_SUFFIXES, f"{file.suffix}.png") if source.kind == "image" else (_VIDEO_SUFFIXES, ".mp4")
    return file.stem, file.suffix if file.suffix.lower() in known else other


def frames_in(sources: Sequence[Source], *, stride: int = 1) -> int | None:
    """How many frames sources say they have; None where one does not, is elsewhere, or there are many to open."""
    from rtmo_deploy.media.video import video_info

    if sum(source.kind == "video" for source in sources) > _MOST_OPENED or any("://" in one.name for one in sources):
        return None
    count = 0
    for source in sources:
        frames: int | None = 1 if source.kind == "image" else None
        if source.kind == "video":
            try:
                frames = video_info(source.name).frames
            except RtmoDeployError:  # it will be said when the frames are read
                frames = 0
            frames = None if frames is None else -(-frames // stride)
        if frames is None:
            return None
        count += frames
    return count


@contextlib.contextmanager
def open_sinks(
    outputs: Outputs, sources: Sequence[Source], skeleton: Skeleton, *, stride: int = 1
) -> Iterator[Callable[[Frame], bool]]:
    """Open the outputs; gives a function that takes the next frame with its poses, and tells whether to go on.

    Result files and videos are whole when the block ends without an error. Videos of files are closed when the next
    file begins. Frames of one source come in order, and those of files one file after the other.

    Args:
        outputs: What to make.
        sources: All that frames may come from.
        skeleton: What the keypoints are.
        stride: Of the frames of a video, every how many come.

    Raises:
        UsageError: As of :meth:`Outputs.drawn`; an image is too large for its format.
        SetupError: A file cannot be written; there is no display.
        MissingDependencyError: A package for a kind of output is not installed.
    """
    kinds = {source.title: source.kind for source in sources}
    drawn = outputs.drawn(sources)
    folders = _distinct({source.title: (_stem_and_suffix(source)[0], "") for source in sources})
    with ExitStack() as stack:
        results = [
            stack.enter_context(open_results(path, kind, skeleton, keypoint_thr=outputs.keypoint_thr))
            for kind, path in outputs.results.items()
        ]
        window = None
        if outputs.show:
            from rtmo_deploy.media.window import Window

            window = stack.enter_context(Window())
        videos = stack.enter_context(_Videos(drawn, sources, stride))

        def write(frame: Frame) -> bool:
            poses = frame.poses
            if poses is None:
                raise ValueError(f"frame {frame.index} of {frame.source} has no poses")
            kind, strong = kinds[frame.source], poses[poses.scores > outputs.draw_thr]
            for put in results:
                put(frame)
            if outputs.crops is not None:
                _write_crops(outputs.crops / folders[frame.source], frame, strong, still=kind == "image")
            files = drawn.get(frame.source, [])
            if not files and window is None:
                return True
            image = draw_poses(frame.image, strong, keypoint_thr=outputs.keypoint_thr)
            if kind == "image":
                for file in files:
                    write_image(file, image)
            elif files:
                videos.write(frame, image)
            return window is None or window.show(image, title=frame.source, wait=kind == "image")

        yield write


class _Videos(AbstractContextManager["_Videos"]):
    """Drawn videos: one file at a time, and all live sources at once."""

    def __init__(self, files: Mapping[str, list[Path]], sources: Sequence[Source], stride: int) -> None:
        self._files, self._stride = files, stride
        self._sources = {source.title: source for source in sources}
        self._open: dict[str, tuple[ExitStack, list[VideoWriter]]] = {}

    def write(self, frame: Frame, image: NDArray[np.uint8]) -> None:
        source = self._sources[frame.source]
        if frame.source not in self._open:
            if source.kind == "video":
                for before in [title for title in self._open if self._sources[title].kind == "video"]:
                    self._open.pop(before)[0].close()
            self._open[frame.source] = self._opened(source)
        for writer in self._open[frame.source][1]:
            writer.write(image, frame.time_s)

    def _opened(self, source: Source) -> tuple[ExitStack, list[VideoWriter]]:
        from rtmo_deploy.media.video import video_info
        from rtmo_deploy.media.video_writer import VideoWriter

        like = video_info(source.name) if source.kind == "video" else None
        stack = ExitStack()
        fps = like.fps / self._stride if like and like.fps else None
        return stack, [stack.enter_context(VideoWriter(path, like, fps=fps)) for path in self._files[source.title]]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stack, _ in self._open.values():
            stack.__exit__(kind, error, trace)


def _write_crops(folder: Path, frame: Frame, people: Poses, *, still: bool) -> None:
    """Cut people out of a frame; a file is named by the frame and the track id, else the place in the results."""
    height, width = frame.image_hw
    low, high = np.floor(people.boxes[:, :2]), np.ceil(people.boxes[:, 2:])
    corners = np.clip(np.concatenate([low, high], axis=1), 0, [width, height] * 2).astype(int).tolist()
    for row, (left, top, right, bottom) in enumerate(corners):
        if left < right and top < bottom:
            number = -1 if people.track_ids is None else int(people.track_ids[row])
            name = f"{row + 1}" if number < 0 else f"id{number}"
            name = name if still else f"{frame.index:06d}_{name}"
            write_image(folder / f"{name}.jpg", frame.image[top:bottom, left:right])
