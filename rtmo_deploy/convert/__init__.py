"""Artifact to artifact: a checkpoint becomes an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtmo_deploy.convert.options import (
    ExportOptions,
    FixedDecodeOptions,
    OnnxDecodeOptions,
    RawDecodeOptions,
)

if TYPE_CHECKING:
    from rtmo_deploy.convert.export import ExportResult, export_onnx

__all__ = [
    "ExportOptions",
    "ExportResult",
    "FixedDecodeOptions",
    "OnnxDecodeOptions",
    "RawDecodeOptions",
    "export_onnx",
]


def __getattr__(name: str) -> Any:
    if name not in {"ExportResult", "export_onnx"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("rtmo_deploy.convert.export"), name)
