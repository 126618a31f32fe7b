"""The worst that passes, by the precisions of the two models; and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A score threshold that people are used at; below it detections are kept for average precision only.
WORKING_SCORE: Final = 0.5


@dataclass(frozen=True)
class AgreementBounds:
    """The worst that passes; None for no bound. Lengths are in pixels of the network input.

    Attributes:
        keypoint_p99_px: Distance that 99 of 100 keypoints stay under.
        keypoint_max_px: The worst keypoint.
        oks_mean: Mean OKS of matched people is at least this.
        box_px: Worst box coordinate.
        score: Worst score difference of a person.
        unmatched: People in one model only, as a share of the first model's; those whose score is nearer to the
            models' own threshold than ``margin`` do not fail it, because rounding decides about them.
        margin: See ``unmatched``.
        score_thr: A person counts if the score in either model is above this and above the models' own threshold.
        tensor: Worst element of a raw output, as a share of the tensor's largest magnitude.
        layer_snr_db: A layer has parted if its signal is less than this above its error.
        why: The reason for these numbers.
    """

    keypoint_p99_px: float | None
    keypoint_max_px: float | None
    oks_mean: float | None
    box_px: float | None
    score: float | None
    unmatched: float
    margin: float
    score_thr: float
    tensor: float | None
    layer_snr_db: float
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def against(self, usual: AgreementBounds) -> list[str]:
        """Each bound that is not the usual one, in words: ``mean OKS, at least: 0.8 (usually 0.9: looser)``."""
        told = []
        for name, words in _WORDS.items():
            own, other = getattr(self, name), getattr(usual, name)
            if own == other:
                continue
            wider = own is None or (other is not None and (own < other) == (name in _AT_LEAST))
            what = f"{words}: {'none' if own is None else f'{own:g}'}"
            told.append(
                f"{what} (usually {'none' if other is None else f'{other:g}'}: {'looser' if wider else 'tighter'})"
            )
        return told

    def with_overrides(self, *, px: float | None = None, score: float | None = None) -> AgreementBounds:
        """Other bounds on pixels (all of them: every keypoint and box) and on scores, where given."""
        changed = self
        if px is not None:
            changed = replace(changed, keypoint_p99_px=px, keypoint_max_px=px, box_px=px, oks_mean=None)
        if score is not None:
            changed = replace(changed, score=score)
        return changed


#: Float noise between runtimes is 1e-3 to 5e-3 px on keypoints and some 1e-6 on scores; sums of products in another
#: order leave layers 100 to 130 dB apart. A half has 11 bits: its layers are 60 to 70 dB apart, the last ones perhaps
#: 45 to 60; keypoints move by hundredths of a pixel, those that the network is unsure of by more. Eight bits leave
#: layers 20 to 40 dB apart, and how CPUs add 8-bit products up differs: hidden keypoints and people with low scores
#: differ by any amount. So INT8 is judged by what is portable, on people above a working threshold. On the sample model
#: (6 sets of 16 images, two ways to add up on one CPU with AVX2) nobody was missed or extra there, and the mean OKS was
#: 0.974 to 0.988; at a threshold of 0.3 the 99th percentile varied from 7 to 47 pixels.
BOUNDS: Final[Mapping[str, AgreementBounds]] = {
    "fp32": AgreementBounds(
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
    "fp16": AgreementBounds(
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
    "bf16": AgreementBounds(
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
    "int8": AgreementBounds(
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
#: Where less is looser; with a higher threshold fewer people count, which is called looser too.
_AT_LEAST: Final = frozenset({"oks_mean", "layer_snr_db"})
_WORDS: Final[Mapping[str, str]] = {
    "keypoint_p99_px": "99 of 100 keypoints within, px",
    "keypoint_max_px": "worst keypoint, px",
    "oks_mean": "mean OKS, at least",
    "box_px": "worst box, px",
    "score": "worst score",
    "unmatched": "share of people in one model only",
    "score_thr": "people count above a score of",
}


def bounds_for(precision_a: str, precision_b: str) -> AgreementBounds:
    """Bounds for two models: of each number the looser one of their precisions'."""
    one, two = (BOUNDS.get(name, BOUNDS[LOOSEST]) for name in (precision_a, precision_b))
    chosen: dict[str, Any] = {}
    for name in (field.name for field in fields(AgreementBounds) if field.name != "why"):
        first, second = getattr(one, name), getattr(two, name)
        if first is None or second is None:
            chosen[name] = None
        else:
            chosen[name] = min(first, second) if name in _AT_LEAST else max(first, second)
    why = one.why if one == two else "; ".join(dict.fromkeys((one.why, two.why)))
    return AgreementBounds(**chosen, why=why)
