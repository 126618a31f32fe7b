"""``package cpp``: what it writes and refuses; and the program, with ONNX Runtime and a stand-in for TensorRT.

ONNX Runtime's library is that of the installed Python package. Its headers are looked for in the folder that
``RTMO_DEPLOY_ONNXRUNTIME_HEADERS`` names.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from cpp_host import STAND_IN, assert_same_people, build, compile_library, lines_of, run, write_ppm
from typer.testing import CliRunner

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.cli.app import app
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.package.cpp import package_cpp
from rtmo_deploy.runtime import RTMO
from rtmo_deploy.runtime.engine_file import EngineRecord, Profile, Shape, sidecar_path
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.runtime.letterbox import Placement, letterbox, to_tensor
from rtmo_deploy.zoo import COCO_17
from rtmo_deploy.zoo.locate import locate_model

HEADERS = "RTMO_DEPLOY_ONNXRUNTIME_HEADERS"
ROWS = 3


def stand_in_engine(path: Path, *, plugin: bool = False, fewest: int = 1, **changes: object) -> EngineRecord:
    """A plan that the stand-in loads, with two profiles, and its record."""
    path.write_text(f"stand-in {ROWS} 17 -1 3 -1 -1  {fewest} 3 64 64 2 3 128 128  {fewest} 3 160 160 2 3 320 320")
    artifact = Artifact(
        path,
        Kind.ENGINE,
        "rtmo-n",
        COCO_17,
        InputContract(96, 128),
        DecodeContract(DecodeMode.FIXED, score_thr=0.25, max_dets=ROWS),
    )
    artifact = replace(artifact, **changes)
    shapes = [Shape(1, 64, 64), Shape(1, 96, 128), Shape(2, 128, 128)]
    record = EngineRecord(
        artifact=artifact,
        backend="tensorrt",
        version="10.13.0",
        gpu="a GPU",
        compute_capability="9.0",
        targets=(),
        profiles=(Profile(*shapes),),
        inputs=(),
        outputs=(),
        precision={},
        layers={},
        plugin={"name": "RTMODecode"} if plugin else None,
        onnx_sha256="0" * 64,
        sha256=sha256_of(path),
        size=path.stat().st_size,
    )
    sidecar_path(path).write_text(json.dumps(record.to_dict()))
    return record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged engine."""
    path = tmp_path_factory.mktemp("engine")
    stand_in_engine(path / "m.engine")
    return package_cpp(path / "m.engine", path / "packaged").path


@pytest.fixture(scope="module")
def program(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a packaged engine, with the stand-in for TensorRT."""
    root = tmp_path_factory.mktemp("tensorrt")
    (root / "include").symlink_to(STAND_IN)
    (root / "lib").mkdir()
    compile_library(root / "lib" / "libnvinfer.so", STAND_IN / "stand_in.cpp", include=STAND_IN)
    (root / "lib" / "libcudart.so").symlink_to(root / "lib" / "libnvinfer.so")
    return build(folder, f"-DTENSORRT_ROOT={root}", f"-DCUDA_ROOT={root}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.ppm"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8))
    return path


def outputs(folder: Path, dets: np.ndarray, keypoints: np.ndarray) -> dict[str, Path]:
    """Variables of the environment with which the stand-in puts these out."""
    path = folder / "outputs.bin"
    path.write_bytes(dets.astype(np.float32).tobytes() + keypoints.astype(np.float32).tobytes())
    return {"STAND_IN_OUTPUTS": path, "STAND_IN_INPUT": folder / "input.bin"}


def some_outputs(batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    dets = rng.uniform(-40, 200, (batch, ROWS, 5))
    dets[..., 4] = [0.3, 0.8, 0.25]  # not in order; the last one is not above the threshold
    return dets, rng.uniform(-10, 130, (batch, ROWS, 17, 3)) * [1, 1, 1 / 130]


class Given:
    """A backend that puts out what it is given."""

    name, device, facts = "given", "cpu", {}

    def __init__(self, artifact: Artifact, dets: np.ndarray, keypoints: np.ndarray) -> None:
        self.artifact = artifact
        self.found = {"dets": dets.astype(np.float32), "keypoints": keypoints.astype(np.float32)}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.images = images
        return self.found


@pytest.mark.parametrize("size", [None, (160, 192)], ids=["own size", "second profile"])
def test_the_program_decodes_as_python_does(
    program: Path, folder: Path, image: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    variables = outputs(tmp_path, *some_outputs())
    asked = [] if size is None else ["--imgsz", f"{size[0]}x{size[1]}"]
    (line,) = lines_of(run(program, *asked, folder / "model.engine", image, **variables))
    backend = Given(read_artifact(folder / "model.engine"), *some_outputs())
    poses = RTMO(backend, input_hw=size)(image)
    assert len(poses) == 2
    assert_same_people(line.pop("people"), poses.to_dict(), px=1e-6, score=1e-7)
    assert line == {
        "schema_version": 1,
        "skeleton": "coco-17",
        "source": str(image),
        "frame": 0,
        "time_s": None,
        "width": 150,
        "height": 90,
    }
    fed = np.frombuffer((tmp_path / "input.bin").read_bytes(), np.float32)
    assert (fed == backend.images.ravel()).all()


def test_a_fixed_batch_is_filled(program: Path, image: Path, tmp_path: Path) -> None:
    stand_in_engine(tmp_path / "m.engine", input=InputContract(96, 128, batch=2, placement="top-left"))
    variables = outputs(tmp_path, *some_outputs(2))
    assert len(lines_of(run(program, tmp_path / "m.engine", image, **variables))[0]["people"]) == 2
    canvas, _ = letterbox(cv2.imread(str(image)), (96, 128), Placement.TOP_LEFT)
    assert (tmp_path / "input.bin").read_bytes() == to_tensor([canvas, canvas]).tobytes()


def test_the_fewest_images_of_an_engine_are_fed(program: Path, image: Path, tmp_path: Path) -> None:
    stand_in_engine(tmp_path / "m.engine", fewest=2)
    variables = outputs(tmp_path, *some_outputs(2))
    assert len(lines_of(run(program, tmp_path / "m.engine", image, **variables))[0]["people"]) == 2
    assert (tmp_path / "input.bin").stat().st_size == 2 * 3 * 96 * 128 * 4


def test_nobody_and_the_options(program: Path, folder: Path, image: Path, tmp_path: Path) -> None:
    model = folder / "model.engine"
    dets, keypoints = some_outputs()
    nobody = outputs(tmp_path, dets * 0, keypoints * 0)
    assert lines_of(run(program, model, image, **nobody))[0]["people"] == []
    variables = outputs(tmp_path, dets, keypoints)
    assert len(lines_of(run(program, "--max-people", 1, model, image, **variables))[0]["people"]) == 1
    assert len(lines_of(run(program, "--score-thr", 0.5, model, image, **variables))[0]["people"]) == 1
    table = run(program, "--table", model, image, **variables).stdout
    assert "2 people" in table
    assert "left_shoulder" in table
    assert run(program, "--help").stdout.startswith("usage: rtmo")
    dets[0, 1, 2] = np.inf  # is clipped, as in Python
    assert len(lines_of(run(program, model, image, **outputs(tmp_path, dets, keypoints)))[0]["people"]) == 2
    keypoints[0, 1, 4, 0] = np.nan
    done = run(program, model, image, **outputs(tmp_path, dets, keypoints))
    assert (done.returncode, "not finite" in done.stderr) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "are needed"),
        (["{model}"], 2, "are needed"),
        (["--nonsense", "{model}", "{image}"], 2, "no option --nonsense"),
        (["--imgsz", "100", "{model}", "{image}"], 2, "multiples of 32"),
        (["--imgsz", "96x", "{model}", "{image}"], 2, "whole number"),
        (["--imgsz", "640", "{model}", "{image}"], 2, "not built for"),
        (["--score-thr", "0.1", "{model}", "{image}"], 2, "below the model's own"),
        (["--score-thr", "nan", "{model}", "{image}"], 2, "from 0 to 1"),
        (["--max-people", "-3", "{model}", "{image}"], 2, "whole number"),
        (["{model}", "{image}", "--threads"], 2, "needs a value"),
        (["--threads", "2", "{model}", "{image}"], 2, "for ONNX Runtime"),
        (["{image}", "{image}"], 4, "no such file"),
        (["nothing.engine", "{image}"], 4, "no such file"),
        (["{model}", "nothing.ppm"], 3, "no such image"),
    ],
)
def test_wrong_use_is_explained(
    program: Path, folder: Path, image: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    words = [word.format(model=folder / "model.engine", image=image) for word in arguments]
    done = run(program, *words, **outputs(tmp_path, *some_outputs()))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"P6", b"P6\n", b"P6 4 4", b"P6 4 4 255", b"P6 4 4 255\n" + bytes(47), b"P6 -1 4 255\n" + bytes(48)),
        *(
            b"P6 0 4 255\n",
            b"P6 999999999 999999999 255\n",
            b"P6 99999999999999999999 1 255\n",
            b"P6 4 4 65535\n" + bytes(96),
        ),
        *(b"P6 # no end", b"P5 4 4 255\n" + bytes(16), b"P6x4 4 255\n" + bytes(48), b"\x89PNG\r\n\x1a\n"),
    ],
)
def test_damaged_images_are_told_and_the_others_done(
    program: Path, folder: Path, image: Path, tmp_path: Path, content: bytes
) -> None:
    damaged = tmp_path / "damaged.ppm"
    damaged.write_bytes(content)
    done = run(program, folder / "model.engine", damaged, image, **outputs(tmp_path, *some_outputs()))
    assert done.returncode == 3
    assert str(damaged) in done.stderr
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == [str(image)]


def test_headers_with_comments_are_read(program: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.ppm"
    path.write_bytes(b"P6\n# a comment\n2 # another\n3\n255\n" + bytes(18))
    (line,) = lines_of(run(program, folder / "model.engine", path, **outputs(tmp_path, *some_outputs())))
    assert (line["width"], line["height"]) == (2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ('{"a": ', "cut off"),
        ("[" * 100_000, "too deep"),
        ('{"artifact": {}}', "no metadata"),
        ('{"artifact": 3}', "has no names"),
        ('{"artifact": {"schema_version": 9}}', "newer"),
        ('{"artifact": {"schema_version": 1e400}}', "out of range"),
        ('{"artifact": {"schema_version": 1, "input": "\\ud83d\\ude00\\u12"}}', "escape"),
        ('{"artifact": {}} x', "behind"),
    ],
)
def test_damaged_records_are_told(program: Path, image: Path, tmp_path: Path, text: str, said: str) -> None:
    stand_in_engine(tmp_path / "m.engine")
    (tmp_path / "m.engine.json").write_text(text)
    done = run(program, tmp_path / "m.engine", image, **outputs(tmp_path, *some_outputs()))
    assert (done.returncode, done.stdout) == (4, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input.height", 100), ("input.width", 1 << 20), ("input.batch", 0), ("input.placement", "left")),
        *(("input.pad", 300), ("input.multiple", 0), ("decode.mode", "raw"), ("decode.junk_rows", True)),
        *(("skeleton.keypoints", []), ("skeleton.keypoints", ["a"] * 5), ("decode.score_thr", "high")),
    ],
)
def test_settings_that_do_not_fit_are_told(
    program: Path, image: Path, tmp_path: Path, field: str, value: object
) -> None:
    stand_in_engine(tmp_path / "m.engine")
    record = json.loads((tmp_path / "m.engine.json").read_text())
    section, name = field.split(".")
    record["artifact"][section][name] = value
    (tmp_path / "m.engine.json").write_text(json.dumps(record))
    done = run(program, tmp_path / "m.engine", image, **outputs(tmp_path, *some_outputs()))
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert done.stderr.startswith("Error: ")


def test_an_engine_that_tensorrt_refuses(program: Path, image: Path, tmp_path: Path) -> None:
    stand_in_engine(tmp_path / "m.engine")
    (tmp_path / "m.engine").write_bytes(b"something else")
    done = run(program, tmp_path / "m.engine", image, **outputs(tmp_path, *some_outputs()))
    assert done.returncode == 4
    assert "another version" in done.stderr


def test_what_is_written(onnx_n: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["package", "cpp", str(onnx_n), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["command"], made["runtime"]) == ("package cpp", "onnxruntime")
    assert {file["name"] for file in made["files"]} == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"CMakeLists.txt", "README.md", "main.cpp", "letterbox.cpp", "ort_runner.cpp", "trt_runner.cpp"} <= {
        file["name"] for file in made["files"]
    }
    assert (tmp_path / "out" / "model.onnx").read_bytes() == onnx_n.read_bytes()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "{{" not in text + (tmp_path / "out" / "CMakeLists.txt").read_text()
    assert max(map(len, text.splitlines())) <= 160
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_in_use(onnx_n: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other things"):
        package_cpp(onnx_n, tmp_path)
    package_cpp(onnx_n, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"notes\.txt|exists"):
        package_cpp(onnx_n, tmp_path)
    with pytest.raises(UsageError, match="inputs"):
        package_cpp(tmp_path / "model.onnx", tmp_path, force=True)
    with pytest.raises(UsageError, match="file"):
        package_cpp(onnx_n, tmp_path / "notes.txt", force=True)


def test_weights_in_another_file_come_along(onnx_n: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(onnx_n), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=100)
    made = package_cpp(tmp_path / "m.onnx", tmp_path / "out")
    (tmp_path / "m.bin").unlink()
    assert read_artifact(made.artifact.path).decode == read_artifact(onnx_n).decode
    assert (
        len(RTMO(made.artifact.path, device="cpu", backend="onnxruntime")(np.zeros((64, 64, 3), np.uint8)).scores) >= 0
    )


def test_sizes_that_the_graph_has_are_written_into_the_copy(onnx_n: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_n)
    for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (128, 160), strict=True):
        dim.dim_value = side
    onnx.save(model, tmp_path / "m.onnx")
    assert read_artifact(tmp_path / "m.onnx").corrected
    copy = read_artifact(package_cpp(tmp_path / "m.onnx", tmp_path / "out").artifact.path)
    assert not copy.corrected
    assert (copy.input.height, copy.input.width, copy.input.dynamic_hw) == (128, 160, False)


def test_models_that_the_program_cannot_run(checkpoint_n: Path, onnx_n: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    export_onnx(load_checkpoint(checkpoint_n), raw, ExportOptions(decode="raw"), verify=False)
    with pytest.raises(ArtifactError, match=r"mode 'raw'.*rtmo-deploy export n\.pth --decode fixed"):
        package_cpp(raw, tmp_path / "out")
    foreign = onnx.load(onnx_n)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ArtifactError, match="MMDeploy"):
        package_cpp(tmp_path / "foreign.onnx", tmp_path / "out")
    stand_in_engine(tmp_path / "plugin.engine", plugin=True)
    with pytest.raises(ArtifactError, match=r"plugin.*--decode fixed"):
        package_cpp(tmp_path / "plugin.engine", tmp_path / "out")
    stand_in_engine(tmp_path / "nms.engine", decode=DecodeContract(DecodeMode.ONNX))
    with pytest.raises(ArtifactError, match="mode 'onnx'"):
        package_cpp(tmp_path / "nms.engine", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["package", "cpp", str(checkpoint_n), str(tmp_path / "out")])
    assert (done.exit_code, "rtmo-deploy export" in done.stderr) == (4, True)


def test_the_newest_model_is_taken(onnx_n: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtmo_deploy.cli.workspace import Workspace

    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["package", "cpp", "out"]).exit_code == 2
    for words in ([], [str(onnx_n)]):
        done = CliRunner().invoke(app, ["package", "cpp", *words])
        assert (done.exit_code, "folder to write is missing" in done.stderr) == (2, True)
    Workspace().record(read_artifact(onnx_n), command="export")
    done = CliRunner().invoke(app, ["package", "cpp", "out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.fixture(scope="module")
def onnxruntime_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime as its releases are laid out."""
    if HEADERS not in os.environ:
        pytest.skip(f"needs ONNX Runtime's C++ headers in the folder that {HEADERS} names")
    ort = pytest.importorskip("onnxruntime")
    library = next(Path(ort.__file__).with_name("capi").glob("libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("needs an onnxruntime package with libonnxruntime.so in it")
    root = tmp_path_factory.mktemp("onnxruntime")
    (root / "include").symlink_to(os.environ[HEADERS])
    (root / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library)
    return root


@pytest.fixture(scope="module")
def onnx_program(onnxruntime_root: Path, onnx_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = package_cpp(onnx_n, tmp_path_factory.mktemp("onnx") / "packaged")
    return build(made.path, f"-DONNXRUNTIME_ROOT={onnxruntime_root}")


OPTIONS = {
    "onnx": ExportOptions(),
    "onnx, static, top-left": ExportOptions(static=True, letterbox="top-left"),
    "fixed": ExportOptions(decode="fixed"),
    "fixed, batch": ExportOptions(decode="fixed", batch=2),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_onnx_runtime_finds_the_same_people(
    onnx_program: Path, checkpoint_n: Path, pictures: list[Path], tmp_path: Path, name: str
) -> None:
    model = tmp_path / "m.onnx"
    export_onnx(load_checkpoint(checkpoint_n), model, OPTIONS[name], verify=False)
    images = [write_ppm(path, tmp_path) for path in pictures]
    found = lines_of(run(onnx_program, "--threads", 1, model, *images))
    poses = RTMO(model, device="cpu", backend="onnxruntime", threads=1)(images, batch=1)
    assert sum(map(len, poses)) > 10
    for line, expected in zip(found, poses, strict=True):
        assert_same_people(line["people"], expected.to_dict(), px=1e-3, score=1e-5)


def test_onnx_runtime_on_photographs(onnx_program: Path, shared: Path, tmp_path: Path) -> None:
    photographs = sorted((shared / "data").rglob("*.jpg"))[::7][:4]
    images = [write_ppm(path, tmp_path) for path in photographs]
    model = tmp_path / "m.onnx"
    export_onnx(load_checkpoint(locate_model("rtmo-n")), model, verify=False)
    found = lines_of(run(onnx_program, "--threads", 1, model, *images))
    for line, poses in zip(found, RTMO(model, device="cpu", backend="onnxruntime", threads=1)(images), strict=True):
        assert_same_people(line["people"], poses.to_dict(), px=1e-2, score=1e-4)


def test_onnx_runtime_refuses_what_is_no_model(onnx_program: Path, onnx_n: Path, image: Path, tmp_path: Path) -> None:
    bare = onnx.load(onnx_n)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    for model, said in ((image, "does not load"), (tmp_path, "no such model"), (tmp_path / "bare.onnx", "no metadata")):
        done = run(onnx_program, model, image)
        assert done.returncode == 4, done.stderr
        assert said in done.stderr
