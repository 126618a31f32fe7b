"""RTMO in plain PyTorch, and the reading of its checkpoints."""

from rtmo_deploy.model.checkpoint import LoadedCheckpoint, load_checkpoint, save_checkpoint
from rtmo_deploy.model.head import Detections, HeadOutputs
from rtmo_deploy.model.init import initial_checkpoint, initialise
from rtmo_deploy.model.rtmo import RTMO
from rtmo_deploy.model.spec import NetworkSpec, recognise

__all__ = [
    "RTMO",
    "Detections",
    "HeadOutputs",
    "LoadedCheckpoint",
    "NetworkSpec",
    "initial_checkpoint",
    "initialise",
    "load_checkpoint",
    "recognise",
    "save_checkpoint",
]
