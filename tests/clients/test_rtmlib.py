"""Exported files run in rtmlib as they are, and give what PoseEstimator gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from golden import golden_model

from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.measure import structured_images
from rtmo_deploy.model import NetworkSpec, load_checkpoint, save_checkpoint
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.zoo import ARCHITECTURES, skeleton_for

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.model import LoadedCheckpoint

rtmlib = pytest.importorskip("rtmlib")

DECODES = ("onnx", "fixed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    path = tmp_path_factory.mktemp("checkpoint") / "n.pth"
    network = golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17), bias=(-2, -1))
    save_checkpoint(path, network, skeleton=skeleton_for(17), input_hw=(256, 256))
    return load_checkpoint(path)


@pytest.fixture(scope="module", params=["onnx", "onnx-static", "fixed", "fixed-static"])
def exported(
    request: pytest.FixtureRequest, checkpoint: LoadedCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    mode, _, static = request.param.partition("-")
    path = tmp_path_factory.mktemp("exported") / f"{request.param}.onnx"
    options = ExportOptions(decode=mode, static=bool(static), letterbox="top-left")
    export_onnx(checkpoint, path, options, verify=False)
    return path


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.ascontiguousarray(structured_images(1, height, width, seed=seed)[0].transpose(1, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize("size", [(256, 256), (150, 333), (700, 500)])
def test_same_people(exported: Path, size: tuple[int, int]) -> None:
    image = picture(*size)
    # Its own suppression and threshold out of the way: the graph has applied the model's.
    client = rtmlib.RTMO(onnx_model=str(exported), model_input_size=(256, 256), nms_thr=0.99, score_thr=0.1)
    keypoints, scores = client(image)
    ours = PoseEstimator.open(exported)(image)
    assert len(ours) > 5
    assert keypoints.shape == (len(ours), 17, 2)
    np.testing.assert_allclose(keypoints, ours.keypoints, atol=0.05)
    np.testing.assert_allclose(scores, ours.keypoint_scores, atol=1e-5)


def test_its_own_threshold_is_applied_on_top(exported: Path) -> None:
    image = picture(256, 256)
    ours = PoseEstimator.open(exported)(image)
    middle = float(np.median(ours.scores))
    client = rtmlib.RTMO(onnx_model=str(exported), model_input_size=(256, 256), nms_thr=0.99, score_thr=middle)
    keypoints, _ = client(image)
    np.testing.assert_allclose(keypoints, ours.keypoints[ours.scores > middle], atol=0.05)


def test_nobody_above_its_threshold(exported: Path) -> None:
    # Somebody in the graph's eyes, nobody in rtmlib's (0.7 by default): its one row of zeros.
    client = rtmlib.RTMO(onnx_model=str(exported), model_input_size=(256, 256))
    keypoints, scores = client(picture(256, 256))
    assert keypoints.shape == (1, 17, 2)
    assert not keypoints.any()
    assert not scores.any()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("decode", "min_rows"), [("onnx", 1), ("fixed", None)])
def test_nobody_at_all(
    checkpoint: LoadedCheckpoint, tmp_path: Path, decode: str, min_rows: int | None, static: bool
) -> None:
    path = tmp_path / "nobody.onnx"
    export_onnx(checkpoint, path, ExportOptions(decode, score_thr=1.0, min_rows=min_rows, static=static), verify=False)
    image = picture(256, 256)
    assert len(PoseEstimator.open(path)(image)) == 0
    client = rtmlib.RTMO(onnx_model=str(path), model_input_size=(256, 256))
    keypoints, scores = client(image)
    assert keypoints.shape == (1, 17, 2)
    assert not keypoints.any()
    assert not scores.any()
