"""``rtmo-deploy validate`` on engines and OpenVINO models: each check can fail; an unchecked one is not ok."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from model_files import PLAN, profile, write_engine, write_openvino
from typer.testing import CliRunner

from rtmo_deploy.artifact import DecodeContract, DecodeMode, InputContract, Parent
from rtmo_deploy.cli.app import app
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.measure import validate, validate_engine
from rtmo_deploy.runtime.contract import TensorSpec
from rtmo_deploy.runtime.cuda import Gpu, find_gpu
from rtmo_deploy.runtime.engine_file import sidecar_path
from rtmo_deploy.runtime.trt_api import TrtApi, installed_backends

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino")


def run(*arguments):
    return CliRunner().invoke(app, ["validate", *(str(argument) for argument in arguments)])


def checks_of(path, *, code=0):
    result = run(path, "--json")
    assert result.exit_code == code, result.output
    document = json.loads(result.stdout)
    assert document["ok"] is (code == 0)
    return {check["name"]: (check["ok"], check["detail"]) for check in document["checks"]}


def failed_check(path):
    """Name and finding of the check that fails; it is the last one."""
    *before, (name, (ok, detail)) = checks_of(path, code=4).items()
    assert ok is False
    assert all(found is not False for _, (found, _) in before)
    return name, detail


@pytest.fixture
def quiet(monkeypatch):
    """No child process: the checks of a record only."""
    monkeypatch.setattr(validate_engine, "installed_backends", lambda: ())


@pytest.mark.usefixtures("quiet")
def test_a_sound_engine_without_its_backend(tmp_path):
    path = tmp_path / "m.engine"
    write_engine(path)
    result = run(path)
    assert result.exit_code == 0, result.output
    cells = [re.split(r"  +", line.strip()) for line in result.stdout.split("─\n")[1].splitlines()]
    rows = [row for row in cells if len(row) > 2]
    assert [row[:2] for row in rows] == [
        ["record", "ok"],
        ["bytes", "ok"],
        ["input and outputs", "ok"],
        ["precision", "ok"],
        ["tensorrt-rtx loads it", "not checked"],
        ["runs", "not checked"],
    ]
    assert "pip install 'rtmo-deploy[trt-rtx]'" in rows[4][2]
    assert rows[3][2] == "70 of 78 convolutions in fp16, by layer table of the build log"
    assert result.stderr.splitlines()[-1] == "Note: not checked here: tensorrt-rtx loads it, runs."
    checks = checks_of(path)
    assert [ok for ok, _ in checks.values()] == [True, True, True, True, None, None]


def spec(name, shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"backend": "cuda-magic"}, "record", "an unknown backend: cuda-magic"),
        ({"size": 3}, "bytes", "its record says 3"),
        ({"sha256": "a" * 64}, "bytes", "its record says aaaaaaaaaaaa"),
        ({"inputs": ()}, "input and outputs", "it has 0 inputs, not one: none"),
        (
            {"inputs": (spec("x", (-1, 3, -1, -1)),)},
            "input and outputs",
            "its input is called x, not input",
        ),
        (
            {"inputs": (spec("input", (-1, 3, -1, -1), "float16"),)},
            "input and outputs",
            "not float32 of four sides",
        ),
        ({"inputs": (spec("input", (-1, 4, -1, -1)),)}, "input and outputs", "has no 3 channels"),
        ({"inputs": (spec("input", (2, 3, -1, -1)),)}, "input and outputs", "takes batch 2, 192x192"),
        (
            {"inputs": (spec("input", (-1, 3, 192, 192)),)},
            "input and outputs",
            "its metadata says batch dynamic, 192x192 or any multiple of 32",
        ),
        (
            {"inputs": (spec("input", (-1, 3, -1, 192)),)},
            "input and outputs",
            "its metadata says batch dynamic, 192x192 or any multiple of 32",
        ),
        (
            {
                "inputs": (spec("input", (-1, 3, 192, 224)),),
                "artifact": {"input": InputContract(192, 192, None, False)},
            },
            "input and outputs",
            "takes batch dynamic, 192x224, and its metadata says batch dynamic, 192x192",
        ),
        (
            {"outputs": (spec("dets", (-1, 100, 5)),)},
            "input and outputs",
            "its outputs are dets; those of --decode fixed",
        ),
        (
            {"outputs": (spec("dets", (-1, 99, 5)), spec("keypoints", (-1, 100, 17, 3)))},
            "input and outputs",
            "dets float32 [?, 99, 5], keypoints float32 [?, 100, 17, 3]",
        ),
        (
            {"outputs": (spec("dets", (-1, 100, 5)), spec("keypoints", (-1, 100, 14, 3)))},
            "input and outputs",
            "keypoints float32 [?, 100, 14, 3]",
        ),
        (
            {"outputs": (spec("dets", (-1, 100, 5), "float16"), spec("keypoints", (-1, 100, 17, 3)))},
            "input and outputs",
            "dets float16",
        ),
        (
            {"artifact": {"decode": DecodeContract(DecodeMode.RAW)}},
            "input and outputs",
            "those of --decode raw are cls_scores",
        ),
        ({"profiles": ()}, "input and outputs", "none of its profiles takes its own size, 192x192"),
        ({"profiles": (profile("1x320x320", "1x320x320", "1x320x320"),)}, "input and outputs", "192x192"),
        (
            {"profiles": (profile("2x192x192", "1x192x192", "8x192x192"),)},
            "input and outputs",
            "does not ascend",
        ),
        (
            {"profiles": (profile("1x190x192", "1x192x192", "8x192x192"),)},
            "input and outputs",
            "no multiples of 32",
        ),
        ({"precision": {}}, "precision", "its record holds no audit"),
        ({"precision": {"asked": 3, "how": 4}}, "precision", "its record holds no audit"),
        (
            {"precision": {"asked": "fp32", "how": "x", "engine": {"convolutions": {"fp32": 78}}}},
            "precision",
            "it says that it is fp16, and it was built and audited as fp32",
        ),
        ({"precision": {"asked": "fp16", "how": "x", "engine": [1]}}, "precision", "no convolution"),
        (
            {"precision": {"asked": "fp16", "how": "x", "engine": {"convolutions": {"fp32": 78}}}},
            "precision",
            "no convolution of it was found to compute in fp16",
        ),
        ({"artifact": {"decode": DecodeContract(DecodeMode.PLUGIN, max_dets=100)}}, "plugin", "it has no plugin"),
        (
            {"plugin": {"name": "RTMODecode"}},
            "plugin",
            "its decoding is fixed, and its record says that it has a plugin",
        ),
        ({"artifact": {"companion": Parent("m.dcc.onnx", "0" * 64)}}, "companion", "m.dcc.onnx, which it needs"),
    ],
)
def test_an_engine_that_is_not_what_its_record_says(tmp_path, changes, check, said):
    path = tmp_path / "m.engine"
    write_engine(path, **changes)
    name, detail = failed_check(path)
    assert name == check
    assert said in detail
    result = run(path)
    assert f"It does not pass {check}: " in result.stderr
    assert "build it again with 'rtmo-deploy build-trt'" in result.stderr


@pytest.mark.usefixtures("quiet")
def test_an_int8_engine_with_half_around_it_is_audited_for_its_bytes(tmp_path):
    audit = {"asked": "int8", "how": "x", "engine": {"convolutions": {"int8": 60, "fp16": 10}}}
    write_engine(tmp_path / "m.engine", precision=audit, artifact={"precision": "int8+fp16"})
    assert checks_of(tmp_path / "m.engine")["precision"] == (True, "60 of 70 convolutions in int8, by x")


def test_a_record_that_is_missing_or_damaged(tmp_path):
    path = tmp_path / "m.engine"
    write_engine(path)
    sidecar_path(path).write_text("{}")
    assert failed_check(path)[0] == "record"
    sidecar_path(path).unlink()
    name, detail = failed_check(path)
    assert (name, "m.engine.json is missing" in detail) == ("record", True)
    path.unlink()
    result = run(path, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["exit_code"]) == (4, 4)
    assert "There is no such file" in result.stderr


def child(code):
    return (sys.executable, "-c", code)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(validate_engine, "installed_backends", lambda: ("tensorrt-rtx",))


SOUND = 'import sys; print("chatter"); print(\'{"name": "tensorrt-rtx loads it", "ok": true, "detail": "here"}\');'


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("code", "ok", "said"),
    [
        (SOUND, True, "here"),
        ("import os; os.abort()", False, "crashed (SIGABRT)"),
        ("import os; os.kill(os.getpid(), 11)", False, "crashed (SIGSEGV)"),
        ("import sys; sys.exit('no such thing')", False, "ended with exit code 1. Its last output: no such thing"),
        (SOUND + "import os; os.abort()", False, "crashed (SIGABRT)"),
    ],
)
def test_what_becomes_of_the_process_that_loads_it(tmp_path, code, ok, said):
    path = tmp_path / "m.engine"
    write_engine(path)
    report = validate_engine.validate_engine(path, command=child(code))
    last = report.checks[-1]
    assert (last.name, last.ok) == ("tensorrt-rtx loads it", ok)
    assert said in last.detail
    assert report.ok is ok


@pytest.mark.usefixtures("installed")
def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_engine, "TIMEOUT", 0.2)
    write_engine(tmp_path / "m.engine")
    report = validate_engine.validate_engine(tmp_path / "m.engine", command=child("import time; time.sleep(99)"))
    assert "more than 0.2 seconds" in report.checks[-1].detail


@pytest.mark.usefixtures("installed")
def test_an_engine_of_other_bytes_is_never_handed_to_the_child(tmp_path, monkeypatch):
    path = tmp_path / "m.engine"
    write_engine(path)
    path.write_bytes(b"x" * len(PLAN))

    def refuse(*_, **__):
        raise AssertionError("the engine was handed on")

    monkeypatch.setattr(validate_engine, "Child", refuse)
    assert failed_check(path)[0] == "bytes"
    with pytest.raises(ArtifactError, match="not the engine that its record"):
        list(validate_engine.child_checks(path))


class Runtime:
    """Stands for TensorRT-RTX's: knows an engine by its first letter."""

    def __init__(self, logger):
        del logger

    def get_engine_validity(self, header):
        assert len(header) <= validate_engine.HEADER
        return 2, 0 if header.startswith(PLAN[:1]) else validate_engine.MALFORMED


def with_machine(monkeypatch, *, runtime=Runtime, gpu=None, version="1.7.1.116"):
    module = SimpleNamespace(__version__=version, Runtime=runtime, ILogger=object)
    monkeypatch.setattr(validate_engine, "load_api", lambda variant: TrtApi(variant, module))
    monkeypatch.setattr(validate_engine, "find_gpu", lambda: gpu or "there is none")


def outcomes(path):
    return [(check.name, check.ok, check.detail) for check in validate_engine.child_checks(path)]


def test_without_a_gpu_the_header_is_all_that_is_looked_at(tmp_path, monkeypatch):
    path = tmp_path / "m.engine"
    write_engine(path)
    with_machine(monkeypatch)
    assert outcomes(path) == [
        ("header", True, "tensorrt-rtx 1.7.1.116: its beginning is that of an engine"),
        ("tensorrt-rtx loads it", None, "there is no GPU to load it on: there is none"),
        ("runs", None, "it was not loaded"),
    ]
    with_machine(monkeypatch, runtime=object)  # as TensorRT's, which cannot judge a header
    assert [name for name, *_ in outcomes(path)] == ["tensorrt-rtx loads it", "runs"]
    monkeypatch.setattr(Runtime, "get_engine_validity", lambda *_: (2, validate_engine.MALFORMED))
    with_machine(monkeypatch)
    assert outcomes(path)[0] == ("header", False, "tensorrt-rtx 1.7.1.116: its beginning is not that of an engine")


def test_an_engine_for_another_machine_is_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "m.engine"
    write_engine(path)
    with_machine(monkeypatch, gpu=Gpu(0, "a GPU", "8.9", "12.8"), version="1.8")
    (_, (name, ok, detail), _) = outcomes(path)
    assert (name, ok) == ("tensorrt-rtx loads it", None)
    assert "needs that version; installed is 1.8" in detail
    assert "built for compute capability 8.6, 12.0; a GPU has 8.9" in detail


def test_a_package_that_cannot_be_loaded(tmp_path, monkeypatch):
    path = tmp_path / "m.engine"
    write_engine(path)

    def broken(variant):
        raise SetupError(f"The package '{variant.module}' is installed and cannot be loaded: no libnvinfer")

    monkeypatch.setattr(validate_engine, "load_api", broken)
    (_, ok, detail), _ = outcomes(path)
    assert ok is None
    assert "no libnvinfer" in detail


class Backend:
    """Stands for a loaded engine."""

    def __init__(self, outputs):
        self.outputs, self.sizes = outputs, []

    def __call__(self, images):
        self.sizes.append(images.shape)
        return {name: np.full((len(images), *shape), 1.0, np.float32) for name, shape in self.outputs.items()}

    def close(self):
        self.sizes.append("closed")


ROWS = {"dets": (100, 5), "keypoints": (100, 17, 3)}


def on_a_gpu(monkeypatch, outcome):
    from rtmo_deploy.runtime import tensorrt_backend

    def load(artifact, index):
        assert (artifact.architecture, index) == ("rtmo-n", 0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with_machine(monkeypatch, gpu=Gpu(0, "a GPU", "8.6", "12.8"))
    monkeypatch.setattr(tensorrt_backend, "TensorRtBackend", load)


def test_on_a_gpu_it_is_loaded_and_run_at_two_sizes(tmp_path, monkeypatch):
    path = tmp_path / "m.engine"
    write_engine(path, profiles=(profile("1x64x64", "2x192x192", "8x1280x1280"),))
    backend = Backend(ROWS)
    on_a_gpu(monkeypatch, backend)
    assert [(name, ok) for name, ok, _ in outcomes(path)] == [
        ("header", True),
        ("tensorrt-rtx loads it", True),
        ("run 2x3x192x192", True),
        ("run 1x3x64x64", True),
    ]
    assert backend.sizes == [*[(2, 3, 192, 192)] * 2, *[(1, 3, 64, 64)] * 2, "closed"]


@pytest.mark.parametrize(
    ("outcome", "name", "ok", "said"),
    [
        (ArtifactError("Magic tag does not match"), "tensorrt-rtx loads it", False, "Magic tag"),
        (SetupError("out of memory"), "tensorrt-rtx loads it", None, "out of memory"),
        (Backend({"maps": (3,)}), "run 1x3x192x192", False, "not those of its record"),
    ],
)
def test_what_a_gpu_finds(tmp_path, monkeypatch, outcome, name, ok, said):
    path = tmp_path / "m.engine"
    write_engine(path)
    on_a_gpu(monkeypatch, outcome)
    found = {check: (state, detail) for check, state, detail in outcomes(path)}
    assert found[name][0] is ok
    assert said in found[name][1]


@pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx")
def test_a_plan_that_is_none_does_not_pass_where_its_backend_is_installed(tmp_path):
    # The child process for real: the library itself says that these bytes are no engine.
    path = tmp_path / "m.engine"
    write_engine(path)
    assert failed_check(path)[0] == "header"


@pytest.mark.gpu
@pytest.mark.skipif(isinstance(find_gpu(), str) or not installed_backends(), reason="needs a GPU and TensorRT")
def test_an_engine_built_here_passes_every_check(checkpoint_n, tmp_path):
    from rtmo_deploy.convert import ExportOptions, export_onnx
    from rtmo_deploy.convert.trt import BuildOptions, build_engine
    from rtmo_deploy.model import load_checkpoint
    from rtmo_deploy.runtime.engine_file import Shape

    source = tmp_path / "n.onnx"
    export_onnx(load_checkpoint(checkpoint_n), source, ExportOptions(decode="fixed"), verify=False)
    sizes = tuple(Shape.parse(text) for text in ("1x128x128", "1x256x256", "2x256x256"))
    options = BuildOptions(min=sizes[:1], opt=sizes[1:2], max=sizes[2:])
    path = build_engine(source, tmp_path / "n.engine", options).record.artifact.path
    assert all(ok is True for ok, _ in checks_of(path).values())


@pytest.fixture
def little(tmp_path):
    write_openvino(tmp_path / "little.xml")
    return tmp_path / "little.xml"


@needs_openvino
def test_a_sound_openvino_model(little):
    checks = checks_of(little)
    assert list(checks) == [
        "structure",
        "metadata",
        "weights",
        "input and outputs",
        "OpenVINO reads it",
        "OpenVINO compiles it",
        "run 1x3x160x160",
        "run 2x3x96x192",
    ]
    assert all(ok is True for ok, _ in checks.values())
    assert checks["run 2x3x96x192"][1] == "finite: dets [2, 2, 5], keypoints [2, 2, 17, 3]"
    result = run(little)
    assert (result.exit_code, result.stderr) == (0, "validating ...\n")


@needs_openvino
def test_without_openvino_nothing_is_said_to_run(little, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else real(name, *a))
    checks = checks_of(little)
    assert [name for name, (ok, _) in checks.items() if ok is None] == [
        "OpenVINO reads it",
        "OpenVINO compiles it",
        "runs",
    ]
    assert checks["weights"][0] is True
    assert "rtmo-deploy[openvino]" in checks["runs"][1]


@needs_openvino
def test_weights_that_are_not_those_it_was_written_with(little):
    weights = little.with_suffix(".bin")
    content = weights.read_bytes()
    for wrong, said in (
        (bytes(len(content)), "not the file that it was written with: its SHA-256 begins with"),
        (content[:-4], "little.bin is cut short"),
        (None, "cannot be read: No such file"),
    ):
        if wrong is None:
            weights.unlink()
        else:
            weights.write_bytes(wrong)
        name, detail = failed_check(little)
        assert name == "weights"
        assert said in detail


@needs_openvino
@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"decode": DecodeContract(DecodeMode.RAW)}, "metadata", "those of --decode raw"),
        ({"companion": Parent("x.onnx", "0" * 64)}, "companion", "x.onnx, which it needs"),
        ({"precision": "int8"}, "OpenVINO compiles it", "none of its layers would run in 8 bits"),
        ({"nan": True}, "run 1x3x160x160", "not finite: dets"),
    ],
)
def test_an_openvino_model_that_is_not_what_it_says(tmp_path, changes, check, said):
    path = tmp_path / "little.xml"
    write_openvino(path, **changes)
    name, detail = failed_check(path)
    assert name == check
    assert said in detail
    assert "convert the ONNX model again" in run(path).stderr


@needs_openvino
def test_sizes_that_its_graph_has_otherwise_are_corrected(tmp_path):
    path = tmp_path / "little.xml"
    write_openvino(path, decode=DecodeContract(DecodeMode.FIXED, max_dets=3), input=InputContract(64, 64, 1, False))
    ok, detail = checks_of(path)["input and outputs"]
    assert ok
    assert "takes batch dynamic, 64x64 or any multiple of 32, and its metadata says batch 1, 64x64;" in detail
    assert detail.endswith("puts out 2 rows, and its metadata says 3")


@needs_openvino
def test_an_openvino_model_of_somebody_else_is_checked_as_far_as_it_goes(tmp_path):
    path = tmp_path / "foreign.xml"
    write_openvino(path, described=False)
    checks = checks_of(path)
    assert [name for name, (ok, _) in checks.items() if ok is None] == ["metadata", "weights"]
    assert checks["run 1x3x160x160"][0] is True


@needs_openvino
def test_an_operator_that_openvino_does_not_know(little):
    text = little.read_text().replace('type="ReduceMax"', 'type="Magic"')
    little.write_text(text)
    name, detail = failed_check(little)
    assert name == "OpenVINO reads it"
    assert "does not accept it" in detail


@needs_openvino
def test_what_this_cpu_cannot_compile_is_not_the_models_fault(little, monkeypatch):
    from rtmo_deploy.runtime import openvino_backend

    def refuse(*_, **__):
        raise SetupError("This CPU has no VNNI.")

    monkeypatch.setattr(openvino_backend, "compile_model", refuse)
    report = validate.validate_openvino(little)
    assert report.ok
    assert [(check.name, check.ok) for check in report.checks[-2:]] == [("OpenVINO compiles it", None), ("runs", None)]
    assert "not on this machine: This CPU has no VNNI" in report.checks[-1].detail


@needs_openvino
def test_damaged_metadata(little):
    text = little.read_text()
    little.write_text(text.replace("&quot;little&quot;", "&quot;little", 1))
    assert failed_check(little)[0] == "metadata"
    little.write_text(text.replace("&quot;openvino&quot;", "&quot;onnx&quot;", 1))
    assert failed_check(little) == ("metadata", "Its metadata speaks of a file of kind onnx.")


def test_no_openvino_model_at_all(tmp_path):
    for content in (None, b"", b"\x80garbage" * 9):
        if content is not None:
            (tmp_path / "x.xml").write_bytes(content)
        result = run(tmp_path / "x.xml", "--json")
        assert (result.exit_code, json.loads(result.stdout)["error"]["exit_code"]) == (4, 4)
