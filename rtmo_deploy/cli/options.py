"""Options that several commands have in common."""

from __future__ import annotations

import os
from typing import Annotated

import typer

__all__ = [
    "BackendOption",
    "DeviceOption",
    "ForceOption",
    "IgnoreCfgOption",
    "InputSizeOption",
    "MaxPixelsOption",
    "PrecisionOption",
    "ThreadsOption",
    "TrustOption",
]


def _set(context: typer.Context, name: str, value: str) -> None:
    """Set a variable that readers consult, in child processes too, until the command ends."""
    if context.resilient_parsing:
        return
    before = os.environ.get(name)
    os.environ[name] = value
    context.call_on_close(lambda: os.environ.pop(name) if before is None else os.environ.update({name: before}))


def _ignore_cfg(context: typer.Context, value: bool) -> bool:
    if value:
        _set(context, "RTMO_DEPLOY_IGNORE_CFG", "1")
    return value


def _max_pixels(context: typer.Context, value: int | None) -> int | None:
    if value is not None:
        _set(context, "RTMO_DEPLOY_MAX_PIXELS", str(value))
    return value


IgnoreCfgOption = Annotated[
    bool,
    typer.Option(
        "--ignore-cfg",
        callback=_ignore_cfg,
        help="Do not follow the config inside a checkpoint: take the published models' settings.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace outputs that exist; inputs never are.")]
BackendOption = Annotated[str | None, typer.Option(help="Runtime. [default: what fits the file]")]
InputSizeOption = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="H W", help="Letterbox pictures to this size. [default: the model's own]"),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        callback=_max_pixels,
        help="Refuse images with more pixels. [default: RTMO_DEPLOY_MAX_PIXELS, or 67108864]",
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(metavar="fp32|bf16", help="What OpenVINO computes in. [default: what the file says, floats in fp32]"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Load an engine, which is code, without a record or with another's.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: the runtime's choice]")]
