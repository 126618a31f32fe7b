"""Synthetic videos to files: the video, annotations in COCO's form with ids, and the truth in the form of MOT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.data.coco_writer import ANNOTATIONS_NAME, Written, write_coco
from rtmo_deploy.data.sample import Sample
from rtmo_deploy.errors import SetupError
from rtmo_deploy.files import write_whole
from rtmo_deploy.media.video_writer import VideoWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rtmo_deploy.data.synthetic.video import SyntheticVideo, VideoFrame

VIDEO_NAME: Final = "video.mp4"
MOT_NAME: Final = "gt.txt"


def write_video(
    folder: Path,
    video: SyntheticVideo,
    *,
    info: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write ``folder/video.mp4``, ``folder/gt.txt`` and, last, ``folder/annotations.json``.

    An annotation file that is there already is removed first: where there is one, it belongs to the video.

    Args:
        folder: Where to; made if it is not there.
        video: What to write.
        info: What stands under ``info`` in the annotation file besides the video's settings.
        progress: Called with the number of frames written so far, after each.

    Raises:
        MissingDependencyError: PyAV is not installed.
        SetupError: The folder cannot be written to, or the disk is full.
    """
    # x, y, width, height; then that it counts, the class, and how much is visible. Frames are counted from 1.
    mot: list[str] = []
    frame: VideoFrame

    def frames() -> Iterator[Sample]:
        nonlocal frame
        for index, frame in enumerate(video):
            writer.write(frame.sample.image, frame.time_s)
            yield Sample(frame.sample.image, frame.sample.people, index + 1, VIDEO_NAME)
            if progress is not None:
                progress(index + 1)
        writer.close()

    def more(sample: Sample) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        ids, visible = frame.track_ids.tolist(), frame.visible.round(3).tolist()
        for (x1, y1, x2, y2), who, share in zip(sample.people.boxes.tolist(), ids, visible, strict=True):
            mot.append(f"{sample.image_id},{who},{x1:g},{y1:g},{x2 - x1:g},{y2 - y1:g},1,1,{share:g}\n")
        of_image = {"frame_index": sample.image_id - 1, "time_s": round(frame.time_s, 6)}
        return of_image, [{"track_id": who, "visible": share} for who, share in zip(ids, visible, strict=True)]

    settings = {"scene": video.scene, "seed": video.seed, "fps": video.fps, "seconds": video.seconds}
    about = {"description": "Synthetic video", "domain": "synthetic", **settings, "variable": video.variable}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ANNOTATIONS_NAME).unlink(missing_ok=True)
        with VideoWriter(folder / VIDEO_NAME, fps=video.fps) as writer:
            done = write_coco(
                folder / ANNOTATIONS_NAME, frames(), video.skeleton, info={**(info or {}), **about}, more=more
            )
        write_whole(folder / MOT_NAME, "".join(mot))
    except OSError as error:
        raise SetupError(
            f"The video could not be written: {error.strerror or error}.",
            remedy="Check that the folder is writable and has space left.",
            where=error.filename or folder,
        ) from error
    return done
