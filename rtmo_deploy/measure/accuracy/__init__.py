"""How well does a model find people? Average precision over object keypoint similarity, as COCO and CrowdPose judge.

:func:`evaluate_model` runs a model over annotated images; :func:`evaluate_poses` judges poses that somebody else
has found, in a training run for one; :func:`judge` is what both end in. None of them prints.
"""

from rtmo_deploy.measure.accuracy.detections import Detections, load_results, save_results
from rtmo_deploy.measure.accuracy.judge import (
    AccuracyReport,
    ProtocolName,
    Published,
    choose_protocol,
    choose_sigmas,
    evaluate_poses,
    judge,
    published_figures,
)
from rtmo_deploy.measure.accuracy.run import Evaluation, evaluate_model, with_score_threshold

__all__ = [
    "AccuracyReport",
    "Detections",
    "Evaluation",
    "ProtocolName",
    "Published",
    "choose_protocol",
    "choose_sigmas",
    "evaluate_model",
    "evaluate_poses",
    "judge",
    "load_results",
    "published_figures",
    "save_results",
    "with_score_threshold",
]
