"""Artifact to artifact: a checkpoint becomes an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.convert.options import ExportOptions

if TYPE_CHECKING:
    from rtmo_deploy.convert.export import export_onnx
    from rtmo_deploy.convert.step import ExportResult

__all__ = ["ExportOptions", "ExportResult", "export_onnx"]

_HOME = {"ExportResult": "step", "export_onnx": "export"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"rtmo_deploy.convert.{_HOME[name]}"), name)
