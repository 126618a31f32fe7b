"""What is drawn, where, in which colour and how wide; and what is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.runtime.draw import draw_poses, write_image
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14

Picture = NDArray[np.uint8]

BLUE, ORANGE, WHITE, GREEN = (233, 180, 86), (0, 159, 230), (255, 255, 255), (115, 158, 0)  # BGR
LIMB = Skeleton("limb", ("left_a", "left_b"), edges=((0, 1),))


def backdrop(height: int, width: int) -> Picture:
    """Mid grey noise: none of the colours that are drawn."""
    return np.random.default_rng(0).integers(90, 130, (height, width, 3), dtype=np.uint8)


def person(
    keypoints: Any,
    skeleton: Skeleton,
    *,
    box: Any = (20, 20, 180, 180),
    scores: Any = None,
    score: float = 0.9,
) -> Poses:
    points = np.asarray(keypoints, np.float32)[None]
    visible = np.full(points.shape[:2], 0.9) if scores is None else np.asarray(scores)[None]
    return Poses(np.array([box]), np.array([score]), points, visible, skeleton)


def together(*people: Poses) -> Poses:
    return Poses(
        np.concatenate([p.boxes for p in people]),
        np.concatenate([p.scores for p in people]),
        np.concatenate([p.keypoints for p in people]),
        np.concatenate([p.keypoint_scores for p in people]),
        people[0].skeleton,
    )


def skeleton_only(image: Picture, poses: Poses, **options: Any) -> Picture:
    return draw_poses(image, poses, boxes=False, labels=False, **options)


def has(image: Picture, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(image.astype(int) - colour) <= 3).all(axis=-1))


@pytest.mark.parametrize("shape", [(200, 200), (97, 201), (1, 1), (2500, 3100), (4100, 4100)])
def test_nobody(shape: tuple[int, int]) -> None:
    image = backdrop(*shape)
    drawn = draw_poses(image, Poses.empty(COCO_17))
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


@pytest.mark.parametrize("shape", [(240, 240), (1203, 1501), (2000, 2003), (2500, 3100), (4100, 4100)])
def test_pixels_not_drawn_on_stay_as_they_are(shape: tuple[int, int]) -> None:
    """Through every enlargement, 4 to 1."""
    image = backdrop(*shape)
    kept = image.copy()
    drawn = draw_poses(image, person([[50, 60], [120, 130]], LIMB), labels=False)
    np.testing.assert_array_equal(image, kept)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert not np.shares_memory(drawn, image)
    changed = np.argwhere((drawn != image).any(axis=-1))
    assert len(changed) > 500
    # The box is at 20..180; its line has a width.
    assert changed.min() > 20 - 3 - 0.005 * max(shape)
    assert changed.max() < 180 + 3 + 0.005 * max(shape)


def test_sides_have_their_colours() -> None:
    skeleton = Skeleton(
        "sides",
        ("left_a", "left_b", "right_a", "right_b", "nose", "neck"),
        edges=((0, 1), (2, 3), (4, 5)),
    )
    points = [[30, 40], [170, 40], [30, 100], [170, 100], [30, 160], [170, 160]]
    drawn = skeleton_only(backdrop(200, 200), person(points, skeleton))
    for row, colour in ((40, BLUE), (100, ORANGE), (160, WHITE)):
        for column in (30, 100, 170):
            assert has(drawn, colour)[row, column], (row, column, drawn[row, column])
        assert not any(has(drawn, other)[row].any() for other in {BLUE, ORANGE, WHITE} - {colour})


def test_coloured_lines_have_a_dark_outline() -> None:
    white = np.full((200, 200, 3), 255, np.uint8)
    drawn = skeleton_only(white, person([[30, 100], [170, 100]], LIMB))
    column = drawn[:, 100].astype(int).sum(axis=-1)
    on = np.flatnonzero(has(drawn, BLUE)[:, 100])
    assert on.size
    assert column[: on.min()].min() < 420
    assert column[on.max() + 1 :].min() < 420


def test_lines_are_smooth() -> None:
    """A slanted white line on black covers the same area in every column, in many shades."""
    line = Skeleton("line", ("neck", "hip"), edges=((0, 1),))
    drawn = skeleton_only(np.zeros((200, 200, 3), np.uint8), person([[20, 90], [180, 101]], line))
    middle = drawn[:, 40:160, 0]
    cover = middle.sum(axis=0, dtype=int)
    assert cover.std() < 0.035 * cover.mean()
    assert len(np.unique(middle)) > 15


@pytest.mark.parametrize("score", [0.29, 0.0, np.nan])
def test_a_faint_keypoint_and_its_edges_are_not_drawn(score: float) -> None:
    skeleton = Skeleton("chain", ("left_a", "left_b", "left_c"), edges=((0, 1), (1, 2)))
    points = [[30, 50], [100, 50], [170, 50]]
    image = backdrop(200, 200)
    drawn = skeleton_only(image, person(points, skeleton, scores=[0.9, 0.9, score]))
    assert has(drawn, BLUE)[50, [30, 65, 100]].all()
    np.testing.assert_array_equal(drawn[:, 112:], image[:, 112:])


def test_the_threshold_is_inclusive() -> None:
    image = backdrop(200, 200)
    poses = person([[60, 60], [140, 140]], LIMB, scores=[0.5, 0.5])
    assert has(skeleton_only(image, poses, keypoint_thr=0.5), BLUE).any()
    np.testing.assert_array_equal(skeleton_only(image, poses, keypoint_thr=0.51), image)


def test_a_dot_at_the_origin_is_drawn() -> None:
    assert has(skeleton_only(backdrop(200, 200), person([[0, 0], [90, 0]], LIMB)), BLUE)[0, [0, 45, 90]].all()


def test_the_dot_is_centred_on_the_keypoint() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    skeleton = Skeleton("dot", ("left",))
    drawn = skeleton_only(image, person([[40, 70]], skeleton, box=(0, 0, 100, 100)))
    ys, xs = np.nonzero(drawn.max(axis=-1) > 17)
    weight = drawn[ys, xs].astype(float).sum(axis=-1)
    assert abs((xs * weight).sum() / weight.sum() - 40) < 0.3
    assert abs((ys * weight).sum() / weight.sum() - 70) < 0.3


def test_a_generic_skeleton_has_dots_only() -> None:
    points = [[30, 40], [100, 90], [170, 160]]
    drawn = skeleton_only(backdrop(200, 200), person(points, Skeleton.generic(3)))
    assert has(drawn, WHITE)[[40, 90, 160], [30, 100, 170]].all()
    assert not has(drawn, WHITE)[65, 65]


def line_width(size: int, box: tuple[int, int, int, int]) -> int:
    image = backdrop(size, size)
    middle = size // 2
    drawn = skeleton_only(image, person([[5, middle], [size - 5, middle]], LIMB, box=box))
    return int((drawn[:, middle] != image[:, middle]).any(axis=-1).sum())


def test_width_follows_the_picture_and_the_person() -> None:
    assert line_width(400, (0, 0, 399, 399)) > line_width(400, (0, 0, 30, 30)) >= 2
    for share in (0.1, 0.5, 1.0):
        small, large = (line_width(size, (0, 0, int(size * share), int(size * share))) for size in (640, 3840))
        assert 3.5 < large / small < 9
    # A box that is far too large does not make a line that covers everything.
    assert line_width(400, (-(10**6), -(10**6), 10**6, 10**6)) < 12


def test_small_and_large_pictures_look_alike() -> None:
    points = np.array([[120.0, 90], [200, 300]])
    image = cv2.GaussianBlur(backdrop(400, 400), (0, 0), 3)
    small = draw_poses(np.asarray(image, np.uint8), person(points, LIMB, box=(80, 60, 260, 350)))
    large_image = cv2.resize(image, None, fx=5, fy=5, interpolation=cv2.INTER_LINEAR)
    large = draw_poses(np.asarray(large_image, np.uint8), person(points * 5 + 2, LIMB, box=(400, 300, 1300, 1750)))
    shrunk = cv2.resize(large, (400, 400), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small).mean() < 1.5
    assert (np.abs(small.astype(int) - image).max(axis=-1) > 20).mean() > 0.02


def test_box_and_label_can_be_had_apart() -> None:
    image = backdrop(200, 200)
    poses = person([[90, 90], [110, 110]], LIMB, box=(50, 60, 150, 160))
    plain = skeleton_only(image, poses)
    box = draw_poses(image, poses, labels=False)
    label = draw_poses(image, poses, boxes=False)
    assert not has(plain, GREEN).any()
    assert has(box, GREEN)[[60, 160, 110, 110], [100, 100, 50, 150]].all()
    assert not has(box, GREEN)[:57].any()
    assert has(label, GREEN)[:60].any()
    assert has(label, WHITE)[:60].any()
    assert not has(label, GREEN)[70:].any()


def test_the_label_shows_the_score() -> None:
    poses = [person([[90, 90], [91, 91]], LIMB, score=score) for score in (0.91, 0.914, 0.31)]
    drawn = [draw_poses(backdrop(200, 200), one, boxes=False) for one in poses]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize("box", [(0, 0, 199, 199), (-50, -50, 60, 60), (150, -9, 260, 100), (195, 0, 199, 20)])
def test_the_label_stays_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    """Its green rectangle is as large as that of a label in the middle."""
    image = backdrop(200, 200)
    points = [[-900.0, -900], [-901, -900]]
    middle = (80, 80, 80 + (box[2] - box[0]), 80 + (box[3] - box[1]))
    there, here = (
        (draw_poses(image, person(points, LIMB, box=b), boxes=False) != image).any(axis=-1).sum() for b in (middle, box)
    )
    assert abs(int(there) - int(here)) <= 0.12 * int(there)  # a row or column more where it is blended


def test_boxes_are_clipped_or_left_out() -> None:
    image = backdrop(200, 200)
    points = [[-900.0, -900], [-901, -900]]
    drawn = draw_poses(image, person(points, LIMB, box=(-1e9, 50, 1e9, 150)), labels=False)
    assert has(drawn, GREEN)[[50, 150, 50, 150], [20, 20, 180, 180]].all()
    for box in (
        (300, 300, 400, 400),
        (-90, 10, -5, 60),
        (50, 50, 50, 90),
        (90, 90, 40, 40),
        (np.nan, 0, 50, 50),
        (0, 0, np.inf, 50),
    ):
        np.testing.assert_array_equal(draw_poses(image, person(points, LIMB, box=box)), image)


def test_the_best_person_is_on_top() -> None:
    right = Skeleton("mixed", ("left_a", "right_a"))
    best = person([[100, 100], [-500, 0]], right)
    other = person([[-500, 0], [100, 100]], right)
    for people, colour in (((best, other), BLUE), ((other, best), ORANGE)):
        drawn = skeleton_only(backdrop(200, 200), together(*people))
        assert has(drawn, colour)[100, 100]


@pytest.mark.parametrize("far", [(400, 100), (1e7, 100), (3e38, 100)])
def test_an_edge_to_a_far_keypoint_reaches_the_border(far: tuple[float, float]) -> None:
    drawn = skeleton_only(backdrop(200, 200), person([[100, 100], far], LIMB))
    assert has(drawn, BLUE)[100, 110:].all()
    assert not has(drawn, BLUE)[:90].any()


def test_an_edge_across_the_picture_between_two_far_keypoints() -> None:
    drawn = skeleton_only(backdrop(200, 200), person([[-1000, -1000], [1200, 1200]], LIMB))
    assert has(drawn, BLUE)[np.arange(200), np.arange(200)].all()
    image = backdrop(200, 200)
    np.testing.assert_array_equal(skeleton_only(image, person([[-1000, 0], [0, 1e6]], LIMB)), image)


anything = st.floats(width=32) | st.floats(-300, 300, width=32)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(anything, min_size=34, max_size=34),
    st.lists(anything, min_size=4, max_size=4),
    st.lists(anything, min_size=17, max_size=17),
    anything,
    st.sampled_from([(1, 1), (3, 700), (64, 48), (150, 200)]),
)
def test_any_numbers(
    points: list[float], box: list[float], scores: list[float], score: float, shape: tuple[int, int]
) -> None:
    poses = person(np.reshape(points, (17, 2)), COCO_17, box=box, scores=scores, score=score)
    image = backdrop(*shape)
    drawn = draw_poses(image, poses)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("shape", [(3, 20_000), (20_000, 3), (2, 70_000), (1, 1)])
def test_extreme_pictures(shape: tuple[int, int]) -> None:
    image = backdrop(*shape)
    drawn = draw_poses(image, person([[0, 0], [shape[1], shape[0]]], LIMB, box=(0, 0, shape[1], shape[0])))
    assert drawn.shape == image.shape
    assert (drawn != image).any()


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)]
)
def test_other_arrays_are_refused(image: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="uint8 array"):
        draw_poses(image, Poses.empty(COCO_17))
    with pytest.raises(UsageError, match="uint8 array"):
        write_image(tmp_path / "a.png", image)


def test_views() -> None:
    image = backdrop(120, 90)
    view = image[::-1, ::-1, ::-1]
    poses = person([[30, 30], [60, 60]], LIMB, box=(20, 30, 70, 80))
    np.testing.assert_array_equal(draw_poses(view, poses), draw_poses(view.copy(), poses))
    read_only = image.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(draw_poses(read_only, poses), draw_poses(image, poses))


def test_drawing_libraries_are_imported_only_to_draw() -> None:
    code = "import sys, rtmo_deploy.runtime.draw; sys.exit('supervision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("folder", "annotations", "skeleton"),
    [("coco", "test_coco.json", COCO_17), ("crowdpose", "test_crowdpose.json", CROWDPOSE_14)],
)
def test_annotated_photographs(shared: Path, folder: str, annotations: str, skeleton: Skeleton) -> None:
    data = json.loads((shared / "data" / folder / annotations).read_text())
    for entry in data["images"]:
        people = [a for a in data["annotations"] if a["image_id"] == entry["id"] and a["num_keypoints"]]
        points = np.array([a["keypoints"] for a in people], np.float32).reshape(len(people), -1, 3)
        scores = np.linspace(0.9, 0.5, len(people), dtype=np.float32)
        boxes = np.array([a["bbox"] for a in people], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        poses = Poses(boxes, scores, points[..., :2], np.sign(points[..., 2]), skeleton)
        image = read_image(shared / "data" / folder / entry["file_name"])
        drawn = draw_poses(image, poses)
        for one in points.reshape(-1, 3):
            column, row = (int(value) for value in one[:2])
            if one[2] and row < image.shape[0] and column < image.shape[1]:
                assert (drawn[row, column] != image[row, column]).any()
        assert (drawn != image).any(axis=-1).mean() < 0.5


# --- write_image ---


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff", ".webp"])
def test_written_without_loss(suffix: str, tmp_path: Path) -> None:
    image = backdrop(30, 40)
    path = tmp_path / "new" / "folder" / f"a.b{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_keeps_thin_colours(suffix: str, tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:, 31] = BLUE
    write_image(str(tmp_path / f"a{suffix}"), image)
    back = read_image(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(back[:, 31] - BLUE).max() < 20
    assert np.abs(back[:, 33:] - 128).max() < 20


@pytest.mark.parametrize("name", ["a", "a.gif", "a.jpg.txt", ".png", "a.exe"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"suffix .*Use one of: \.jpg \.jpeg \.png") as caught:
        write_image(tmp_path / name, backdrop(8, 8))
    assert caught.value.where == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "width"), [(".jpg", 65_501), (".webp", 16_384)])
def test_too_wide_for_the_format(suffix: str, width: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=rf"{width}x2 pixels, but {suffix} holds .* Use .png"):
        write_image(tmp_path / f"a{suffix}", backdrop(2, width))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "width"), [(".jpg", 65_500), (".webp", 16_383), (".png", 70_000)])
def test_as_wide_as_the_format_holds(suffix: str, width: int, tmp_path: Path) -> None:
    write_image(tmp_path / f"a{suffix}", backdrop(2, width))
    assert read_image(tmp_path / f"a{suffix}").shape == (2, width, 3)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, backdrop(8, 8))
    before = path.read_bytes()

    def fill(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(SetupError, match="No space left"):
        write_image(path, backdrop(9, 9))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_skeleton_has_colours_of_its_own():
    six = Skeleton(
        "six",
        tuple("abcdef"),
        edges=((0, 1), (2, 3)),
        keypoint_colours=("#0000ff",) * 6,
        edge_colours=("#ff0000", "#00ff00"),
    )
    points = [[40, 40], [160, 40], [40, 100], [160, 100], [40, 160], [160, 160]]
    drawn = draw_poses(backdrop(200, 200), person(points, six), boxes=False, labels=False)
    assert drawn[40, 100].tolist() == [0, 0, 255]  # BGR
    assert drawn[100, 100].tolist() == [0, 255, 0]
    assert drawn[160, 40].tolist() == [255, 0, 0]


def test_boxes_and_labels_follow_the_track_id():
    image = backdrop(300, 400)
    box = (100, 60, 250, 260)
    one = person([[-900.0, -900], [-901, -900]], LIMB, box=box)
    plain = draw_poses(image, one)
    drawn = {number: draw_poses(image, replace(one, track_ids=np.array([number]))) for number in (-1, 1, 2, 8)}
    np.testing.assert_array_equal(drawn[-1], plain)
    line = {number: tuple(picture[160, 250].tolist()) for number, picture in drawn.items()}
    assert len({line[1], line[2], line[-1]}) == 3
    assert line[1] == line[8]
    assert (drawn[1] != drawn[8]).any()  # the numbers
    # The same id has its colour whatever else is in the frame.
    many = together(person([[-900.0, -900], [-901, -900]], LIMB, box=(5, 60, 60, 200)), one)
    assert tuple(draw_poses(image, replace(many, track_ids=np.array([9, 2])))[160, 250].tolist()) == line[2]


def test_drawing_into_an_array():
    image = backdrop(100, 120)
    poses = person([[30, 30], [60, 60]], LIMB, box=(20, 30, 70, 80))
    wanted = draw_poses(image, poses)
    buffer = np.zeros_like(image)
    assert draw_poses(image, poses, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, wanted)
    assert draw_poses(image, poses, out=image) is image
    np.testing.assert_array_equal(image, wanted)
    for wrong in (
        np.zeros((100, 121, 3), np.uint8),
        np.zeros((100, 120, 3)),
        np.zeros((100, 240, 3), np.uint8)[:, ::2],
    ):
        with pytest.raises(UsageError, match="array to draw into"):
            draw_poses(image, poses, out=wrong)
