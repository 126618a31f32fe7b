"""Result files are read back by the packages that people read them with, and are whole or not there."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.errors import MissingDependencyError, SetupError
from rtmo_deploy.media.frame import Frame
from rtmo_deploy.media.results import STDOUT, columns_of, frame_dict, open_results
from rtmo_deploy.poses import Poses, Skeleton
from rtmo_deploy.zoo.skeletons import COCO_17

KINDS = ("jsonl", "csv", "parquet", "coco")


def poses_of(count: int, seed: int = 0, *, ids: bool = False, skeleton: Skeleton = COCO_17) -> Poses:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 90, (count, 4)).astype(np.float32)
    corners[:, 2:] += corners[:, :2] + 1
    return Poses(
        corners,
        rng.uniform(0, 1, count),
        rng.uniform(-50, 250, (count, len(skeleton), 2)),
        rng.uniform(0, 1, (count, len(skeleton))),
        skeleton,
        track_ids=np.array([*range(3, 2 + count), -1][:count]) if ids else None,
    )


def frames_of(counts: list[int], **more: Any) -> list[Frame]:
    image = np.zeros((200, 300, 3), np.uint8)
    return [
        Frame(image, "walk.mp4", 2 * index, index / 12.5, poses_of(count, index, **more))
        for index, count in enumerate(counts)
    ]


def write(path: Path, kind: str, frames: list[Frame]) -> None:
    with open_results(path, kind, frames[0].poses.skeleton) as put:
        for frame in frames:
            put(frame)


def same(poses: Poses, boxes: Any, scores: Any, points: Any) -> None:
    np.testing.assert_array_equal(np.float32(boxes).reshape(-1, 4), poses.boxes)
    np.testing.assert_array_equal(np.float32(scores), poses.scores)
    rows = np.float32(points).reshape(len(poses), len(poses.skeleton), 3)
    np.testing.assert_array_equal(rows[..., :2], poses.keypoints)
    np.testing.assert_array_equal(rows[..., 2], poses.keypoint_scores)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.booleans())
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, counts: list[int], ids: bool) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    frames = frames_of(counts, ids=ids)
    write(path, "jsonl", frames)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(lines) == len(frames)
    for line, frame in zip(lines, frames, strict=True):
        assert line == {"schema_version": 1, "skeleton": "coco-17", **frame_dict(frame)}
        assert (line["source"], line["frame"], line["time_s"]) == ("walk.mp4", frame.index, frame.time_s)
        assert (line["width"], line["height"]) == (300, 200)
        people = line["people"]
        columns = ([one[name] for one in people] for name in ("box", "score", "keypoints"))
        same(frame.poses, *columns)
        wanted = [None if number < 0 else number for number in frame.poses.track_ids.tolist()] if ids else []
        assert [one["track_id"] for one in people if "track_id" in one] == wanted


@pytest.mark.parametrize("reader", ["csv", "pandas", "polars", "parquet-polars", "parquet-pandas"])
def test_tables(tmp_path: Path, reader: str) -> None:
    frames = frames_of([2, 0, 3, 1], ids=True)
    kind = "parquet" if reader.startswith("parquet") else "csv"
    path = tmp_path / f"a.{kind}"
    write(path, kind, frames)
    if reader == "csv":
        with path.open(encoding="utf-8", newline="") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    elif reader.endswith("pandas"):
        import pandas as pd

        table = pd.read_parquet(path) if kind == "parquet" else pd.read_csv(path, dtype={"track_id": "Int64"})
        rows = table.to_dict("records")
    else:
        import polars as pl

        rows = (pl.read_parquet(path) if kind == "parquet" else pl.read_csv(path)).to_dicts()
    names = list(columns_of(COCO_17))
    assert all(list(row) == names for row in rows)
    assert len(rows) == 6
    assert names[12:15] == ["nose_x", "nose_y", "nose_score"]
    for frame in frames:
        mine = [row for row in rows if int(row["frame"]) == frame.index]
        boxes = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in mine]
        points = [[float(row[name]) for name in names[12:]] for row in mine]
        same(frame.poses, boxes, [float(row["score"]) for row in mine], points)
        assert all(float(row["time_s"]) == frame.time_s and row["source"] == "walk.mp4" for row in mine)
        assert [int(row["person"]) for row in mine] == list(range(len(mine)))
        missing = [row["track_id"] for row in mine][-1:]
        assert all(value in {"", None} or value != value for value in missing)
        assert [int(row["track_id"]) for row in mine[:-1]] == frame.poses.track_ids[:-1].tolist()


def test_parquet_is_in_row_groups_and_typed(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "a.parquet", "parquet", frames_of([40] * 300))
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.metadata.num_rows == 12_000
    assert file.metadata.num_row_groups > 1
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert (types["frame"], types["time_s"], types["score"], types["nose_x"]) == ("int64", "double", "float", "float")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_table_without_anybody(tmp_path: Path) -> None:
    import polars as pl

    write(tmp_path / "a.parquet", "parquet", frames_of([0, 0]))
    table = pl.read_parquet(tmp_path / "a.parquet")
    assert table.shape == (0, 12 + 3 * 17)
    write(tmp_path / "a.csv", "csv", frames_of([0]))
    assert (tmp_path / "a.csv").read_text("utf-8").count("\n") == 1


def test_coco_of_a_video(tmp_path: Path) -> None:
    from faster_coco_eval import COCO

    frames = frames_of([2, 0, 3], ids=True)
    path = tmp_path / "a.json"
    write(path, "coco", frames)
    coco = COCO(str(path))
    assert [image["frame_id"] for image in coco.dataset["images"]] == [0, 2, 4]
    assert [image["file_name"] for image in coco.dataset["images"]][1] == "walk.mp4/000002.jpg"
    assert coco.dataset["videos"] == [{"id": 1, "name": "walk.mp4"}]
    assert coco.dataset["categories"][0]["keypoints"] == list(COCO_17.keypoints)
    for image, frame in zip(coco.dataset["images"], frames, strict=True):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        assert len(found) == len(frame.poses)
        for row, one in enumerate(found):
            points = np.reshape(one["keypoints"], (17, 3))
            np.testing.assert_allclose(points[:, :2], frame.poses.keypoints[row], atol=0.006)
            np.testing.assert_array_equal(points[:, 2], np.where(frame.poses.keypoint_scores[row] >= 0.3, 2, 1))
            np.testing.assert_allclose(one["keypoint_scores"], frame.poses.keypoint_scores[row], atol=1e-4)
            x, y, width, height = one["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], frame.poses.boxes[row], atol=0.02)
            assert one.get("track_id", -1) == frame.poses.track_ids[row]
    # The annotations are results as well.
    results = coco.loadRes(coco.dataset["annotations"])
    assert len(results.getAnnIds()) == 5


def test_coco_of_images_is_a_data_set(tmp_path: Path, pictures: list[Path]) -> None:
    from rtmo_deploy.data.images import read_image

    frames = [
        Frame(read_image(picture), str(picture.name), 0, None, poses_of(1, number))
        for number, picture in enumerate(pictures)
    ]
    write(tmp_path / "a.json", "coco", frames)
    words = ["data", "check", "--ann", str(tmp_path / "a.json"), "--images", str(pictures[0].parent), "--json"]
    checked = CliRunner().invoke(app, words)
    assert checked.exit_code == 0, checked.output
    assert "videos" in json.loads((tmp_path / "a.json").read_text("utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_whole_or_not_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_text("before")
    frames = frames_of([2])
    with pytest.raises(ValueError, match="has no poses"):
        write(tmp_path / "a", kind, [*frames, Frame(frames[0].image, "walk.mp4")])
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_said_of_the_right_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if "walk" in text:
                raise OSError(28, "No space left on device")
            return len(text)

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    with (
        pytest.raises(SetupError, match="No space left") as caught,
        open_results(tmp_path / "full", kind, COCO_17) as put,
        open_results(tmp_path / "other", "csv", COCO_17),
    ):
        put(frames_of([1])[0])
    assert caught.value.where == str(tmp_path / "full")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_standard_output_is_flushed_with_each_frame(kind: str) -> None:
    flushed: list[str] = []

    class Pipe(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    with redirect_stdout(Pipe()), open_results(STDOUT, kind, COCO_17) as put:
        for number, frame in enumerate(frames_of([1, 2]), 1):
            put(frame)
            assert len(flushed) == number
    assert flushed[0] in flushed[1]
    assert flushed[1].count("walk.mp4") == (2 if kind == "jsonl" else 3)


@pytest.mark.parametrize("name", ['a,"b"\n.png', "ünï☃.png", "\udcff.png", "=1+1.png"])
def test_any_name(tmp_path: Path, name: str) -> None:
    import polars as pl

    frame = Frame(np.zeros((9, 9, 3), np.uint8), name, poses=poses_of(1))
    for kind in KINDS:
        write(tmp_path / kind, kind, [frame])
    wanted = name.replace("\udcff", "\\udcff")
    assert pl.read_ndjson(tmp_path / "jsonl")["source"].to_list() == [wanted]
    assert json.loads((tmp_path / "jsonl").read_text("utf-8"))["source"] == wanted
    assert pl.read_csv(tmp_path / "csv")["source"].to_list() == [wanted]
    assert pl.read_parquet(tmp_path / "parquet")["source"].to_list() == [wanted]
    assert json.loads((tmp_path / "coco").read_text("utf-8"))["images"][0]["file_name"] == wanted


def test_two_keypoints_of_one_name_have_two_columns() -> None:
    skeleton = Skeleton("twins", ("a", "b", "a"))
    assert [name for name in columns_of(skeleton) if name.endswith("_x")] == ["a_0_x", "b_x", "a_2_x"]


def test_parquet_without_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with (
        pytest.raises(MissingDependencyError, match=r"rtmo-deploy\[table\]"),
        open_results(tmp_path / "a.parquet", "parquet", COCO_17),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_frames(tmp_path: Path, kind: str) -> None:
    frame = frames_of([5])[0]
    peaks = []
    for count in (40, 400):
        tracemalloc.start()
        write(tmp_path / "a", kind, [frame] * count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
