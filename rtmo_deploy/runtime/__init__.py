"""Artifact and image to poses: backends, letterbox and decoding, reading and drawing images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.data.images import find_images, read_image
    from rtmo_deploy.runtime.backends import Backend, open_backend
    from rtmo_deploy.runtime.draw import draw_poses
    from rtmo_deploy.runtime.estimator import RTMO, PoseEstimator, read_artifact
    from rtmo_deploy.runtime.inputs import to_bgr
    from rtmo_deploy.runtime.thresholds import Thresholds

__all__ = [
    "RTMO",
    "Backend",
    "PoseEstimator",
    "Thresholds",
    "draw_poses",
    "find_images",
    "open_backend",
    "read_artifact",
    "read_image",
    "to_bgr",
]

_MODULES = {
    "runtime.estimator": ("RTMO", "PoseEstimator", "read_artifact"),
    "runtime.backends": ("Backend", "open_backend"),
    "runtime.thresholds": ("Thresholds",),
    "runtime.draw": ("draw_poses",),
    "data.images": ("find_images", "read_image"),
    "runtime.inputs": ("to_bgr",),
}

__getattr__ = lazy_exports("rtmo_deploy", _MODULES)
