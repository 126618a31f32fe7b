"""What a comparison of a half graph with its float32 source found, and the bounds it is held against."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.convert.precision.deviation import Deviation


#: How much worse than rounding the weights alone a cast may be. Measured on keypoints, means and worst values: 0.9 to
#: 2.1 with FP16 on trained and on made-up weights; with BF16 0.6 to 1.9 on trained ones, and up to 29 on made-up ones
#: whose attention logits of 6000 bfloat16 cannot hold.
AMPLIFICATION = 4.0


@dataclass(frozen=True)
class HalfBounds:
    """The worst that passes where a network is well conditioned.

    Made-up or half-trained weights amplify any rounding. So a case that is over these bounds still passes if it is no
    more than ``AMPLIFICATION`` times as far off as the float32 graph with nothing but its weights rounded.

    Attributes:
        keypoint_mean: Mean keypoint distance, pixels.
        keypoint_max: Worst keypoint, pixels.
        box_max: Worst box coordinate, pixels.
        score_max: Worst score of a person.
        keypoint_score_max: Worst score of a keypoint.
        unmatched: People in one run only, as a share of the reference's; one person is always allowed.
        keypoint_score_mean: Mean difference of keypoints' scores.
    """

    keypoint_mean: float
    keypoint_max: float
    box_max: float
    score_max: float
    keypoint_score_max: float
    unmatched: float
    keypoint_score_mean: float = 1.0


#: About five times what was measured on a trained rtmo-n at 192 to 320 pixels (twice, of quantised ones); see
#: docs/precision.md.
BOUNDS: Mapping[str, HalfBounds] = {
    "fp16": HalfBounds(0.1, 1.0, 0.3, 0.002, 0.003, 0.05),
    "bf16": HalfBounds(1.0, 5.0, 3.0, 0.01, 0.025, 0.2),
    # Of a quantised model. A half's rounding moves some values across a step of 8 bits, which is as much as quantising
    # does. Each CPU rounds in its own way: on a trained rtmo-n 50 roundings moved keypoints by 2.3 to 14.5 px on
    # average, one of them by up to 98 px, its score by up to 0.87. So single scores of keypoints have no bound.
    "int8+fp16": HalfBounds(25.0, 200.0, 150.0, 0.15, 1.0, 0.4, 0.12),
    "int8+bf16": HalfBounds(30.0, 200.0, 150.0, 0.2, 1.0, 0.7, 0.15),
}
_WORDS = {
    "keypoint_mean": ("keypoints on average", " px"),
    "keypoint_max": ("a keypoint", " px"),
    "box_max": ("a box", " px"),
    "score_max": ("a score", ""),
    "keypoint_score_max": ("a keypoint's score", ""),
    "keypoint_score_mean": ("keypoints' scores on average", ""),
}


@dataclass(frozen=True)
class HalfCase:
    """One input shape, run in one way.

    Attributes:
        batch, height, width: The input.
        emulated: Rounding wherever the graph rounds; otherwise run as it is.
        deviation: From the float32 graph.
        weights: What rounding the weights alone costs at worst, on all inputs, as they are and with noise.
    """

    batch: int
    height: int
    width: int
    emulated: bool
    deviation: Deviation
    weights: Deviation

    def failures(self, bounds: HalfBounds) -> list[str]:
        """What is over the bounds, in words."""
        d, found = self.deviation, []
        allowed = max(1, math.floor(bounds.unmatched * d.people), int(AMPLIFICATION * self.weights.unmatched))
        if d.unmatched > allowed:
            found.append(f"{d.unmatched} of {d.people} people are in one of the two only, bound {allowed}")
        for name, (what, unit) in _WORDS.items():
            value = getattr(d, name)
            bound = max(getattr(bounds, name), AMPLIFICATION * getattr(self.weights, name))
            if not (value <= bound and math.isfinite(value)):
                found.append(f"{what} {value:.3g}{unit} off, bound {bound:.3g}{unit}")
        where = f"input {self.batch}x3x{self.height}x{self.width}, {'emulated' if self.emulated else 'as it is'}"
        return [f"{failure} ({where})" for failure in found]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "input": [self.batch, 3, self.height, self.width],
            "emulated": self.emulated,
            **self.deviation.to_dict(),
            "weights_alone": self.weights.to_dict(),
        }


@dataclass(frozen=True)
class HalfReport:
    """What was compared, and whether it held.

    Attributes:
        reference: What was compared with.
        cases: One entry an input shape and way of running.
        bounds: The worst that passes.
        bias_shift: What was added to the bias of each level's classifier on both sides.
        not_run: Why the file itself was not run, only its emulation; None if it was run.
        peak: The largest magnitude in any half tensor.
        peak_node: The node it comes from.
        broken: What was not finite, or left the range of the type, in words.
    """

    reference: str
    cases: tuple[HalfCase, ...]
    bounds: HalfBounds
    bias_shift: tuple[float, ...]
    not_run: str | None
    peak: float
    peak_node: str
    broken: tuple[str, ...]

    def failures(self) -> list[str]:
        """What is over the bounds, not finite or out of range, in words."""
        return [*self.broken, *(failure for case in self.cases for failure in case.failures(self.bounds))]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "reference": self.reference,
            "ok": not self.failures(),
            "run": self.not_run is None,
            "not_run": self.not_run,
            "bounds": {**asdict(self.bounds), "amplification": AMPLIFICATION},
            "bias_shift": list(self.bias_shift),
            "peak": self.peak if math.isfinite(self.peak) else None,
            "peak_node": self.peak_node,
            "cases": [case.to_dict() for case in self.cases],
        }
