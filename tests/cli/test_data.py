"""``rtmo-deploy data synth``."""

from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app


def synth(*arguments):
    return CliRunner().invoke(app, ["data", "synth", *map(str, arguments)])


def test_from_end_to_end(tmp_path):
    out = tmp_path / "set"
    result = synth(out, "--images", 6, "--seed", 5, "--people", "2-4", "--size", "120x160")
    assert result.exit_code == 0, result.output
    assert str(out / "annotations.json") in result.stdout
    assert "writing synthetic images: 1 of 6 ..." in result.stderr
    document = json.loads((out / "annotations.json").read_text(encoding="utf-8"))
    recipe = document["info"]["recipe"]
    assert (recipe["seed"], recipe["images"], recipe["generator_version"]) == (5, 6, 2)
    assert (recipe["options"]["people"], recipe["options"]["size"]) == ([2, 4], [120, 160])
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4, 5, 6]
    for image in document["images"]:
        assert (image["height"], image["width"]) == (120, 160)
        assert cv2.imread(str(out / "images" / image["file_name"])).shape == (120, 160, 3)
        found = [one for one in document["annotations"] if one["image_id"] == image["id"]]
        assert 2 <= len(found) <= 4
    assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for one in document["annotations"]:
        x, y, w, h = one["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= 160
        assert y + h <= 120
        assert 0 < one["area"] <= w * h
        points = np.array(one["keypoints"]).reshape(17, 3)
        assert one["num_keypoints"] == (points[:, 2] > 0).sum() >= 4
        labelled = points[points[:, 2] > 0]
        assert (labelled[:, :2] >= (x - 1, y - 1)).all()
        assert (labelled[:, :2] <= (x + w, y + h)).all()


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert synth(tmp_path / name, "--images", 3, "--seed", 2, "--size", "96x96", "--format", "png").exit_code == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_json(tmp_path):
    result = synth(tmp_path / "set", "--images", 2, "--people", 3, "--json")
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["command"]) == (1, "data synth")
    assert (document["images"], document["people"]) == (2, 6)
    assert document["recipe"]["options"]["size"] is None


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    result = synth(tmp_path, "--images", 1, "--size", "64x64")
    assert result.exit_code == 2
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert synth(tmp_path, "--images", 1, "--size", "64x64", "--force").exit_code == 0
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "kept"
    assert (tmp_path / "annotations.json").is_file()
    file = synth(tmp_path / "mine.txt", "--images", 1, "--force")
    assert file.exit_code == 2
    assert "not a folder" in file.stderr


def test_an_empty_folder_is_fine(tmp_path):
    assert synth(tmp_path, "--images", 1, "--size", "64x64").exit_code == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--people", "5-2"),
        ("--people", "-1"),
        ("--people", "61"),
        ("--people", "0-61"),
        ("--people", "two"),
        ("--people", "1-2-3"),
        ("--people", "٣"),
        ("--size", "0"),
        ("--size", "10x100"),
        ("--images", "0"),
        ("--seed", "-1"),
        ("--format", "gif"),
    ],
    ids=" ".join,
)
def test_usage_errors(tmp_path, wrong):
    result = synth(tmp_path / "set", *wrong)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["annotations.json", "images/000000000001.jpg"])
def test_a_data_set_of_somebody_else_is_not_replaced(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    result = synth(tmp_path, "--images", 1, "--size", "64x64", "--force")
    assert result.exit_code == 2
    assert "did not write" in result.stderr
    assert mine.read_text() == "mine"


def test_its_own_data_set_is_replaced(tmp_path):
    for _ in range(2):
        assert synth(tmp_path, "--images", 1, "--size", "64x64", "--force").exit_code == 0


def test_videos_from_end_to_end(tmp_path):
    out = tmp_path / "videos"
    result = synth(out, "--video", "cross", "--seconds", 1, "--fps", 12, "--size", "96x160", "--variable-fps", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["videos"]
    document = json.loads((out / "cross" / "annotations.json").read_text(encoding="utf-8"))
    times = [image["time_s"] for image in document["images"]]
    with av.open(str(out / "cross" / "video.mp4")) as container:
        read = [frame.time for frame in container.decode(video=0)]
    assert len(times) == row["frames"]
    np.testing.assert_allclose(read, times, atol=1e-3)
    assert times[0] == 0
    assert times != sorted(np.arange(len(times)) / 12)
    lines = (out / "cross" / "gt.txt").read_text().splitlines()
    assert len(lines) == len(document["annotations"]) == row["people"]
    for line, one in zip(lines, document["annotations"], strict=True):
        values = [float(value) for value in line.split(",")]
        assert values[:2] == [one["image_id"], one["track_id"]]
        np.testing.assert_allclose(values[2:6], one["bbox"], atol=0.01)
        assert values[8] == one["visible"] > 0.19
    assert synth(out, "--video", "cross").exit_code == 2
    assert synth(out, "--video", "meet", "--seconds", 0.1).exit_code == 0


def test_options_of_images_and_videos_do_not_mix(tmp_path):
    for arguments in (("--video", "all", "--people", "3"), ("--seconds", 3), ("--video", "hide", "--fps", 0)):
        result = synth(tmp_path / "set", *arguments)
        assert result.exit_code == 2
        assert not list(tmp_path.iterdir())
