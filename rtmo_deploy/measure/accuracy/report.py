"""The figures of an evaluation, and those that were published for the checkpoint a model comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from rtmo_deploy.zoo.cache import identify_published

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rtmo_deploy.artifact import Artifact


ProtocolName = Literal["coco", "crowdpose"]


@dataclass(frozen=True)
class AccuracyReport:
    """What a judge found."""

    protocol: ProtocolName
    #: Figures by name, in the order of the protocol; fractions of 1, None where there is nothing to measure (no people
    #: of that size, no images of that crowdedness).
    metrics: Mapping[str, float | None]
    #: Images that were judged, those without people included.
    images: int
    #: Annotated people that count.
    people: int
    #: Detections, the wrong ones included; of each image the 20 best count.
    detections: int
    #: Name of the keypoint convention.
    skeleton: str
    #: OKS sigma of each keypoint, and where they come from: a convention, a file, or ``given``.
    sigmas: tuple[float, ...]
    sigmas_from: str = ""
    #: What a reader of the figures should know.
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
    """Figures that were published for a checkpoint, fractions of 1, and what they were measured on."""

    model: str
    dataset: str
    protocol: ProtocolName
    metrics: Mapping[str, float]
    #: By what the file was taken for that checkpoint.
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
