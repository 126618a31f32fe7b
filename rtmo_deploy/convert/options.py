"""What an export can be asked for: one frozen record a decode mode, so that a knob that does not apply is not there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rtmo_deploy.artifact import DecodeContract, DecodeMode
from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.records import require_input_size

OPSETS = range(17, 21)
#: TensorRT's top-k takes no more.
MAX_TOPK = 3840
#: Candidates that enter the unrolled suppression where nobody says.
FIXED_TOPK = 300
MIN_SCORE_THR = 0.0001


@dataclass(frozen=True)
class OnnxDecodeOptions:
    """People by the standard NonMaxSuppression operator.

    Attributes:
        score_thr: Scores must be above this, 0.0001 to 1; None for what the model has.
        nms_thr: Overlaps above this IoU are suppressed, 0 to 1; None for what the model has.
        max_dets: Most people in a picture. The reference has no limit; this one is out of the way.
        pre_topk: Candidates that enter the suppression, best scores first; None for all.
        min_rows: Rows of output there are at least, zero where they are nobody, for clients that cannot take none
            (rtmlib 0.0.16 looks at the first row whether there is one or not).
    """

    score_thr: float | None = None
    nms_thr: float | None = None
    max_dets: int = 1000
    pre_topk: int | None = None
    min_rows: int = 0

    def __post_init__(self) -> None:
        _check_thresholds(self.score_thr, self.nms_thr)
        _check_count("max_dets", self.max_dets, 1_000_000)
        if self.pre_topk is not None:
            _check_count("pre_topk", self.pre_topk, 1_000_000)
        if self.min_rows:
            _check_count("min_rows", self.min_rows, self.max_dets, "max_dets")

    def contract(self) -> DecodeContract:
        """What the artifact records."""
        return DecodeContract(
            DecodeMode.ONNX,
            *_thresholds(self.score_thr, self.nms_thr),
            max_dets=self.max_dets,
            pre_topk=self.pre_topk,
            min_rows=self.min_rows,
        )


@dataclass(frozen=True)
class FixedDecodeOptions:
    """People by top-k and an unrolled suppression, in plain tensor operators.

    Attributes:
        score_thr: Scores must be above this, 0.0001 to 1; None for what the model has.
        nms_thr: Overlaps above this IoU are suppressed, 0 to 1; None for what the model has.
        max_dets: Rows of output; people beyond are dropped, lowest scores first.
        pre_topk: Candidates that enter the suppression, best scores first; None for what the model has, at most 300.
        rounds: Rounds of the suppression, even; see :class:`rtmo_deploy.convert.decode.FixedDecode`.
    """

    score_thr: float | None = None
    nms_thr: float | None = None
    max_dets: int = 100
    pre_topk: int | None = None
    rounds: int = 16

    def __post_init__(self) -> None:
        _check_thresholds(self.score_thr, self.nms_thr)
        _check_count("pre_topk", self.candidates, MAX_TOPK)
        _check_count("max_dets", self.max_dets, self.candidates, "pre_topk")
        if self.rounds < 2 or self.rounds % 2:
            raise UsageError(
                f"The suppression cannot have {self.rounds} rounds.",
                remedy="Give an even number from 2: with an odd one a person could be lost where chains are longer.",
            )

    @property
    def candidates(self) -> int:
        """Candidates that enter the suppression."""
        return FIXED_TOPK if self.pre_topk is None else self.pre_topk

    def contract(self) -> DecodeContract:
        """What the artifact records."""
        return DecodeContract(
            DecodeMode.FIXED,
            *_thresholds(self.score_thr, self.nms_thr),
            max_dets=self.max_dets,
            pre_topk=self.candidates,
            nms_rounds=self.rounds,
        )


@dataclass(frozen=True)
class RawDecodeOptions:
    """Head tensors; decoding is the consumer's work.

    Attributes:
        score_thr: Recorded for the consumer; None for what the model has.
        nms_thr: Recorded for the consumer; None for what the model has.
        pre_topk: Recorded for the consumer; None for what the model has.
    """

    score_thr: float | None = None
    nms_thr: float | None = None
    pre_topk: int | None = None

    def __post_init__(self) -> None:
        _check_thresholds(self.score_thr, self.nms_thr)

    def contract(self) -> DecodeContract:
        """What the artifact records."""
        thresholds = _thresholds(self.score_thr, self.nms_thr)
        return DecodeContract(DecodeMode.RAW, *thresholds, pre_topk=self.pre_topk)


DecodeOptions = OnnxDecodeOptions | FixedDecodeOptions | RawDecodeOptions


@dataclass(frozen=True)
class ExportOptions:
    """An export.

    Attributes:
        decode: How people are made.
        input_hw: Height and width in pixels; recorded, and baked in when static. The model's own if None.
        static: Bake height, width and batch in.
        batch: Bake this batch size in; None leaves it dynamic, or 1 when static.
        opset: ONNX operator set, 17 to 20.
        placement: Where clients shall put the picture in the letterbox: ``center`` or ``top-left``.
    """

    decode: DecodeOptions = field(default_factory=OnnxDecodeOptions)
    input_hw: tuple[int, int] | None = None
    static: bool = False
    batch: int | None = None
    opset: int = 17
    placement: str = "center"

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UsageError(
                f"Opset {self.opset} is not supported.",
                remedy=f"Choose {OPSETS.start} to {OPSETS.stop - 1}: below 17 there is no LayerNormalization.",
            )
        if self.batch is not None:
            _check_count("batch", self.batch, 4096)
        if self.input_hw is not None:
            require_input_size(self.input_hw)

    def of_model(self, *, score_thr: float, nms_thr: float, pre_topk: int | None) -> ExportOptions:
        """These options with what the model has where nothing else was asked for."""
        decode = self.decode
        own: dict[str, float | int] = {}
        if decode.score_thr is None:
            own["score_thr"] = score_thr
        if decode.nms_thr is None:
            own["nms_thr"] = nms_thr
        if pre_topk is not None and decode.pre_topk is None:
            own["pre_topk"] = pre_topk
            if isinstance(decode, FixedDecodeOptions):
                own["pre_topk"] = min(pre_topk, FIXED_TOPK)
                own["max_dets"] = min(decode.max_dets, pre_topk)
        return replace(self, decode=replace(decode, **own))  # type: ignore[arg-type]

    @property
    def fixed_batch(self) -> int | None:
        """Batch size that is baked in, None when it is dynamic."""
        return self.batch or (1 if self.static else None)


def _thresholds(score_thr: float | None, nms_thr: float | None) -> tuple[float, float]:
    """The published models' thresholds where none are given."""
    return (0.1 if score_thr is None else score_thr, 0.65 if nms_thr is None else nms_thr)


def _check_thresholds(score_thr: float | None, nms_thr: float | None) -> None:
    if score_thr is not None and not MIN_SCORE_THR <= score_thr <= 1:
        raise UsageError(
            f"score_thr is {score_thr:g}.",
            remedy=f"It must lie between {MIN_SCORE_THR} and 1: 0 would make a person of every cell of the grid.",
        )
    if nms_thr is not None and not 0 <= nms_thr <= 1:
        raise UsageError(f"nms_thr is {nms_thr:g}.", remedy="It must lie between 0 and 1.")


def _check_count(name: str, value: int, most: int, because: str = "") -> None:
    if not 1 <= value <= most:
        limit = f"{because} = {most}" if because else str(most)
        raise UsageError(f"{name} is {value}.", remedy=f"It must lie between 1 and {limit}.")
