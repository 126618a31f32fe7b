"""From a checkpoint, or an ONNX model of another precision, to the ONNX model that an engine is built from.

Each step is the one that its own command takes: export, cast, and the rewrite that puts the plugin in. Nothing is
quantised here: that needs pictures, and a person who looks at what it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

__all__ = ["export_for_engine", "prepare_onnx"]

HALVES = ("fp16", "bf16")


def export_for_engine(
    checkpoint: Path, folder: Path, decode: DecodeMode, *, verify: bool = True, progress: Callable[[str], None]
) -> Path:
    """Export a checkpoint as engines are built from it: dynamic, decoded in the graph unless ``raw`` is asked for.

    Args:
        checkpoint: A .pth or .safetensors file.
        folder: Where the model is written.
        decode: ``raw``, or ``fixed``, which is also what a plugin is put into.
        verify: Compare it with PyTorch.
        progress: Told of each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ParityError: The model does not compute what PyTorch computes.
    """
    progress("reading the checkpoint")
    from rtmo_deploy.convert.export import export_onnx
    from rtmo_deploy.convert.options import ExportOptions, FixedDecodeOptions, RawDecodeOptions
    from rtmo_deploy.model import load_checkpoint

    options = RawDecodeOptions() if decode is DecodeMode.RAW else FixedDecodeOptions()
    target = folder / f"{checkpoint.stem}.onnx"
    export_onnx(load_checkpoint(checkpoint), target, ExportOptions(decode=options), verify=verify, progress=progress)
    return target


def prepare_onnx(
    source: Path,
    artifact: Artifact,
    folder: Path,
    *,
    precision: str | None,
    decode: DecodeMode | None,
    verify: bool = True,
    progress: Callable[[str], None],
) -> Path:
    """Cast an ONNX model to what is asked for, and put the plugin in if it is asked for.

    Args:
        source: The model.
        artifact: What it is.
        folder: Where new models are written.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; None for what it is.
        decode: Where people shall be made; None for where it is.
        verify: Compare a cast model with its source.
        progress: Told of each step.

    Returns:
        The model to build from; ``source`` itself if it is right as it is. A precision that no cast leads to is left to
        the build's own check.

    Raises:
        UsageError: It was exported with another ``--decode``, which cannot be changed any more.
        ArtifactError: It cannot be cast, or the plugin does not fit in.
        ParityError: The cast model does not find what its source finds.
    """
    mode = artifact.decode.mode
    if decode not in {None, mode} and (decode, mode) != (DecodeMode.PLUGIN, DecodeMode.FIXED):
        raise UsageError(
            f"--decode {decode} was asked for, and {source.name} was exported with --decode {mode}.",
            remedy="Leave it away, or give the checkpoint.",
        )
    current = source
    if precision in HALVES and artifact.precision == "fp32":
        # The plugin cannot run where the cast is judged, so it goes in afterwards.
        if mode is DecodeMode.PLUGIN:
            raise ArtifactError(
                "A model with the plugin in it cannot be cast: no runtime on the CPU could compare it with its source.",
                remedy=f"Give the model with --decode fixed: it is cast to {precision}, and --decode plugin puts the "
                "plugin in.",
                where=source,
            )
        from rtmo_deploy.convert.precision import cast_onnx

        current = folder / f"{source.stem}.{precision}.onnx"
        cast_onnx(source, current, precision, verify=verify, progress=progress)
    if decode is DecodeMode.PLUGIN and mode is not DecodeMode.PLUGIN:
        from rtmo_deploy.convert.plugins.rewrite import plugin_onnx

        progress("putting the plugin in")
        target = folder / f"{current.stem}.plugin.onnx"
        plugin_onnx(current, target)
        current = target
    return current
