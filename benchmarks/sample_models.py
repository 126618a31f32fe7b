"""The models that a benchmark runs where none is named: made of one checkpoint, in a folder that is thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Target
    from rtmo_deploy.convert import ExportOptions
    from rtmo_deploy.model import LoadedCheckpoint

#: The model that comes with the package.
DEFAULT = "rtmo-n"


def load(name: str) -> LoadedCheckpoint:
    """A checkpoint: a file, or a model by name."""
    from rtmo_deploy.model import load_checkpoint
    from rtmo_deploy.zoo.locate import resolve_checkpoint

    return load_checkpoint(resolve_checkpoint(name))


def export(checkpoint: LoadedCheckpoint, output: Path, options: ExportOptions | None = None) -> Path:
    """An ONNX model of it. Not verified: that is what ``rtmo-deploy export`` and the tests are for."""
    from rtmo_deploy.convert import export_onnx

    export_onnx(checkpoint, output, options, verify=False)
    return output


def export_mmdeploy_shape(checkpoint: LoadedCheckpoint, output: Path, input_hw: tuple[int, int] | None = None) -> Path:
    """A graph of MMDeploy's shape, of the same weights and with the same thresholds."""
    from mmdeploy_shape import mmdeploy_shape

    thresholds = checkpoint.artifact().decode
    model = mmdeploy_shape(
        checkpoint.model,
        input_hw or checkpoint.input_hw,
        score_thr=thresholds.score_thr,
        nms_thr=thresholds.nms_thr,
    )
    output.write_bytes(model.SerializeToString())
    return output


def quantise(
    model: Path, output: Path, pictures: int, threads: int | None = None, target: Target | None = None
) -> Path:
    """It in INT8, calibrated with synthetic images. Not judged: what it costs is ``rtmo-deploy quantize``'s to say."""
    from rtmo_deploy.convert.quantize import calibrate, open_source, quantize_onnx
    from rtmo_deploy.data.calibration import open_set

    source = open_source(model, target)
    quantize_onnx(source, calibrate(source, open_set("synthetic", pictures), threads=threads), output)
    return output
