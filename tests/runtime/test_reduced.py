"""``RTMO(reduce=True)``: JPEGs decoded at a reduced scale find the same people, in pixels of the whole image."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from rtmo_deploy import RTMO
from rtmo_deploy.cli.app import app
from rtmo_deploy.data.images import read_image
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.media.frame import ReducedFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.poses import Poses

HW = (960, 1280)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JPEGs of which half is enough for 352x352: four of HW, then one that EXIF turns, and a small one."""
    folder = tmp_path_factory.mktemp("photos")
    people = SyntheticPeople(4, seed=4, options=SyntheticOptions(size=HW, people=(2, 4), height=(0.4, 0.8)))
    paths = [folder / f"{number}.jpg" for number in range(4)]
    for path, sample in zip(paths, (people[index] for index in range(4)), strict=True):
        cv2.imwrite(str(path), sample.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    data = cv2.imencode(".jpg", np.rot90(people[0].image), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    turned, small = folder / "turned.jpg", folder / "small.jpg"
    turned.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + data[2:])
    cv2.imwrite(str(small), cv2.resize(people[0].image, (640, 480)))
    return [*paths, turned, small]


@pytest.fixture(scope="module")
def whole() -> RTMO:
    return RTMO("rtmo-n", device="cpu", threads=1)


@pytest.fixture(scope="module")
def reducing(whole: RTMO) -> RTMO:
    return RTMO(whole.backend, reduce=True)


def same(one: Poses, two: Poses) -> bool:
    names = ("boxes", "scores", "keypoints", "keypoint_scores")
    return one.image_hw == two.image_hw and all(np.array_equal(getattr(one, n), getattr(two, n)) for n in names)


def apart(poses: Poses, found: Poses) -> NDArray[np.float64]:
    """Distances of visible keypoints of confident people to those found, each in the nearest one; input pixels."""
    assert poses.image_hw == found.image_hw == HW
    distances = np.linalg.norm(poses.keypoints[:, None] - found.keypoints[None], axis=-1) * 352 / max(HW)
    nearest = distances[np.arange(len(poses)), np.median(distances, axis=-1).argmin(axis=1)]
    return nearest[(poses.keypoint_scores > 0.3) & (poses.scores > 0.3)[:, None]]


def test_the_same_people_are_found(whole: RTMO, reducing: RTMO, photos: list[Path]) -> None:
    expected = whole(photos[:5])
    found = reducing(photos[:5])
    pairs = list(zip(expected, found, strict=True))
    assert all(len(one) > 1 and not same(one, two) for one, two in pairs)
    off = np.concatenate([apart(one, two) for one, two in pairs] + [apart(two, one) for one, two in pairs])
    assert np.median(off) < 0.5
    assert np.percentile(off, 90) < 3


def test_photographs(whole: RTMO, reducing: RTMO, shared: Path) -> None:
    off = []
    for path in sorted((shared / "data").glob("*/*.jpg")):
        large = cv2.resize(read_image(path), HW[::-1], interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        off.append(apart(whole(data), reducing(data)))
    assert np.median(np.concatenate(off)) < 3  # the model was not trained on photographs


def test_bytes_and_arrays(whole: RTMO, reducing: RTMO, photos: list[Path]) -> None:
    by_path, by_bytes, by_array, small = reducing([photos[0], photos[0].read_bytes(), read_image(photos[0]), photos[5]])
    assert same(by_bytes, by_path)
    assert not same(by_array, by_path)
    batch = whole([photos[0], photos[0], read_image(photos[0]), photos[5]])
    assert same(by_array, batch[2])
    assert same(small, batch[3])
    assert by_path.source == photos[0]
    assert by_path.plot().shape == (*HW, 3)


def test_it_is_kept(whole: RTMO, reducing: RTMO) -> None:
    assert (whole.fit_hw, reducing.fit_hw) == (None, (352, 352))
    opened = RTMO("rtmo-n", device="cpu", reduce=True, input_hw=(256, 320))
    assert copy.copy(opened).fit_hw == opened.fit_hw == (256, 320)


def test_top_left(whole: RTMO, photos: list[Path]) -> None:
    artifact = whole.backend.artifact
    other: Artifact = replace(artifact, input=replace(artifact.input, placement="top-left"))
    backend = copy.copy(whole.backend)
    backend.artifact = other
    off = apart(RTMO(backend)(photos[0]), RTMO(backend, reduce=True)(photos[0]))
    assert np.median(off) < 0.5


def test_frames_read_their_image_when_asked(reducing: RTMO, photos: list[Path]) -> None:
    frames = list(reducing.stream([*photos], score_thr=0.3))
    assert [type(frame) is ReducedFrame for frame in frames] == [True] * 5 + [False]
    for frame, poses in zip(frames, reducing(photos, score_thr=0.3), strict=True):
        assert frame.poses is not None
        assert frame.image_hw == frame.poses.image_hw == poses.image_hw
        assert np.allclose(frame.poses.keypoints, poses.keypoints, atol=1e-2)
    frame = frames[1]
    assert "image" not in vars(frame)
    assert np.array_equal(frame.image, read_image(photos[1]))
    assert frame.image is frame.image
    assert frame.plot().shape == (*HW, 3)
    assert repr(frame).startswith(f"ReducedFrame(source={str(photos[1])!r}, index=0")
    other = replace(frame, index=3)
    assert (other.index, other.image_hw) == (3, HW)
    tracked = next(reducing.track(photos[0], score_thr=0.3))
    assert isinstance(tracked, ReducedFrame)
    assert tracked.poses is not None
    assert len(tracked.poses) == len(frames[0].poses or ())


def test_an_image_at_an_address_is_fetched_once(reducing: RTMO, photos: list[Path]) -> None:
    data, fetched = photos[0].read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (frame,) = reducing.stream(f"http://127.0.0.1:{server.server_port}/a.jpg")
        server.shutdown()
    assert isinstance(frame, ReducedFrame)
    assert np.array_equal(frame.image, read_image(photos[0]))
    assert fetched == ["/a.jpg"]


def test_the_command(reducing: RTMO, photos: list[Path], tmp_path: Path) -> None:
    drawing = ("--vis-out-dir", tmp_path / "vis", "--crops", tmp_path / "crops", "--csv", tmp_path / "a.csv")
    words = ("predict", "rtmo-n", *photos[:5], "--reduce-jpeg", "--device", "cpu", "--json", *drawing)
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    images = json.loads(result.stdout)["images"]
    assert [(image["height"], image["width"]) for image in images] == [HW] * 5
    for image, poses in zip(images, reducing(photos[:5]), strict=True):
        assert read_image(image["drawn"]).shape == (*HW, 3)
        found = np.array([[point[:2] for point in person["keypoints"]] for person in image["people"]])
        assert np.allclose(found, poses.keypoints, atol=2e-2)
    assert max(max(read_image(path).shape[:2]) for path in (tmp_path / "crops").rglob("*.jpg")) > HW[0] / 3
