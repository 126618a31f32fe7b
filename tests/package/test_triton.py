"""What a Triton repository says and does, without Triton."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup, ModelQueuePolicy
from typer.testing import CliRunner

from rtmo_deploy import RTMO
from rtmo_deploy.artifact import DecodeContract, DecodeMode, InputContract, Target
from rtmo_deploy.cli.app import app
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.package.triton import TritonOptions, repository, write_triton
from rtmo_deploy.package.triton.plan import plan_for
from rtmo_deploy.runtime import read_artifact

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from model_files import profile, write_engine, write_openvino

HERE = Path(__file__).parent
STEPS = ("rtmo_preprocess", "rtmo", "rtmo_postprocess")
ENGINE = {
    "backend": "tensorrt",
    "version": "10.9.0.34",
    "gpu": "NVIDIA L4",
    "compute_capability": "8.9",
    "targets": (),
}


@pytest.fixture(scope="module")
def static(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of one image of 256x256 with ten rows."""
    path = tmp_path_factory.mktemp("static") / "s.onnx"
    export_onnx(
        load_checkpoint(checkpoint_n), path, ExportOptions(decode="fixed", static=True, max_dets=10), verify=False
    )
    return path


def configs(folder: Path) -> dict[str, ModelConfig]:
    """Configurations of a repository, parsed as Triton does; an unknown field is an error."""
    found = {path.parent.name: path for path in folder.glob("*/config.pbtxt")}
    return {name: text_format.Parse(path.read_text(), ModelConfig()) for name, path in found.items()}


def tensors(entries: Any) -> dict[str, tuple[int, list[int]]]:
    return {entry.name: (entry.data_type, list(entry.dims)) for entry in entries}


def fits(given: tuple[int, list[int]], taken: tuple[int, list[int]]) -> bool:
    """Whether a tensor fits where another is taken."""
    sides = zip(given[1], taken[1], strict=True)
    return given[0] == taken[0] and all(one == other or -1 in (one, other) for one, other in sides)


def check_repository(folder: Path) -> dict[str, ModelConfig]:
    """Names, files, batches and tensors of a repository fit together."""
    found = configs(folder)
    pipeline = found["rtmo_pipeline"]
    assert set(found) == {*STEPS, "rtmo_pipeline"}
    assert [step.model_name for step in pipeline.ensemble_scheduling.step] == list(STEPS)
    assert pipeline.platform == "ensemble"
    there = tensors(pipeline.input)
    for step in pipeline.ensemble_scheduling.step:
        config = found[step.model_name]
        assert config.name == step.model_name
        assert config.max_batch_size == pipeline.max_batch_size
        assert set(step.input_map) == set(tensors(config.input))
        for name, source in step.input_map.items():
            assert fits(there[source], tensors(config.input)[name]), (config.name, name)
        assert set(step.output_map) == set(tensors(config.output))
        there |= {step.output_map[name]: value for name, value in tensors(config.output).items()}
        batching = config.dynamic_batching
        assert all(0 < size <= config.max_batch_size for size in batching.preferred_batch_size)
        assert batching.default_queue_policy.timeout_action == ModelQueuePolicy.REJECT
        assert batching.default_queue_policy.max_queue_size > 0
    assert tensors(pipeline.output).items() <= there.items()
    for name, config in found.items():
        assert (folder / name / "1").is_dir()
        if config.backend == "python":
            compile((folder / name / "1" / "model.py").read_text(), name, "exec")
    for warm in found["rtmo"].model_warmup:
        assert warm.batch_size == (0 if not found["rtmo"].max_batch_size else warm.batch_size)
        (name,) = warm.inputs
        assert fits((warm.inputs[name].data_type, list(warm.inputs[name].dims)), tensors(found["rtmo"].input)[name])
    return found


def check_like_graph(config: ModelConfig, path: Path) -> None:
    """Names, types and sides of a configuration are those of an ONNX file."""
    graph = onnx.load(path).graph
    for entries, values in ((config.input, graph.input), (config.output, graph.output)):
        wanted = tensors(entries)
        assert set(wanted) == {value.name for value in values}
        for value in values:
            kind, dims = wanted[value.name]
            assert kind == DataType.TYPE_FP32
            sides = [side.dim_value or -1 for side in value.type.tensor_type.shape.dim]
            assert ([-1] if config.max_batch_size else []) + dims == sides


def test_a_dynamic_graph_is_batched(onnx_n: Path, tmp_path: Path) -> None:
    write_triton(onnx_n, tmp_path / "models", TritonOptions(threads=3, instances=2, queue_delay_us=7, max_queue=9))
    network = check_repository(tmp_path / "models")["rtmo"]
    check_like_graph(network, onnx_n)
    assert (network.backend, network.max_batch_size) == ("onnxruntime", 8)
    assert list(network.dynamic_batching.preferred_batch_size) == [4, 8]
    assert network.dynamic_batching.max_queue_delay_microseconds == 7
    assert network.dynamic_batching.default_queue_policy.max_queue_size == 9
    assert network.dynamic_batching.default_queue_policy.default_timeout_microseconds == 5_000_000
    assert (network.instance_group[0].count, network.instance_group[0].kind) == (2, ModelInstanceGroup.KIND_CPU)
    assert network.parameters["intra_op_thread_count"].string_value == "3"
    assert [warm.batch_size for warm in network.model_warmup] == [1, 8]
    assert (tmp_path / "models/rtmo/1/model.onnx").read_bytes() == onnx_n.read_bytes()


def test_a_static_graph_is_not_batched(static: Path, tmp_path: Path) -> None:
    write_triton(static, tmp_path / "models", TritonOptions(device="cuda:1"))
    found = check_repository(tmp_path / "models")
    check_like_graph(found["rtmo"], static)
    assert found["rtmo"].max_batch_size == 0
    assert tensors(found["rtmo"].output)["dets"][1] == [1, 10, 5]
    assert tensors(found["rtmo_pipeline"].input)["pixels"][1] == [1, -1, -1, 3]
    assert (found["rtmo"].instance_group[0].kind, list(found["rtmo"].instance_group[0].gpus)) == (
        ModelInstanceGroup.KIND_GPU,
        [1],
    )
    with pytest.raises(UsageError, match="256x256 only"):
        write_triton(static, tmp_path / "other", TritonOptions(imgsz=(128, 128)))
    with pytest.raises(UsageError, match="--max-batch is 2"):
        write_triton(static, tmp_path / "other", TritonOptions(max_batch=2))
    assert not (tmp_path / "other").exists()


def test_shapes_are_those_that_a_foreign_graph_declares(onnx_n: Path, tmp_path: Path) -> None:
    model, path = onnx.load(onnx_n), tmp_path / "foreign.onnx"
    del model.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[len(value.type.tensor_type.shape.dim) - 1].dim_param = f"last of {value.name}"
        if value.name == "input":
            value.name = 'a "named"\ninput'
    for node in model.graph.node:
        node.input[:] = ['a "named"\ninput' if name == "input" else name for name in node.input]
    model.graph.output[1].type.tensor_type.shape.dim[3].dim_value = 3
    onnx.save(model, path)
    write_triton(path, tmp_path / "models")
    found = check_repository(tmp_path / "models")
    check_like_graph(found["rtmo"], path)
    assert found["rtmo_postprocess"].parameters["junk_rows"].string_value == "1"
    graph = onnx.load(onnx_n)
    for value in graph.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(graph, path)
    with pytest.raises(ArtifactError, match="does not declare the shapes"):
        write_triton(path, tmp_path / "other")
    write_triton(path, tmp_path / "other", TritonOptions(backend="python"))
    assert tensors(check_repository(tmp_path / "other")["rtmo"].output)["keypoints"][1] == [-1, 17, 3]


def test_an_openvino_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    path = tmp_path / "m.xml"
    write_openvino(path)
    write_triton(path, tmp_path / "models", TritonOptions(instances=3))
    network = check_repository(tmp_path / "models")["rtmo"]
    assert (network.backend, network.max_batch_size) == ("openvino", 0)
    assert tensors(network.input)["input"][1] == [-1, 3, -1, -1]
    assert tensors(network.output)["dets"][1] == [-1, 2, 5]
    assert network.parameters["NUM_STREAMS"].string_value == "3"
    written = read_artifact(tmp_path / "models/rtmo/1/model.xml")  # with its weights, by their SHA-256
    assert written.skeleton == read_artifact(path).skeleton


def test_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    two = (profile("1x64x64", "1x64x64", "1x64x64"), profile("1x64x64", "3x192x192", "6x256x256"))
    write_engine(path, **ENGINE, profiles=two)
    write_triton(path, tmp_path / "models")
    network = check_repository(tmp_path / "models")["rtmo"]
    assert (network.backend, network.max_batch_size) == ("tensorrt", 6)
    assert list(network.dynamic_batching.preferred_batch_size) == [3, 6]
    assert list(network.instance_group[0].profile) == ["1"]
    assert network.optimization.cuda.graphs
    assert tensors(network.output)["keypoints"][1] == [100, 17, 3]
    assert read_artifact(tmp_path / "models/rtmo/1/model.plan").precision == "fp16"
    text = (tmp_path / "models/README.md").read_text()
    assert "TensorRT 10.9.0.34" in text
    assert "capability 8.9" in text
    with pytest.raises(ArtifactError, match="does not run on an input of 1x320x320"):
        write_triton(path, tmp_path / "other", TritonOptions(imgsz=(320, 320)))


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"backend": "tensorrt-rtx"}, "an engine of tensorrt-rtx"),
        ({"plugin": {"name": "RTMODecode", "form": "python"}}, "Its decode plugin is a Python class"),
        ({"profiles": (profile("4x64x64", "4x192x192", "8x256x256"),)}, "4 images or more"),
    ],
)
def test_an_engine_that_triton_cannot_run(changes: dict[str, Any], finding: str, tmp_path: Path) -> None:
    write_engine(tmp_path / "m.engine", **{**ENGINE, **changes})
    with pytest.raises(ArtifactError, match=finding):
        write_triton(tmp_path / "m.engine", tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changes", "options", "finding"),
    [
        ({"decode": DecodeContract(DecodeMode.RAW)}, {}, "of --decode raw"),
        ({"decode": DecodeContract(DecodeMode.PLUGIN)}, {"backend": "python"}, "of --decode plugin"),
        ({"input": InputContract(256, 256, batch=4)}, {}, "takes 4 images or more at a time"),
        ({"input": InputContract(256, 256, batch=4)}, {"backend": "python", "max_batch": 8}, "the model takes 4"),
        ({"precision": "int8", "target": Target.OPENVINO}, {}, "INT8 was chosen for another runtime"),
        ({"precision": "int8+fp16", "target": Target.ONNXRUNTIME}, {}, "INT8 was chosen for another runtime"),
        ({}, {"backend": "openvino"}, "runs an OpenVINO model, and this is an ONNX model"),
        ({}, {"backend": "tensorrt"}, "runs a TensorRT engine"),
        ({}, {"device": "tpu"}, "no device 'tpu'"),
        ({}, {"score_thr": 0.01}, "below"),
        ({}, {"nms_thr": 0.9}, "above"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], options: dict[str, Any], finding: str, onnx_n: Path
) -> None:
    with pytest.raises((ArtifactError, UsageError), match=finding):
        plan_for(replace(read_artifact(onnx_n), **changes), TritonOptions(**options))


def test_int8_in_the_python_backend_is_computed_as_written(onnx_n: Path) -> None:
    artifact = replace(read_artifact(onnx_n), precision="int8", target=Target.TENSORRT)
    assert plan_for(artifact, TritonOptions(backend="python")).exact
    own = replace(artifact, target=Target.ONNXRUNTIME)
    assert not plan_for(own, TritonOptions()).exact


def run_scripts(folder: Path, out: Path, files: list[Path]) -> dict[str, np.ndarray]:
    done = subprocess.run(
        [sys.executable, str(HERE / "triton_stub.py"), str(folder), str(out), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"imgsz": (160, 224), "max_people": 4, "kpt_thr": 0.5},
        {"score_thr": 0.3, "nms_thr": 0.2},  # the suppression is run once more
    ],
)
def test_the_scripts_find_what_predict_finds(
    options: dict[str, Any], onnx_n: Path, pictures: list[Path], tmp_path: Path
) -> None:
    write_triton(onnx_n, tmp_path / "models", TritonOptions(backend="python", threads=1, **options))
    turned = tmp_path / "turned.webp"
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(pictures[1]).save(turned, exif=exif, lossless=True)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(pictures[0].read_bytes()[:-40])
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.full((1, 3, 3), 200, np.uint8))
    files = [*pictures, bad, turned, small]
    found = run_scripts(tmp_path / "models", tmp_path / "found.npz", files)
    size = options.pop("imgsz", None)
    model = RTMO(onnx_n, device="cpu", threads=1, input_hw=size)
    # As there, all in one run of the network.
    good = [path for path in files if path != bad]
    expected = dict(zip(good, model.predict(good, batch=len(good), **options), strict=True))
    assert any(len(poses) for poses in expected.values())
    for index, path in enumerate(files):
        if path == bad:
            assert "invalid: " in str(found[f"{index}.error"])
            assert "cut off" in str(found[f"{index}.error"])
            continue
        poses = expected[path]
        assert found[f"{index}.num_people"].tolist() == [[len(poses)]]
        for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
            assert np.array_equal(found[f"{index}.{name}"][0], getattr(poses, name)), name


def test_numbers_that_are_not_finite_are_an_error(onnx_n: Path, tmp_path: Path, pictures: list[Path]) -> None:
    model, broken = onnx.load(onnx_n), tmp_path / "broken.onnx"
    (last,) = (node for node in model.graph.node if "keypoints" in node.output)
    last.output[list(last.output).index("keypoints")] = "whole"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.nan), "nan"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["whole", "nan"], ["keypoints"]))
    onnx.save(model, broken)
    with pytest.raises(ArtifactError, match="keypoints are not finite"):
        RTMO(broken, device="cpu", threads=1)(pictures[0])
    write_triton(broken, tmp_path / "models", TritonOptions(backend="python", threads=1))
    found = run_scripts(tmp_path / "models", tmp_path / "found.npz", [pictures[0]])
    assert str(found["0.error"]) == "internal: The network's keypoints are not finite on this image."


def test_a_numpy_that_triton_does_not_take_is_refused(
    onnx_n: Path, tmp_path: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_triton(onnx_n, tmp_path / "models", TritonOptions(backend="python"))
    monkeypatch.setenv("WRONG", "0")
    with pytest.raises(AssertionError, match=f"does not take NumPy {np.__version__}. Install numpy<2"):
        run_scripts(tmp_path / "models", tmp_path / "found.npz", [pictures[0]])


def test_weights_in_other_files_come_along(onnx_n: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "m.onnx"
    onnx.save(onnx.load(onnx_n), path, save_as_external_data=True, location="m.bin", size_threshold=100)
    write_triton(path, tmp_path / "models", TritonOptions(backend="python", threads=1))
    shutil.rmtree(tmp_path / "from")
    found = run_scripts(tmp_path / "models", tmp_path / "found.npz", [pictures[0]])
    assert found["0.num_people"].tolist() == [[len(RTMO(onnx_n, device="cpu", threads=1)(pictures[0]))]]


def test_whole_or_not_at_all(onnx_n: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_triton(onnx_n, tmp_path / "models")
    before = {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()}
    monkeypatch.setattr(repository, "_put_host", fail)
    for folder in (tmp_path / "new", tmp_path / "models"):
        with pytest.raises(SetupError, match="No space left"):
            write_triton(onnx_n, folder, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"models"}
    assert {path: path.read_bytes() for path in (tmp_path / "models").rglob("*") if path.is_file()} == before


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["package", "triton", *map(str, words)])


def test_the_command(onnx_n: Path, checkpoint_n: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(onnx_n, "models", "--imgsz", "128", "160", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["imgsz"], document["backend"], document["max_batch"]) == ([128, 160], "onnxruntime", 8)
    assert {str(path.relative_to("models")) for path in Path("models").rglob("*") if path.is_file()} == set(
        document["files"]
    )
    # A repository is replaced on demand, with what Python left in it; what is nobody's own is not.
    (Path("models") / "rtmo_preprocess/1/__pycache__").mkdir()
    (Path("models") / "rtmo_preprocess/1/__pycache__/model.pyc").write_bytes(b"")
    assert "--force" in run(onnx_n, "models").stderr
    assert run(onnx_n, "models", "--force").exit_code == 0
    (Path("models") / "another_model").mkdir()
    (Path("models") / "another_model/config.pbtxt").write_text("")
    done = run(onnx_n, "models", "--force")
    assert (done.exit_code, "another_model" in done.stderr) == (2, True)
    shutil.rmtree("models/another_model")
    inside = run("models/rtmo/1/model.onnx", "models", "--force")
    assert (inside.exit_code, "lies in this folder" in inside.stderr) == (2, True)
    refused = run(checkpoint_n, "other")
    assert refused.exit_code == 4
    assert f"rtmo-deploy export {checkpoint_n}" in refused.stderr
    assert run("other").exit_code == 2
    shutil.copy(checkpoint_n, "n.pth")
    assert CliRunner().invoke(app, ["export", "n.pth", "--no-verify"]).exit_code == 0
    done = run("other")
    assert done.exit_code == 0, done.output
    assert "MODEL is n.onnx" in done.stderr
    Path("file").write_text("")
    assert run(onnx_n, "file").exit_code == 2
    assert "folder to write is missing" in run(onnx_n).stderr


def test_a_checkpoint_is_exported_first(checkpoint_n: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Export it first"):
        write_triton(checkpoint_n, tmp_path / "repository")
