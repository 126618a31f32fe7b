"""Plugin, fixed, onnx and plain NumPy find the same people, on thousands of made-up head tensors.

``python tests/convert/decode_scenes.py --scenes 10000`` is the same on more of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from decode_scenes import BOUNDS, SMALL, USUAL, Decoders, Knobs, Tally, compare, differences, lost, report, run
from numpy_dcc import NumpyDcc
from scene_maker import NOBODY, Scenes, fixed_rounds, make_scenes

from rtmo_deploy.model.dcc import boxes_to_center_scale
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.decode import grid_priors
from rtmo_deploy.zoo import skeleton_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.model import RTMO


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The tensors are small: threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def decoders() -> dict[Knobs, Decoders]:
    """Those that were made; each is traced once."""
    return {}


@pytest.fixture(scope="module")
def small(decoders: dict[Knobs, Decoders], model: RTMO) -> Decoders:
    if SMALL not in decoders:
        decoders[SMALL] = Decoders(model, SMALL)
    return decoders[SMALL]


def test_a_hundred_scenes(decoders: dict[Knobs, Decoders], model: RTMO) -> None:
    tally = run(model, 100, seed=1, decoders=decoders)
    assert not tally.different, report(tally)
    assert tally.compared["fixed"] + tally.past_rounds == tally.compared["onnx"] == 100
    assert tally.compared["plugin"] == tally.scenes
    assert tally.people > 400
    assert set(decoders) == {SMALL, USUAL}
    for mode, worst in tally.worst.items():
        assert all(worst[what] <= bound for what, bound in BOUNDS.items()), mode


@pytest.mark.long
def test_a_thousand_scenes(decoders: dict[Knobs, Decoders], model: RTMO) -> None:
    tally = run(model, 1000, seed=2, decoders=decoders)
    assert not tally.different, report(tally)
    assert tally.compared["onnx"] == 1000
    assert tally.compared["onnx, all candidates"] > 50
    assert tally.compared["plugin"] == tally.scenes
    assert tally.compared["fixed"] + tally.past_rounds == 1000
    assert tally.past_rounds < 10
    assert tally.people > 4500
    assert min(tally.kinds.values()) > 50
    for mode, worst in tally.worst.items():
        assert all(worst[what] <= bound for what, bound in BOUNDS.items()), mode


def test_the_classifier_in_numpy_is_pytorchs(model: RTMO) -> None:
    rng = np.random.default_rng(0)
    pose_vecs = rng.normal(0, 1, (40, model.spec.pose_vec_channels)).astype(np.float32)
    cells = rng.uniform(0, 256, (40, 2)).astype(np.float32)
    low = cells + rng.normal(0, 20, (40, 2)).astype(np.float32)
    boxes = np.concatenate([low, low + rng.uniform(5, 200, (40, 2)).astype(np.float32)], axis=1)
    tensors = (torch.from_numpy(array) for array in (pose_vecs, boxes, cells))
    vectors, corners, centres = tensors
    with torch.no_grad():
        expected = model.head.dcc(vectors, boxes_to_center_scale(corners), centres).numpy()
    np.testing.assert_allclose(NumpyDcc(model.head.dcc)(pose_vecs, boxes, cells), expected, atol=5e-3)


def test_scores_that_are_nan_are_nobody(small: Decoders, model: RTMO) -> None:
    scenes = make_scenes((128, 128), ["nan"] * 8, 3, channels=model.spec.pose_channels, knobs=SMALL)
    assert np.isnan(scenes.logits).sum() > 20
    tally = Tally()
    compare(small, scenes, tally, "nan")
    assert not tally.different, report(tally)
    assert tally.compared == {"plugin": 8, "onnx, all candidates": 8}
    assert tally.people > 8


def chain(model: RTMO, links: int) -> Scenes:
    """One image whose candidates each overlap the next one enough, and nobody else."""
    hw = (160, 160)
    priors = grid_priors(*hw)
    logits = np.full((1, len(priors)), NOBODY, np.float32)
    boxes = np.zeros((1, len(priors), 4), np.float32)
    chosen = np.arange(links + 1)
    logits[0, chosen] = 3 - chosen / 16
    boxes[0, chosen, :2] = np.stack([chosen * 10.0, np.full(links + 1, 50.0)], axis=1) - priors[chosen, :2]
    boxes[0, chosen, 2:] = np.log(60)
    feats = np.random.default_rng(0).normal(0, 1, (1, len(priors), model.spec.pose_channels)).astype(np.float32)
    return Scenes(hw, ("chain",), logits, boxes, feats, 0)


@pytest.mark.parametrize(("links", "past"), [(10, 0), (16, 0), (18, 1)])
def test_past_its_rounds_the_fixed_suppression_loses_nobody(
    small: Decoders, model: RTMO, links: int, past: int
) -> None:
    scenes = chain(model, links)
    # The first is final at once, and each round settles the next.
    assert fixed_rounds(scenes, 0, SMALL) == links
    tally = Tally()
    compare(small, scenes, tally, "chain")
    assert not tally.different, report(tally)
    assert tally.past_rounds == past
    assert tally.compared["fixed"] == 1 - past
    assert tally.people == links // 2 + 1 < SMALL.max_dets


class TestTheComparisonCanFail:
    """What is wrong is told, and by which mode."""

    def tally(self, small: Decoders, model: RTMO) -> Tally:
        scenes = make_scenes((96, 128), ["together", "crowd", "few"], 5, channels=model.spec.pose_channels, knobs=SMALL)
        tally = Tally()
        compare(small, scenes, tally, "wrong")
        return tally

    def test_another_threshold(self, small: Decoders, model: RTMO, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not self.tally(small, model).different
        monkeypatch.setattr(small, "contract", replace(small.contract, nms_thr=0.4))
        wrong = " ".join(self.tally(small, model).different)
        assert "fixed: " in wrong
        assert "plugin: " in wrong
        assert "onnx: " in wrong

    @pytest.mark.parametrize("mode", ["fixed", "plugin", "onnx"])
    @pytest.mark.parametrize("fault", ["order", "box", "score", "keypoint", "visibility", "gone", "rubbish"])
    def test_one_mode_alone(
        self, small: Decoders, model: RTMO, monkeypatch: pytest.MonkeyPatch, mode: str, fault: str
    ) -> None:
        real = small.modes[mode]

        def broken(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            dets, keypoints = (array.copy() for array in real(feeds))
            if fault == "order":
                dets[1, :2], keypoints[1, :2] = dets[1, 1::-1], keypoints[1, 1::-1]
            elif fault == "gone":
                dets[1, 1], keypoints[1, 1] = 0, 0
            elif fault == "rubbish":
                dets[0, -1, 0] = 1
            else:
                array, place, by = {
                    "box": (dets, (1, 0, 0), 1e-2),
                    "score": (dets, (1, 0, 4), 1e-4),
                    "keypoint": (keypoints, (1, 0, 5, 0), 1e-1),
                    "visibility": (keypoints, (1, 0, 5, 2), 1e-4),
                }[fault]
                array[place] += by
            return [dets, keypoints]

        monkeypatch.setitem(small.modes, mode, broken)
        different = self.tally(small, model).different
        assert len(different) == 1
        assert f"{mode}: " in different[0]


def test_nan_is_a_difference() -> None:
    people = Poses(*(np.zeros(shape, np.float32) for shape in ((1, 4), (1,), (1, 17, 2), (1, 17))), skeleton_for(17))
    people.scores[0] = 0.5
    dets, keypoints = np.zeros((1, 5), np.float32), np.zeros((1, 17, 3), np.float32)
    dets[0, 4] = 0.5
    assert isinstance(differences(dets, keypoints, people), dict)
    assert lost(dets, people) == 0
    keypoints[0, 3, 1] = np.nan
    assert isinstance(differences(dets, keypoints, people), str)
    dets[0, 2] = 1
    assert lost(dets, people) == 1
