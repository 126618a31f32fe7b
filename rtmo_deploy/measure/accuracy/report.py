"""AccuracyReport: the figures, and what they were measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.measure.accuracy.protocol import ProtocolName


@dataclass(frozen=True)
class AccuracyReport:
    """What a judge found.

    Attributes:
        metrics: Figures by name, in the order of the protocol; fractions of 1, None where there is nothing to measure
            (no people of that size, no pictures of that crowdedness).
        protocol: Whose rules: ``coco`` or ``crowdpose``.
        images: Pictures that were judged, those without people included.
        people: Annotated people that count.
        detections: People found, the wrong ones included; of each picture the 20 best count.
        skeleton: Name of the keypoint convention.
        sigmas: OKS sigma of each keypoint that was judged with.
        sigmas_from: Where these come from: a convention, a file, or ``given``.
        notes: What a reader of the figures should know.
    """

    metrics: Mapping[str, float | None]
    protocol: ProtocolName
    images: int
    people: int
    detections: int
    skeleton: str
    sigmas: tuple[float, ...]
    notes: tuple[str, ...] = ()
    sigmas_from: str = ""

    @property
    def ap(self) -> float:
        """Average precision; NaN where there is nobody to find."""
        value = self.metrics["AP"]
        return float("nan") if value is None else value

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; what is not defined is None."""
        return {
            "protocol": self.protocol,
            "metrics": dict(self.metrics),
            "images": self.images,
            "people": self.people,
            "detections": self.detections,
            "skeleton": self.skeleton,
            "sigmas": list(self.sigmas),
            "sigmas_from": self.sigmas_from,
            "notes": list(self.notes),
        }
