"""Greedy suppression against the plain NumPy one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtmo_deploy.model.head import box_iou, non_maximum_suppression
from rtmo_deploy.runtime.rows import greedy_nms, iou


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([1.0, 30.0, 400.0]))
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, spread, (count, 2)), rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([centre - size, centre + size], axis=1).astype(np.float32)
    scores = rng.uniform(0, 1, count).astype(np.float32)
    if draw(st.booleans()):
        scores = np.round(scores, 1)  # ties
    return boxes, scores


@settings(max_examples=300, deadline=None)
@given(scenes(), st.sampled_from([0.0, 0.3, 0.65, 1.0]))
def test_both_implementations_keep_the_same_boxes(scene: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    boxes, scores = scene
    ours = non_maximum_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert ours.tolist() == greedy_nms(boxes, scores, threshold).tolist()


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_iou_is_symmetric_bounded_and_the_same_in_both(scene: tuple[np.ndarray, np.ndarray]) -> None:
    boxes, _ = scene
    matrix = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    assert ((matrix >= 0) & (matrix <= 1 + 1e-6)).all()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    for box, row in zip(boxes, matrix, strict=True):
        np.testing.assert_array_equal(iou(box, boxes), row)


def test_only_more_than_the_threshold_suppresses() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly one half
    scores = torch.tensor([0.9, 0.8])
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [0, 1]
    assert non_maximum_suppression(boxes, scores, 0.4999).tolist() == [0]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 0, 110, 10], [0, 0, 10, 10]])
    assert non_maximum_suppression(boxes, torch.full((3,), 0.5), 0.5).tolist() == [0, 1]
