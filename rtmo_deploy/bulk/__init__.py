"""Many images with Ray, on one machine or a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.bulk.job import Job
    from rtmo_deploy.bulk.manifest import find_images
    from rtmo_deploy.bulk.pipeline import run
    from rtmo_deploy.bulk.run_folder import RunFolder

__all__ = ["Job", "RunFolder", "find_images", "run"]

_MODULES = {"job": ("Job",), "run_folder": ("RunFolder",), "manifest": ("find_images",), "pipeline": ("run",)}

__getattr__ = lazy_exports(__name__, _MODULES)
