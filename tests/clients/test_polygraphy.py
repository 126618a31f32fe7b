"""Polygraphy takes exported graphs as they are: it runs them with every tensor marked, and builds engines of them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.agreement.layers import compare_layers
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.zoo import COCO_17
from rtmo_deploy.zoo.locate import resolve_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("polygraphy")

DECODES = ("fixed", "onnx")


@pytest.fixture(scope="module", params=DECODES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("polygraphy") / "m.onnx"
    checkpoint = load_checkpoint(resolve_checkpoint("rtmo-n"))
    export_onnx(checkpoint, path, ExportOptions(decode=request.param), verify=False)
    return path


def polygraphy(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from polygraphy.tools import main; raise SystemExit(main())", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def test_every_tensor_can_be_marked(exported: Path) -> None:
    shape = ("--input-shapes", "input:[1,3,128,128]", "--val-range", "input:[0,255]")
    said = polygraphy("run", exported, "--onnxrt", "--onnx-outputs", "mark", "all", *shape)
    assert "/backbone/stem/" in said
    assert "/head/" in said
    assert "PASSED" in said


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["fixed"], indirect=True)  # TensorRT-RTX has no NonMaxSuppression
def test_it_builds_an_engine(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    sizes = [("--trt-min-shapes", 1, 128), ("--trt-opt-shapes", 1, 192), ("--trt-max-shapes", 4, 320)]
    shapes = [part for flag, batch, side in sizes for part in (flag, f"input:[{batch},3,{side},{side}]")]
    engine = tmp_path / "m.engine"
    arguments = ("convert", exported, "--convert-to", "trt", "--strongly-typed", *shapes, "-o", engine)
    polygraphy(*arguments, POLYGRAPHY_USE_TENSORRT_RTX="1")
    assert engine.stat().st_size > 1 << 20


def test_an_engines_layers_are_left_to_it(tmp_path: Path) -> None:
    engine = Artifact(
        tmp_path / "m.engine",
        Kind.ENGINE,
        "rtmo-n",
        COCO_17,
        InputContract(192, 256),
        DecodeContract(DecodeMode.FIXED),
        parents=(Parent("m.fp16.onnx", "0" * 64),),
    )
    model = replace(engine, path=tmp_path / "m.onnx", kind=Kind.ONNX)
    with pytest.raises(UsageError) as caught:
        compare_layers(model, engine, np.zeros((1, 3, 192, 256), np.float32), picture="x", threshold_db=40)
    assert "polygraphy run m.fp16.onnx --trt" in caught.value.remedy
    assert "input:[1,3,192,256]" in caught.value.remedy
