"""Judges: is a model well formed, and do two of them find the same people?

The names below are loaded on first use: looking at a machine must not need what it looks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.measure.bounds import Bounds
    from rtmo_deploy.measure.comparison import Figures, compare_people
    from rtmo_deploy.measure.tensors import compare_tensors
    from rtmo_deploy.measure.validate import Check, ValidationReport, validate_model, validate_onnx
    from rtmo_deploy.measure.verify import Case, VerificationReport, structured_images

__all__ = [
    "Bounds",
    "Case",
    "Check",
    "Figures",
    "ValidationReport",
    "VerificationReport",
    "compare_people",
    "compare_tensors",
    "structured_images",
    "validate_model",
    "validate_onnx",
]

_MODULES = {
    "bounds": ("Bounds",),
    "verify": ("Case", "VerificationReport", "structured_images"),
    "validate": ("Check", "ValidationReport", "validate_model", "validate_onnx"),
    "comparison": ("Figures", "compare_people"),
    "tensors": ("compare_tensors",),
}

__getattr__ = lazy_exports(__name__, _MODULES)
