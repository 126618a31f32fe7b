"""Made-up head tensors, many images at a time, in which no decision about a person is a matter of rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtmo_deploy.runtime.decode import grid_priors, sigmoid

if TYPE_CHECKING:
    from decode_scenes import Knobs
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Double = NDArray[np.float64]

#: A logit that is nobody's.
NOBODY = -9.0
#: Nearer to the threshold than this, an overlap may fall either way in float32.
MARGIN = 1e-5


@dataclass(frozen=True, eq=False)
class Scenes:
    """Head tensors of a batch of images.

    Attributes:
        hw: Height and width of the input, pixels.
        kinds: What each image is.
        logits: ``(B, P)``.
        boxes: ``(B, P, 4)`` offset of the centre from the cell's, and logarithm of the size; pixels.
        feats: ``(B, P, C)``, from which visibilities and pose vectors are computed.
        withdrawn: Candidates that were taken out.
    """

    hw: tuple[int, int]
    kinds: tuple[str, ...]
    logits: Array
    boxes: Array
    feats: Array
    withdrawn: int

    @property
    def has_nan(self) -> bool:
        """Whether a score is NaN."""
        return bool(np.isnan(self.logits).any())

    def maps(self) -> Array:
        """What an exported decoder is fed with, ``(B, 5 + C, P)``."""
        joined = np.concatenate([self.logits[:, :, None], self.boxes, self.feats], axis=2)
        return np.ascontiguousarray(joined.transpose(0, 2, 1))

    def images(self) -> Array:
        """A network input of the right size; decoders look at nothing else of it."""
        return np.zeros((len(self.logits), 3, *self.hw), np.float32)

    def raw_boxes(self) -> Array:
        """``bbox_preds`` of a raw graph, ``(B, P, 4)``: in strides."""
        stride = grid_priors(*self.hw)[:, 2:]
        return np.concatenate([self.boxes[..., :2] / stride, self.boxes[..., 2:] - np.log(stride)], axis=-1)


def make_scenes(hw: tuple[int, int], kinds: list[str], seed: int, *, channels: int, knobs: Knobs) -> Scenes:
    """One image of each kind.

    Kinds: ``empty``; ``one`` candidate; ``few`` scattered ones; ``ties``: equal scores; ``together``: all boxes on one
    spot; ``crowd``: every cell a candidate, half of them on one spot; ``nan``: few, and cells whose score is NaN.
    Scores are of a coarse grid, so that two of them are equal or clearly not.
    """
    rng = np.random.default_rng(seed)
    cells = len(grid_priors(*hw))
    logits = np.full((len(kinds), cells), NOBODY, np.float32)
    size = np.log(rng.uniform(4, max(hw), (len(kinds), cells, 2)))
    boxes = np.concatenate([rng.normal(0, 12, (len(kinds), cells, 2)), size], axis=-1).astype(np.float32)
    for image, kind in enumerate(kinds):
        _fill(rng, kind, hw, logits[image], boxes[image])
    withdrawn = sum(_keep_clear(hw, *picture, knobs) for picture in zip(logits, boxes, strict=True))
    feats = rng.normal(0, 1.5, (len(kinds), cells, channels)).astype(np.float32)
    return Scenes(hw, tuple(kinds), logits, boxes, feats, withdrawn)


def _fill(rng: np.random.Generator, kind: str, hw: tuple[int, int], logits: Array, boxes: Array) -> None:
    """Logits ``(P,)`` and boxes ``(P, 4)`` of one image, in place."""
    count = len(logits)
    if kind == "empty":
        return
    if kind == "one":
        logits[rng.integers(count)] = rng.integers(0, 24) / 8
        return
    some = rng.random(count) < {"few": 0.1, "nan": 0.1, "ties": 0.5, "together": 0.7, "crowd": 1.0}[kind]
    steps = 2 if kind == "ties" else 400
    logits[some] = (rng.integers(-steps, steps, count) / steps * 3)[some]
    if kind == "nan":
        logits[rng.random(count) < 0.1] = np.nan
    if kind in {"together", "crowd"}:
        spot = rng.uniform(0, 1, 2) * (hw[1], hw[0])
        around = rng.normal(0, rng.uniform(1, 20), (count, 2))
        near = np.ones(count, bool) if kind == "together" else rng.random(count) < 0.5
        boxes[near, :2] = (spot + around - grid_priors(*hw)[:, :2])[near]
        boxes[near, 2:] = np.log(rng.uniform(40, 80, 2)) + rng.normal(0, 0.1, (near.sum(), 2))


def _overlaps(hw: tuple[int, int], boxes: Array, chosen: NDArray[np.intp]) -> Double:
    """Overlap of each of some cells' boxes with each, ``(n, n)``, in double precision."""
    box = boxes[chosen].astype(np.float64)
    centre, half = box[:, :2] + grid_priors(*hw)[chosen, :2], np.exp(box[:, 2:]) / 2
    low, high = centre - half, centre + half
    sides = np.maximum(np.minimum(high[:, None], high) - np.maximum(low[:, None], low), 0)
    shared, area = sides.prod(axis=2), (high - low).prod(axis=1)
    result: Double = shared / np.maximum(area[:, None] + area - shared, 1e-6)
    return result


def _keep_clear(hw: tuple[int, int], logits: Array, boxes: Array, knobs: Knobs) -> int:
    """Take out the later of any two candidates whose overlap is next to the threshold; how many."""
    chosen = np.flatnonzero(sigmoid(logits) > knobs.score_thr)
    near = np.abs(_overlaps(hw, boxes, chosen) - knobs.nms_thr) < MARGIN
    later = np.tril(near, -1).any(axis=1)
    logits[chosen[later]] = NOBODY
    return int(later.sum())


def fixed_rounds(scenes: Scenes, image: int, knobs: Knobs) -> int:
    """Rounds of the fixed suppression after which nothing changes any more, in one image.

    A round keeps whom nobody better that was kept overlaps; the first one starts from everybody.
    """
    scores = sigmoid(scenes.logits[image])
    chosen = np.flatnonzero(scores > knobs.score_thr)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")[: knobs.pre_topk]]
    above = np.tril(_overlaps(scenes.hw, scenes.boxes[image], chosen) > knobs.nms_thr, -1)
    keep = np.ones(len(chosen), bool)
    for number in range(len(chosen) + 1):
        after = ~(above & keep).any(axis=1)
        if (after == keep).all():
            return number
        keep = after
    raise AssertionError("the suppression has no fixed point")
