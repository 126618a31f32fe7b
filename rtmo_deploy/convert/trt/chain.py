"""From a checkpoint, or an ONNX model of another precision, to the ONNX model that an engine is built from.

Each step is the one that its own command takes: export, quantise, cast, and the rewrite that puts the plugin in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.errors import ArtifactError, GateFailedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.quantize import Calibration, Judge, QuantizeResult, SourceModel

HALVES = ("fp16", "bf16")


def target_cast(precision: str, asked: str | None, around: str | None) -> str | None:
    """What a model is cast to on its way to an engine; None for nothing.

    Args:
        precision: Of the model.
        asked: ``fp32``, ``fp16``, ``bf16`` or ``int8``; None for what the model is.
        around: With ``int8``, what the rest of the network shall be; None for the default: ``fp16`` where the model is
            quantised here, else what it is.
    """
    if asked == "int8":
        rest = around or ("fp16" if precision == "fp32" else None)
        return rest if rest in HALVES and precision != f"int8+{rest}" else None
    return asked if asked in HALVES and precision == "fp32" else None


def quantize_for_engine(
    source: Path,
    folder: Path,
    calibrate: Callable[[SourceModel], Calibration],
    judge: Callable[[SourceModel], Judge] | None,
    *,
    progress: Callable[[str], None],
) -> tuple[Path, QuantizeResult]:
    """Quantise a float32 ONNX model, and judge what that costs.

    Args:
        source: The model.
        folder: Where the INT8 model is written.
        calibrate: Measures its ranges.
        judge: Who judges it; None for nobody.
        progress: Told of each step.

    Raises:
        ArtifactError: The model cannot be quantised.
        GateFailedError: The INT8 model finds none of the people that the float32 model finds.
    """
    from rtmo_deploy.convert.quantize import open_source, quantize_onnx

    progress("quantising")
    model = open_source(source)
    judging = None if judge is None else judge(model)
    target = folder / f"{source.stem}.int8.onnx"
    result = quantize_onnx(model, calibrate(model), target, judge=judging, progress=progress)
    if result.verdict is not None and result.verdict.against_fp32.missed and not result.verdict.against_fp32.matched:
        raise GateFailedError(
            f"The INT8 model finds none of the {result.verdict.against_fp32.missed} people that the FP32 model finds.",
            remedy="Nothing was written. Calibrate with other images (--calib), or build with --fp16.",
            where=source,
        )
    return target, result


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
    cast_to: str | None,
    decode: DecodeMode | None,
    verify: bool = True,
    progress: Callable[[str], None],
) -> Path:
    """Cast an ONNX model to what is asked for, and put the plugin in if it is asked for.

    Args:
        source: The model.
        artifact: What it is.
        folder: Where new models are written.
        cast_to: ``fp16`` or ``bf16``, as :func:`target_cast` says; None for nothing.
        decode: Where people shall be made; None for where it is.
        verify: Compare a cast model with its source.
        progress: Told of each step.

    Returns:
        The model to build from; ``source`` itself if it is right as it is.

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
    if cast_to is not None:
        # The plugin cannot run where the cast is judged, so it goes in afterwards.
        if mode is DecodeMode.PLUGIN:
            raise ArtifactError(
                "A model with the plugin in it cannot be cast: no runtime on the CPU could compare it with its source.",
                remedy=f"Give the model with --decode fixed: it is cast to {cast_to}, and --decode plugin puts the "
                "plugin in.",
                where=source,
            )
        from rtmo_deploy.convert.precision import cast_onnx

        current = folder / f"{source.stem}.{cast_to}.onnx"
        cast_onnx(source, current, cast_to, verify=verify, progress=progress)
    if decode is DecodeMode.PLUGIN and mode is not DecodeMode.PLUGIN:
        from rtmo_deploy.convert.plugins.rewrite import plugin_onnx

        progress("putting the plugin in")
        target = folder / f"{current.stem}.plugin.onnx"
        plugin_onnx(current, target)
        current = target
    return current
