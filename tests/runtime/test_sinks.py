"""Drawn files have names of their own, crops are the people, and videos end with their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rtmo_deploy.errors import UsageError
from rtmo_deploy.media.frame import Frame
from rtmo_deploy.media.sources import Source
from rtmo_deploy.media.video import video_info
from rtmo_deploy.media.video_writer import VideoWriter
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.draw import draw_poses
from rtmo_deploy.runtime.sinks import Outputs, frames_in, open_sinks, target_names
from rtmo_deploy.zoo.skeletons import COCO_17


def two_people(*, ids: Any = None) -> Poses:
    boxes = np.array([[10.2, 5, 30.5, 60], [40, -9, 300, 20], [50, 50, 50, 60]], np.float32)
    points = np.full((3, 17, 2), 15, np.float32)
    scores = np.array([0.9, 0.7, 0.6])
    return Poses(
        boxes, scores, points, np.full((3, 17), 0.9), COCO_17, track_ids=None if ids is None else np.array(ids)
    )


def frame_of(source: str, index: int, *, still: bool = False, ids: Any = None) -> Frame:
    image = np.full((80, 100, 3), 40 + index, np.uint8)
    return Frame(image, source, index, None if still else index / 25, two_people(ids=ids))


def test_names() -> None:
    sources = [
        Source("a/walk.mp4", "video"),
        Source("b/walk.mp4", "video"),
        Source("a/WALK.mkv", "video"),
        Source("old.mpg", "video"),
        Source("a/one.jpg", "image"),
        Source("b/one.gif", "image"),
        Source("https://x.org/pictures/two.png?size=3", "image"),
        Source("rtsp://user:secret@10.0.0.7:554/live/main", "live"),
        Source("0", "live"),
        Source("/dev/video2", "live"),
    ]
    assert list(target_names(sources).values()) == [
        "walk.mp4",
        "walk_2.mp4",
        "WALK.mkv",
        "old.mp4",
        "one.jpg",
        "one.gif.png",
        "two.png",
        "10.0.0.7_live_main.mp4",
        "camera_0.mp4",
        "camera_dev_video2.mp4",
    ]


def test_where_videos_go(tmp_path: Path) -> None:
    videos = [Source("a.mp4", "video"), Source("b.mkv", "video")]
    image = Source("c.png", "image")
    both = Outputs(vis_out_dir=tmp_path / "vis", save_video=tmp_path / "out").drawn([*videos, image])
    assert both == {
        "a.mp4": [tmp_path / "vis" / "a.mp4", tmp_path / "out" / "a.mp4"],
        "b.mkv": [tmp_path / "vis" / "b.mkv", tmp_path / "out" / "b.mkv"],
        "c.png": [tmp_path / "vis" / "c.png"],
    }
    assert Outputs(save_video=tmp_path / "o.webm").drawn([videos[0], image]) == {"a.mp4": [tmp_path / "o.webm"]}
    with pytest.raises(UsageError, match="2 videos cannot be one file"):
        Outputs(save_video=tmp_path / "o.mp4").drawn(videos)
    with pytest.raises(UsageError, match="There is no video"):
        Outputs(save_video=tmp_path / "o.mp4").drawn([image])
    with pytest.raises(UsageError, match=r"written as '.gif'"):
        Outputs(save_video=tmp_path / "o.gif").drawn(videos[:1])
    with pytest.raises(UsageError, match=r"written as '.mp44'"):
        Outputs(save_video=tmp_path / "o.mp44").drawn(videos[:1])
    (tmp_path / "x.mp4").mkdir()
    assert Outputs(save_video=tmp_path / "x.mp4").drawn(videos)["b.mkv"] == [tmp_path / "x.mp4" / "b.mkv"]


def test_crops_are_the_people(tmp_path: Path) -> None:
    outputs = Outputs(crops=tmp_path / "crops", draw_thr=0.65)
    sources = [Source("v.mp4", "video"), Source("i.png", "image")]
    with open_sinks(outputs, sources, COCO_17) as write:
        assert write(frame_of("v.mp4", 7, ids=[4, -1, 9]))
        assert write(frame_of("i.png", 0, still=True))
    found = {str(path.relative_to(tmp_path / "crops")) for path in (tmp_path / "crops").rglob("*.jpg")}
    # The third has no area.
    assert found == {"v/000007_id4.jpg", "v/000007_2.jpg", "i/1.jpg", "i/2.jpg"}
    assert cv2.imread(str(tmp_path / "crops/v/000007_id4.jpg")).shape == (55, 21, 3)
    assert cv2.imread(str(tmp_path / "crops/i/2.jpg")).shape == (20, 60, 3)
    with pytest.raises(UsageError, match="not empty"):
        outputs.files({})


def test_crops_of_files_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    sources = [Source("good.jpg", "image"), Source("good.png", "image"), Source("other/good.jpg", "image")]
    with open_sinks(Outputs(crops=tmp_path), sources, COCO_17) as write:
        for source in sources:
            write(frame_of(source.name, 0, still=True))
    folders = {path.parent.name for path in tmp_path.rglob("*.jpg")}
    assert folders == {"good", "good_2", "good_3"}


def video_of(path: Path, frames: int = 10) -> str:
    with VideoWriter(path) as writer:
        for index in range(frames):
            writer.write(np.full((80, 100, 3), 40 + index, np.uint8), index / 25)
    return str(path)


def test_videos_are_whole_when_the_next_begins(tmp_path: Path) -> None:
    names = [video_of(tmp_path / f"{number}.mp4") for number in range(3)]
    sources = [*(Source(name, "video") for name in names), Source("0", "live")]
    with open_sinks(Outputs(vis_out_dir=tmp_path / "vis"), sources, COCO_17) as write:
        for number, name in enumerate(names):
            for index in range(0, 10, 2):
                write(frame_of(name, index))
                write(frame_of("0", 10 * number + index))
            assert sorted(path.name for path in (tmp_path / "vis").glob("?.mp4")) == ["0.mp4", "1.mp4"][:number]
    done = sorted(path.name for path in (tmp_path / "vis").iterdir())
    assert done == ["0.mp4", "1.mp4", "2.mp4", "camera_0.mp4"]
    for path in (tmp_path / "vis").iterdir():
        info = video_info(path)
        assert (info.width, info.height, info.frames) == (100, 80, 15 if path.name == "camera_0.mp4" else 5)


def test_after_an_error_a_video_is_kept_as_a_part_and_result_files_are_not(tmp_path: Path) -> None:
    outputs = Outputs(save_video=tmp_path / "o.mp4", results={"csv": tmp_path / "o.csv"})
    frames = [frame_of("0", index) for index in range(5)]

    def run() -> None:
        with open_sinks(outputs, [Source("0", "live")], COCO_17) as write:
            for frame in [*frames, Frame(frames[0].image, "0", 5, 1.0)]:
                write(frame)

    with pytest.raises(ValueError, match="has no poses"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["o.partial.mp4"]


def test_images_are_drawn_as_asked_for(tmp_path: Path) -> None:
    frame = frame_of("i.png", 0, still=True)
    before = frame.image.copy()
    with open_sinks(Outputs(vis_out_dir=tmp_path, draw_thr=0.65), [Source("i.png", "image")], COCO_17) as write:
        write(frame)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "i.png")), draw_poses(before, frame.poses[:2]))
    np.testing.assert_array_equal(frame.image, before)


def test_how_many_frames_there_will_be(tmp_path: Path, pictures: list[Path]) -> None:
    video, image = Source(video_of(tmp_path / "v.mp4"), "video"), Source(str(pictures[0]), "image")
    assert frames_in([video, image]) == 11
    assert frames_in([video, image], stride=3) == 5
    assert frames_in([image, Source("0", "live")]) is None
    assert frames_in([image, Source("https://x.org/a.mp4", "video")]) is None
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    assert frames_in([video, Source(str(tmp_path / "bad.mp4"), "video")]) == 10
