"""Do two models find the same people, and if not, from which layer on?

:func:`compare_models` puts the same tensors into both, whatever they are (checkpoint, ONNX in any precision and decode
mode, engine), and measures in terms of people first. :func:`write_gallery` draws what it found. None of them prints.
"""

from rtmo_deploy.measure.agreement.causes import explain_evaluation
from rtmo_deploy.measure.agreement.compare import ImageSource, Side, compare_models
from rtmo_deploy.measure.agreement.gallery import write_gallery
from rtmo_deploy.measure.agreement.layers import LayerError, LayerReport, compare_layers
from rtmo_deploy.measure.agreement.report import AgreementReport, ModelSummary
from rtmo_deploy.measure.bounds import BOUNDS, Bounds, bounds_for
from rtmo_deploy.measure.comparison import Figures, ImageComparison, Unmatched

__all__ = [
    "BOUNDS",
    "AgreementReport",
    "Bounds",
    "Figures",
    "ImageComparison",
    "ImageSource",
    "LayerError",
    "LayerReport",
    "ModelSummary",
    "Side",
    "Unmatched",
    "bounds_for",
    "compare_layers",
    "compare_models",
    "explain_evaluation",
    "write_gallery",
]
