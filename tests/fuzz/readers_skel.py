"""Readers of images, of annotation files with their images, and of results files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import coco_files
import numpy as np
from driver import Reader, register
from PIL import Image

from rtmo_deploy.data.coco import CocoKeypoints, check_coco, read_ground_truth
from rtmo_deploy.data.images import read_image
from rtmo_deploy.measure.accuracy import judge, load_results

_FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {}),
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("PPM", {}),
    ("JPEG2000", {}),
)


def _images(_folder: Path) -> list[bytes]:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    made = []
    for kind, options in _FORMATS:
        stream = io.BytesIO()
        pixels.save(stream, kind, **options)
        made.append(stream.getvalue())
    return [*made, b"P3 2 2 255 " + b"1 2 3 " * 4]


def _document() -> dict[str, Any]:
    runs = {"size": [coco_files.HEIGHT, coco_files.WIDTH], "counts": [100, 200, coco_files.HEIGHT * 64 - 300]}
    crowd = coco_files.person(4, 2, iscrowd=1, segmentation=runs)
    nobody = coco_files.person(5, 2, keypoints=[0] * 51, num_keypoints=0, segmentation=[[5, 5, 30, 5, 30, 30]])
    people = [coco_files.person(number, 1 + number % 2) for number in range(1, 4)]
    return {"info": {"domain": "synthetic"}, **coco_files.document(people=[*people, crowd, nobody])}


def _annotations(path: Path) -> None:
    """As ``data check``, ``eval --predictions`` and ``train`` read it."""
    folder = path.parent / "pictures"
    found = check_coco(path, folder, read_images=True)
    truth, skeleton, _ = read_ground_truth(path)
    dataset = CocoKeypoints(path, folder, strict=found.ok)
    for index in range(len(dataset)):
        dataset.image_number(index)
        dataset.people(index)
        dataset.ignored(index, (coco_files.HEIGHT, coco_files.WIDTH))
    judge(truth, load_results(path.parent / "results.json", truth, len(skeleton)), skeleton)


def _results() -> list[dict[str, Any]]:
    fields = ("image_id", "category_id", "keypoints", "bbox")
    return [{**{key: one[key] for key in fields}, "score": 0.5} for one in _document()["annotations"][:3]]


def _beside(folder: Path) -> None:
    coco_files.write(folder, _document())
    (folder / "results.json").write_text(json.dumps(_results()))


def _detections(path: Path) -> None:
    truth, skeleton, _ = read_ground_truth(path.parent / "people.json")
    judge(truth, load_results(path, truth, len(skeleton)), skeleton)


register(Reader("image", ".img", _images, read_image))
register(
    Reader("annotation", ".json", lambda _: [json.dumps(_document()).encode()], _annotations, prepare=_beside),
)
register(Reader("results", ".json", lambda _: [json.dumps(_results()).encode()], _detections, prepare=_beside))
