"""From a checkpoint, or an ONNX model of another precision, to the ONNX model that an engine is built from.

Each step is the one that its own command takes: export, quantise, cast, and the rewrite that puts the plugin in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.trt.options import make_profiles
from rtmo_deploy.convert.trt.plan import build_notes, default_output, plan_build, settle_variant
from rtmo_deploy.errors import ArtifactError, GateFailedError, UsageError
from rtmo_deploy.file_kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.convert.quantize import Calibration, Judge, QuantizeResult, SourceModel
    from rtmo_deploy.convert.trt.options import BuildOptions
    from rtmo_deploy.runtime.engine_file import Profile
    from rtmo_deploy.runtime.trt_api import TrtVariant

HALVES = ("fp16", "bf16")


@dataclass(frozen=True)
class ChainPlan:
    """The way from a model to an engine, checked and not begun."""

    source: Path
    #: How a checkpoint is exported; None for an ONNX model.
    export: DecodeMode | None
    quantise: bool
    #: ``fp16`` or ``bf16``.
    cast: str | None
    add_plugin: bool
    variant: TrtVariant
    #: Of the engine.
    precision: str
    profiles: tuple[Profile, ...]
    #: The engine's file.
    output: Path
    #: Why this machine cannot build it; empty if it can.
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def steps(self) -> list[str]:
        """What would be done, in order and in words."""
        steps = {
            f"export --decode {self.export}": self.export,
            "quantise to int8 and judge it": self.quantise,
            f"cast {'the rest ' if self.precision.startswith('int8') else ''}to {self.cast}": self.cast,
            "put the decode plugin in": self.add_plugin,
            f"build with {self.variant.name}, audit, write": True,
        }
        return [step for step, taken in steps.items() if taken]


def plan_chain(
    source: Path,
    artifact: Artifact,
    output: Path | None,
    options: BuildOptions,
    *,
    decode: DecodeMode | None = None,
    around: str | None = None,
) -> ChainPlan:
    """Check as much as can be checked before anything is made.

    Args:
        source: A checkpoint or an ONNX model.
        artifact: What it is.
        output: The engine's file; named after what it is, if not given.
        options: What is asked for.
        decode: Where the graph decodes; None for where it does.
        around: With ``int8``, the precision of the rest of the network; None for the default: ``fp16`` where the model
            is quantised here, else what it is.

    Raises:
        ArtifactError: The model cannot be built.
        UsageError: An option does not apply, or the model was exported with another ``--decode``.
    """
    quantise = options.precision == "int8" and artifact.precision == "fp32"
    cast = _target_cast(artifact.precision, options.precision, around)
    precision = options.precision or "fp32"
    export = None
    if artifact.kind is Kind.CHECKPOINT:
        export = DecodeMode.RAW if decode is DecodeMode.RAW else DecodeMode.FIXED
        variant, problems = settle_variant(options)
        profiles, notes = make_profiles(options, artifact.input), build_notes(variant, options)
    else:
        plan = plan_build(source, output, replace(options, precision=None) if cast or quantise else options)
        variant, problems, profiles, notes = plan.variant, plan.problems, plan.profiles, plan.notes
        if not (cast or quantise):
            precision = plan.precision
    if precision == "int8" and cast:
        precision = f"int8+{cast}"
    mode = artifact.decode.mode
    if decode is DecodeMode.PLUGIN and not variant.plugins:
        raise UsageError(
            f"--decode plugin does not apply to {variant.name}, which takes no plugins.",
            remedy="Use --decode fixed: it finds the same detections without one.",
            where=source,
        )
    if export is None and decode not in {None, mode} and (decode, mode) != (DecodeMode.PLUGIN, DecodeMode.FIXED):
        raise UsageError(
            f"--decode {decode} was asked for, and {source.name} was exported with --decode {mode}.",
            remedy="Leave it away, or give the checkpoint.",
        )
    # The plugin runs on no CPU, where the new model is judged, so it goes in afterwards.
    if mode is DecodeMode.PLUGIN and (quantise or cast):
        raise ArtifactError(
            f"A model with the plugin in it cannot be {'quantised' if quantise else 'cast'}: no runtime on the CPU "
            "could compare it with its source.",
            remedy="Give the model with --decode fixed; --decode plugin puts the plugin in afterwards.",
            where=source,
        )
    return ChainPlan(
        source=source,
        export=export,
        quantise=quantise,
        cast=cast,
        add_plugin=decode is DecodeMode.PLUGIN and mode is not DecodeMode.PLUGIN,
        variant=variant,
        precision=precision,
        profiles=profiles,
        output=output or default_output(source, precision, variant),
        problems=problems,
        notes=notes,
    )


def _target_cast(precision: str, asked: str | None, around: str | None) -> str | None:
    """What a model of a precision is cast to on its way to an engine; None for nothing."""
    if asked == "int8":
        rest = around or ("fp16" if precision == "fp32" else None)
        return rest if rest in HALVES and precision != f"int8+{rest}" else None
    return asked if asked in HALVES and precision == "fp32" else None


def make_onnx(
    plan: ChainPlan,
    folder: Path,
    *,
    calibrate: Callable[[SourceModel], Calibration] | None = None,
    judge: Callable[[SourceModel], Judge] | None = None,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, QuantizeResult | None]:
    """Take the steps of a plan up to the model that is built.

    Args:
        plan: What to do.
        folder: Where new models are written.
        calibrate: Measures the ranges of a model that is quantised.
        judge: Makes its judge; None for no judgement.
        verify: Compare what is exported and cast with its source.
        progress: Gets each step.

    Returns:
        The model; the source itself if it is right as it is. And the result of its quantisation.

    Raises:
        CheckpointError, ArtifactError: A step cannot be taken.
        GateFailedError: A new model does not find what its source finds.
    """
    current, quantised = plan.source, None
    if plan.export is not None:
        current = _export(plan.source, plan.export, folder, verify=verify, progress=progress)
    if plan.quantise:
        assert calibrate is not None
        current, quantised = _quantize(current, folder, calibrate, judge, progress)
    if plan.cast is not None:
        from rtmo_deploy.convert.precision import cast_onnx

        target = folder / f"{current.stem}.{plan.cast}.onnx"
        cast_onnx(current, target, plan.cast, verify=verify, progress=progress)
        current = target
    if plan.add_plugin:
        from rtmo_deploy.convert.plugins.rewrite import plugin_onnx

        progress("putting the plugin in")
        target = folder / f"{current.stem}.plugin.onnx"
        plugin_onnx(current, target)
        current = target
    return current, quantised


def _export(
    checkpoint: Path, decode: DecodeMode, folder: Path, *, verify: bool, progress: Callable[[str], None]
) -> Path:
    progress("reading the checkpoint")
    from rtmo_deploy.convert.export import export_onnx
    from rtmo_deploy.convert.options import ExportOptions
    from rtmo_deploy.model import load_checkpoint

    options = ExportOptions("raw" if decode is DecodeMode.RAW else "fixed")
    target = folder / f"{checkpoint.stem}.onnx"
    export_onnx(load_checkpoint(checkpoint), target, options, verify=verify, progress=progress)
    return target


def _quantize(
    source: Path,
    folder: Path,
    calibrate: Callable[[SourceModel], Calibration],
    judge: Callable[[SourceModel], Judge] | None,
    progress: Callable[[str], None],
) -> tuple[Path, QuantizeResult]:
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
