"""rtmo-deploy: turn an RTMO pose checkpoint into something a team can ship, and prove.

The names below are loaded on first use, so that ``import rtmo_deploy`` costs next to nothing::

    from rtmo_deploy import RTMO

    model = RTMO("rtmo-s")
    poses = model("photo.jpg")
    poses.save("drawn.jpg")
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses an older Python; a checkout on its path does not
    raise ImportError(f"rtmo-deploy needs Python 3.11 or newer; this is Python {sys.version.split()[0]}.")

from rtmo_deploy._version import __version__
from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.errors import RtmoDeployError
    from rtmo_deploy.media.frame import Event, Frame
    from rtmo_deploy.model import load_checkpoint
    from rtmo_deploy.poses import Poses, Skeleton
    from rtmo_deploy.runtime import RTMO, PoseEstimator

__all__ = [
    "RTMO",
    "Artifact",
    "Event",
    "ExportOptions",
    "Frame",
    "PoseEstimator",
    "Poses",
    "RtmoDeployError",
    "Skeleton",
    "__version__",
    "export_onnx",
    "load_checkpoint",
]

_MODULES = {
    "runtime": ("RTMO", "PoseEstimator"),
    "artifact": ("Artifact",),
    "media.frame": ("Event", "Frame"),
    "convert": ("ExportOptions", "export_onnx"),
    "poses": ("Poses", "Skeleton"),
    "errors": ("RtmoDeployError",),
    "model": ("load_checkpoint",),
}

__getattr__ = lazy_exports(__name__, _MODULES)
