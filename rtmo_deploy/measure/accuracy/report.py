"""AccuracyReport: the figures, and what they were measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rtmo_deploy.zoo.cache import identify_published

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.accuracy.judge import ProtocolName


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

    protocol: ProtocolName
    metrics: Mapping[str, float | None]
    images: int
    people: int
    detections: int
    skeleton: str
    sigmas: tuple[float, ...]
    sigmas_from: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ap(self) -> float:
        """Average precision; NaN where there is nobody to find."""
        value = self.metrics["AP"]
        return float("nan") if value is None else value


_NAMES: Final = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AR": "ar",
    "AR50": "ar50",
    "AP(E)": "ap_easy",
    "AP(M)": "ap_medium",
    "AP(H)": "ap_hard",
}


@dataclass(frozen=True)
class Published:
    """Published figures.

    Attributes:
        model: Name of the published checkpoint.
        dataset: What they were measured on, such as ``COCO val2017``.
        protocol: Whose rules.
        metrics: Figures by name, fractions of 1.
        known_by: By what the file was taken for that checkpoint.
    """

    model: str
    dataset: str
    protocol: ProtocolName
    metrics: Mapping[str, float]
    known_by: str = ""


def published_figures(artifact: Artifact, sha256: str) -> Published | None:
    """The published figures of a model, if it is a published checkpoint or was made from one.

    Args:
        artifact: The model.
        sha256: Of its file, 64 hex digits.
    """
    hashes = [sha256, *(parent.sha256 for parent in artifact.parents)]
    variant = next((found for found in map(identify_published, hashes) if found is not None), None)
    if variant is None:
        return None
    record = variant.accuracy
    protocol: ProtocolName = "crowdpose" if record.dataset.startswith("CrowdPose") else "coco"
    figures: dict[str, float] = {}
    for name, field in _NAMES.items():
        value = getattr(record, field)
        if value is not None:
            figures[name] = value
    return Published(variant.name, record.dataset, protocol, figures, variant.known_by)
