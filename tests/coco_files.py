"""Small annotation files and images for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rtmo_deploy.zoo import COCO_17

WIDTH, HEIGHT = 64, 48


def category(names=COCO_17.keypoints, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "name": "person", "keypoints": list(names), "skeleton": [[1, 2]], **fields}


def image(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT, **fields}


def person(number: int, picture: int, *, joints: int = 17, **fields: Any) -> dict[str, Any]:
    """Somebody with all keypoints labelled, at places that depend on ``number``."""
    rng = np.random.default_rng(number)
    points = np.concatenate([rng.integers(5, 40, (joints, 2)), np.full((joints, 1), 2)], axis=1)
    made = {
        "id": number,
        "image_id": picture,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": points.ravel().tolist(),
        "num_keypoints": joints,
        "bbox": [5, 5, 35, 35],
        "area": 700.0,
    }
    return {key: value for key, value in {**made, **fields}.items() if value is not ...}


def document(images=None, people=None, categories=None) -> dict[str, Any]:
    return {
        "images": [image(1), image(2)] if images is None else images,
        "annotations": [person(1, 1), person(2, 1), person(3, 2)] if people is None else people,
        "categories": [category()] if categories is None else categories,
    }


def write(folder: Path, content: Any, *, pictures: bool = True) -> Path:
    """``folder/people.json`` and, in ``folder/pictures``, a grey PNG for each entry that can have one."""
    path = folder / "people.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    if pictures:
        for entry in content["images"]:
            shape = (entry.get("height") or HEIGHT, entry.get("width") or WIDTH, 3)
            target = folder / "pictures" / entry["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(target), np.full(shape, entry["id"] % 200, np.uint8))
    return path
