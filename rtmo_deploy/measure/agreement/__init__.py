"""Do two models find the same people, and if not, from which layer on?

:func:`compare_models` puts the same tensors into both, whatever they are (checkpoint, ONNX in any precision and decode
mode, engine), and measures in terms of people first. :func:`write_gallery` draws what it found. None of them prints.
"""

from rtmo_deploy.measure.agreement.annotated import Frame, explain_misses
from rtmo_deploy.measure.agreement.bounds import BOUNDS, AgreementBounds, bounds_for
from rtmo_deploy.measure.agreement.compare import compare_models, compare_sides
from rtmo_deploy.measure.agreement.gallery import write_gallery
from rtmo_deploy.measure.agreement.layers import LayerError, LayerReport, compare_layers
from rtmo_deploy.measure.agreement.matching import match_people, similarity
from rtmo_deploy.measure.agreement.misses import explain_evaluation
from rtmo_deploy.measure.agreement.people import PeopleAgreement, PictureAgreement, Stray, compare_picture, summarise
from rtmo_deploy.measure.agreement.pictures import Pictures
from rtmo_deploy.measure.agreement.report import AgreementReport
from rtmo_deploy.measure.agreement.sides import ModelSummary, Side
from rtmo_deploy.measure.agreement.tensors import TensorError

__all__ = [
    "BOUNDS",
    "AgreementBounds",
    "AgreementReport",
    "Frame",
    "LayerError",
    "LayerReport",
    "ModelSummary",
    "PeopleAgreement",
    "PictureAgreement",
    "Pictures",
    "Side",
    "Stray",
    "TensorError",
    "bounds_for",
    "compare_layers",
    "compare_models",
    "compare_picture",
    "compare_sides",
    "explain_evaluation",
    "explain_misses",
    "match_people",
    "similarity",
    "summarise",
    "write_gallery",
]
