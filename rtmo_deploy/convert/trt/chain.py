"""Makes the ONNX model that an engine is built from, of a checkpoint or an ONNX model of another precision.

Each step is the one that its own command takes: export, quantise, cast, and the rewrite that puts the plugin in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.errors import GateFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.convert.quantize import Calibration, Judge, QuantizeResult, SourceModel
    from rtmo_deploy.convert.trt.plan import BuildPlan


def make_onnx(
    plan: BuildPlan,
    folder: Path,
    *,
    calibrate: Callable[[SourceModel], Calibration] | None = None,
    judge: Callable[[SourceModel], Judge] | None = None,
    verify: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Path, QuantizeResult | None]:
    """Take the steps of a plan up to the model that is built; new models are written to ``folder``.

    A model that is quantised needs ``calibrate``, and is judged by what ``judge`` makes, if given. With ``verify`` what
    is exported and cast is compared with its source.

    Returns:
        The model; the source itself if it is right as it is. And the result of its quantisation.

    Raises:
        CheckpointError, ArtifactError: A step cannot be taken.
        GateFailedError: A new model does not find what its source finds.
    """
    current, quantised = plan.source, None
    if plan.export is not None:
        progress("reading the checkpoint")
        from rtmo_deploy.convert.export import export_onnx
        from rtmo_deploy.convert.options import ExportOptions
        from rtmo_deploy.model import load_checkpoint

        current = folder / f"{plan.source.stem}.onnx"
        checkpoint, export = load_checkpoint(plan.source), ExportOptions(plan.export)
        export_onnx(checkpoint, current, export, verify=verify, progress=progress)
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


def _quantize(
    source: Path,
    folder: Path,
    calibrate: Callable[[SourceModel], Calibration],
    judge: Callable[[SourceModel], Judge] | None,
    progress: Callable[[str], None],
) -> tuple[Path, QuantizeResult]:
    from rtmo_deploy.artifact import Target
    from rtmo_deploy.convert.quantize import open_source, quantize_onnx

    progress("quantising")
    model = open_source(source, Target.TENSORRT)
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
