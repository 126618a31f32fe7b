"""Judges: is a model well formed, and do two of them find the same people?"""

from rtmo_deploy.measure.parity import Bounds, CaseResult, PeopleErrors, compare_people
from rtmo_deploy.measure.scenes import structured_images
from rtmo_deploy.measure.validate import Check, ValidationReport, validate_model, validate_onnx

__all__ = [
    "Bounds",
    "CaseResult",
    "Check",
    "PeopleErrors",
    "ValidationReport",
    "compare_people",
    "structured_images",
    "validate_model",
    "validate_onnx",
]
