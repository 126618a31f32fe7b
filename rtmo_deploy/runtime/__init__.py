"""Artifact and picture to poses: backends, letterbox and decoding, reading and drawing pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtmo_deploy.runtime.backends import Backend, open_backend
    from rtmo_deploy.runtime.draw import draw_poses
    from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact
    from rtmo_deploy.data.images import find_images, read_image

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
    "Backend": "backends",
    "PoseEstimator": "estimator",
    "draw_poses": "draw",
    "find_images": "media",
    "open_backend": "backends",
    "read_artifact": "estimator",
    "read_image": "media",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
