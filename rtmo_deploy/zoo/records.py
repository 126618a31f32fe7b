"""Which models exist: architectures, the published checkpoints, and the model that comes with the package.

Figures are those of the RTMO page of MMPose (paper: arXiv 2312.07526).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import converted
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14

if TYPE_CHECKING:
    from rtmo_deploy.poses import Skeleton

#: Height and width of a network's input are multiples of this.
INPUT_MULTIPLE = 32
#: Lowest score threshold: 0 would make a detection of every cell of the grid.
MIN_SCORE_THR = 0.0001

BASE_URL = "https://download.openmmlab.com/mmpose/v1/projects/rtmo/"


def require_input_size(size_hw: tuple[int, int], *, where: str | None = None) -> None:
    """Refuse a height and width, in pixels, that no network takes; ``where`` is what the error names.

    Raises:
        UsageError: It is not two whole numbers, or a side is not a positive multiple of 32.
    """
    try:
        converted(size_hw, tuple[int, int])
    except (TypeError, ValueError):
        raise UsageError(
            f"The input size is {size_hw!r}.", remedy="Give two whole numbers: (height, width).", where=where
        ) from None
    if any(side < INPUT_MULTIPLE or side % INPUT_MULTIPLE for side in size_hw):
        nearest = "x".join(str(max(1, math.ceil(side / INPUT_MULTIPLE)) * INPUT_MULTIPLE) for side in size_hw)
        raise UsageError(
            f"An input of {size_hw[0]}x{size_hw[1]} pixels is not possible.",
            remedy=f"Height and width must be multiples of {INPUT_MULTIPLE}; the nearest above is {nearest}.",
            where=where,
        )


@dataclass(frozen=True)
class Architecture:
    """The shape of a network; everything else about it follows from these numbers."""

    name: str
    #: Depth factor of the backbone's stages and of the neck's CSP layers.
    deepen: float
    #: Width factor of the backbone and of the head.
    widen: float
    #: Height and width in pixels that the model was made for.
    input_hw: tuple[int, int] = (640, 640)
    #: Channels inside the hybrid encoder. 256 in every published model, whatever its ``widen``.
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
    """One published checkpoint, called ``<architecture>-<training set>``."""

    name: str
    architecture: Architecture
    skeleton: Skeleton
    #: Data it was trained on, as the page names it.
    train_set: str
    accuracy: PublishedAccuracy
    #: One V100, ONNX Runtime, batch 1; upstream does not say what the number includes. None where not given.
    latency_v100_ms: float | None
    url: str
    #: Detections with a score not above this are dropped.
    score_thr: float = 0.1
    #: Of two detections whose boxes overlap by more than this IoU, the one with the lower score is dropped.
    nms_thr: float = 0.65
    #: Shorter names that resolve to this record.
    aliases: tuple[str, ...] = ()
    #: The whole SHA-256 of the file (64 hex digits), where it is known; upstream publishes 8 digits.
    sha256: str | None = None
    #: Licence of the weights, SPDX: that of MMPose, which publishes them.
    license: str = "Apache-2.0"

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width in pixels that the model was made for."""
        return self.architecture.input_hw

    @property
    def file_name(self) -> str:
        """File name of the published checkpoint."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    @property
    def onnx_url(self) -> str:
        """Where OpenMMLab publishes its ONNX export, in a ``.zip``; of the models trained on body7, as rtmlib takes."""
        return f"{BASE_URL}onnx_sdk/{self.file_name.removesuffix('.pth')}.zip"

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
    """A model that comes inside the package."""

    name: str
    architecture: Architecture
    skeleton: Skeleton
    train_set: str
    #: AP and AP50 on the held-out set that its card describes.
    ap: float
    ap50: float
    #: Kind of the images it was trained on; its checkpoint says the same.
    domain: str | None = None
    #: The whole SHA-256 of its checkpoint, 64 hex digits.
    sha256: str | None = None
    #: Licence of the weights, SPDX: the package's.
    license: str = "Apache-2.0"

    @property
    def path(self) -> Path:
        """Its checkpoint."""
        return Path(__file__).parent / "weights" / f"{self.name}.pth"

    @property
    def card(self) -> Path:
        """Its model card, Markdown."""
        return self.path.with_suffix(".md")


RTMO_T = Architecture("rtmo-t", deepen=0.33, widen=0.375, input_hw=(416, 416))
RTMO_S = Architecture("rtmo-s", deepen=0.33, widen=0.5)
RTMO_M = Architecture("rtmo-m", deepen=0.67, widen=0.75)
RTMO_L = Architecture("rtmo-l", deepen=1.0, widen=1.0)
#: Not published by anybody: the same code, small enough for tests and samples.
RTMO_N = Architecture("rtmo-n", deepen=0.33, widen=0.25, input_hw=(352, 352), hidden_dim=128)

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (RTMO_N, RTMO_T, RTMO_S, RTMO_M, RTMO_L)}

_LATENCY_V100_MS = {"rtmo-s": 8.9, "rtmo-m": 12.4, "rtmo-l": 19.1}

# Architecture, training set, file; AP, AP50, AP75, AR, AR50 on COCO val2017.
_ON_COCO = (
    (RTMO_S, "COCO", "rtmo-s_8xb32-600e_coco-640x640-8db55a59_20231211.pth", 0.677, 0.878, 0.737, 0.715, 0.908),
    (RTMO_M, "COCO", "rtmo-m_16xb16-600e_coco-640x640-6f4e0306_20231211.pth", 0.709, 0.890, 0.778, 0.747, 0.920),
    (RTMO_L, "COCO", "rtmo-l_16xb16-600e_coco-640x640-516a421f_20231211.pth", 0.724, 0.899, 0.788, 0.762, 0.927),
    (RTMO_T, "body7", "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth", 0.574, 0.803, 0.613, 0.611, 0.836),
    (RTMO_S, "body7", "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth", 0.686, 0.879, 0.744, 0.723, 0.908),
    (RTMO_M, "body7", "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.pth", 0.726, 0.899, 0.790, 0.763, 0.926),
    (RTMO_L, "body7", "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211.pth", 0.748, 0.911, 0.813, 0.786, 0.939),
)
# The same, with AP of easy, medium and hard images, on CrowdPose test, of which no AR is given.
_ON_CROWDPOSE = (
    (
        *(RTMO_S, "CrowdPose", "rtmo-s_8xb32-700e_crowdpose-640x640-79f81c0d_20231211.pth"),
        *(0.673, 0.882, 0.729, None, None, 0.737, 0.682, 0.591),
    ),
    (  # "rrtmo" is how the file is really called upstream.
        *(RTMO_M, "CrowdPose", "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth"),
        *(0.711, 0.897, 0.771, None, None, 0.774, 0.719, 0.634),
    ),
    (
        *(RTMO_L, "CrowdPose", "rtmo-l_16xb16-700e_crowdpose-640x640-1008211f_20231211.pth"),
        *(0.732, 0.907, 0.793, None, None, 0.792, 0.741, 0.653),
    ),
    (
        *(RTMO_L, "body7 -> CrowdPose", "rtmo-l_16xb16-700e_body7-crowdpose-640x640-5bafdc11_20231219.pth"),
        *(0.838, 0.947, 0.893, None, None, 0.888, 0.847, 0.772),
    ),
)


def _variant(
    dataset: Literal["COCO val2017", "CrowdPose test"],
    skeleton: Skeleton,
    arch: Architecture,
    train_set: str,
    file: str,
    *figures: Any,
) -> Variant:
    train_name = train_set.lower().replace(" -> ", "-")
    # The bare name means the body7 model: the most accurate of its size, and the only one that rtmo-t has.
    aliases = (arch.name,) if train_set == "body7" else ()
    return Variant(
        name=f"{arch.name}-{train_name}",
        architecture=arch,
        skeleton=skeleton,
        train_set=train_set,
        accuracy=PublishedAccuracy(dataset, *figures),
        latency_v100_ms=_LATENCY_V100_MS.get(arch.name) if skeleton is COCO_17 else None,
        url=BASE_URL + file,
        aliases=aliases,
    )


_RECORDS = (
    *(_variant("COCO val2017", COCO_17, *row) for row in _ON_COCO),
    *(_variant("CrowdPose test", CROWDPOSE_14, *row) for row in _ON_CROWDPOSE),
)

VARIANTS: dict[str, Variant] = {record.name: record for record in _RECORDS}

#: What comes with the package, and needs no download. The figures are those of their cards.
EMBEDDED: dict[str, EmbeddedModel] = {
    "rtmo-n": EmbeddedModel(
        "rtmo-n",
        RTMO_N,
        COCO_17,
        "synthetic people",
        ap=0.658,
        ap50=0.908,
        domain="synthetic",
        sha256="ebde5010ca441a54feadc1e0f41727f07d722f9f7eb2cac65ae3f1a502d10123",
    ),
}

_BY_NAME = {name: record for record in _RECORDS for name in (record.name, *record.aliases)}


def is_known(name: str) -> bool:
    """Whether it is the name of a model whose checkpoint is published or comes with the package."""
    return name.lower() in _BY_NAME or name.lower() in EMBEDDED


def variant(name: str) -> Variant:
    """The record called ``name`` (``rtmo-s-coco``) or aliased to it (``rtmo-s`` is ``rtmo-s-body7``).

    Raises:
        UsageError: No such model.
    """
    found = _BY_NAME.get(name.lower())
    if found is None:
        raise UsageError(
            f"There is no published model called '{name}'.", remedy=_did_you_mean(name, [*EMBEDDED, *_BY_NAME])
        )
    return found


def published(name: str) -> Variant:
    """As :func:`variant`, for a download: the error explains a name that is only an architecture.

    Raises:
        UsageError: No such model, or nobody published weights for it.
    """
    if name.lower() in _BY_NAME or name.lower() not in ARCHITECTURES:
        return variant(name)
    embedded = EMBEDDED.get(name.lower())
    if embedded is not None:
        raise UsageError(
            f"'{name}' is not downloaded: it comes with the package.",
            remedy=f"Use it by its name; the file is {embedded.path}",
        )
    raise UsageError(
        f"Nobody has published weights for '{name}': it is an architecture of this project's own.",
        remedy=f"Write an untrained checkpoint of it with: rtmo-deploy models init {name} -o FILE",
    )


def architecture(name: str) -> Architecture:
    """The architecture called ``name``; a variant's name gives that variant's architecture.

    Raises:
        UsageError: No such architecture.
    """
    lowered = name.lower()
    if lowered in ARCHITECTURES:
        return ARCHITECTURES[lowered]
    if lowered in _BY_NAME:
        return _BY_NAME[lowered].architecture
    raise UsageError(f"There is no architecture called '{name}'.", remedy=_did_you_mean(name, list(ARCHITECTURES)))


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close and close[0] != name.lower() else ""
    return f"{hint}Known names: {', '.join(sorted(known))}."
