"""Tracks the people of frames of several videos at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rtmo_deploy.track.smoother import Smoother
from rtmo_deploy.track.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rtmo_deploy.media.frame import Frame


def track_frames(frames: Iterable[Frame], *, smooth: bool = False) -> Iterator[Frame]:
    """The frames with track ids, from 1 in each source; still images pass as they are.

    Args:
        frames: Frames with poses, in order within each source.
        smooth: Whether to smooth the keypoints and boxes as well.
    """
    known: dict[str, tuple[Tracker, Smoother]] = {}
    for frame in frames:
        if frame.time_s is None or frame.poses is None:
            yield frame
            continue
        tracker, smoother = known.setdefault(frame.source, (Tracker(), Smoother()))
        poses = tracker.update(frame.poses, frame.time_s, frame.image)
        yield replace(frame, poses=smoother.smooth(poses, frame.time_s) if smooth else poses)
