"""The benchmarks run to the end with tiny settings, and what they print can be read. Nothing is measured here."""

from __future__ import annotations

import lzma
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from rtmo_deploy.measure import compare_people, structured_images
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.onnxruntime_backend import open_session, run_session

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
RATIO = re.compile(r"(\d+\.\d\d) \((\d+\.\d\d) to (\d+\.\d\d)\)$")


def run(script: str, *arguments: str, **variables: str) -> str:
    """What a script prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows(printed: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return cells[1:]


def assert_ratio(text: str) -> None:
    """A ratio between its own limits. Nothing is said of its size: two rounds on a busy machine give any."""
    found = RATIO.match(text)
    assert found is not None, text
    value, low, high = map(float, found.groups())
    assert 0 <= low <= value <= high


def scripts() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", scripts())
def test_the_readme_names_it(script: str) -> None:
    assert f"`{script}" in README
    # One command each; the one that needs another Python cannot do without its path.
    if script != "training_vs_mmpose.py":
        assert f"python benchmarks/{script}\n" in README


def test_cpu_end_to_end_says_what_it_needs(tmp_path: Path) -> None:
    # A package of that name that is not there: a finder that knows nothing of rtmlib.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['rtmlib'] = None\n")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "cpu_end_to_end.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install --no-deps rtmlib" in done.stderr


@pytest.mark.slow
def test_throughput() -> None:
    printed = run("throughput.py", "rtmo-n", "--images", "3", "--batch", "2", "--rounds", "2", "--size", "96", "128")
    table = rows(printed)
    assert len(table) == 5
    for row in table[:3]:
        assert_ratio(row[1])
    assert all(float(row[1]) > 0 for row in table[3:])


@pytest.mark.slow
def test_cpu_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("rtmlib")
    tiny = ["--threads", "1", "--rounds", "2", "--images", "2", "--folder", "3", "--calibration", "2", "--people", "2"]
    written, drawn = tmp_path / "times.json", tmp_path / "cpu.png"
    printed = run("cpu_end_to_end.py", "--imgsz", "128", "128", "--json", str(written), *tiny)
    table = {row[0]: row for row in rows(printed)}
    reference = table["rtmlib, MMDeploy's graph"]
    assert reference[3:] == ["1", "1"]
    exact = ["PyTorch FP32", "ONNX Runtime FP32", "OpenVINO FP32"]
    assert {table[name][1] for name in exact if name in table} == {reference[1]}, "they did not find the same people"
    assert_ratio(table["ONNX Runtime INT8"][3])
    assert_ratio(table["ONNX Runtime INT8"][4])
    refused = printed.partition("Not run:")[2]
    for name in (*exact, "OpenVINO BF16", "ONNX Runtime INT8", "OpenVINO INT8", "OpenVINO INT8, rest BF16"):
        assert (name in table) != (f"- {name}: " in refused)
    run("cpu_end_to_end.py", "--draw", str(written), str(written), "--plot", str(drawn))
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_onnx_vs_mmdeploy() -> None:
    table = rows(run("onnx_vs_mmdeploy.py", "--people", "4", "--threads", "1", "--rounds", "2", "--runs", "1"))
    assert [row[0] for row in table] == ["4"]
    for row in table:
        ours, theirs = row[1].split(" / ")
        assert ours == theirs
        assert_ratio(row[4])


@pytest.mark.slow
def test_precision_sensitivity() -> None:
    parts = ("backbone stem", "DCC: norm")
    asked = [word for part in parts for word in ("--part", part)]
    table = rows(run("precision_sensitivity.py", "--limit", "2", "--imgsz", "128", "128", *asked))
    assert [row[0] for row in table] == [*parts, "**`cast --fp16`**"]
    assert all(len(row) == 9 for row in table)


def test_deepstream_letterbox() -> None:
    table = rows(run("deepstream_letterbox.py", "--images", "3"))
    assert [row[0] for row in table] == [
        *("center, rtmo-deploy", "center, nvinfer", "center, nvinfer"),
        *("top-left, rtmo-deploy", "top-left, nvinfer", "top-left, nvinfer"),
    ]
    assert all(0 <= float(row[2]) <= 1 for row in table)
    assert all(0 <= float(row[3]) < 5 for row in table if row[3] != "-")


def test_every_part_of_the_network_has_nodes(onnx_n: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from precision_sensitivity import GROUPS

    nodes = onnx.load(onnx_n).graph.node
    assert len(GROUPS) > 20
    empty = {group.name for group in GROUPS if not any(group.holds(node) for node in nodes)}
    assert empty == {"head: dense outputs (raw)"}


@pytest.mark.slow
def test_gpu_where_there_is_none() -> None:
    assert run("gpu.py", CUDA_VISIBLE_DEVICES="").startswith("Not measured: ")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu() -> None:
    printed = run("gpu.py", "--seconds", "0.2", "--rounds", "2", "--calibration", "2")
    assert "PyTorch compiled" in printed
    assert "(onnxruntime)" in printed


@pytest.fixture
def shape_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path, tuple[int, int] | None], Path]:
    """Writes a graph of MMDeploy's shape of a checkpoint."""
    monkeypatch.syspath_prepend(FOLDER)
    from sample_models import export_mmdeploy_shape

    def make(checkpoint: Path, output: Path, input_hw: tuple[int, int] | None = None) -> Path:
        return Path(export_mmdeploy_shape(load_checkpoint(checkpoint), output, input_hw))

    return make


def picture(height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(structured_images(1, height, width)[0].transpose(1, 2, 0)).astype(np.uint8)


def test_the_mmdeploy_shape_finds_what_the_export_finds(
    shape_of: Callable[..., Path], checkpoint_n: Path, onnx_n: Path, tmp_path: Path
) -> None:
    theirs = shape_of(checkpoint_n, tmp_path / "shape.onnx", (128, 160))
    onnx.checker.check_model(onnx.load(theirs), full_check=True)
    artifact = read_artifact(theirs)
    assert artifact.producer == "mmdeploy"
    assert artifact.decode.junk_rows
    assert (artifact.input.height, artifact.input.width) == (128, 160)
    image = picture(128, 160)
    one = PoseEstimator.open(theirs, threads=1)(image)
    two = PoseEstimator.open(onnx_n, threads=1, input_hw=(128, 160))(image)
    assert len(one) > 3
    errors = compare_people([one], [two])
    assert (errors.missed, errors.extra) == (0, 0)
    assert errors.keypoint_px_max < 0.02


@pytest.mark.slow
def test_the_mmdeploy_shape_is_mmdeploys(shape_of: Callable[..., Path], shared: Path, tmp_path: Path) -> None:
    """Row by row, the one that is nobody among them; and as many convolutions and activations."""
    for name in ("mmdeploy-rtmo-t.onnx", "rtmo-t-same-weights.pth"):
        packed = shared / "peers" / f"{name}.xz"
        if not packed.is_file():
            pytest.skip(f"needs {packed}, which is not there")
        (tmp_path / name).write_bytes(lzma.decompress(packed.read_bytes()))
    theirs = tmp_path / "mmdeploy-rtmo-t.onnx"
    ours = shape_of(tmp_path / "rtmo-t-same-weights.pth", tmp_path / "shape.onnx")
    graphs = [onnx.load(path).graph for path in (theirs, ours)]
    for op in ("Conv", "Sigmoid", "NonMaxSuppression", "TopK", "Sin", "Cos", "Erf", "MaxPool", "Resize"):
        counts = [sum(node.op_type == op for node in graph.node) for graph in graphs]
        assert counts[0] == counts[1], op
    assert len(graphs[1].node) < len(graphs[0].node)
    images = structured_images(1, 416, 416)
    expected, found = (
        run_session(open_session(path, threads=1, where=path), {"input": images}, where=path) for path in (theirs, ours)
    )
    assert expected["dets"].shape[1] > 3
    assert found["dets"].shape == expected["dets"].shape
    np.testing.assert_allclose(found["dets"], expected["dets"], atol=5e-3)
    np.testing.assert_allclose(found["keypoints"], expected["keypoints"], atol=0.05)
