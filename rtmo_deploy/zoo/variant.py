"""What a record of the zoo holds. The records themselves are in :mod:`rtmo_deploy.zoo.records`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from rtmo_deploy.errors import UsageError

if TYPE_CHECKING:
    from rtmo_deploy.poses import Skeleton

#: Height and width of a network's input are multiples of this.
INPUT_MULTIPLE = 32


def require_input_size(size_hw: tuple[int, int], *, where: str | None = None) -> None:
    """Refuse a height and width, in pixels, that no network takes; ``where`` is what the error names.

    Raises:
        UsageError: A side is not a positive multiple of 32.
    """
    if any(side < INPUT_MULTIPLE or side % INPUT_MULTIPLE for side in size_hw):
        raise UsageError(
            f"An input of {size_hw[0]}x{size_hw[1]} pixels is not possible.",
            remedy=f"Height and width must be multiples of {INPUT_MULTIPLE}.",
            where=where,
        )


@dataclass(frozen=True)
class Architecture:
    """The shape of a network; everything else about it follows from these numbers.

    Attributes:
        name: ``rtmo-t`` and so on.
        deepen: Depth factor of the backbone's stages and of the neck's CSP layers.
        widen: Width factor of the backbone and of the head.
        hidden_dim: Channels inside the hybrid encoder. 256 in every published model, whatever its ``widen``.
        input_hw: Height and width in pixels that the model was made for.
    """

    name: str
    deepen: float
    widen: float
    input_hw: tuple[int, int] = (640, 640)
    hidden_dim: int = 256


@dataclass(frozen=True)
class PublishedAccuracy:
    """Figures of the model's page, on COCO val2017 or on CrowdPose test; fractions of 1, None where not given."""

    dataset: Literal["COCO val2017", "CrowdPose test"]
    ap: float
    ap50: float
    ap75: float
    ar: float | None = None
    ar50: float | None = None
    ap_easy: float | None = None
    ap_medium: float | None = None
    ap_hard: float | None = None


@dataclass(frozen=True)
class Variant:
    """One published checkpoint.

    Attributes:
        name: ``<architecture>-<training set>``, unique in the zoo.
        architecture: Its network.
        skeleton: Its keypoints.
        train_set: Data it was trained on, as the page names it.
        accuracy: Published figures.
        latency_v100_ms: Published latency: one V100, ONNX Runtime, batch 1; what is inside that number was never
            stated upstream. None where not given.
        url: Where the checkpoint lies.
        score_thr: People with a score not above this are dropped.
        nms_thr: Of two people whose boxes overlap by more than this IoU, the lower score is dropped.
        aliases: Shorter names that resolve to this record.
        sha256: The whole SHA-256 of the file (64 hex digits), where it is known; upstream publishes 8 digits.
    """

    name: str
    architecture: Architecture
    skeleton: Skeleton
    train_set: str
    accuracy: PublishedAccuracy
    latency_v100_ms: float | None
    url: str
    score_thr: float = 0.1
    nms_thr: float = 0.65
    aliases: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width in pixels that the model was made for."""
        return self.architecture.input_hw

    @property
    def file_name(self) -> str:
        """File name of the published checkpoint."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    @property
    def known_by(self) -> str:
        """By what a file is taken for this one."""
        return "its SHA-256" if self.sha256 else "8 hex digits of its SHA-256, which is no proof against forgery"

    @property
    def sha256_prefix(self) -> str:
        """First 8 hex digits of the file's SHA-256: upstream's convention puts them into the file name."""
        return self.file_name.rsplit("-", 1)[-1].split("_", 1)[0]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes inside the package.

    Attributes:
        name: Name it goes by.
        architecture: Its network.
        skeleton: Its keypoints.
        train_set: What it was trained on.
        ap: AP on the held-out set that its card describes.
        ap50: AP50 there.
        domain: What kind of images that is; its checkpoint says the same.
        sha256: The whole SHA-256 of its checkpoint, 64 hex digits.
    """

    name: str
    architecture: Architecture
    skeleton: Skeleton
    train_set: str
    ap: float
    ap50: float
    domain: str | None = None
    sha256: str | None = None

    @property
    def path(self) -> Path:
        """Its checkpoint."""
        return Path(__file__).parent / "weights" / f"{self.name}.pth"

    @property
    def card(self) -> Path:
        """Its model card, Markdown."""
        return self.path.with_suffix(".md")
