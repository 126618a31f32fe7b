"""How far apart two models may be, by what was done to the second one; and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rtmo_deploy.measure.comparison import Figures
    from rtmo_deploy.measure.tensors import TensorError

#: A score threshold that people are used at; below it detections are kept for average precision only.
WORKING_SCORE: Final = 0.5
#: How many times the reference's own rounding may be exceeded. Measured on keypoints, means and worst values, rounding
#: the weights alone against casting: 0.9 to 2.1 with FP16 on trained and on made-up weights; with BF16 0.6 to 1.9 on
#: trained ones, and up to 29 on made-up ones whose attention logits of 6000 bfloat16 cannot hold.
AMPLIFICATION: Final = 4.0

#: Each bound: the figure that it limits, what that is called, the verb of a failure, and its unit.
_RULE: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "keypoint_mean_px": ("keypoint_px_mean", "keypoints", "are off on average by", " px"),
    "keypoint_p99_px": ("keypoint_px_p99", "99 of 100 keypoints", "are within", " px"),
    "keypoint_max_px": ("keypoint_px_max", "the worst keypoint", "is off by", " px"),
    "box_px": ("box_px_max", "the worst box", "is off by", " px"),
    "score": ("score_max", "the worst score", "is off by", ""),
    "keypoint_score": ("keypoint_score_max", "the worst keypoint score", "is off by", ""),
    "keypoint_score_mean": ("keypoint_score_mean", "keypoint scores", "are off on average by", ""),
}
#: Where less is looser; with a higher threshold fewer people count, which is called looser too.
_AT_LEAST: Final = frozenset({"oks_mean", "layer_snr_db"})
#: What ``parity --json`` holds of the bounds.
_JSON: Final = (
    *("keypoint_p99_px", "keypoint_max_px", "oks_mean", "box_px", "score", "unmatched", "margin", "score_thr"),
    *("tensor", "layer_snr_db", "why"),
)


@dataclass(frozen=True)
class Check:
    """One bound of the rule and what was measured, in words; ``failure`` says that it is over, whether or not it is."""

    name: str
    bound: str
    measured: str
    passed: bool
    failure: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"name": self.name, "bound": self.bound, "measured": self.measured, "passed": self.passed}


@dataclass(frozen=True)
class Bounds:
    """The worst that passes; None for no bound. Lengths are in pixels of the network input.

    Attributes:
        keypoint_mean_px: Mean distance of keypoints.
        keypoint_p99_px: Distance that 99 of 100 keypoints stay under.
        keypoint_max_px: The worst keypoint.
        oks_mean: Mean OKS of matched detections is at least this.
        box_px: Worst box coordinate.
        score: Worst score difference of a detection.
        keypoint_score, keypoint_score_mean: Worst and mean score difference of a keypoint.
        unmatched: Detections of one model only, as a share of the first model's; those whose score is nearer to the
            models' own threshold than ``margin`` do not fail it, because rounding decides about them.
        always_unmatched: So many may be unmatched even if that is a larger share.
        margin: See ``unmatched``.
        score_thr: A detection counts if the score in either model is above this and above the models' own threshold.
        in_order: Whether the detections must be in the same order.
        tensor: Worst element of a raw output, as a share of the tensor's largest magnitude.
        layer_snr_db: A layer differs if its signal is less than this above its error.
        why: The reason for these numbers.
    """

    keypoint_mean_px: float | None = None
    keypoint_p99_px: float | None = None
    keypoint_max_px: float | None = None
    oks_mean: float | None = None
    box_px: float | None = None
    score: float | None = None
    keypoint_score: float | None = None
    keypoint_score_mean: float | None = None
    unmatched: float = 0.0
    always_unmatched: int = 0
    margin: float = 0.0
    score_thr: float = 0.0
    in_order: bool = False
    tensor: float | None = None
    layer_snr_db: float = 90.0
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, as in ``parity --json``."""
        return {name: getattr(self, name) for name in _JSON}

    def distances(self, figures: Figures, rounding: Figures | None = None) -> list[Check]:
        """The bounds on distances and scores of matched detections, with what was measured.

        Args:
            figures: What was measured.
            rounding: What the reference's own rounding costs: where a figure is known, its bound is at least
                ``AMPLIFICATION`` times as much.
        """
        found = []
        if figures.oks_mean is not None and self.oks_mean is not None:
            failure = f"mean OKS {figures.oks_mean:.4f}, bound {self.oks_mean:g}"
            passed = figures.oks_mean >= self.oks_mean
            found.append(Check("mean OKS", f"at least {self.oks_mean:g}", f"{figures.oks_mean:.4f}", passed, failure))
        for name, (figure, what, verb, unit) in _RULE.items():
            bound, value = getattr(self, name), getattr(figures, figure)
            if bound is None or value is None:
                continue
            bound = max(bound, AMPLIFICATION * (getattr(rounding, figure, None) or 0.0))
            failure = f"{what} {verb} {value:.3g}{unit}, bound {bound:.4g}{unit}"
            passed = math.isfinite(value) and value <= bound
            found.append(Check(what, f"at most {bound:.4g}{unit}", f"{value:.3g}{unit}", passed, failure))
        return found

    def tensors(self, errors: Mapping[str, TensorError]) -> list[Check]:
        """The bound on raw outputs, with what was measured of each."""
        found = []
        for name, error in errors.items() if self.tensor is not None else ():
            bound = (self.tensor or 0.0) * max(error.magnitude, 1.0)
            value = f"{error.max_abs:.3g}"
            failure = f"output {name} is off by {value}, bound {bound:.3g}"
            found.append(Check(f"output {name}", f"at most {bound:.3g}", value, error.max_abs <= bound, failure))
        return found

    def may_be_unmatched(self, figures: Figures, rounding: Figures | None = None) -> int:
        """How many detections may be in one model only; ``rounding`` as for :meth:`distances`."""
        amplified = 0 if rounding is None else int(AMPLIFICATION * rounding.unmatched)
        return max(self.always_unmatched, math.floor(self.unmatched * figures.people_a), amplified)

    def against(self, usual: Bounds) -> list[str]:
        """Each bound that is not the usual one, in words: ``mean OKS: 0.8 (usually 0.9: looser)``."""
        words = {
            "oks_mean": ("mean OKS", ""),
            **{name: (what, unit) for name, (_, what, _, unit) in _RULE.items()},
            "unmatched": ("share of people in one model only", ""),
            "score_thr": ("people count above a score of", ""),
        }
        told = []
        for name, (what, unit) in words.items():
            own, other = getattr(self, name), getattr(usual, name)
            if own == other:
                continue
            wider = own is None or (other is not None and (own < other) == (name in _AT_LEAST))
            now, then = ("none" if value is None else f"{value:g}{unit}" for value in (own, other))
            told.append(f"{what}: {now} (usually {then}: {'looser' if wider else 'tighter'})")
        return told

    def with_overrides(self, *, px: float | None = None, score: float | None = None) -> Bounds:
        """Other bounds on pixels (all of them: every keypoint and box) and on scores, where given."""
        changed = self
        if px is not None:
            changed = replace(changed, keypoint_p99_px=px, keypoint_max_px=px, box_px=px, oks_mean=None)
        return changed if score is None else replace(changed, score=score)


def failures(checks: Iterable[Check]) -> list[str]:
    """What is over the bounds, in words; empty when nothing is."""
    return [check.failure for check in checks if not check.passed]


#: Of a conversion that keeps float32. Float noise of the reference itself, measured against float64, is 1e-3 to 5e-3 px
#: on keypoints.
EXACT: Final = Bounds(keypoint_max_px=0.05, box_px=0.05, score=1e-4, keypoint_score=1e-4, in_order=True, tensor=1e-3)
#: Where one side rounds and the other does not, or rounds elsewhere: 16-bit weights, 16-bit graphs in OpenVINO.
#: It is there to find a broken graph; what a precision costs in accuracy is for ``rtmo-deploy eval`` to tell.
ROUNDED: Final = Bounds(
    keypoint_max_px=8.0,
    box_px=8.0,
    score=0.02,
    keypoint_score=0.02,
    unmatched=0.05,
    always_unmatched=1,
    tensor=0.05,
)


#: Of a cast to mixed precision, on well conditioned networks; elsewhere ``AMPLIFICATION`` widens them. About five times
#: what was measured on a trained rtmo-n at 192 to 320 pixels (twice, of quantised ones); see
#: docs/explanation/precision.md.
CASTS: Final[dict[str, Bounds]] = {
    name: Bounds(
        keypoint_mean_px=mean,
        keypoint_max_px=keypoint,
        box_px=box,
        score=score,
        keypoint_score=keypoint_score,
        keypoint_score_mean=keypoint_score_mean,
        unmatched=unmatched,
        always_unmatched=1,
    )
    for name, mean, keypoint, box, score, keypoint_score, keypoint_score_mean, unmatched in (
        ("fp16", 0.1, 1.0, 0.3, 0.002, 0.003, 1.0, 0.05),
        ("bf16", 1.0, 5.0, 3.0, 0.01, 0.025, 1.0, 0.2),
        # Of a quantised model. 16-bit rounding moves some values across a step of 8 bits, which is as much as
        # quantising does. Each CPU rounds in its own way: on a trained rtmo-n 50 roundings moved keypoints by 2.3 to
        # 14.5 px on average, one of them by up to 98 px, its score by up to 0.87. So single scores of keypoints have
        # no bound.
        ("int8+fp16", 25.0, 200.0, 150.0, 0.15, 1.0, 0.12, 0.4),
        ("int8+bf16", 30.0, 200.0, 150.0, 0.2, 1.0, 0.15, 0.7),
    )
}
#: Float noise between runtimes is 1e-3 to 5e-3 px on keypoints and some 1e-6 on scores; sums of products in another
#: order leave layers 100 to 130 dB apart. FP16 has 11 bits: its layers are 60 to 70 dB apart, the last ones perhaps
#: 45 to 60; keypoints move by hundredths of a pixel, those that the network is unsure of by more. Eight bits leave
#: layers 20 to 40 dB apart, and how CPUs add 8-bit products up differs: hidden keypoints and people with low scores
#: differ by any amount. So INT8 is judged by what is portable, on people above a working threshold. On the sample model
#: (6 sets of 16 images, two ways to add up on one CPU with AVX2) nobody was missed or extra there, and the mean OKS was
#: 0.974 to 0.988; at a threshold of 0.3 the 99th percentile varied from 7 to 47 pixels.
BOUNDS: Final[Mapping[str, Bounds]] = {
    "fp32": Bounds(
        keypoint_p99_px=0.02,
        keypoint_max_px=0.05,
        oks_mean=0.9999,
        box_px=0.05,
        score=1e-4,
        unmatched=0.0,
        margin=1e-4,
        score_thr=0.0,
        tensor=1e-3,
        layer_snr_db=90.0,
        why="the same arithmetic in another order",
    ),
    "fp16": Bounds(
        keypoint_p99_px=1.0,
        keypoint_max_px=8.0,
        oks_mean=0.995,
        box_px=2.0,
        score=0.01,
        unmatched=0.02,
        margin=0.01,
        score_thr=WORKING_SCORE,
        tensor=0.02,
        layer_snr_db=45.0,
        why="11 significant bits a number",
    ),
    "bf16": Bounds(
        keypoint_p99_px=8.0,
        keypoint_max_px=64.0,
        oks_mean=0.97,
        box_px=16.0,
        score=0.08,
        unmatched=0.1,
        margin=0.08,
        score_thr=WORKING_SCORE,
        tensor=0.15,
        layer_snr_db=22.0,
        why="8 significant bits a number",
    ),
    "int8": Bounds(
        keypoint_p99_px=None,
        keypoint_max_px=None,
        oks_mean=0.9,
        box_px=None,
        score=None,
        unmatched=0.1,
        margin=0.25,
        score_thr=WORKING_SCORE,
        tensor=None,
        layer_snr_db=12.0,
        why="256 levels a tensor; 'rtmo-deploy eval' tells what it costs in accuracy",
    ),
}
#: What is taken for a precision that is not in the table; the report says so.
LOOSEST: Final = "int8"


def bounds_for(precision_a: str, precision_b: str) -> Bounds:
    """Bounds for two models: of each number the looser one of their precisions'."""
    one, two = (BOUNDS.get(name, BOUNDS[LOOSEST]) for name in (precision_a, precision_b))
    chosen: dict[str, Any] = {}
    for name in (field.name for field in fields(Bounds) if field.name != "why"):
        first, second = getattr(one, name), getattr(two, name)
        if first is None or second is None:
            chosen[name] = None
        else:
            chosen[name] = min(first, second) if name in _AT_LEAST else max(first, second)
    why = one.why if one == two else "; ".join(dict.fromkeys((one.why, two.why)))
    return Bounds(**chosen, why=why)
