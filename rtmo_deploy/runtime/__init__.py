"""Artifact and image to poses: backends, letterbox and decoding, reading and drawing images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.data.images import find_images, read_image
    from rtmo_deploy.runtime.backends import Backend, open_backend
    from rtmo_deploy.runtime.draw import draw_poses
    from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact

__all__ = [
    "Backend",
    "PoseEstimator",
    "draw_poses",
    "find_images",
    "open_backend",
    "read_artifact",
    "read_image",
]

_HOME = {
    "Backend": "runtime.backends",
    "PoseEstimator": "runtime.estimator",
    "draw_poses": "runtime.draw",
    "find_images": "data.images",
    "open_backend": "runtime.backends",
    "read_artifact": "runtime.estimator",
    "read_image": "data.images",
}

__getattr__ = lazy_exports("rtmo_deploy", _HOME)
