"""What commands are given: wrong kinds of file are named, sizes understood, errors are JSON, nothing slow begins."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.given import beside
from rtmo_deploy.cli.options import join_sizes, parse_input_size, parse_size
from rtmo_deploy.errors import UsageError
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.zoo import EMBEDDED

#: What a file is called in messages -> its name and its bytes.
KINDS = {
    "a JPEG image": ("photo.jpg", b"\xff\xd8\xff\xe0" + b"0" * 99),
    "an empty file": ("empty.onnx", b""),
    "an HTML page": ("page.pth", b"<!DOCTYPE html><html><body>404</body></html>"),
    "a Git LFS pointer": ("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"),
    "a video": ("clip.mp4", b"\0\0\0\x18ftypisom" + b"0" * 50),
    "an annotation file": ("ann.json", b'{"images": [], "annotations": [], "categories": []}'),
    "a recipe": ("recipe.yaml", b"name: x\nsource: rtmo-n\nartifacts: {}\n"),
    "an xz archive": ("ckpt.pth.xz", b"\xfd7zXZ\0" + b"0" * 50),
    "the weights of an OpenVINO model": ("model.bin", bytes(range(256))),
    "a folder": ("folder", None),
    "a TensorRT engine": ("x.engine", b"ftrt" + b"0" * 50),
    "an OpenVINO model": ("model.xml", b'<?xml version="1.0"?>\n<net name="x" version="11"><layers/></net>'),
    "a PyTorch checkpoint": ("really.onnx", EMBEDDED["rtmo-n"].path.read_bytes()[: 1 << 16]),
    "an ONNX model": ("really.pth", b"\x08\x08\x12\x07pytorch" + b"0" * 50),
}
CHECKPOINT, ONNX, EXPORTED = {"a PyTorch checkpoint"}, {"an ONNX model"}, {"a TensorRT engine", "an OpenVINO model"}
MODEL = CHECKPOINT | ONNX | EXPORTED
#: Command with {} for the file -> kinds that it takes, how it names them, exit code.
COMMANDS = {
    "inspect {}": (MODEL, "a checkpoint, an ONNX or OpenVINO", 4),
    "validate {}": (ONNX | EXPORTED, "an ONNX model, an OpenVINO model (.xml) or a TensorRT engine", 4),
    "cast {} --fp16": (ONNX, "an ONNX model", 4),
    "quantize {}": (ONNX, "an ONNX model", 4),
    "calibrate {} --set synthetic": (ONNX, "an ONNX model", 4),
    "predict {} photo.jpg": (MODEL, "a checkpoint, an ONNX or OpenVINO", 4),
    "export {}": (CHECKPOINT, "a checkpoint", 4),
    "eval {} --ann ann.json --images folder": (MODEL, "a checkpoint, an ONNX or OpenVINO", 4),
    "build-trt {}": (CHECKPOINT | ONNX, "an ONNX model or a checkpoint", 4),
    "parity rtmo-n {}": (MODEL, "a checkpoint, an ONNX or OpenVINO", 4),
    "bench {}": (MODEL, "a checkpoint, an ONNX or OpenVINO", 4),
    "bench rtmo-n --reference {}": (CHECKPOINT, "a checkpoint", 4),
    "models pack {} -o out.pth": (CHECKPOINT, "a checkpoint", 4),
    "train --init {} --ann ann.json --images folder": (CHECKPOINT, "a checkpoint", 4),
    "train {}": ({"a recipe", "the weights of an OpenVINO model"}, "a recipe", 2),
    "release {}": ({"a recipe", "the weights of an OpenVINO model"}, "a recipe", 2),
    "verify {}": ({"a folder"}, "the folder of a release", 4),
    "sign {} --key key.pem": ({"a folder"}, "the folder of a release", 4),
    "data check --ann {}": ({"an annotation file", "the weights of an OpenVINO model"}, "an annotation file", 3),
    "eval --ann {} --predictions ann.json": (
        {"an annotation file", "the weights of an OpenVINO model"},
        "an annotation file",
        3,
    ),
    "eval rtmo-n --ann ann.json --images {}": ({"a folder"}, "a folder of images", 3),
}
#: What is wrong in other ways -> exit code and a part of the message.
WRONG = {
    "export nowhere.pth": (4, "There is no such file."),
    "export really.onnx --format tensorrt": (2, "rtmo-deploy build-trt really.onnx --fp16"),
    "export rtmo-n --format engine": (2, "rtmo-deploy build-trt rtmo-n --fp16"),
    "export rtmo-n -o x.engine": (2, "rtmo-deploy build-trt rtmo-n --fp16 -o x.engine"),
    "export rtmo-n --format coreml": (2, "Choose onnx, openvino or web."),
    "export rtmo-n --imgsz 33": (2, "multiples of 32; the nearest above is 64x64."),
    "export rtmo-n -o photo.jpg/x.onnx": (5, "is not a folder"),
    "export rtmo-nn": (2, "Did you mean 'rtmo-n'?"),
    "inspect rtmo-s": (5, "rtmo-n works: it comes with the package"),
    "validate rtmo-n": (4, "rtmo-deploy export rtmo-n"),
    "cast rtmo-s --fp16": (4, "rtmo-deploy export rtmo-s"),
    "predict rtmo-n nowhere.jpg": (3, "There is no such file or folder."),
    "predict rtmo-n ann.json": (3, "It is an annotation file (JSON), not an image."),
    "predict rtmo-n recipe.yaml really.onnx": (3, "It is a PyTorch checkpoint, not an image."),
    "predict rtmo-n folder": (3, "There is no"),
    "predict rtmo-n photo.jpg --device gpu": (2, "There is no device 'gpu'."),
    "predict rtmo-n photo.jpg --backend nope": (2, "'nope'"),
    "predict rtmo-n photo.jpg --precision fp17": (2, "fp17"),
    "eval rtmo-n --ann nowhere.json --images folder": (3, "There is no such file."),
    "eval rtmo-n --ann ann.json --images nowhere": (3, "There is no such folder."),
    "eval rtmo-n --ann ann.json --images folder --backend nope": (2, "'nope'"),
    "parity rtmo-n rtmo-n --images nowhere": (3, "There is no such file or folder."),
    "parity rtmo-n rtmo-n --backend-b nope": (2, "'nope'"),
    "bench rtmo-n --device tpu": (2, "There is no device 'tpu'."),
    "bench rtmo-n --baseline photo.jpg": (2, "it is a JPEG image, not JSON"),
    "build-trt rtmo-n -o x.onnx": (2, "Give it the suffix .engine."),
    "build-trt rtmo-n --int8 --calib nowhere": (2, "'nowhere' is no calibration set"),
    "train nowhere.yaml": (2, "There is no such file."),
    "train --init rtmo-n": (2, "--ann, --images are missing"),
    "train --init rtmo-n --ann nowhere.json --images folder": (3, "There is no such file."),
    "train --init rtmo-n --ann ann.json --images folder": (3, "There is no image"),
    "train --model rtmo-n --ann ann.json --images folder --device tpu": (2, "There is no device 'tpu'."),
    "train --model rtmo-x --ann ann.json --images folder": (2, "there is no architecture 'rtmo-x'"),
    "release nowhere.yaml": (2, "There is no such file."),
    "verify nowhere": (4, "There is no such folder."),
    "verify folder --identity me": (2, "An identity is checked together with its issuer."),
    "verify folder --key photo.jpg": (2, "A public key is needed, and this is no key in PEM."),
    "sign nowhere --key key.pem": (4, "There is no such folder."),
    "data check --ann ann.json --images nowhere": (3, "There is no such folder."),
    "models init rtmo-n -o x.onnx": (2, "Give it the suffix .pth or .safetensors."),
    "models pack rtmo-n -o x.onnx": (2, "Give it the suffix .pth or .safetensors."),
}
TABLE = [
    (command.format(file), code, [f"It is {kind}", taken])
    for command, (kinds, taken, code) in COMMANDS.items()
    for kind, (file, _) in KINDS.items()
    if kind not in kinds
]
TABLE += [(command, code, [part]) for command, (code, part) in WRONG.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given")
    for name, content in KINDS.values():
        if content is None:
            (path / name).mkdir()
        else:
            (path / name).write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(folder / "cache"))


def test_wrong_files_and_options_are_named_before_anything_slow_begins() -> None:
    """Every case in one process that must not import PyTorch, which alone takes seconds."""
    code = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from rtmo_deploy.cli.app import app\n"
        "for command in json.load(sys.stdin):\n"
        "    done = CliRunner().invoke(app, command)\n"
        "    ended = done.exception is None or isinstance(done.exception, SystemExit)\n"
        "    error = done.stderr if ended else repr(done.exception)\n"
        "    print(json.dumps([done.exit_code, error, done.stdout, 'torch' in sys.modules]))\n"
    )
    commands = [shlex.split(command) for command, _, _ in TABLE]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        f"{command}: expected {wanted}, exit {code}; got exit {exit_code}{', PyTorch' * slow}: {error}{stdout}"
        for (command, code, wanted), (exit_code, error, stdout, slow) in zip(TABLE, results, strict=True)
        if exit_code != code or stdout or slow or any(part not in error for part in wanted) or "Traceback" in error
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_remedy_is_a_command_that_can_be_copied() -> None:
    shutil.copy("really.onnx", "my ckpt.pth")
    error = CliRunner().invoke(app, ["cast", "my ckpt.pth", "--fp16"]).stderr
    assert error.endswith("Export it first: rtmo-deploy export 'my ckpt.pth'\n")


def test_a_missing_package_is_a_remedy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from rtmo_deploy.convert.trt import plan

    problem = "It needs the package 'tensorrt'. Install it with: pip install 'rtmo-deploy[trt]'"
    monkeypatch.setattr(plan, "settle_variant", lambda _: (None, (problem,)))
    result = CliRunner().invoke(app, ["build-trt", "rtmo-n", "--fp16"])
    assert result.exit_code == 5
    assert result.stderr.endswith("pip install 'rtmo-deploy[trt]'\n")


def test_the_bytes_decide_what_a_model_is(onnx_n: Path, tmp_path: Path) -> None:
    checkpoint, onnx = tmp_path / "checkpoint.onnx", tmp_path / "exported.pth"
    shutil.copy(EMBEDDED["rtmo-n"].path, checkpoint)
    shutil.copy(onnx_n, onnx)
    assert read_artifact(onnx).kind == "onnx"
    assert read_artifact(checkpoint).kind == "checkpoint"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("640", (640, 640)),
        ("640x480", (640, 480)),
        ("640,480", (640, 480)),
        ("640 480", (640, 480)),
        ("32X64", (32, 64)),
    ],
)
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size
    assert parse_input_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "640x", "x640", "64O", "640x480x3", "-32", "1e3", "640.0", "0x32"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["--imgsz", "640", "480", "a.jpg"], ["--imgsz", "640,480", "a.jpg"]),
        (["--imgsz=640", "480"], ["--imgsz=640,480"]),
        (["--imgsz", "640", "a.jpg"], ["--imgsz", "640", "a.jpg"]),
        (["--imgsz", "640x480", "1"], ["--imgsz", "640x480", "1"]),
        (["--imgsz", "1", "2", "3"], ["--imgsz", "1,2", "3"]),
        (["--threads", "1", "2"], ["--threads", "1", "2"]),
        (["--", "--imgsz", "1", "2"], ["--", "--imgsz", "1", "2"]),
        ([], []),
    ],
)
def test_the_two_numbers_of_a_size_are_one_argument(given: list[str], joined: list[str]) -> None:
    assert join_sizes(given) == joined


@pytest.mark.parametrize(("size", "there"), [(["64"], (64, 64)), (["64", "96"], (64, 96)), (["64x96"], (64, 96))])
def test_a_command_takes_every_form_of_a_size(size: list[str], there: tuple[int, int], tmp_path: Path) -> None:
    import cv2

    arguments = ["data", "synth", str(tmp_path / "out"), "--images", "1", "--size", *size, "--format", "png"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (image,) = (tmp_path / "out" / "images").iterdir()
    assert cv2.imread(str(image)).shape[:2] == there


@pytest.mark.parametrize(
    ("arguments", "command", "kind", "code"),
    [
        ("predict --json", "predict", "UsageError", 2),
        ("predict rtmo-n photo.jpg --json --threads x", "predict", "UsageError", 2),
        ("nope --json", "nope", "UsageError", 2),
        ("models nope --json", "models nope", "UsageError", 2),
        ("inspect nowhere.onnx --json", "inspect", "ArtifactError", 4),
        ("eval rtmo-n --ann photo.jpg --images folder --json", "eval", "InputDataError", 3),
        ("models download rtmo-s --json", "models download", "DownloadError", 5),
        ("data check --ann nowhere.json --json", "data check", "InputDataError", 3),
    ],
)
def test_errors_are_json(arguments: str, command: str, kind: str, code: int) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert (document["schema_version"], document["command"]) == (1, command)
    assert (document["error"]["type"], document["error"]["exit_code"]) == (kind, code)
    assert document["error"]["message"]
    assert document["error"]["remedy"]
    assert "Error: " in result.stderr


def test_a_result_and_an_error_are_one_document(onnx_n: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtmo_deploy.measure.validate import Check, ValidationReport

    report = ValidationReport((Check("structure", False, "its graph has a cycle"),))
    monkeypatch.setattr("rtmo_deploy.measure.validate_onnx", lambda _: report)
    result = CliRunner().invoke(app, ["validate", str(onnx_n), "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == document["error"]["exit_code"] == 4
    assert "its graph has a cycle" in document["error"]["message"]
    assert document["checks"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_end_by_force_is_json_too(onnx_n: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("rtmo_deploy.measure.validate_onnx", fail)
    result = CliRunner().invoke(app, ["validate", str(onnx_n), "--json"])
    document = json.loads(result.stdout)
    if error is KeyboardInterrupt:
        assert result.exit_code == document["error"]["exit_code"] == 130
        assert document["error"]["type"] == "Interrupted"
    else:
        assert isinstance(result.exception, ZeroDivisionError)  # a bug still shows its traceback
        assert document["error"]["type"] == "ZeroDivisionError"


def test_nobody_reads_the_document() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "rtmo_deploy", "models", "list", "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_outputs_are_named_beside_what_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    archive, cached = tmp_path / "sub" / "rtmo-s.zip", tmp_path / "cache" / "rtmo-s.onnx"
    archive.write_bytes(b"PK")
    assert beside(str(archive), cached) == archive.with_name("rtmo-s.onnx")
    assert beside(archive.as_uri(), cached) == archive.with_name("rtmo-s.onnx")
    assert beside("sub/rtmo-s.zip", cached) == Path("sub/rtmo-s.onnx")
    for elsewhere in ("https://host/models/rtmo-s.onnx", "hf://o/r/rtmo-s.onnx", "rtmo-s"):
        assert beside(elsewhere, cached) == Path("rtmo-s.onnx")


def test_an_archive_is_cast_beside_itself_and_not_exported(tmp_path, monkeypatch, onnx_n):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(onnx_n, "end2end.onnx")
    done = CliRunner().invoke(app, ["cast", archive.as_uri(), "--fp16", "--no-verify"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "mine.fp16.onnx").is_file()
    done = CliRunner().invoke(app, ["export", str(archive)])
    assert (done.exit_code, "It need not be exported" in done.stderr) == (4, True)
