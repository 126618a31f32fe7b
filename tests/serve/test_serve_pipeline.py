"""The model ``rtmo_pipeline``: image files or pixels in, people out, as in Python."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from serving import PATIENCE_S, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.poses import Poses
    from rtmo_deploy.runtime.estimator import RTMO

INFER = "/v2/models/rtmo_pipeline/infer"
FIELDS = ("boxes", "scores", "keypoints", "keypoint_scores")


@pytest.fixture
def triton(server: Served) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=PATIENCE_S) as client:
        yield client


def given(name: str, datatype: str, array: Any) -> Any:
    from tritonclient.http import InferInput

    one = InferInput(name, list(array.shape), datatype)
    one.set_data_from_numpy(array)
    return one


def assert_people(result: Any, found: list[Poses]) -> None:
    counts = [len(poses) for poses in found]
    assert result.as_numpy("num_people").tolist() == [[count] for count in counts]
    for name in FIELDS:
        rows = result.as_numpy(name)
        assert rows.shape[:2] == (len(found), max(counts))
        for row, poses in zip(rows, found, strict=True):
            np.testing.assert_array_equal(row[: len(poses)], getattr(poses, name))
            assert not row[len(poses) :].any()


def test_image_files(triton: Any, estimator: RTMO, images: list[bytes]) -> None:
    files = np.array([[one] for one in images], object)
    found = [estimator(one) for one in images]
    assert len({len(poses) for poses in found}) > 1
    assert_people(triton.infer("rtmo_pipeline", [given("image", "BYTES", files)]), found)
    metadata = triton.get_model_metadata("rtmo_pipeline")
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == [("image", "BYTES"), ("pixels", "UINT8")]


def test_pixels(triton: Any, estimator: RTMO, images: list[bytes]) -> None:
    pixels = cv2.imdecode(np.frombuffer(images[1], np.uint8), cv2.IMREAD_COLOR)
    both = np.stack([pixels, pixels[::-1]])
    assert_people(triton.infer("rtmo_pipeline", [given("pixels", "UINT8", both)]), [estimator(one) for one in both])


def test_json(server: Served, estimator: RTMO, images: list[bytes]) -> None:
    text = base64.b64encode(images[0]).decode()
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    answer = server.client.post(server.url + INFER, json={"inputs": [entry], "outputs": [{"name": "scores"}]})
    assert answer.status_code == 200
    (scores,) = answer.json()["outputs"]
    assert scores["datatype"] == "FP32"
    assert scores["data"] == estimator(images[0]).scores.tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [(["no base64!"], "base64"), ([base64.b64encode(b"no image").decode()], "image"), ([7], "base64"), ([], "1 texts")],
)
def test_what_is_no_image(server: Served, data: list[Any], said: str) -> None:
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": data}
    answer = server.client.post(server.url + INFER, json={"inputs": [entry]})
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_neither_both_and_too_many(server: Served, images: list[bytes]) -> None:
    text = base64.b64encode(images[3]).decode()
    files = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    pixels = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [0, 0, 0]}
    many = {**files, "shape": [9, 1], "data": [text] * 9}
    for inputs, said in (([], "either"), ([files, pixels], "either"), ([many], "at most 8")):
        answer = server.client.post(server.url + INFER, json={"inputs": inputs})
        assert answer.status_code == 400, inputs
        assert said in answer.json()["error"]
    assert server.metric("rtmo_requests_in_flight") == 0
