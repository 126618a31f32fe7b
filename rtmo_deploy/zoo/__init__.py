"""Which models exist: one frozen record each, and how to get their checkpoints."""

from rtmo_deploy.zoo.records import (
    ARCHITECTURES,
    EMBEDDED,
    VARIANTS,
    Architecture,
    EmbeddedModel,
    PublishedAccuracy,
    Variant,
    architecture,
    variant,
)
from rtmo_deploy.zoo.skeletons import AIC_14, COCO_17, CROWDPOSE_14, skeleton_for

__all__ = [
    "AIC_14",
    "ARCHITECTURES",
    "COCO_17",
    "CROWDPOSE_14",
    "EMBEDDED",
    "VARIANTS",
    "Architecture",
    "EmbeddedModel",
    "PublishedAccuracy",
    "Variant",
    "architecture",
    "skeleton_for",
    "variant",
]
