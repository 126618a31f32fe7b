"""Options that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "BackendOption",
    "DeviceOption",
    "ForceOption",
    "IgnoreCfgOption",
    "InputSizeOption",
    "PrecisionOption",
    "ThreadsOption",
    "TrustOption",
]


def _ignore_cfg(context: typer.Context, value: bool) -> bool:
    """Set the variable that whoever opens a checkpoint reads, child processes too, until the command ends."""
    if value and not context.resilient_parsing:
        from rtmo_deploy.zoo.ignore_cfg import ignoring_cfg

        context.with_resource(ignoring_cfg())
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
PrecisionOption = Annotated[
    str | None,
    typer.Option(metavar="fp32|bf16", help="What OpenVINO computes in. [default: what the file says, floats in fp32]"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Load an engine, which is code, without a record or with another's.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: the runtime's choice]")]
