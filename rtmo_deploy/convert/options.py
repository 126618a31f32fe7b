"""The options of an export, declared once: the library takes them, ``export`` and recipes offer them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import option, settle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.artifact import DecodeContract

_T = TypeVar("_T")

OPSETS = range(17, 21)
#: TensorRT's top-k takes no more.
MAX_TOPK = 3840
#: Candidates that enter the unrolled suppression by default.
FIXED_TOPK = 300
#: Rows of output by default. The reference has no limit; that of ``onnx`` is out of the way.
MAX_DETS = {"onnx": 1000, "fixed": 100}
_MANY = 1_000_000
#: Options that a decode mode does not have, and why.
_FOREIGN = {
    "raw": (("max_dets", "pre_topk", "min_rows"), "which decodes nothing"),
    "fixed": (("min_rows",), "whose number of rows is fixed"),
}


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint becomes an ONNX model.

    Each field with a help text is an option of ``rtmo-deploy export`` and a key of a recipe's ``make: export``, under
    the same name. None stands for the model's own value, or for the default of the decode mode.

    Raises:
        UsageError: A value is out of range, or does not apply to the decode mode.
    """

    decode: Literal["onnx", "fixed", "raw"] = option(
        "onnx",
        "onnx: NonMaxSuppression in the graph, N dynamic. fixed: plain tensor operators, N = --max-dets. "
        "raw: head tensors.",
    )
    #: Height and width in pixels; recorded, and baked in when static.
    imgsz: tuple[int, int] | None = option(None, "Letterbox images to this size. [default: the model's own]")
    static: bool = option(False, "Bake height, width and batch in.")
    #: Dynamic if None, or 1 when static.
    batch: int | None = option(None, "Bake this batch size in. [default: dynamic; 1 with --static]")
    opset: int = option(17, "ONNX operator set, 17 to 20.")
    score_thr: float | None = option(None, "Scores must be above this. [default: the model's, 0.1]")
    nms_thr: float | None = option(None, "Suppress overlaps above this IoU. [default: the model's, 0.65]")
    max_dets: int | None = option(None, "Most detections in an image. [default: 1000; fixed: 100]")
    #: Best scores first. At most 3840 with ``fixed``.
    pre_topk: int | None = option(None, "Candidates before suppression. [default: all; fixed: 300]")
    #: Zero rows fill up; rtmlib 0.0.16 reads the first row whether there is one or not.
    min_rows: int | None = option(
        None, "Rows of output there are at least; 1 for rtmlib, which cannot take none. [default: 0]"
    )
    letterbox: Literal["center", "top-left"] = option(
        "center", "Placement recorded for clients: center as in training, top-left as rtmlib does."
    )
    rounds: int = 16  #: Rounds of the ``fixed`` suppression, even; see :class:`rtmo_deploy.convert.decode.FixedDecode`.

    def __post_init__(self) -> None:
        settle(self)
        foreign, why = _FOREIGN.get(self.decode, ((), ""))
        for name in foreign:
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} does not apply to --decode {self.decode}, {why}.",
                    remedy="Leave it away, or choose another --decode.",
                )
        self._check_thresholds()
        if self.decode != "raw":
            self._check_counts(_or(self.max_dets, MAX_DETS[self.decode]))
        if self.opset not in OPSETS:
            raise UsageError(
                f"Opset {self.opset} is not supported.",
                remedy=f"Choose {OPSETS.start} to {OPSETS.stop - 1}: below 17 there is no LayerNormalization.",
            )
        _check_count("batch", self.batch, 4096)
        if self.imgsz is not None:
            from rtmo_deploy.zoo.records import require_input_size

            require_input_size(self.imgsz)

    def _check_thresholds(self) -> None:
        from rtmo_deploy.zoo.records import MIN_SCORE_THR  # loads NumPy, which help pages do without

        if self.score_thr is not None and not MIN_SCORE_THR <= self.score_thr <= 1:
            raise UsageError(
                f"score_thr is {self.score_thr:g}.",
                remedy=f"It must lie between {MIN_SCORE_THR} and 1: 0 would make a detection of every cell of the "
                "grid.",
            )
        if self.nms_thr is not None and not 0 <= self.nms_thr <= 1:
            raise UsageError(f"nms_thr is {self.nms_thr:g}.", remedy="It must lie between 0 and 1.")

    def _check_counts(self, max_dets: int) -> None:
        if self.decode == "onnx":
            _check_count("max_dets", max_dets, _MANY)
            _check_count("pre_topk", self.pre_topk, _MANY)
            _check_count("min_rows", self.min_rows or None, max_dets, "max_dets")
            return
        candidates = _or(self.pre_topk, FIXED_TOPK)
        _check_count("pre_topk", candidates, MAX_TOPK)
        _check_count("max_dets", max_dets, candidates, "pre_topk")
        if self.rounds < 2 or self.rounds % 2:
            raise UsageError(
                f"The suppression cannot have {self.rounds} rounds.",
                remedy="Give an even number from 2: with an odd one, long chains of overlaps could lose a person.",
            )

    def contract(self, *, score_thr: float = 0.1, nms_thr: float = 0.65, pre_topk: int | None = None) -> DecodeContract:
        """What the artifact records; the arguments are the model's own settings, for options that are None."""
        from rtmo_deploy.artifact import DecodeContract, DecodeMode

        contract = DecodeContract(
            DecodeMode(self.decode),
            _or(self.score_thr, score_thr),
            _or(self.nms_thr, nms_thr),
            pre_topk=pre_topk if self.pre_topk is None else self.pre_topk,
        )
        if self.decode == "raw":
            return contract
        max_dets = _or(self.max_dets, MAX_DETS[self.decode])
        if self.decode == "onnx":
            return replace(contract, max_dets=max_dets, min_rows=self.min_rows or 0)
        candidates = _or(self.pre_topk, min(pre_topk or FIXED_TOPK, FIXED_TOPK))
        return replace(contract, max_dets=min(max_dets, candidates), pre_topk=candidates, nms_rounds=self.rounds)

    @classmethod
    def from_recipe(cls, section: Mapping[str, Any]) -> ExportOptions:
        """The options of a recipe's ``make: export``, from a mapping that has at least their keys."""
        options = {one.name: section[one.name] for one in fields(cls) if one.name in section}
        return cls(**{**options, "imgsz": tuple(section["imgsz"]) if section["imgsz"] else None})

    @property
    def fixed_batch(self) -> int | None:
        """Batch size that is baked in, None when it is dynamic."""
        return self.batch or (1 if self.static else None)


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _check_count(name: str, value: int | None, most: int, because: str = "") -> None:
    if value is not None and not 1 <= value <= most:
        limit = f"{because} = {most}" if because else str(most)
        raise UsageError(f"{name} is {value}.", remedy=f"It must lie between 1 and {limit}.")
