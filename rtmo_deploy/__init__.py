"""rtmo-deploy: turn an RTMO pose checkpoint into something a team can ship, and prove.

The names below are loaded on first use, so that ``import rtmo_deploy`` costs next to nothing::

    from rtmo_deploy import PoseEstimator

    estimator = PoseEstimator.open("rtmo-s.onnx")
    poses = estimator("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__

if TYPE_CHECKING:
    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.errors import RtmoDeployError
    from rtmo_deploy.model import load_checkpoint
    from rtmo_deploy.poses import Poses, Skeleton
    from rtmo_deploy.runtime import PoseEstimator

__all__ = [
    "Artifact",
    "ExportOptions",
    "PoseEstimator",
    "Poses",
    "RtmoDeployError",
    "Skeleton",
    "__version__",
    "export_onnx",
    "load_checkpoint",
]

_HOME = {
    "Artifact": "rtmo_deploy.artifact",
    "ExportOptions": "rtmo_deploy.convert",
    "PoseEstimator": "rtmo_deploy.runtime",
    "Poses": "rtmo_deploy.poses",
    "RtmoDeployError": "rtmo_deploy.errors",
    "Skeleton": "rtmo_deploy.poses",
    "export_onnx": "rtmo_deploy.convert",
    "load_checkpoint": "rtmo_deploy.model",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)
