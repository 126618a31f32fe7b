"""The sample model quantised for each runtime: as good as in float32 there, and the same people in the other ones."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("onnxruntime")

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert import export_onnx
from rtmo_deploy.convert.openvino import convert_openvino
from rtmo_deploy.convert.quantize import Judge, calibrate, judge, open_source, quantize_onnx
from rtmo_deploy.data.calibration import open_set
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.measure import compare_people
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime import onnxruntime_backend, openvino_backend
from rtmo_deploy.runtime.estimator import PoseEstimator, read_artifact
from rtmo_deploy.zoo import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rtmo_deploy.convert.quantize import Calibration, QuantizeResult, SourceModel

pytestmark = pytest.mark.slow

#: AP that 8 bits may cost: 0.002 to 0.005 are measured.
BUDGET = 0.02
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")


@dataclass(frozen=True)
class Made:
    source: SourceModel
    calibration: Calibration
    judge: Judge
    result: QuantizeResult
    path: Path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "n.onnx"
    export_onnx(load_checkpoint(EMBEDDED["rtmo-n"].path), path, verify=False)
    return path


@pytest.fixture(scope="module")
def people() -> SyntheticPeople:
    return SyntheticPeople(40, seed=2026, options=SyntheticOptions(people=(1, 6)))


@pytest.fixture(scope="module")
def made(sample: Path, people: SyntheticPeople) -> Callable[[Target], Made]:
    """The sample model quantised for a runtime and judged; each once."""
    known: dict[Target, Made] = {}

    def make(target: Target) -> Made:
        if target not in known:
            source = open_source(sample, target)
            calibration = calibrate(source, open_set("synthetic", 16), threads=1)
            judged = Judge(source.artifact, people, target, threads=1)
            path = sample.with_name(f"{target}.onnx")
            known[target] = Made(
                source, calibration, judged, quantize_onnx(source, calibration, path, judge=judged), path
            )
        return known[target]

    return make


@pytest.mark.parametrize("target", Target)
def test_it_is_as_good_as_in_float32_in_its_own_runtime(target: Target, made: Callable[[Target], Made]) -> None:
    if target is Target.OPENVINO:
        pytest.importorskip("openvino")
    result, baseline = made(target).result, made(target).judge.baseline.ap
    assert baseline is not None
    assert baseline > 0.55
    assert result.verdict is not None
    assert result.verdict.ap is not None
    assert abs(result.verdict.ap - baseline) < BUDGET
    assert result.of_network > 0.95
    assert min(result.calibration.noise_db.values()) > 20
    modules = {Target.OPENVINO: openvino_backend, Target.ONNXRUNTIME: onnxruntime_backend}
    assert result.native is (target in modules and not modules[target].saturates())
    name = "OpenVINO" if target is Target.OPENVINO else "ONNX Runtime"
    assert result.judged_in is not None
    assert result.judged_in.startswith(f"{name}, in 8 bits" if result.native else f"{name}, in float32, rounded as in")
    artifact = read_artifact(made(target).path)
    assert (artifact.precision, artifact.target) == ("int8", target)


def test_what_a_model_is_quantised_for_unless_told(sample: Path, made: Callable[[Target], Made]) -> None:
    assert open_source(sample).placement.target is Target.OPENVINO
    assert read_artifact(sample).target is None
    # One pair on each tensor that convolutions read; ONNX Runtime also around SiLU and sums.
    pairs = {target: made(target).result.pairs for target in Target}
    assert pairs[Target.TENSORRT] == pairs[Target.OPENVINO] == 79
    assert pairs[Target.ONNXRUNTIME] == 228


@needs_openvino
@pytest.mark.parametrize("target", Target)
def test_another_runtime_computes_it_in_float32_says_so_and_finds_the_same(
    target: Target,
    made: Callable[[Target], Made],
    people: SyntheticPeople,
    caplog: pytest.LogCaptureFixture,
    openvino_compiles: None,
) -> None:
    path = made(target).path
    images = [people[index].image for index in range(12)]
    found = {}
    # Its own runtime emulates it when it is asked to.
    for runtime, backend in (("OpenVINO", "openvino"), ("ONNX Runtime", "onnxruntime")):
        own = target.value == backend
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(onnxruntime_backend, "saturates", lambda: True)
            caplog.clear()
            precision = "fp32" if own and backend == "openvino" else None
            estimator = PoseEstimator.open(path, backend=backend, threads=1, precision=precision)
            found[backend] = estimator.predict(images, batch=1)
            estimator.close()
        words = (
            f"{path.name} was quantised for {target}: {runtime} computes it in float32, rounded as in 8 bits. For INT8 "
            f"there use 'quantize --target {backend}'."
        )
        assert (words in [record.getMessage() for record in caplog.records]) is not own
    sure = [[poses[poses.scores > 0.5] for poses in found[backend]] for backend in ("onnxruntime", "openvino")]
    figures = compare_people(*sure)
    # Sums in another order fall to the other side of a step here and there: ONNX Runtime without optimisations differs
    # from itself as much (OKS 0.992 to 0.998).
    assert figures.matched >= 0.95 * figures.people_a > 10
    assert figures.oks_mean > 0.975


@needs_openvino
def test_openvino_runs_its_own_in_8_bits_or_refuses(made: Callable[[Target], Made], openvino_compiles: None) -> None:
    artifact = read_artifact(made(Target.OPENVINO).path)
    if openvino_backend.saturates():
        with pytest.raises(SetupError, match="saturate on this CPU"):
            openvino_backend.load(artifact, "cpu", 1)
        return
    # The first one too, though it reads pixels, which are 8-bit numbers without a scale.
    assert openvino_backend.load(artifact, "cpu", 1).layers["int8"] == made(Target.OPENVINO).result.layers
    assert set(openvino_backend.load(artifact, "cpu", 1, "fp32").layers) == {"fp32"}


@needs_openvino
@pytest.mark.parametrize("target", Target)
def test_converted_to_openvino_it_stays_for_its_runtime(
    target: Target, made: Callable[[Target], Made], tmp_path: Path, openvino_compiles: None
) -> None:
    output = tmp_path / "n.xml"
    convert_openvino(made(target).path, output)
    artifact = read_artifact(output)
    assert (artifact.precision, artifact.target) == ("int8", target)
    if target is not Target.OPENVINO:
        assert set(openvino_backend.load(artifact, "cpu", 1).layers) == {"fp32"}
    elif not openvino_backend.saturates():
        assert openvino_backend.load(artifact, "cpu", 1).layers["int8"] == made(target).result.layers


#: Judges in a process of its own, on the CPU that ONEDNN_MAX_CPU_ISA makes of this one.
ELSEWHERE = """
import sys
from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.quantize import Judge
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.runtime.estimator import read_artifact
import onnx
people = SyntheticPeople(40, seed=2026, options=SyntheticOptions(people=(1, 6)))
judge = Judge(read_artifact(sys.argv[1]), people, Target.OPENVINO, threads=1)
print(judge.native, judge.how, judge.baseline.ap - judge(onnx.load(sys.argv[2])).ap, sep="|")
"""


@needs_openvino
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_openvinos_file_on_other_cpus(limit: str, sample: Path, made: Callable[[Target], Made]) -> None:
    """A CPU without VNNI emulates; none loses more than the budget."""
    child = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(sample), str(made(Target.OPENVINO).path)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    native, how, drop = child.stdout.strip().split("|")
    assert how.startswith("OpenVINO, in 8 bits" if native == "True" else "OpenVINO, in float32, rounded as in 8 bits: ")
    assert abs(float(drop)) < BUDGET


def test_where_openvino_is_missing_its_own_ap_is_not_measured(
    made: Callable[[Target], Made], people: SyntheticPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made(Target.OPENVINO).source
    monkeypatch.setattr(judge, "find_spec", lambda _: None)
    found = Judge(source.artifact, people, Target.OPENVINO, threads=1)
    assert (found.how, found.native) == (
        "ONNX Runtime, in float32, rounded as in 8 bits: OpenVINO is not installed",
        False,
    )
    import onnx

    verdict = found(onnx.load(made(Target.OPENVINO).path))
    assert verdict.ap is not None
    assert found.baseline.ap is not None
    assert abs(verdict.ap - found.baseline.ap) < BUDGET


def test_a_calibration_for_one_runtime_is_not_used_for_another(made: Callable[[Target], Made], tmp_path: Path) -> None:
    for_ort = made(Target.ONNXRUNTIME)
    with pytest.raises(ArtifactError, match="is for onnxruntime, and the model is quantised for openvino"):
        quantize_onnx(made(Target.OPENVINO).source, for_ort.calibration, tmp_path / "x.onnx")
    # Nor is it taken from a cache.
    keys = {replace(for_ort.calibration.source, target=target).key() for target in Target}
    assert len(keys) == len(Target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [Target.OPENVINO, Target.ONNXRUNTIME])
def test_tensorrt_refuses_files_for_cpus(target: Target, made: Callable[[Target], Made], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rtmo_deploy.cli.app import app

    result = CliRunner().invoke(app, ["build-trt", str(made(target).path), "-o", str(tmp_path / "x.engine")])
    assert result.exit_code == 4, result.output
    assert f"It was quantised for {target}; TensorRT takes signed 8-bit numbers" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
