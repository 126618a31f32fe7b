"""Each source has ids of its own; still images have none."""

from __future__ import annotations

import numpy as np

from rtmo_deploy.media.frame import Frame
from rtmo_deploy.poses import Poses
from rtmo_deploy.track.frames import track_frames
from rtmo_deploy.zoo.skeletons import COCO_17


def frame_of(source: str, index: int, people: int, *, still: bool = False) -> Frame:
    left = 60.0 * np.arange(people) + 2 * index
    boxes = np.stack([left, np.full(people, 20.0), left + 40, np.full(people, 120.0)], axis=1)
    points = boxes[:, None, :2] + np.linspace(0, 1, 17)[:, None] * (40, 100)
    poses = Poses(boxes, np.full(people, 0.9), points, np.full((people, 17), 0.9), COCO_17)
    image = np.full((200, 300, 3), 90, np.uint8)
    return Frame(image, source, index, None if still else index / 25, poses)


def test_sources_are_tracked_apart() -> None:
    given = [
        frame
        for index in range(6)
        for frame in (frame_of("a", index, 3), frame_of("b", index, 2), frame_of(f"{index}.png", 0, 2, still=True))
    ]
    for smooth in (False, True):
        found = list(track_frames(given, smooth=smooth))
        assert [(frame.source, frame.index) for frame in found] == [(frame.source, frame.index) for frame in given]
        ids = {name: [frame.poses.track_ids.tolist() for frame in found if frame.source == name] for name in "ab"}
        assert ids == {"a": [[1, 2, 3]] * 6, "b": [[1, 2]] * 6}
        assert all(frame.poses.track_ids is None for frame in found if frame.source.endswith(".png"))
        moved = [(new.poses.keypoints != old.poses.keypoints).any() for new, old in zip(found, given, strict=True)]
        assert any(moved) == smooth
