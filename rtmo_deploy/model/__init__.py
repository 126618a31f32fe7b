"""RTMO in plain PyTorch, and the reading of its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_HOME = {
    **dict.fromkeys(("LoadedCheckpoint", "initial_checkpoint", "load_checkpoint", "save_checkpoint"), "checkpoint"),
    **dict.fromkeys(("Detections", "HeadOutputs"), "head"),
    **dict.fromkeys(("NetworkSpec", "recognise"), "spec"),
    **dict.fromkeys(("RTMO", "initialise"), "rtmo"),
}


def __getattr__(name: str) -> Any:
    # PyTorch is loaded only where a network is needed: who reads a recipe needs none.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
