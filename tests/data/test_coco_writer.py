"""Writing COCO files and folders."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from rtmo_deploy.data.coco_writer import write_coco, write_dataset
from rtmo_deploy.data.sample import People, Sample
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import SetupError
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14

SMALL = SyntheticOptions(size=(64, 96), people=(1, 3))


def people():
    keypoints = np.zeros((2, 17, 2))
    keypoints[0, 0] = (10.25, 20)
    keypoints[0, 16] = (11.126, 47.5)
    visible = np.zeros((2, 17))
    visible[0, 0], visible[0, 16] = 2, 1
    return People([[5, 6.5, 25, 50], [0, 0, 9, 8]], keypoints, visible, [123.456, 70])


def written(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_file(tmp_path):
    path = tmp_path / "a.json"
    first, second = np.zeros((60, 80, 3), np.uint8), np.zeros((10, 20, 3), np.uint8)
    samples = [Sample(first, people(), 7, "x.jpg"), Sample(second, People.empty(17), 9, "y.jpg")]
    result = write_coco(path, samples, COCO_17, info={"seed": 3})
    document = written(path)
    assert document["info"]["seed"] == 3
    assert document["images"] == [
        {"id": 7, "file_name": "x.jpg", "width": 80, "height": 60},
        {"id": 9, "file_name": "y.jpg", "width": 20, "height": 10},
    ]
    first, second = document["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [5, 6.5, 20, 43.5],
        "area": 123.46,
        "iscrowd": 0,
        "num_keypoints": 2,
        "keypoints": [10.25, 20, 2, *[0] * 45, 11.13, 47.5, 1],
    }
    assert (second["id"], second["num_keypoints"], second["keypoints"]) == (2, 0, [0] * 51)
    (category,) = document["categories"]
    assert (category["id"], category["name"]) == (1, "person")
    assert category["keypoints"][5] == "left_shoulder"
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in COCO_17.edges]
    assert [16, 14] in category["skeleton"]
    assert (result.path, result.images, result.people, result.keypoints) == (path, 2, 2, 2)


def test_what_does_not_fit_together_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "a.json"
    entry = Sample(np.zeros((10, 10, 3), np.uint8), people(), 1, "x.jpg")
    with pytest.raises(ValueError, match="two images have the id 1"):
        write_coco(path, [entry, entry], COCO_17)
    with pytest.raises(ValueError, match="14 keypoints of crowdpose-14"):
        write_coco(path, [entry], CROWDPOSE_14)
    assert list(tmp_path.iterdir()) == []


def test_a_folder(tmp_path):
    dataset = SyntheticPeople(3, seed=1, options=SMALL)
    seen = []
    result = write_dataset(tmp_path / "out", dataset, suffix=".png", progress=seen.append)
    assert seen == [1, 2, 3]
    document = written(result.path)
    names = [f"{number:012d}.png" for number in (1, 2, 3)]
    assert [image["file_name"] for image in document["images"]] == names
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == names
    for index, name in enumerate(names):
        assert np.array_equal(cv2.imread(str(tmp_path / "out" / "images" / name)), dataset[index].image)


def test_jpeg_is_close(tmp_path):
    dataset = SyntheticPeople(1, seed=1, options=SyntheticOptions(size=(64, 96), people=(1, 1), finish=False))
    write_dataset(tmp_path, dataset)
    image = cv2.imread(str(tmp_path / "images" / "000000000001.jpg"))
    assert np.abs(image.astype(int) - dataset[0].image).mean() < 8


def test_an_interrupted_run_leaves_no_annotations(tmp_path):
    dataset = SyntheticPeople(3, seed=1, options=SMALL)
    write_dataset(tmp_path, dataset)
    assert (tmp_path / "annotations.json").exists()
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, dataset, progress=stop)
    assert not (tmp_path / "annotations.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "mine.txt"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="could not be written"):
        write_dataset(tmp_path / "file" / "out", SyntheticPeople(1, seed=1, options=SMALL))
