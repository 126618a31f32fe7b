"""ONNX and OpenVINO files whose graphs were changed after their export: the graph decides."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime import PoseEstimator, read_artifact
from rtmo_deploy.runtime.contract import TensorSpec, by_graph
from rtmo_deploy.zoo import COCO_17

if TYPE_CHECKING:
    from pathlib import Path

ALL = (None, 256, 256, True)


def facts(artifact: Artifact) -> tuple[int | None, int, int, bool]:
    contract = artifact.input
    return contract.batch, contract.height, contract.width, contract.dynamic_hw


def change(source: Path, output: Path, *sides: int | str | None) -> Path:
    """Write a model with other sides of its input: batch, height, width; None leaves one."""
    tools = pytest.importorskip("onnxruntime.tools.onnx_model_utils")
    model = onnx.load(source)
    for tensor in (*model.graph.input, *model.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        for index, side in zip((0, 2, 3) if len(dims) == 4 and tensor.name == "input" else (0,), sides, strict=False):
            if isinstance(side, str):
                dims[index].dim_param = side
            elif side is not None and tensor.name == "input" and dims[index].dim_param:
                tools.make_dim_param_fixed(model.graph, dims[index].dim_param, side)
    tools.fix_output_shapes(model)
    onnx.save(model, output)
    return output


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1,), (1, 256, 256, True)),
        ((3,), (3, 256, 256, True)),
        ((None, 320, 192), (None, 320, 192, False)),
        ((None, 320), (None, 320, 256, False)),
        ((2, 128, 256), (2, 128, 256, False)),
        (("N", "H", "W"), ALL),
    ],
)
def test_sizes_fixed_afterwards(
    onnx_n: Path, pictures: list[Path], tmp_path: Path, sides: Any, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = change(onnx_n, tmp_path / "fixed.onnx", *sides)
    with caplog.at_level(logging.WARNING, "rtmo_deploy.model_notes"):
        estimator = PoseEstimator.open(path)
    assert facts(estimator.artifact) == expected
    assert bool(estimator.artifact.corrected) == (expected != ALL) == ("The graph decides." in caplog.text)
    found = estimator.predict(pictures[:4], batch=8)
    same = PoseEstimator.open(onnx_n, input_hw=expected[1:3]).predict(pictures[:4])
    assert [len(one) for one in found] == [len(one) for one in same]
    assert sum(map(len, found)) > 4
    # What is made of it says the right sizes.
    assert "corrected" not in estimator.artifact.to_dict()


@pytest.fixture(scope="module")
def static_n(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("static_n") / "s.onnx"
    options = ExportOptions(decode="fixed", max_dets=20, static=True, batch=2)
    export_onnx(load_checkpoint(checkpoint_n), path, options, verify=False)
    return path


def test_a_static_graph_declared_dynamic_takes_what_is_baked_in(
    static_n: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """Nothing is corrected: by its own graph it is what its metadata says."""
    estimator = PoseEstimator.open(change(static_n, tmp_path / "d.onnx", "N", "H", "W"))
    assert facts(estimator.artifact) == (2, 256, 256, False)
    assert estimator.artifact.corrected == ()
    assert len(estimator.predict(pictures[:3], batch=8)) == 3


def test_rows_that_the_graph_has_otherwise(static_n: Path, tmp_path: Path) -> None:
    model = onnx.load(static_n)
    artifact = read_artifact(static_n)
    lying = Artifact(**{**vars(artifact), "decode": DecodeContract(DecodeMode.FIXED, max_dets=7)})
    onnx.helper.set_model_props(model, lying.to_metadata())
    onnx.save(model, tmp_path / "rows.onnx")
    assert read_artifact(tmp_path / "rows.onnx").decode.max_dets == 20


def test_a_raw_graph_and_its_companion(checkpoint_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "r.onnx"
    export_onnx(load_checkpoint(checkpoint_n), path, ExportOptions(decode="raw"), verify=False)
    whole = PoseEstimator.open(path).predict(pictures[:3])
    fixed = PoseEstimator.open(change(path, tmp_path / "f.onnx", 2, 256, 256))
    assert facts(fixed.artifact) == (2, 256, 256, False)
    assert [len(one) for one in fixed.predict(pictures[:3])] == [len(one) for one in whole]


def test_a_reshaped_openvino_model(onnx_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    from rtmo_deploy.convert.openvino import convert_openvino

    convert_openvino(onnx_n, tmp_path / "n.xml", verify=False)
    model = ov.Core().read_model(tmp_path / "n.xml")
    model.reshape({0: [2, 3, 192, 256]})
    ov.save_model(model, tmp_path / "r.xml", compress_to_fp16=False)
    estimator = PoseEstimator.open(tmp_path / "r.xml")
    assert facts(estimator.artifact) == (2, 192, 256, False)
    assert len(estimator.predict(pictures[:3], batch=8)) == 3


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


IMAGE, DETS, POINTS = spec("x", "n", 3, "h", "w"), spec("dets", "n", "k", 5), spec("keypoints", "n", "k", 17, 3)


@pytest.mark.parametrize(
    ("inputs", "outputs", "finding"),
    [
        ((), (DETS, POINTS), "it has 0 inputs, not one"),
        ((IMAGE, IMAGE), (DETS, POINTS), "it has 2 inputs, not one"),
        ((spec("x", 1, 3, 64, 64, dtype="float16"),), (DETS, POINTS), "its input is x float16 "),
        ((spec("x", 1, 64, 64, 3),), (DETS, POINTS), "has no 3 channels"),
        ((spec("x", 1, 3, 100, 64),), (DETS, POINTS), "not multiples of 32"),
        ((spec("x", 0, 3, 64, 64),), (DETS, POINTS), "batch is 0"),
        ((spec("x", 10**6, 3, 64, 64),), (DETS, POINTS), "batch is 1000000"),
        ((spec("x", 1, 3, 8192, 8192),), (DETS, POINTS), "pixels are too many"),
        ((spec("x", 2, 3, 64, 64),), (spec("dets", 1, "k", 5), POINTS), "do not fit together"),
        ((IMAGE,), (DETS,), "its outputs are dets; those of --decode onnx"),
        ((IMAGE,), (DETS, spec("keypoints", "n", "k", 14, 3)), r"keypoints float32 \[\?, \?, 14, 3\]"),
        ((IMAGE,), (DETS, spec("keypoints", "n", "k", 17, 3, dtype="int64")), "keypoints int64"),
    ],
)
def test_what_cannot_be_reconciled(tmp_path: Path, inputs: Any, outputs: Any, finding: str) -> None:
    said = Artifact(
        tmp_path / "x.onnx", Kind.ONNX, "n", COCO_17, InputContract(64, 64), DecodeContract(DecodeMode.ONNX)
    )
    with pytest.raises(ArtifactError, match=finding):
        by_graph(said, inputs, outputs)
    assert by_graph(said, (IMAGE,), (DETS, POINTS)) == said


def test_numbers_of_rows_differ(tmp_path: Path) -> None:
    said = Artifact(
        tmp_path / "x.onnx", Kind.ONNX, "n", COCO_17, InputContract(64, 64), DecodeContract(DecodeMode.FIXED)
    )
    with pytest.raises(ArtifactError, match="do not fit together"):
        by_graph(said, (IMAGE,), (spec("dets", "n", 7, 5), spec("keypoints", "n", 8, 17, 3)))
    rows = by_graph(said, (IMAGE,), (spec("dets", "n", 7, 5), spec("keypoints", "n", None, 17, 3))).decode.max_dets
    assert rows == 7
