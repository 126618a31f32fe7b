"""Engines built for real by TensorRT-RTX, which needs no GPU for it, and what is left behind when a build fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from toy_networks import describe, toy, write_toy

from rtmo_deploy.artifact import DecodeMode
from rtmo_deploy.convert.options import ExportOptions
from rtmo_deploy.convert.trt import BuildOptions, build_engine
from rtmo_deploy.convert.trt.child import make_monitor
from rtmo_deploy.convert.trt.plan import settle_variant
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.engine_file import AHEAD_OF_TIME, Shape, engine_artifact, read_record
from rtmo_deploy.runtime.trt_api import installed_backends

pytestmark = pytest.mark.skipif("tensorrt-rtx" not in installed_backends(), reason="needs tensorrt_rtx")

RTX = BuildOptions(backend="tensorrt-rtx")
CHECKOUT = Path(__file__).resolve().parents[2]


def rtx(**changes):
    return BuildOptions(backend="tensorrt-rtx", **changes)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_every_precision_builds_and_is_audited(tmp_path, precision):
    source = write_toy(tmp_path / "toy.onnx", precision)
    told = []
    result = build_engine(source, None, rtx(precision=precision), progress=told.append)
    name = f"toy.{precision}.tensorrt-rtx.engine"
    assert files(tmp_path) == [name, f"{name}.json", "toy.onnx"]
    record = result.record
    assert record == read_record(tmp_path / name)
    assert record.precision["engine"]["convolutions"] == {precision: 3}
    assert record.precision["network"]["convolutions"] == {precision: 3}
    assert result.audit.how == "layer table of the build log"
    assert record.layers["correlation"]
    assert (record.gpu, record.compute_capability, record.plugin) == (AHEAD_OF_TIME, None, None)
    assert record.backend == "tensorrt-rtx"
    assert record.version.startswith("1.")
    assert [str(spec) for spec in record.inputs] == ["input float32 [-1, 3, -1, -1]"]
    assert str(record.outputs[0]) == "maps float32 [-1, 16, -1, -1]"
    assert [str(p) for p in record.profiles] == ["1x64x64 to 8x1280x1280, tuned for 1x64x64"]
    assert record.sha256 == sha256_of(tmp_path / name)
    assert record.onnx_sha256 == sha256_of(source)
    artifact = engine_artifact(tmp_path / name)
    assert (artifact.kind, artifact.precision, artifact.architecture) == (Kind.ENGINE, precision, "toy")
    assert artifact.parents[-1].name == "toy.onnx"
    assert artifact.input.dynamic_hw
    assert {"loading tensorrt-rtx", "parsing", "building", "auditing", "writing"} <= set(told)
    assert any(text.startswith("Building engine") for text in told)


@pytest.mark.parametrize(
    ("is_of", "said", "half"), [("fp32", "fp16", 3), ("fp32", "int8", 3), ("fp16", "fp16", 1), ("fp16", "fp32", 1)]
)
def test_a_graph_that_is_not_what_it_claims_is_refused(tmp_path, is_of, said, half):
    source = write_toy(tmp_path / "toy.onnx", is_of, said=said, half=half)
    with pytest.raises(ArtifactError, match="The engine is not written"):
        build_engine(source, None, RTX)
    assert files(tmp_path) == ["toy.onnx"]


def test_a_static_graph_has_one_size(tmp_path):
    source = describe(toy("fp32", batch=2, side=96), tmp_path / "s.onnx", "fp32", batch=2, height=96, width=96)
    record = build_engine(source, None, RTX).record
    assert [str(spec) for spec in record.inputs] == ["input float32 [2, 3, 96, 96]"]
    assert [str(p) for p in record.profiles] == ["2x96x96"]
    assert (record.artifact.input.batch, record.artifact.input.dynamic_hw) == (2, False)


def test_several_profiles_and_targets(tmp_path):
    source = write_toy(tmp_path / "toy.onnx", "fp16")
    sizes = tuple(Shape.parse(text) for text in ("1x64x64", "4x128x96"))
    output = tmp_path / "new" / "folder" / "two.engine"
    options = rtx(min=sizes, opt=sizes, max=sizes, targets=("8.6", "12.0"), opt_level=2, workspace=2**26)
    record = build_engine(source, output, options).record
    assert [str(p) for p in record.profiles] == ["1x64x64", "4x128x96"]
    assert record.targets == ("8.6", "12.0")
    assert record.options["opt_level"] == 2
    assert record.options["workspace"] == 2**26
    assert (record.artifact.input.height, record.artifact.input.width) == (64, 64)
    assert files(output.parent) == ["two.engine", "two.engine.json"]


def test_a_profile_without_the_models_own_size_gives_another_one(tmp_path):
    source = write_toy(tmp_path / "toy.onnx")
    (size,) = (Shape.parse("2x128x96"),)
    made = build_engine(source, None, rtx(min=(size,), opt=(size,), max=(size,))).record.artifact.input
    assert (made.batch, made.height, made.width, made.dynamic_hw) == (2, 128, 96, False)


def test_a_target_that_this_release_does_not_know(tmp_path):
    source = write_toy(tmp_path / "toy.onnx")
    with pytest.raises(UsageError, match=r"cannot build for compute capability 8\.7; it offers"):
        build_engine(source, None, rtx(targets=("8.7",)))
    with pytest.raises(UsageError, match=r"cannot build for compute capability 8\.7; it offers"):
        settle_variant(rtx(targets=("8.6", "8.7")))
    assert files(tmp_path) == ["toy.onnx"]


def test_turing_in_fp16_builds(tmp_path):
    source = write_toy(tmp_path / "toy.onnx", "fp16")
    assert build_engine(source, None, rtx(targets=("7.5",))).record.targets == ("7.5",)


@pytest.mark.parametrize(
    ("mode", "outputs"),
    [
        ("fixed", ["dets float32 [-1, 100, 5]", "keypoints float32 [-1, 100, 17, 3]"]),
        (
            "raw",
            [
                "cls_scores float32 [-1, -1, 1]",
                "bbox_preds float32 [-1, -1, 4]",
                "kpt_vis float32 [-1, -1, 17]",
                "pose_vecs float32 [-1, -1, 128]",
            ],
        ),
    ],
)
def test_rtmo_n_builds_with_everything_at_its_default(exported, tmp_path, mode, outputs):
    source = exported(ExportOptions(decode="fixed" if mode == "fixed" else "raw")).path
    record = build_engine(source, tmp_path / "n.engine", RTX).record
    assert [str(spec) for spec in record.outputs] == outputs
    assert [str(p) for p in record.profiles] == ["1x256x256 to 8x1280x1280, tuned for 1x256x256"]
    assert record.artifact.decode.mode is DecodeMode(mode)
    counts = record.precision["engine"]["convolutions"]
    assert set(counts) == {"fp32"}
    convolutions = [node for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    # Every convolution of the graph is found in the engine.
    assert counts["fp32"] == len(convolutions)
    companion = record.artifact.companion
    assert (companion is not None) == (mode == "raw")
    if companion is not None:
        assert sha256_of(tmp_path / companion.name) == companion.sha256


def test_a_companion_of_another_model_is_not_overwritten(tmp_path, recorded_build):
    # The raw model's second file goes with the engine; another one of that name is somebody's.
    from dataclasses import replace

    from rtmo_deploy.artifact import Artifact, Parent
    from rtmo_deploy.runtime.onnx_file import load_onnx, onnx_artifact

    source = write_toy(tmp_path / "toy.onnx")
    (tmp_path / "toy.dcc.onnx").write_bytes(b"dcc")
    model = load_onnx(source)
    parent = Parent("toy.dcc.onnx", sha256_of(tmp_path / "toy.dcc.onnx"))
    artifact: Artifact = replace(onnx_artifact(source, model), companion=parent)
    onnx.helper.set_model_props(model, artifact.to_metadata())
    onnx.save(model, source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "toy.dcc.onnx").write_bytes(b"else")
    with pytest.raises(UsageError, match="belongs to another model"):
        build_engine(source, other / "a.engine", RTX)
    assert files(other) == ["toy.dcc.onnx"]
    (other / "toy.dcc.onnx").unlink()
    build_engine(source, other / "a.engine", RTX, command=recorded_build())
    assert (other / "toy.dcc.onnx").read_bytes() == b"dcc"


def test_an_operator_nobody_knows_is_named(tmp_path):
    model = toy("fp32")
    node = onnx.helper.make_node("Foo", ["maps"], ["more"], name="/head/Foo")
    model.graph.node.append(node)
    source = describe(model, tmp_path / "foo.onnx", "fp32")
    with pytest.raises(ArtifactError, match=r"no operator of opset 17 is its node /head/Foo \(Foo\)"):
        build_engine(source, None, RTX)
    assert files(tmp_path) == ["foo.onnx"]


def test_an_opset_nobody_knows_is_refused(tmp_path):
    model = toy("fp32")
    model.opset_import[0].version = 99
    source = describe(model, tmp_path / "new.onnx", "fp32")
    with pytest.raises(ArtifactError, match="opset 99"):
        build_engine(source, None, RTX)
    assert files(tmp_path) == ["new.onnx"]


CRASH = "import sys, os, json; j = json.loads(sys.stdin.readline()); open(j['plan'], 'w').write('half'); "


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("os.kill(os.getpid(), 11)", ArtifactError),
        ("os.abort()", ArtifactError),
        ("os.kill(os.getpid(), 9)", SetupError),
    ],
)
def test_a_crash_leaves_nothing_and_touches_nothing(tmp_path, code, kind):
    source, output = write_toy(tmp_path / "toy.onnx"), tmp_path / "old.engine"
    output.write_bytes(b"the old engine")
    with pytest.raises(kind):
        build_engine(source, output, RTX, command=[sys.executable, "-c", CRASH + code])
    assert files(tmp_path) == ["old.engine", "toy.onnx"]
    assert output.read_bytes() == b"the old engine"


def test_a_timeout_leaves_nothing(tmp_path):
    source = write_toy(tmp_path / "toy.onnx")
    options = rtx(timeout=0.5)
    with pytest.raises(SetupError, match=r"more than 0\.5 seconds"):
        build_engine(source, None, options, command=[sys.executable, "-c", CRASH + "import time; time.sleep(99)"])
    assert files(tmp_path) == ["toy.onnx"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, recorded_build):
    source, output = write_toy(tmp_path / "toy.onnx"), tmp_path / "out" / "a.engine"
    command, real = recorded_build(), Path.write_text

    def full(self, text, *args, **kwargs):
        if self.suffix == ".part":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, text, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SetupError, match="No space left"):
        build_engine(source, output, RTX, command=command)
    assert files(output.parent) == []


@pytest.mark.parametrize("which", ["engine", "record"])
def test_a_file_that_cannot_take_its_place_takes_the_other_with_it(tmp_path, monkeypatch, recorded_build, which):
    source, output = write_toy(tmp_path / "toy.onnx"), tmp_path / "out" / "a.engine"
    refused = output if which == "engine" else output.with_name("a.engine.json")
    real = Path.replace

    def replace(self, target):
        if Path(target) == refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(SetupError, match="No space left"):
        build_engine(source, output, RTX, command=recorded_build())
    assert files(output.parent) == []


def test_a_full_disk_in_the_child_is_told(tmp_path):
    source = write_toy(tmp_path / "toy.onnx")
    code = (
        "import sys; from rtmo_deploy.convert.trt import child\n"
        "def full(job, events): raise OSError(28, 'No space left on device')\n"
        "child._build = full\nsys.exit(child.main())"
    )
    with pytest.raises(SetupError, match="could not be written: No space left on device"):
        build_engine(source, None, RTX, command=[sys.executable, "-c", code])
    assert files(tmp_path) == ["toy.onnx"]


def test_an_output_that_cannot_be_written(tmp_path, recorded_build):
    source = write_toy(tmp_path / "toy.onnx")
    with pytest.raises(SetupError, match="Nothing can be written beside it"):
        build_engine(source, source / "below" / "a.engine", RTX)
    (tmp_path / "a.engine").mkdir()
    with pytest.raises(SetupError):
        build_engine(source, tmp_path / "a.engine", RTX, command=recorded_build())
    assert files(tmp_path) == ["a.engine", "toy.onnx"]


#: A child that has written half a plan and is not done, however slow the machine is.
HALF_DONE = """
import time
from pathlib import Path
from rtmo_deploy.convert.trt import child
def build(job, events):
    Path(job.plan).write_bytes(b"half")
    events(event="progress", text="building")
    time.sleep(600)
child._build = build
child.main()
"""
BUILD = """
import sys
from pathlib import Path
from rtmo_deploy.convert.trt.build import build_engine
from rtmo_deploy.convert.trt.options import BuildOptions
def tell(text):
    if text == "building":
        print("building", flush=True)
options = BuildOptions(backend="tensorrt-rtx")
build_engine(Path(sys.argv[1]), None, options, progress=tell, command=[sys.executable, "-c", sys.argv[2]])
"""


def test_a_build_that_is_killed_leaves_no_half_file(tmp_path):
    source = write_toy(tmp_path / "toy.onnx")
    parent = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(source), HALF_DONE], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "building\n"
    assert len(files(tmp_path)) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 120
    while files(tmp_path) != ["toy.onnx"] and time.monotonic() < end:
        time.sleep(0.05)
    assert files(tmp_path) == ["toy.onnx"]


def test_tensorrt_without_a_gpu_or_a_package_is_a_setup_error(tmp_path):
    if "tensorrt" in installed_backends():
        pytest.skip("TensorRT is installed here")
    source = write_toy(tmp_path / "toy.onnx")
    with pytest.raises(SetupError, match=r"rtmo-deploy\[trt\]"):
        build_engine(source, None, BuildOptions(backend="tensorrt"))
    assert files(tmp_path) == ["toy.onnx"]


def test_the_record_is_plain_json(tmp_path, recorded_build):
    build_engine(write_toy(tmp_path / "toy.onnx"), None, RTX, command=recorded_build())
    document = json.loads((tmp_path / "toy.fp32.tensorrt-rtx.engine.json").read_text())
    assert document["schema_version"] == 1
    assert set(document) == {
        "schema_version",
        "artifact",
        "backend",
        "gpu",
        "profiles",
        "inputs",
        "outputs",
        "precision",
        "layers",
        "plugin",
        "onnx",
        "engine",
        "options",
        "seconds",
        "notes",
    }
    assert document["gpu"] == {"name": "none: built ahead of time", "compute_capability": None, "targets": []}
    assert document["profiles"] == [{"min": "1x64x64", "opt": "1x64x64", "max": "8x1280x1280"}]


def test_the_monitor_tells_phases_and_some_steps():
    class Base:
        def __init__(self):
            pass

    class Trt:
        IProgressMonitor = Base

    told = []
    monitor = make_monitor(Trt, lambda *what: told.append(what))
    monitor.phase_start("Building", None, 3)
    assert monitor.step_complete("Building", 0)
    assert monitor.step_complete("Building", 1)
    monitor.phase_finish("Building")
    assert monitor.step_complete("never begun", 4)
    assert told == [("Building", 0, 3), ("Building", 1, 3)]
