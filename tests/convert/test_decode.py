"""The decoders inside graphs find what the plain NumPy decoder finds, on made-up head maps, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rtmo_deploy.artifact import DecodeContract, DecodeMode
from rtmo_deploy.convert import trace as tracing
from rtmo_deploy.convert.decode import FixedDecode, OnnxDecode
from rtmo_deploy.convert.network import Grid, HeadMaps
from rtmo_deploy.convert.onnx_ops import reshape
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.comparison import compare_people
from rtmo_deploy.model.dcc import boxes_to_center_scale
from rtmo_deploy.runtime.decode import decode_raw, grid_priors, rows_to_poses, sigmoid
from rtmo_deploy.runtime.rows import iou
from rtmo_deploy.zoo import skeleton_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from rtmo_deploy.model import RTMO
    from rtmo_deploy.poses import Poses

    Array = NDArray[np.float32]

SKELETON = skeleton_for(17)
#: A logit that is nobody's.
NOBODY = -9.0
#: Nearer to the threshold than this, an overlap may fall either way in float32.
MARGIN = 1e-5
# The same scenes on every run: what they compare is arithmetic, and each is a few milliseconds of it.
SCENES = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Alone(nn.Module):
    """A decoder without its network."""

    def __init__(self, decode: nn.Module, channels: int) -> None:
        super().__init__()
        self.grid, self.decode, self.channels = Grid(), decode, channels

    def forward(self, maps: Tensor, images: Tensor) -> tuple[Tensor, ...]:
        fine = reshape(images[:, :, ::16, ::16], (0, 0, -1))
        result: tuple[Tensor, ...] = self.decode(HeadMaps(maps, self.channels, fine, self.grid(images)), images)
        return result


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder in ONNX Runtime, the contract it keeps, and the network it belongs to."""

    session: ort.InferenceSession
    contract: DecodeContract
    model: RTMO

    def rows(self, scene: Scene) -> tuple[Array, Array]:
        """``dets`` and ``keypoints``."""
        dets, keypoints = self.session.run(None, {"maps": scene.maps(), "images": scene.images()})
        assert dets.shape[2:] == (5,)
        assert keypoints.shape == (*dets.shape[:2], 17, 3)
        assert np.isfinite(dets).all()
        assert np.isfinite(keypoints).all()
        return dets, keypoints

    def expected(self, scene: Scene, contract: DecodeContract | None = None) -> list[Poses]:
        """What the plain decoder makes of the same scene."""
        return decode_raw(
            scene.head_outputs(self.model),
            scene.hw,
            contract or self.contract,
            SKELETON,
            lambda pose, boxes, cells: (
                self.model.head.dcc(
                    torch.from_numpy(pose), boxes_to_center_scale(torch.from_numpy(boxes)), torch.from_numpy(cells)
                )
                .detach()
                .numpy()
            ),
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """Head maps.

    Attributes:
        hw: Height and width of the input, pixels.
        logits: ``(B, P)``.
        boxes: ``(B, P, 4)`` offset of the centre from the cell's, and logarithm of the size; pixels.
        feats: ``(B, P, C)``.
    """

    hw: tuple[int, int]
    logits: Array
    boxes: Array
    feats: Array

    def maps(self) -> Array:
        joined = np.concatenate([self.logits[:, :, None], self.boxes, self.feats], axis=2)
        return np.ascontiguousarray(joined.transpose(0, 2, 1), dtype=np.float32)

    def images(self) -> Array:
        return np.zeros((len(self.logits), 3, *self.hw), np.float32)

    def corners(self) -> NDArray[np.float64]:
        """``(B, P, 4)`` x1, y1, x2, y2."""
        priors = grid_priors(*self.hw).astype(np.float64)
        centre = self.boxes[..., :2] + priors[:, :2]
        half = np.exp(self.boxes[..., 2:].astype(np.float64)) / 2
        return np.concatenate([centre - half, centre + half], axis=-1)

    def head_outputs(self, model: RTMO) -> dict[str, Array]:
        """The raw head tensors that these maps stand for."""
        stride = grid_priors(*self.hw)[:, 2:]
        fine = (stride == 16)[None]
        head = model.head.head_module
        feats = torch.from_numpy(self.feats).transpose(1, 2)[..., None]
        out = {}
        for name, convs in (("kpt_vis", head.out_kpt_vis), ("pose_vecs", head.out_pose)):
            levels = [conv(feats).detach()[..., 0].transpose(1, 2).numpy() for conv in convs]
            out[name] = np.where(fine, *levels)
        boxes = np.concatenate([self.boxes[..., :2] / stride, self.boxes[..., 2:] - np.log(stride)], axis=-1)
        return {"cls_scores": self.logits[:, :, None], "bbox_preds": boxes.astype(np.float32), **out}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The tensors are small: threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def decoder(model: RTMO) -> Callable[..., Decoder]:
    """A decoder by its mode and knobs; each is traced once."""
    made: dict[Any, Decoder] = {}
    channels = model.spec.pose_channels

    def make(mode: DecodeMode, *, batch: int | None = None, **knobs: Any) -> Decoder:
        key = (mode, batch, *sorted(knobs.items()))
        if key in made:
            return made[key]
        knobs = {"score_thr": 0.1, "nms_thr": 0.65, **knobs}
        contract = DecodeContract(
            mode,
            knobs["score_thr"],
            knobs["nms_thr"],
            max_dets=knobs["max_dets"],
            pre_topk=knobs.get("pre_topk"),
            nms_rounds=knobs.get("rounds"),
            min_rows=knobs.get("min_rows", 0),
        )
        module: nn.Module
        if mode is DecodeMode.ONNX:
            module, rows = OnnxDecode(model, contract, batch=batch), "people"
        else:
            module, rows = FixedDecode(model, contract, pad=knobs["pre_topk"]), knobs["max_dets"]
        pictures = batch or "batch"
        shapes = {
            "maps": (pictures, 5 + channels, "cells"),
            "images": (pictures, 3, "height", "width"),
            "dets": (pictures, rows, 5),
            "keypoints": (pictures, rows, 17, 3),
        }
        cells = tracing.cells_of(96, 128)
        inputs = (torch.zeros(batch or 3, 5 + channels, cells), torch.zeros(batch or 3, 3, 96, 128))
        graph = tracing._finish(tracing._trace(Alone(module, channels), inputs, ("maps", "images"), shapes, 17), shapes)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        made[key] = Decoder(session, contract, model)
        return made[key]

    return make


def make_scene(
    model: RTMO, hw: tuple[int, int], kinds: list[str], seed: int, *, nms_thr: float = 0.65, score_thr: float = 0.1
) -> Scene:
    """One image of each kind, no decision of which is a matter of rounding.

    Scores are of a coarse grid, so that two of them are equal or clearly not.
    """
    rng = np.random.default_rng(seed)
    priors = grid_priors(*hw)
    batch, count = len(kinds), len(priors)
    logits = np.full((batch, count), NOBODY, np.float32)
    size = np.log(rng.uniform(4, max(hw), (batch, count, 2)))
    boxes = np.concatenate([rng.normal(0, 12, (batch, count, 2)), size], axis=-1).astype(np.float32)
    for i, kind in enumerate(kinds):
        if kind == "empty":
            continue
        if kind == "one":
            logits[i, rng.integers(count)] = rng.integers(0, 24) / 8
            continue
        share = {"few": 0.1, "ties": 0.5, "together": 0.7, "crowd": 1.0}[kind]
        some = rng.random(count) < share
        steps = 2 if kind == "ties" else 400
        logits[i, some] = (rng.integers(-steps, steps, count) / steps * 3)[some]
        if kind in {"together", "crowd"}:
            spot = rng.uniform(0, 1, 2) * (hw[1], hw[0])
            around = rng.normal(0, rng.uniform(1, 20), (count, 2))
            near = np.ones(count, bool) if kind == "together" else rng.random(count) < 0.5
            boxes[i, near, :2] = (spot + around - priors[:, :2])[near]
            boxes[i, near, 2:] = np.log(rng.uniform(40, 80, 2)) + rng.normal(0, 0.1, (near.sum(), 2))
    feats = rng.normal(0, 1.5, (batch, count, model.spec.pose_channels)).astype(np.float32)
    scene = Scene(hw, logits, boxes, feats)
    _keep_clear(scene, nms_thr, score_thr)
    return scene


def _keep_clear(scene: Scene, nms_thr: float, score_thr: float) -> None:
    """Take out the worse of any two candidates whose overlap is next to the threshold."""
    for logits, corners in zip(scene.logits, scene.corners(), strict=True):
        candidates = np.flatnonzero(sigmoid(logits) > score_thr)
        for place, j in enumerate(candidates[1:], 1):
            near = np.abs(iou(corners[j], corners[candidates[:place]]) - nms_thr) < MARGIN
            if near.any():
                logits[j] = NOBODY


def longest_chain(scene: Scene, contract: DecodeContract) -> int:
    """Links of the longest chain of candidates, each overlapping the next, worse one; over all images."""
    longest = 0
    for logits, corners in zip(scene.logits, scene.corners(), strict=True):
        scores = sigmoid(logits)
        candidates = np.flatnonzero(scores > contract.score_thr)
        candidates = candidates[np.argsort(-scores[candidates], kind="stable")][: contract.pre_topk]
        links = np.zeros(len(candidates), int)
        for i in range(1, len(candidates)):
            above = iou(corners[candidates[i]], corners[candidates[:i]]) > contract.nms_thr
            links[i] = (links[:i][above] + 1).max(initial=0)
        longest = max(longest, int(links.max(initial=0)))
    return longest


def assert_people(dets: Array, keypoints: Array, expected: list[Poses]) -> None:
    """The same people in the same rows, and nothing below them."""
    for rows, points, people in zip(dets, keypoints, expected, strict=True):
        count = len(people)
        assert len(rows) >= count
        np.testing.assert_allclose(rows[:count, 4], people.scores, atol=2e-6)
        np.testing.assert_allclose(rows[:count, :4], people.boxes, atol=2e-3, rtol=1e-5)
        np.testing.assert_allclose(points[:count, :, :2], people.keypoints, atol=0.02)
        np.testing.assert_allclose(points[:count, :, 2], people.keypoint_scores, atol=1e-5)
        assert (np.diff(rows[:count, 4]) <= 0).all()
        assert not rows[count:].any()
        assert not points[count:].any()


def assert_superset(more: list[Poses], fewer: list[Poses]) -> None:
    for one, two in zip(fewer, more, strict=True):
        errors = compare_people([one], [two])
        assert errors.missed == 0, f"{errors.missed} of {len(one)} people are lost"
        assert (errors.keypoint_px_max or 0) < 0.02


SIDES = st.sampled_from([32, 64, 96, 160])
KINDS = st.sampled_from(["empty", "one", "few", "ties", "together", "crowd"])
PICTURES = st.lists(KINDS, min_size=1, max_size=4)
SEEDS = st.integers(0, 2**32)

ONNX = {"max_dets": 1000}
FIXED = {"max_dets": 20, "pre_topk": 60, "rounds": 16}


@given(height=SIDES, width=SIDES, kinds=PICTURES, seed=SEEDS)
@SCENES
def test_onnx_mode(decoder: Callable[..., Decoder], height: int, width: int, kinds: list[str], seed: int) -> None:
    decode = decoder(DecodeMode.ONNX, **ONNX)
    scene = make_scene(decode.model, (height, width), kinds, seed)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    assert dets.shape[1] == max(map(len, expected))
    assert_people(dets, keypoints, expected)


@given(height=SIDES, width=SIDES, kinds=PICTURES, seed=SEEDS)
@settings(SCENES, max_examples=80)
def test_onnx_mode_with_few_candidates_and_few_people(
    decoder: Callable[..., Decoder], height: int, width: int, kinds: list[str], seed: int
) -> None:
    # 12 candidates: more than the smallest input has cells (5), fewer than the others have.
    decode = decoder(DecodeMode.ONNX, max_dets=4, pre_topk=12, score_thr=0.3, nms_thr=0.4)
    scene = make_scene(decode.model, (height, width), kinds, seed, nms_thr=0.4, score_thr=0.3)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    assert dets.shape[1] == max(map(len, expected)) <= 4
    assert_people(dets, keypoints, expected)


@given(height=SIDES, width=SIDES, kind=KINDS, seed=SEEDS)
@settings(SCENES, max_examples=80)
def test_onnx_mode_with_one_picture_baked_in(
    decoder: Callable[..., Decoder], height: int, width: int, kind: str, seed: int
) -> None:
    decode = decoder(DecodeMode.ONNX, batch=1, **ONNX)
    scene = make_scene(decode.model, (height, width), [kind], seed)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    assert dets.shape[:2] == (1, len(expected[0]))
    assert_people(dets, keypoints, expected)


@given(height=SIDES, width=SIDES, kinds=PICTURES, seed=SEEDS)
@SCENES
def test_fixed_mode(decoder: Callable[..., Decoder], height: int, width: int, kinds: list[str], seed: int) -> None:
    decode = decoder(DecodeMode.FIXED, **FIXED)
    scene = make_scene(decode.model, (height, width), kinds, seed)
    dets, keypoints = decode.rows(scene)
    assert dets.shape == (len(kinds), 20, 5)
    chain = longest_chain(scene, decode.contract)
    event(f"longest chain: {chain}")
    if chain <= 16:
        assert_people(dets, keypoints, decode.expected(scene))


@given(height=SIDES, width=SIDES, kinds=PICTURES, seed=SEEDS, rounds=st.sampled_from([2, 4]))
@settings(SCENES, max_examples=50)
def test_fixed_mode_past_its_rounds(
    decoder: Callable[..., Decoder], height: int, width: int, kinds: list[str], seed: int, rounds: int
) -> None:
    decode = decoder(DecodeMode.FIXED, max_dets=60, pre_topk=60, rounds=rounds, nms_thr=0.4)
    scene = make_scene(decode.model, (height, width), kinds, seed, nms_thr=0.4)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    chain = longest_chain(scene, decode.contract)
    event(f"chain longer than the rounds: {chain > rounds}")
    if chain <= rounds:
        assert_people(dets, keypoints, expected)
    else:
        assert_superset(rows_to_poses(dets, keypoints, scene.hw, decode.contract, SKELETON), expected)


@pytest.mark.parametrize("mode", [DecodeMode.ONNX, DecodeMode.FIXED])
def test_thousands_of_candidates(decoder: Callable[..., Decoder], model: RTMO, mode: DecodeMode) -> None:
    knobs = ONNX if mode is DecodeMode.ONNX else {"max_dets": 100, "pre_topk": 300, "rounds": 16}
    decode = decoder(mode, **knobs)
    rng = np.random.default_rng(5)
    hw = (768, 512)
    count = len(grid_priors(*hw))
    logits = rng.permutation(np.linspace(-2, 4, 2 * count, dtype=np.float32)).reshape(2, count)
    size = np.log(rng.uniform(20, 60, (2, count, 2)))
    boxes = np.concatenate([rng.normal(0, 20, (2, count, 2)), size], axis=-1).astype(np.float32)
    scene = Scene(hw, logits, boxes, rng.normal(0, 1, (2, count, model.spec.pose_channels)).astype(np.float32))
    _keep_clear(scene, 0.65, 0.1)
    assert (sigmoid(scene.logits) > 0.1).sum() > 3000
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    if mode is DecodeMode.FIXED:
        assert longest_chain(scene, decode.contract) <= 16
        assert min(map(len, expected)) == dets.shape[1] == 100
    else:
        assert dets.shape[1] == max(map(len, expected)) > 300
    assert_people(dets, keypoints, expected)


def blank(model: RTMO, batch: int = 1, hw: tuple[int, int] = (64, 64), *, seed: int = 0) -> Scene:
    """Nobody, and boxes of one pixel."""
    count = len(grid_priors(*hw))
    feats = np.random.default_rng(seed).normal(0, 1, (batch, count, model.spec.pose_channels))
    boxes = np.zeros((batch, count, 4), np.float32)
    return Scene(hw, np.full((batch, count), NOBODY, np.float32), boxes, feats.astype(np.float32))


@pytest.fixture(params=[DecodeMode.ONNX, DecodeMode.FIXED])
def any_decoder(request: pytest.FixtureRequest, decoder: Callable[..., Decoder]) -> Callable[..., Decoder]:
    """Makes the decoder of either mode with some thresholds."""
    knobs = ONNX if request.param is DecodeMode.ONNX else FIXED
    return lambda **thresholds: decoder(request.param, **knobs, **thresholds)


@pytest.mark.parametrize("batch", [1, 4])
def test_nobody(any_decoder: Callable[..., Decoder], model: RTMO, batch: int) -> None:
    decode = any_decoder()
    dets, keypoints = decode.rows(blank(model, batch))
    assert dets.shape[:2] == (batch, 0 if decode.contract.mode is DecodeMode.ONNX else 20)
    assert not dets.any()
    assert not keypoints.any()


def test_score_at_the_threshold_is_nobody(any_decoder: Callable[..., Decoder], model: RTMO) -> None:
    decode = any_decoder(score_thr=0.5)
    scene = blank(model)
    scene.logits[0, 3], scene.logits[0, 7], scene.logits[0, 17] = 0.0, 1e-5, -1e-5
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    assert [len(people) for people in expected] == [1]
    assert_people(dets, keypoints, expected)
    assert (dets[0, :, 4] > 0).sum() == 1


@pytest.mark.parametrize(("shift", "kept"), [(0.25, 2), (0.25 - 2**-10, 1), (0.25 + 2**-10, 2)])
def test_overlap_at_the_threshold_is_not_dropped(
    any_decoder: Callable[..., Decoder], model: RTMO, shift: float, kept: int
) -> None:
    # Two boxes of 1x1 pixel, a quarter apart: 0.75 / 1.25 is float32's 0.6 exactly.
    decode = any_decoder(nms_thr=0.6)
    scene = blank(model)
    scene.logits[0, :2] = (2.0, 1.0)
    scene.boxes[0, 1, 0] = shift - 16
    dets, keypoints = decode.rows(scene)
    assert (dets[0, :, 4] > 0).sum() == kept
    assert_people(dets, keypoints, decode.expected(scene))


def test_equal_scores_keep_the_order_of_cells(any_decoder: Callable[..., Decoder], model: RTMO) -> None:
    decode = any_decoder()
    scene = blank(model, 2)
    scene.logits[0, [1, 5, 9, 17]] = 1.5
    scene.logits[1, [0, 16, 19]] = 1.5
    # The cells 5 and 9 are one and the same box, so that the first of them suppresses the other.
    priors = grid_priors(*scene.hw)
    scene.boxes[0, 9, :2] = priors[5, :2] - priors[9, :2]
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    assert [len(people) for people in expected] == [3, 3]
    assert_people(dets, keypoints, expected)


def test_level_of_a_cell_decides_its_weights(any_decoder: Callable[..., Decoder], model: RTMO) -> None:
    # The last cell of stride 16, and the first and last of stride 32, with the same features.
    decode = any_decoder()
    scene = blank(model, hw=(96, 64))
    fine = 6 * 4
    scene.feats[:] = scene.feats[:, :1]
    scene.logits[0, [fine - 1, fine, fine + 5]] = (3.0, 2.0, 1.0)
    scene.boxes[..., 2:] = np.log(40)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    first, second, third = expected[0].keypoint_scores
    assert np.abs(second - third).max() < 1e-6
    assert np.abs(first - second).max() > 0.01
    assert_people(dets, keypoints, expected)


def test_boxes_are_clipped_and_keypoints_are_not(any_decoder: Callable[..., Decoder], model: RTMO) -> None:
    decode = any_decoder()
    scene = blank(model, hw=(64, 96))
    # One far outside the lower right corner, one around everything.
    scene.logits[0, :2] = (2.0, 1.0)
    scene.boxes[0, 0] = (300, 200, np.log(30), np.log(50))
    scene.boxes[0, 1] = (40, 30, np.log(900), np.log(700))
    dets, keypoints = decode.rows(scene)
    assert dets[0, 0, :4].tolist() == [96, 64, 96, 64]
    assert dets[0, 1, :4].tolist() == [0, 0, 96, 64]
    assert keypoints[0, 0, :, 0].min() > 200
    assert_people(dets, keypoints, decode.expected(scene))


def test_infinities_of_nobody_stay_away(any_decoder: Callable[..., Decoder], model: RTMO) -> None:
    decode = any_decoder()
    scene = blank(model, 2)
    scene.logits[0, 4] = 1.0
    scene.boxes[:, 5:9, 2:] = 200.0
    dets, _ = decode.rows(scene)
    assert (dets[..., 4] > 0).sum(axis=1).tolist() == [1, 0]
    assert np.count_nonzero(dets[0].any(axis=1)) == 1
    assert not dets[1].any()


def chain(model: RTMO, length: int) -> Scene:
    """Boxes in a row, each overlapping the next above 0.65 and the one after next below, the best first."""
    scene = blank(model, hw=(128, 128), seed=1)
    priors = grid_priors(*scene.hw)
    for i in range(length):
        # 10x10 boxes, 1.5 px apart: IoU 0.74 with the next, 0.54 with the one after it.
        scene.logits[0, i] = 4.0 - i / 16
        scene.boxes[0, i] = (5 + 1.5 * i - priors[i, 0], 20 - priors[i, 1], np.log(10), np.log(10))
    return scene


@pytest.mark.parametrize("rounds", [2, 16])
def test_chains(decoder: Callable[..., Decoder], model: RTMO, rounds: int) -> None:
    decode = decoder(DecodeMode.FIXED, max_dets=60, pre_topk=60, rounds=rounds)
    for length in range(1, 61):
        scene = chain(model, length)
        assert longest_chain(scene, decode.contract) == length - 1
        dets, keypoints = decode.rows(scene)
        expected = decode.expected(scene)
        assert len(expected[0]) == (length + 1) // 2
        found = rows_to_poses(dets, keypoints, scene.hw, decode.contract, SKELETON)
        if length - 1 <= rounds:
            assert_people(dets, keypoints, expected)
        else:
            assert_superset(found, expected)
            # Who is not there but for the bound: the duplicates past it.
            assert len(found[0]) == rounds // 2 + length - rounds


def test_odd_rounds_would_lose_people(decoder: Callable[..., Decoder], model: RTMO) -> None:
    decode = decoder(DecodeMode.FIXED, max_dets=60, pre_topk=60, rounds=3)
    scene = chain(model, 10)
    dets, keypoints = decode.rows(scene)
    found = rows_to_poses(dets, keypoints, scene.hw, decode.contract, SKELETON)
    errors = compare_people(decode.expected(scene), found)
    assert (errors.missed, errors.extra) == (3, 0)
    with pytest.raises(UsageError, match="rounds"):
        ExportOptions("fixed", rounds=3)


@given(seed=SEEDS, length=st.integers(17, 60))
@settings(SCENES, max_examples=60)
def test_tangled_chains_lose_nobody(decoder: Callable[..., Decoder], seed: int, length: int) -> None:
    # A random walk of boxes, best first or in any order: longer and less regular than 16 rounds can settle.
    decode = decoder(DecodeMode.FIXED, max_dets=60, pre_topk=60, rounds=16)
    rng = np.random.default_rng(seed)
    scene = blank(decode.model, hw=(128, 128), seed=2)
    priors = grid_priors(*scene.hw)
    steps = np.cumsum(rng.uniform(0.5, 2.2, (length, 2)) * (1, 0.3), axis=0)
    order = np.arange(length) if seed % 2 else rng.permutation(length)
    for i in range(length):
        scene.logits[0, i] = 4.0 - order[i] / 16
        scene.boxes[0, i] = (*(steps[i] - priors[i, :2]), np.log(10), np.log(10))
    _keep_clear(scene, 0.65, 0.1)
    dets, keypoints = decode.rows(scene)
    expected = decode.expected(scene)
    links = longest_chain(scene, decode.contract)
    event(f"settled: {links <= 16}")
    if links <= 16:
        assert_people(dets, keypoints, expected)
    else:
        assert_superset(rows_to_poses(dets, keypoints, scene.hw, decode.contract, SKELETON), expected)
