"""The published models, one record each, and the small architecture of this project's own.

Figures are those of the RTMO page of MMPose (paper: arXiv 2312.07526).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError
from rtmo_deploy.zoo.skeletons import COCO_17, CROWDPOSE_14
from rtmo_deploy.zoo.variant import Architecture, EmbeddedModel, PublishedAccuracy, Variant

if TYPE_CHECKING:
    from rtmo_deploy.poses import Skeleton

_BASE_URL = "https://download.openmmlab.com/mmpose/v1/projects/rtmo/"

RTMO_T = Architecture("rtmo-t", deepen=0.33, widen=0.375, input_hw=(416, 416))
RTMO_S = Architecture("rtmo-s", deepen=0.33, widen=0.5)
RTMO_M = Architecture("rtmo-m", deepen=0.67, widen=0.75)
RTMO_L = Architecture("rtmo-l", deepen=1.0, widen=1.0)
#: Not published by anybody: the same code, small enough for tests and samples.
RTMO_N = Architecture("rtmo-n", deepen=0.33, widen=0.25, input_hw=(352, 352), hidden_dim=128)

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (RTMO_N, RTMO_T, RTMO_S, RTMO_M, RTMO_L)}

_LATENCY_V100_MS = {"rtmo-s": 8.9, "rtmo-m": 12.4, "rtmo-l": 19.1}


def _coco(ap: float, ap50: float, ap75: float, ar: float, ar50: float) -> PublishedAccuracy:
    return PublishedAccuracy("COCO val2017", ap, ap50, ap75, ar=ar, ar50=ar50)


def _crowdpose(ap: float, ap50: float, ap75: float, easy: float, medium: float, hard: float) -> PublishedAccuracy:
    return PublishedAccuracy("CrowdPose test", ap, ap50, ap75, ap_easy=easy, ap_medium=medium, ap_hard=hard)


def _variant(arch: Architecture, train_set: str, skeleton: Skeleton, accuracy: PublishedAccuracy, file: str) -> Variant:
    train_name = train_set.lower().replace(" -> ", "-")
    # The bare name means the body7 model: the most accurate of its size, and the only one that rtmo-t has.
    aliases = (arch.name,) if train_set == "body7" else ()
    return Variant(
        name=f"{arch.name}-{train_name}",
        architecture=arch,
        skeleton=skeleton,
        train_set=train_set,
        accuracy=accuracy,
        latency_v100_ms=_LATENCY_V100_MS.get(arch.name) if skeleton is COCO_17 else None,
        url=_BASE_URL + file,
        aliases=aliases,
    )


_RECORDS = (
    _variant(
        RTMO_S,
        "COCO",
        COCO_17,
        _coco(0.677, 0.878, 0.737, 0.715, 0.908),
        "rtmo-s_8xb32-600e_coco-640x640-8db55a59_20231211.pth",
    ),
    _variant(
        RTMO_M,
        "COCO",
        COCO_17,
        _coco(0.709, 0.890, 0.778, 0.747, 0.920),
        "rtmo-m_16xb16-600e_coco-640x640-6f4e0306_20231211.pth",
    ),
    _variant(
        RTMO_L,
        "COCO",
        COCO_17,
        _coco(0.724, 0.899, 0.788, 0.762, 0.927),
        "rtmo-l_16xb16-600e_coco-640x640-516a421f_20231211.pth",
    ),
    _variant(
        RTMO_T,
        "body7",
        COCO_17,
        _coco(0.574, 0.803, 0.613, 0.611, 0.836),
        "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth",
    ),
    _variant(
        RTMO_S,
        "body7",
        COCO_17,
        _coco(0.686, 0.879, 0.744, 0.723, 0.908),
        "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth",
    ),
    _variant(
        RTMO_M,
        "body7",
        COCO_17,
        _coco(0.726, 0.899, 0.790, 0.763, 0.926),
        "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.pth",
    ),
    _variant(
        RTMO_L,
        "body7",
        COCO_17,
        _coco(0.748, 0.911, 0.813, 0.786, 0.939),
        "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211.pth",
    ),
    _variant(
        RTMO_S,
        "CrowdPose",
        CROWDPOSE_14,
        _crowdpose(0.673, 0.882, 0.729, 0.737, 0.682, 0.591),
        "rtmo-s_8xb32-700e_crowdpose-640x640-79f81c0d_20231211.pth",
    ),
    _variant(
        RTMO_M,
        "CrowdPose",
        CROWDPOSE_14,
        _crowdpose(0.711, 0.897, 0.771, 0.774, 0.719, 0.634),
        # "rrtmo" is how the file is really called upstream.
        "rrtmo-m_16xb16-700e_crowdpose-640x640-0eaf670d_20231211.pth",
    ),
    _variant(
        RTMO_L,
        "CrowdPose",
        CROWDPOSE_14,
        _crowdpose(0.732, 0.907, 0.793, 0.792, 0.741, 0.653),
        "rtmo-l_16xb16-700e_crowdpose-640x640-1008211f_20231211.pth",
    ),
    _variant(
        RTMO_L,
        "body7 -> CrowdPose",
        CROWDPOSE_14,
        _crowdpose(0.838, 0.947, 0.893, 0.888, 0.847, 0.772),
        "rtmo-l_16xb16-700e_body7-crowdpose-640x640-5bafdc11_20231219.pth",
    ),
)

VARIANTS: dict[str, Variant] = {record.name: record for record in _RECORDS}

#: What comes with the package, and needs no download. The figures are those of their cards.
EMBEDDED: dict[str, EmbeddedModel] = {
    record.name: record
    for record in (
        EmbeddedModel(
            "rtmo-n",
            RTMO_N,
            COCO_17,
            "synthetic people",
            ap=0.658,
            ap50=0.908,
            domain="synthetic",
            sha256="ebde5010ca441a54feadc1e0f41727f07d722f9f7eb2cac65ae3f1a502d10123",
        ),
    )
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
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known names: {', '.join(sorted(known))}."
