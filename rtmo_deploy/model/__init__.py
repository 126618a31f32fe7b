"""RTMO in plain PyTorch, and the reading of its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.model.checkpoint import LoadedCheckpoint, initial_checkpoint, load_checkpoint, save_checkpoint
    from rtmo_deploy.model.head import Detections, HeadOutputs
    from rtmo_deploy.model.rtmo import RTMO, initialise
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

_MODULES = {
    "checkpoint": ("LoadedCheckpoint", "initial_checkpoint", "load_checkpoint", "save_checkpoint"),
    "head": ("Detections", "HeadOutputs"),
    "spec": ("NetworkSpec", "recognise"),
    "rtmo": ("RTMO", "initialise"),
}

# PyTorch is loaded only where a network is needed: who reads a recipe needs none.
__getattr__ = lazy_exports(__name__, _MODULES)
