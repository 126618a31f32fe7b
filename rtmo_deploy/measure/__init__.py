"""Judges: is a model well formed, and do two of them find the same people?

The names below are loaded on first use: looking at a machine must not need what it looks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtmo_deploy.measure.parity import Bounds, CaseResult, PeopleErrors, compare_people, compare_tensors
    from rtmo_deploy.measure.scenes import structured_images
    from rtmo_deploy.measure.validate import Check, ValidationReport, validate_model, validate_onnx

__all__ = [
    "Bounds",
    "CaseResult",
    "Check",
    "PeopleErrors",
    "ValidationReport",
    "compare_people",
    "compare_tensors",
    "structured_images",
    "validate_model",
    "validate_onnx",
]

_HOME = {
    "Bounds": "parity",
    "CaseResult": "parity",
    "Check": "validate",
    "PeopleErrors": "parity",
    "ValidationReport": "validate",
    "compare_people": "parity",
    "compare_tensors": "parity",
    "structured_images": "scenes",
    "validate_model": "validate",
    "validate_onnx": "validate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"rtmo_deploy.measure.{_HOME[name]}"), name)
