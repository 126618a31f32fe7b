"""Calibration sets: named ones and folders, streamed, broken images passed over by name."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import rtmo_deploy.data.calibration as module
from rtmo_deploy.data.calibration import (
    RULE,
    folder_images,
    image_files,
    named_sets,
    open_set,
    parse_record,
    read_record,
)
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import InputDataError, UsageError

CHECKOUT = Path(__file__).resolve().parents[2]


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        picture(tmp_path / "set" / f"p{number}.png", number)
    return tmp_path / "set"


def test_the_installed_sets_are_those_of_the_repository():
    truth = CHECKOUT / "calibration" / "sets"
    if not truth.is_dir():
        pytest.skip("needs the checkout")
    installed = Path(module.__file__).parent / "calibration_sets"
    found = {path.name: path.read_bytes() for path in truth.glob("*.json")}
    assert found == {path.name: path.read_bytes() for path in installed.glob("*.json")}
    assert {name.removesuffix(".json") for name in found} == set(named_sets())


def test_every_record_reads_and_is_called_after_its_file():
    assert "synthetic" in named_sets()
    for name in named_sets():
        record = read_record(name)
        assert record.name == name
        assert record.count >= 100
        assert record.description


def test_the_synthetic_set_is_apart_from_the_sample_models_data():
    text = (CHECKOUT / "recipes" / "train" / "rtmo-n-synthetic.yaml").read_text()
    assert f"seed: {read_record('synthetic').seed}," not in text


def test_the_synthetic_set_is_drawn():
    pictures = open_set("synthetic", 2)
    record = read_record("synthetic")
    drawn = SyntheticPeople(2, seed=record.seed, options=SyntheticOptions(**record.options))
    assert pictures.names == ["synthetic-0", "synthetic-1"]
    for index in range(2):
        np.testing.assert_array_equal(pictures.read(index), drawn[index].image)
    identity = pictures.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert (identity["count"], identity["seed"]) == (2, record.seed)
    assert open_set("synthetic", 3).identity() != identity
    assert len(open_set("synthetic").names) == record.count


def test_images_of_a_folder_are_read_when_it_is_their_turn(folder):
    (folder / "p1.png").write_bytes(b"")
    (folder / "p3.png").write_bytes(b"no image")
    images = folder_images(folder)
    assert images.names == [f"p{number}.png" for number in range(5)]
    assert images.read(2)[0, 0].tolist() == [2, 2, 2]
    (folder / "p4.png").unlink()
    for index in (1, 3, 4):
        with pytest.raises(InputDataError):
            images.read(index)


@pytest.mark.parametrize(("count", "names"), [(1, "0"), (2, "02"), (3, "013"), (5, "01234"), (9, "01234")])
def test_a_count_is_evenly_spaced(folder, count, names):
    assert folder_images(folder, count).names == [f"p{name}.png" for name in names]


def test_the_identity_changes_with_name_and_content_and_order(folder):
    first = folder_images(folder).identity()
    assert folder_images(folder).identity() == first
    assert folder_images(folder, 3).identity() != first
    picture(folder / "p1.png", 77)
    edited = folder_images(folder).identity()
    assert edited != first
    (folder / "p1.png").rename(folder / "p11.png")
    assert folder_images(folder).identity() not in (first, edited)
    paths = [folder / "p0.png", folder / "p2.png"]
    assert image_files("x", paths, source="folder").identity() != (
        image_files("x", paths[::-1], source="folder").identity()
    )
    (folder / "p11.png").unlink()
    assert image_files("x", [folder / "p11.png"], source="folder").identity()["files_sha256"]


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(InputDataError, match="no such folder"):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(InputDataError, match="no image"):
        folder_images(tmp_path)
    picture(tmp_path / "one.png", 1)
    with pytest.raises(UsageError, match="-1 images"):
        folder_images(tmp_path, -1)
    with pytest.raises(UsageError, match=r"no calibration set 'coco'.*coco-train2017"):
        open_set("coco")


def annotations(path, count=10):
    """Images 1, 2, ... of which every third has nobody, written in no order."""
    images = [{"id": n, "file_name": f"{n:03}.png", "width": 12, "height": 8} for n in range(count, 0, -1)]
    people = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "bbox": [0, 0, 8, 8],
            "area": 30,
            "iscrowd": int(n == 4),
            "keypoints": [3, 3, 2 if n % 3 else 0] * 17,
            "num_keypoints": 17 if n % 3 else 0,
        }
        for n in range(1, count + 1)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": [f"k{n}" for n in range(17)], "skeleton": []}]
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": categories}))
    return path


@pytest.mark.parametrize("name", ["coco-train2017", "crowdpose-train"])
def test_a_set_by_rule(tmp_path, name):
    file = annotations(tmp_path / "a.json")
    pictures = open_set(name, annotations=file, images=tmp_path)
    # 3, 6, 9 have nobody with keypoints, 4 has a crowd.
    assert pictures.names == [f"{n:03}.png" for n in (1, 2, 5, 7, 8, 10)]
    few = open_set(name, 3, annotations=file, images=tmp_path)
    assert few.names == ["001.png", "005.png", "008.png"]
    picture(tmp_path / "005.png", 9)
    assert few.read(1)[0, 0].tolist() == [9, 9, 9]
    with pytest.raises(InputDataError):
        few.read(0)


def test_a_set_by_rule_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match=r"person_keypoints_train2017\.json, which is not part") as caught:
        open_set("coco-train2017")
    assert "--ann" in caught.value.remedy
    with pytest.raises(UsageError, match="it takes no files"):
        open_set("synthetic", images=tmp_path)
    file = annotations(tmp_path / "a.json")
    with pytest.raises(InputDataError, match="no such folder"):
        open_set("coco-train2017", annotations=file, images=tmp_path / "nowhere")
    empty = json.loads(file.read_text()) | {"annotations": []}
    file.write_text(json.dumps(empty))
    with pytest.raises(InputDataError, match="Nobody is annotated"):
        open_set("coco-train2017", annotations=file, images=tmp_path)


GOOD = {
    "schema_version": 1,
    "name": "x",
    "description": "d",
    "source": "synthetic",
    "count": 5,
    "seed": 1,
    "options": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"source": "web"},
        {"count": 0},
        {"count": "5"},
        {"seed": -1},
        {"more": 1},
        {"options": [1]},
        {"source": "annotations"},
    ],
)
def test_damaged_records(change):
    assert parse_record(json.dumps(GOOD), where="x").count == 5
    with pytest.raises(InputDataError, match="damaged"):
        parse_record(json.dumps(GOOD | change), where="x")
    with pytest.raises(InputDataError, match="damaged"):
        parse_record("{", where="x")
    rule = {key: value for key, value in GOOD.items() if key not in ("seed", "options")}
    rule |= {"source": "annotations", "annotations": "a.json", "rule": RULE}
    assert parse_record(json.dumps(rule), where="x").annotations == "a.json"
    with pytest.raises(InputDataError, match="damaged: Input should be 'evenly spaced"):
        parse_record(json.dumps(rule | {"rule": "the nicest"}), where="x")
