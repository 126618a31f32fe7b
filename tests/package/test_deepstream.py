"""``package deepstream``: what it writes and refuses, the parser against Python, and the example's arithmetic."""

from __future__ import annotations

import ctypes
import json
import subprocess
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cpp_host import compile_library, tool
from test_cpp import stand_in_engine
from typer.testing import CliRunner

from rtmo_deploy.artifact import DecodeContract, DecodeMode, InputContract
from rtmo_deploy.cli.app import app
from rtmo_deploy.convert import ExportOptions, export_onnx
from rtmo_deploy.data.images import read_image
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.package.deepstream import package_deepstream
from rtmo_deploy.runtime import RTMO
from rtmo_deploy.runtime.decode import outputs_to_poses

STAND_IN = Path(__file__).parent / "deepstream_stand_in"
PARSER = "nvdsinfer_custom_impl_rtmo.cpp"


@pytest.fixture(scope="module")
def static_n(checkpoint_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``checkpoint_n`` as nvinfer takes it."""
    path = tmp_path_factory.mktemp("static") / "n.onnx"
    options = ExportOptions(decode="fixed", static=True, imgsz=(224, 256))
    export_onnx(load_checkpoint(checkpoint_n), path, options, verify=False)
    return path


@pytest.fixture(scope="module")
def folder(static_n: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_deepstream(static_n, tmp_path_factory.mktemp("packaged") / "out").path


@pytest.fixture(scope="module")
def parser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("parser") / "parser.so"
    sources = (folder / PARSER, STAND_IN / "harness.cpp")
    return ctypes.CDLL(str(compile_library(library, *sources, include=STAND_IN)))


def parse(
    parser: ctypes.CDLL,
    dets: np.ndarray,
    keypoints: np.ndarray,
    *,
    hw: tuple[int, int] = (224, 256),
    masks: bool = True,
    name: str = "dets",
    kind: int = 0,
    classes: int = 1,
    threshold: float = 0.1,
) -> np.ndarray | None:
    """The parser's objects, one a row; None where it fails. Arrays are of one image: nvinfer gives no batch."""
    dets, keypoints = (np.ascontiguousarray(one, np.float32) for one in (dets, keypoints))
    sides = [(ctypes.c_uint * 9)(one.ndim, *one.shape) for one in (dets, keypoints)]
    found = np.zeros((len(dets), 5 + (keypoints.shape[1] * 3 if masks else 0)), np.float32)
    pointers = [one.ctypes.data_as(ctypes.c_void_p) for one in (dets, keypoints, found)]
    threshold = ctypes.c_float(threshold)
    count = parser.parse(
        *(pointers[0], sides[0], pointers[1], sides[1], name.encode(), kind, hw[1], hw[0], classes, threshold),
        *(int(masks), pointers[2]),
    )
    return None if count < 0 else found[:count]


def test_the_parser_finds_the_people_of_python(
    parser: ctypes.CDLL, folder: Path, pictures: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    model = RTMO(folder / "model.onnx", device="cpu", backend="onnxruntime", threads=1)
    assert model.input_hw == (224, 256)
    people = 0
    for picture in pictures:
        outputs = model.backend(model.tensor([model.place(read_image(picture))]))
        (poses,) = outputs_to_poses(outputs, model.input_hw, model.artifact)
        threshold = model.artifact.decode.score_thr
        for masks in (True, False):
            objects = parse(parser, outputs["dets"][0], outputs["keypoints"][0], masks=masks, threshold=threshold)
            assert objects is not None
            assert len(objects) == len(poses)
            boxes = np.concatenate([objects[:, :2], objects[:, :2] + objects[:, 2:4]], axis=1)
            np.testing.assert_allclose(boxes, poses.boxes, rtol=0, atol=1e-4)  # a width is a difference
            assert (objects[:, 4] == poses.scores).all()
            if masks:
                points = objects[:, 5:].reshape(-1, 17, 3)
                assert (points[..., :2] == poses.keypoints).all()
                assert (points[..., 2] == poses.keypoint_scores).all()
        people += len(poses)
    assert people > 10
    assert capfd.readouterr().err == ""


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    dets = rng.uniform(-50, 300, (6, 5))
    dets[:, 4] = [0.2, 0.9, 0.0, 0.5, 0.5, 0.1]
    return dets, rng.uniform(0, 1, (6, 4, 3))


def test_the_parser_sorts_clips_and_keeps_what_is_above_the_threshold(parser: ctypes.CDLL) -> None:
    dets, keypoints = rows()
    found = parse(parser, dets, keypoints, threshold=0.1)
    assert found is not None
    assert (found[:, 4] == np.float32([0.9, 0.5, 0.5, 0.2])).all()
    assert (found[:, 5:].reshape(-1, 4, 3) == keypoints[[1, 3, 4, 0]].astype(np.float32)).all()
    corners = np.clip(dets[[1, 3, 4, 0], :4].astype(np.float32), 0, [256, 224, 256, 224])
    np.testing.assert_allclose(found[:, :2], corners[:, :2])
    np.testing.assert_allclose(found[:, 2:4], corners[:, 2:] - corners[:, :2], atol=1e-4)
    nobody = parse(parser, dets * 0, keypoints)
    assert nobody is not None
    assert len(nobody) == 0


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "boxes"}, "no output dets"),
        ({"kind": 1}, "not float32"),
        ({"classes": 0}, "num-detected-classes"),
        ({"dets": np.zeros((1, 6, 5))}, "not float32 of 2 sides"),
        ({"dets": np.zeros((6, 6))}, "do not fit together"),
        ({"dets": np.zeros((5, 5))}, "do not fit together"),
        ({"keypoints": np.zeros((6, 4, 2))}, "do not fit together"),
        ({"keypoints": np.full((6, 4, 3), np.nan)}, "not finite"),
    ],
)
def test_the_parser_refuses_other_outputs(
    parser: ctypes.CDLL, capfd: pytest.CaptureFixture[str], change: dict[str, Any], said: str, masks: bool
) -> None:
    dets, keypoints = rows()
    assert parse(parser, **{"dets": dets, "keypoints": keypoints, "masks": masks, **change}) is None
    assert said in capfd.readouterr().err


def test_the_makefile_builds_the_parser(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "includes").symlink_to(STAND_IN)
    library = folder / "libnvdsinfer_custom_impl_rtmo.so"
    subprocess.run([tool("make"), "-C", str(folder), f"DEEPSTREAM={tmp_path}"], check=True, capture_output=True)
    loaded = ctypes.CDLL(str(library))
    settings = config(folder)["property"]
    assert settings["custom-lib-path"] == library.name
    assert getattr(loaded, settings["parse-bbox-instance-mask-func-name"])
    assert loaded.NvDsInferParseCustomRtmo
    subprocess.run([tool("make"), "-C", str(folder), "clean"], check=True, capture_output=True)
    assert not library.exists()


def config(folder: Path, name: str = "config_infer_primary_rtmo.txt") -> ConfigParser:
    found = ConfigParser(strict=True, interpolation=None)
    found.read_string((folder / name).read_text())
    return found


def test_the_settings(folder: Path) -> None:
    settings = config(folder)["property"]
    assert settings["onnx-file"] == "model.onnx"
    assert settings["infer-dims"] == "3;224;256"
    assert (settings["batch-size"], settings["network-mode"]) == ("1", "0")
    assert (settings["model-color-format"], settings["net-scale-factor"], settings["offsets"]) == ("1", "1.0", "0;0;0")
    assert (settings["maintain-aspect-ratio"], settings["symmetric-padding"]) == ("1", "1")
    assert (settings["network-type"], settings["cluster-mode"], settings["output-instance-mask"]) == ("3", "4", "1")
    assert config(folder)["class-attrs-all"]["pre-cluster-threshold"] == "0.1"
    application = config(folder, "deepstream_app_config.txt")
    assert application["primary-gie"]["config-file"] == "config_infer_primary_rtmo.txt"
    assert application["osd"]["display-mask"] == "0"
    assert all("{" not in path.read_text() for path in folder.glob("*.txt"))
    assert "{{" not in (folder / "README.md").read_text()


def example(folder: Path) -> ModuleType:
    module = ModuleType("keypoints")
    exec(compile((folder / "keypoints.py").read_text(), "keypoints.py", "exec"), vars(module))
    return module


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (641, 479), (256, 224), (255, 225), (7, 1000)])
def test_the_example_undoes_the_placement(folder: Path, size: tuple[int, int]) -> None:
    module = example(folder)
    scale_x, scale_y, left, top = module.placement(*size)
    width, height = size[0] // 2 * 2, size[1] // 2 * 2
    placed = round(scale_x * width), round(scale_y * height)
    assert placed[0] == 256 or placed[1] == 224
    assert 0 <= left <= 256 - placed[0] - left <= left + 1  # in the middle, the odd pixel behind
    assert 0 <= top <= 224 - placed[1] - top <= top + 1
    assert abs(scale_x - scale_y) <= 1 / min(width, height)  # whole pixels
    corners = module.in_frame([[left, top, 0.5], [left + placed[0], top + placed[1], 1.0]], *size)
    np.testing.assert_allclose(corners, [[0, 0, 0.5], [width, height, 1.0]], atol=1e-9)


def test_the_placement_of_a_top_left_model(checkpoint_n: Path, tmp_path: Path) -> None:
    options = ExportOptions(decode="fixed", static=True, letterbox="top-left")
    export_onnx(load_checkpoint(checkpoint_n), tmp_path / "m.onnx", options, verify=False)
    made = package_deepstream(tmp_path / "m.onnx", tmp_path / "out")
    assert config(made.path)["property"]["symmetric-padding"] == "0"
    assert example(made.path).placement(1920, 1080)[2:] == (0, 0)


class Display:
    """Stands for pyds.NvDsDisplayMeta."""

    def __init__(self) -> None:
        self.num_lines = 0
        self.line_params = [SimpleNamespace(line_color=SimpleNamespace(set=lambda *_: None)) for _ in range(16)]


def test_the_example_prints_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = example(folder)
    values = np.tile(np.array([128, 112, 0.9], np.float32), 17)

    def linked(*data: object) -> SimpleNamespace | None:
        return SimpleNamespace(data=data[0], next=linked(*data[1:])) if data else None

    mask = SimpleNamespace(size=values.nbytes, get_mask_array=lambda: values)
    box = SimpleNamespace(left=10.0, top=20.0, width=30.0, height=40.0)
    person = SimpleNamespace(mask_params=mask, rect_params=box, confidence=0.75)
    other = SimpleNamespace(mask_params=SimpleNamespace(size=0))
    frame = SimpleNamespace(source_id=2, frame_num=7, obj_meta_list=linked(other, person))
    drawn: list[Display] = []
    pyds = SimpleNamespace(
        gst_buffer_get_nvds_batch_meta=lambda _: SimpleNamespace(frame_meta_list=linked(frame)),
        NvDsFrameMeta=SimpleNamespace(cast=lambda data: data),
        NvDsObjectMeta=SimpleNamespace(cast=lambda data: data),
        nvds_acquire_display_meta_from_pool=lambda _: Display(),
        nvds_add_display_meta_to_frame=lambda _, display: drawn.append(display),
    )
    module.probe(None, SimpleNamespace(get_buffer=lambda: 0), pyds)
    line = json.loads(capsys.readouterr().out)
    assert (line["source"], line["frame"], len(line["people"])) == ("2", 7, 1)
    (found,) = line["people"]
    assert found["box"] == [10, 20, 40, 60]
    np.testing.assert_allclose(np.array(found["keypoints"])[:, :2], [[960, 540]] * 17)  # the frame's middle
    assert sum(display.num_lines for display in drawn) == len(module.EDGES) > 16
    assert all(line.x1 == 960 for display in drawn for line in display.line_params[: display.num_lines])


def test_models_that_nvinfer_cannot_run(checkpoint_n: Path, onnx_n: Path, static_n: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"mode 'onnx'.*n\.pth --decode fixed --static"):
        package_deepstream(onnx_n, tmp_path / "out")
    dynamic = tmp_path / "dynamic.onnx"
    export_onnx(load_checkpoint(checkpoint_n), dynamic, ExportOptions(decode="fixed"), verify=False)
    with pytest.raises(ArtifactError, match=r"static shapes.*n\.pth --decode fixed --static"):
        package_deepstream(dynamic, tmp_path / "out")
    with pytest.raises(UsageError, match=r"takes 1 images at a time, not 4.*--static --batch 4"):
        package_deepstream(static_n, tmp_path / "out", batch=4)
    stand_in_engine(tmp_path / "plugin.engine", plugin=True)
    with pytest.raises(ArtifactError, match="plugin"):
        package_deepstream(tmp_path / "plugin.engine", tmp_path / "out")
    stand_in_engine(tmp_path / "raw.engine", decode=DecodeContract(DecodeMode.RAW))
    with pytest.raises(ArtifactError, match="mode 'raw'"):
        package_deepstream(tmp_path / "raw.engine", tmp_path / "out")
    stand_in_engine(tmp_path / "other.engine", input=InputContract(320, 320))
    with pytest.raises(ArtifactError, match="320x320"):
        package_deepstream(tmp_path / "other.engine", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_engine(tmp_path: Path) -> None:
    stand_in_engine(tmp_path / "m.engine", precision="int8+fp16")
    done = CliRunner().invoke(
        app, ["package", "deepstream", str(tmp_path / "m.engine"), str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["command"], made["runtime"]) == ("package deepstream", "tensorrt")
    settings = config(tmp_path / "out")["property"]
    assert settings["model-engine-file"] == "model.engine"
    assert "onnx-file" not in settings
    assert settings["batch-size"] == "2"  # the most that its profile takes
    done = CliRunner().invoke(
        app, ["package", "deepstream", str(tmp_path / "m.engine"), str(tmp_path / "2"), "--batch", "3"]
    )
    assert (done.exit_code, "1 to 2 images" in done.stderr) == (2, True)
