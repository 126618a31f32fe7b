"""Against files that MMDeploy made of the same weights; and files of its kind, made here."""

from __future__ import annotations

import lzma
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from golden import noise
from onnx import TensorProto, helper, numpy_helper

from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime import PoseEstimator, read_image
from rtmo_deploy.runtime.decode import outputs_to_poses
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rtmo_deploy.poses import Poses


#: Rows that MMDeploy's graph keeps.
MOST = 50


@dataclass(frozen=True, eq=False)
class Peers:
    """MMDeploy's file and ours, of the same weights."""

    side: int
    theirs: Path
    ours: Path
    nodes: int


@pytest.fixture(scope="module", params=["rtmo-t", "rtmo-s"])
def peers(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Peers:
    folder = tmp_path_factory.mktemp(request.param)
    for name in (f"mmdeploy-{request.param}.onnx", f"{request.param}-same-weights.pth"):
        packed = shared / "peers" / f"{name}.xz"
        if not packed.is_file():
            pytest.skip(f"needs {packed}, which is not there")
        (folder / name).write_bytes(lzma.decompress(packed.read_bytes()))
    ours = folder / "ours.onnx"
    checkpoint = load_checkpoint(folder / f"{request.param}-same-weights.pth")
    result = export_onnx(checkpoint, ours, ExportOptions(), verify=False)
    return Peers(checkpoint.input_hw[0], folder / f"mmdeploy-{request.param}.onnx", ours, result.nodes)


def people_in(path: Path, images: NDArray[np.float32]) -> list[Poses]:
    artifact = read_artifact(path)
    outputs = run_session(open_session(path, where=path), {"input": images}, where=path)
    return outputs_to_poses(outputs, (images.shape[2], images.shape[3]), artifact)


@pytest.mark.slow
def test_identical_people(peers: Peers) -> None:
    side = peers.side
    pictures = [*(structured_images(1, side, side, seed=seed) for seed in range(2)), noise(2, side, side)]
    counts = []
    for images in pictures:
        theirs, ours = people_in(peers.theirs, images), people_in(peers.ours, images)
        for one, two in zip(theirs, ours, strict=True):
            # It keeps the best 50 of an image; a crowded one has more.
            errors = compare_people([one], [two[slice(0, MOST)] if len(one) == MOST else two])
            assert (errors.missed, errors.extra) == (0, 0)
            assert errors.keypoint_px_max < 0.05
            assert max(errors.score_max, errors.keypoint_score_max) < 1e-4
            # Unlike ours its boxes are not clipped; both are by the time they are people.
            assert errors.box_px_max < 0.05
            counts.append(errors.matched)
    assert max(counts) > 10
    assert any(0 < count < MOST for count in counts)


def test_kind_and_contract_are_recognised(peers: Peers) -> None:
    theirs = read_artifact(peers.theirs)
    assert theirs.producer == "mmdeploy"
    assert (theirs.input.height, theirs.input.width) == (peers.side, peers.side)
    assert not theirs.input.dynamic_hw
    assert theirs.input.batch is None
    assert theirs.decode.junk_rows
    assert len(theirs.skeleton) == 17


@pytest.mark.slow
def test_fewer_nodes(peers: Peers) -> None:
    import onnxsim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simplified = onnxsim.simplify(onnx.load(peers.theirs))[0]
    theirs = len(simplified.graph.node)
    assert theirs > 500
    assert peers.nodes <= 0.64 * theirs


@pytest.mark.slow
def test_same_people_in_a_photograph(peers: Peers, shared: Path) -> None:
    image = read_image(shared / "data" / "coco" / "000000197388.jpg")
    theirs, ours = (PoseEstimator.open(path)(image) for path in (peers.theirs, peers.ours))
    assert len(ours) > 0
    errors = compare_people([theirs], [ours])
    assert (errors.missed, errors.extra) == (0, 0)
    # Pixels of the photograph, which is about as large as the input.
    assert errors.keypoint_px_max < 0.1
    assert errors.box_px_max < 0.1


# Files of its kind


SIDE = 64
ROWS = [
    # Best first; a batch's rows are filled up with others' and with a junk row.
    [[-20, -10, 30, 40, 0.9], [40, 40, 60, 90, 0.5]],
    [[5, 5, 25, 60, 0.7], [0, 0, 3, 3, 0.04]],
]
JUNK = [1, 2, 3, 4, 0.08]


def mmdeploy_like(path: Path, dets: NDArray[np.float32], keypoints: NDArray[np.float32]) -> Path:
    """A graph with MMDeploy's inputs and outputs that finds these people in any image."""
    nodes = [
        # It must depend on its input, or there is nothing to run.
        helper.make_node("ReduceMax", ["input"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["people", "nothing"], ["dets"]),
        helper.make_node("Add", ["points", "nothing"], ["keypoints"]),
    ]
    graph = helper.make_graph(
        nodes,
        "torch_jit",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, ["batch", "num_dets", 5]),
            helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, ["batch", "num_dets", 17, 3]),
        ],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(dets, "people"),
            numpy_helper.from_array(keypoints, "points"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), path)
    return path


def points_of(dets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keypoints that tell which row they belong to."""
    batch, rows, _ = dets.shape
    points = np.random.default_rng(0).uniform(0, SIDE, (batch, rows, 17, 3)).astype(np.float32)
    points[..., 0] += 100 * np.arange(rows)[:, None]
    return points


def run(path: Path, batch: int) -> list[Poses]:
    estimator = PoseEstimator.open(path)
    assert estimator.artifact.producer == "mmdeploy"
    assert estimator.input_hw == (SIDE, SIDE)
    pictures = [np.zeros((SIDE, SIDE, 3), np.uint8)] * batch
    return estimator.predict(pictures)


def test_junk_rows_are_nobody(tmp_path: Path) -> None:
    dets = np.array([[*rows, JUNK] for rows in ROWS], np.float32)
    points = points_of(dets)
    first, second = run(mmdeploy_like(tmp_path / "peer.onnx", dets, points), 2)
    assert first.scores.tolist() == pytest.approx([0.9, 0.5])
    assert second.scores.tolist() == pytest.approx([0.7])
    # Its boxes are not clipped.
    assert first.boxes.tolist() == [[0, 0, 30, 40], [40, 40, 60, 64]]
    np.testing.assert_allclose(first.keypoints, points[0, :2, :, :2])
    np.testing.assert_allclose(second.keypoint_scores, points[1, :1, :, 2])


def test_a_person_found_twice_is_one(tmp_path: Path) -> None:
    # Where the junk row's cell is a person's, that person's row stands there twice.
    dets = np.array([[*ROWS[0], ROWS[0][1]]], np.float32)
    points = points_of(dets)
    points[0, 2] = points[0, 1]
    (people,) = run(mmdeploy_like(tmp_path / "peer.onnx", dets, points), 1)
    assert people.scores.tolist() == pytest.approx([0.9, 0.5])


def test_a_suppressed_person_does_not_come_back(tmp_path: Path) -> None:
    # The junk row's cell may be one that had been suppressed: another box of somebody who is there.
    dets = np.array([[*ROWS[0], [-19, -10, 31, 40, 0.3]]], np.float32)
    (people,) = run(mmdeploy_like(tmp_path / "peer.onnx", dets, points_of(dets)), 1)
    assert people.scores.tolist() == pytest.approx([0.9, 0.5])


def test_rows_in_any_order(tmp_path: Path) -> None:
    dets = np.array([[JUNK, ROWS[0][1], ROWS[0][0]]], np.float32)
    points = points_of(dets)
    (people,) = run(mmdeploy_like(tmp_path / "peer.onnx", dets, points), 1)
    assert people.scores.tolist() == pytest.approx([0.9, 0.5])
    np.testing.assert_allclose(people.keypoints, points[0, [2, 1], :, :2])


@pytest.mark.parametrize("rows", [[], [JUNK]])
def test_nobody(tmp_path: Path, rows: list[list[float]]) -> None:
    dets = np.array([rows], np.float32).reshape(1, -1, 5)
    (people,) = run(mmdeploy_like(tmp_path / "peer.onnx", dets, points_of(dets)), 1)
    assert len(people) == 0
    assert people.keypoints.shape == (0, 17, 2)
