"""The exported coordinate classifier finds the keypoints that the trained one finds."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pytest
import torch
from golden import golden_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.convert.decode import ExportCoordinates
from rtmo_deploy.convert.trace import trace_coordinates
from rtmo_deploy.model import NetworkSpec
from rtmo_deploy.model.dcc import BOX_PADDING, DCC
from rtmo_deploy.zoo import ARCHITECTURES

if TYPE_CHECKING:
    from torch import Tensor

    from rtmo_deploy.model import RTMO

JOINTS = (17, 14)
#: Of a pose vector.
CHANNELS = NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17).pose_vec_channels


@functools.cache
def network(joints: int) -> RTMO:
    return golden_model(NetworkSpec.of(ARCHITECTURES["rtmo-n"], joints), bias=(0, 0))


@functools.cache
def classifiers(joints: int) -> tuple[DCC, ExportCoordinates]:
    """The trained classifier in float64, and the exported one."""
    dcc = network(joints).head.dcc
    return copy.deepcopy(dcc).double(), ExportCoordinates(dcc)


def people(count: int, channels: int, size: float, *, seed: int, spread: float = 3.0) -> tuple[Tensor, ...]:
    """Pose vectors, cell centres and boxes (cx, cy, w, h) of about ``size`` pixels, many partly outside the input."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(count, channels, generator=generator) * spread
    cells = torch.randint(0, 40, (count, 2), generator=generator) * 16 + 7.5
    centres = cells + torch.randn(count, 2, generator=generator) * size * 0.3
    sides = (torch.rand(count, 2, generator=generator) + 0.05) * size
    return pose, cells, torch.cat([centres, sides], dim=1)


@torch.no_grad()
def assert_same(reference: DCC, exported: ExportCoordinates, pose: Tensor, cells: Tensor, boxes: Tensor) -> None:
    padded = boxes * torch.tensor([1, 1, BOX_PADDING, BOX_PADDING])
    expected = reference(pose.double(), padded.double(), cells.double())
    got = exported(pose, boxes[:, :2] - cells, boxes)
    assert got.shape == expected.shape == (len(pose), exported.num_keypoints, 2)
    assert got.isfinite().all()
    if len(pose):
        assert_near(got, expected, boxes[:, 2:].amax(dim=1))


def assert_near(got: Tensor, expected: Tensor, size: Tensor, slack: float = 1.0) -> None:
    """Within float32's rounding: the phases of the encoding grow with the box, and so does a bin's width."""
    bound = slack * (1e-3 + 2e-5 * size + 5e-8 * size**2)
    error = (got - expected).norm(dim=-1).amax(dim=1)
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("joints", JOINTS)
@pytest.mark.parametrize("size", [0.01, 1.0, 60.0, 600.0, 1e4])
def test_boxes_of_all_sizes(joints: int, size: float) -> None:
    assert_same(*classifiers(joints), *people(200, CHANNELS, size, seed=1))


@given(
    joints=st.sampled_from(JOINTS),
    count=st.sampled_from([0, 1, 2, 7]),
    size=st.floats(0.001, 1500),
    spread=st.floats(0, 20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_any_people(joints: int, count: int, size: float, spread: float, seed: int) -> None:
    assert_same(*classifiers(joints), *people(count, CHANNELS, size, seed=seed, spread=spread))


def test_pose_vectors_of_nothing() -> None:
    # The norm's guard: a keypoint whose features vanish is divided by it and not by zero.
    dcc = copy.deepcopy(network(17).head.dcc)
    with torch.no_grad():
        for part in (dcc.pose_to_kpts[0], dcc.pose_to_kpts[1]):
            part.weight.zero_()
            part.bias.zero_()
        dcc.pose_to_kpts[1].running_mean.zero_()
        pose, cells, boxes = people(3, CHANNELS, 80.0, seed=2)
        for features in (0.0, 1e-6, 1e-3):
            dcc.pose_to_kpts[1].bias.fill_(features)
            assert_same(copy.deepcopy(dcc).double(), ExportCoordinates(dcc), pose, cells, boxes)


def test_extreme_logits() -> None:
    # All probability in one bin, of the 192 along x as of the 256 along y: none falls into the padding.
    dcc = copy.deepcopy(network(17).head.dcc)
    with torch.no_grad():
        for layer in (dcc.x_fc, dcc.y_fc):
            layer.weight.mul_(300)
    pose, cells, boxes = people(50, CHANNELS, 300.0, seed=3)
    exported = ExportCoordinates(dcc)
    with torch.no_grad():
        got = exported(pose, boxes[:, :2] - cells, boxes)
        probability = (
            copy.deepcopy(dcc)
            .double()
            .heatmaps(
                pose.double(),
                (boxes * torch.tensor([1, 1, BOX_PADDING, BOX_PADDING])).double(),
                cells.double(),
            )
        )
    for axis, bins in enumerate((dcc.x_bins, dcc.y_bins)):
        top = probability[axis].max(dim=-1)
        place = bins[top.indices] * boxes[:, 2 + axis, None] * BOX_PADDING + boxes[:, axis, None]
        sure = top.values > 1 - 1e-6
        assert sure.float().mean() > 0.3
        assert (got[..., axis] - place).abs()[sure].max() < 0.02


def test_trained_classifier_is_untouched() -> None:
    dcc = network(17).head.dcc
    before = {key: value.clone() for key, value in dcc.state_dict().items()}
    exported = ExportCoordinates(dcc)
    with torch.no_grad():
        for parameter in exported.parameters():
            parameter.fill_(3.0)
    assert all(torch.equal(before[key], value) for key, value in dcc.state_dict().items())


def test_bins_that_are_not_symmetric_are_refused() -> None:
    dcc = copy.deepcopy(network(17).head.dcc)
    dcc.x_bins += 0.01
    with pytest.raises(ValueError, match="symmetric"):
        ExportCoordinates(dcc)


def test_bias_of_the_bin_encoder_cancels() -> None:
    # The export leaves it out: it must not matter to the trained classifier either, whatever it is.
    dcc = copy.deepcopy(network(17).head.dcc).double()
    pose, cells, boxes = (t.double() for t in people(20, CHANNELS, 200.0, seed=4))
    with torch.no_grad():
        before = dcc(pose, boxes, cells)
        dcc.x_fc.bias.add_(5.0)
        dcc.y_fc.bias.neg_()
        after = dcc(pose, boxes, cells)
    assert (before - after).abs().max() < 1e-6


@pytest.mark.parametrize("joints", JOINTS)
def test_companion_in_onnx_runtime(joints: int) -> None:
    graph = trace_coordinates(network(joints), 17)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    reference = copy.deepcopy(network(joints).head.dcc).double()
    for count, size in itertools.product((0, 1, 2, 200), (5.0, 300.0)):
        pose, cells, boxes = people(count, CHANNELS, size, seed=5)
        half = boxes[:, 2:] / 2
        corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)
        feeds = {"pose_vecs": pose.numpy(), "boxes": corners.numpy(), "priors": cells.numpy()}
        got = session.run(["keypoints"], feeds)[0]
        assert got.shape == (count, joints, 2)
        assert got.dtype == np.float32
        if count:
            padded = boxes * torch.tensor([1, 1, BOX_PADDING, BOX_PADDING])
            with torch.no_grad():
                expected = reference(pose.double(), padded.double(), cells.double())
            # Boxes given by their corners have lost some digits.
            assert_near(torch.from_numpy(got), expected, boxes[:, 2:].amax(dim=1), slack=5)
