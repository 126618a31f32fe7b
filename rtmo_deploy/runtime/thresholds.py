"""Thresholds of one call, beside those that a model has."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from rtmo_deploy.artifact import Artifact, DecodeContract


class Thresholds(TypedDict, total=False):
    """What a call may ask for; what is None or left out is as the model has it."""

    score_thr: float | None  #: Detections with a score above this, 0 to 1.
    nms_thr: float | None  #: Of detections whose boxes overlap by more than this IoU, 0 to 1, the best is kept.
    kpt_thr: float | None  #: Keypoints with a score below this, 0 to 1, get score 0; their coordinates stay.
    max_people: int | None  #: At most so many detections, the best.


def require_count(**numbers: Any) -> None:
    """UsageError unless each is a whole number from 1 on."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < 1:
            raise UsageError(f"{name} is {number!r}.", remedy="It must be a whole number, 1 or more.")


def require_number(**numbers: Any) -> None:
    """UsageError unless each is a finite number."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number):
            raise UsageError(f"{name} is {number!r}.", remedy="It must be a number.")


def decode_for(
    artifact: Artifact,
    *,
    score_thr: float | None = None,
    nms_thr: float | None = None,
    kpt_thr: float | None = None,
    max_people: int | None = None,
) -> DecodeContract:
    """How a model's outputs are decoded for one call; see :class:`Thresholds`.

    Raises:
        UsageError: A value is out of range, or the model's graph has decided already.
    """
    shares: dict[str, Any] = {"score_thr": score_thr, "nms_thr": nms_thr, "kpt_thr": kpt_thr}
    for name, value in shares.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1):
            raise UsageError(f"{name} is {value!r}.", remedy="It must be a number from 0 to 1.")
    if max_people is not None:
        require_count(max_people=max_people)
    own = artifact.decode
    asked = {"score_thr": score_thr, "nms_thr": nms_thr, "max_dets": max_people}
    decode = replace(own, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    if own.mode is DecodeMode.RAW:
        return decode
    lost = {
        "score_thr": (decode.score_thr < own.score_thr, "below", own.score_thr),
        "nms_thr": (decode.nms_thr > own.nms_thr, "above", own.nms_thr),
        "max_people": (max_people is not None and max_people > (own.max_dets or max_people), "above", own.max_dets),
    }
    for name, (refused, where, limit) in lost.items():
        if refused:
            value = {"score_thr": score_thr, "nms_thr": nms_thr, "max_people": max_people}[name]
            raise UsageError(
                f"{name} {value} is {where} {limit}, the model's own: its graph has dropped those detections.",
                remedy="Use the checkpoint, or export the model again with another threshold or with --decode raw.",
                where=artifact.path.name,
            )
    # Rows of a graph are suppressed once more, by the lower threshold.
    return replace(decode, junk_rows=own.junk_rows or decode.nms_thr < own.nms_thr)
