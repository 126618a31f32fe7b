"""Artifact to artifact: a checkpoint becomes an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.convert.export import export_onnx
    from rtmo_deploy.convert.step import ExportResult

__all__ = ["ExportOptions", "ExportResult", "export_onnx"]

_MODULES = {"step": ("ExportResult",), "export": ("export_onnx",)}

__getattr__ = lazy_exports(__name__, _MODULES)
