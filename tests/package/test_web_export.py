"""``export --format web``: the folder, what it refuses, and the graph for WebGPU."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.package import runtime_web
from rtmo_deploy.package.web import align_groups, require_free_folder
from rtmo_deploy.runtime.onnx_file import read_onnx_artifact
from rtmo_deploy.web import content_security_policy, page, script_hashes

NAMES = ["config.json", "onnx/model.onnx", "preprocessor_config.json"]


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments), "--format", "web"])


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A package of ONNX Runtime Web, with the hashes that it should have."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    package = tmp_path / "runtime.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name in runtime_web.FILES:
            content = f"// {name}".encode()
            (folder / "dist" / name).write_bytes(content)
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    hashes = {name: runtime_web.hashlib.sha256(f"// {name}".encode()).hexdigest() for name in runtime_web.FILES}
    digest = runtime_web.base64.b64encode(runtime_web.hashlib.sha512(package.read_bytes()).digest()).decode()
    monkeypatch.setattr(runtime_web, "FILES", hashes)
    monkeypatch.setattr(runtime_web, "INTEGRITY", f"sha512-{digest}")
    return package, folder


@pytest.fixture(scope="module")
def bare(checkpoint_n, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare") / "made"
    return run(checkpoint_n, "-o", folder, "--no-page", "--fp16", "--imgsz", 96, 128, "--json"), folder


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_models_and_their_configs(bare):
    result, folder = bare
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert files_of(folder) == document["files"] == sorted([*NAMES, "onnx/model_fp16.onnx"])
    assert document["onnx"] == str(folder / "onnx/model.onnx")
    assert document["size"] == sum((folder / name).stat().st_size for name in document["files"])
    artifact = read_onnx_artifact(folder / "onnx/model.onnx")
    assert (artifact.decode.mode.value, artifact.input.batch, artifact.input.dynamic_hw) == ("fixed", 1, False)
    assert artifact.verified["parity"]
    assert read_onnx_artifact(folder / "onnx/model_fp16.onnx").precision == "fp16"
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx")
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("input", [1, 3, 96, 128])]
    assert [one.name for one in session.get_outputs()] == ["dets", "keypoints"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "rtmo"
    assert config["id2label"]["0"] == "nose"
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["pad_size"] == {"width": 128, "height": 96}
    assert processor["do_flip_channel_order"] is True
    assert processor["do_rescale"] is processor["do_normalize"] is False


@pytest.mark.parametrize("form", ["package", "folder"])
def test_the_page_and_its_runtime(checkpoint_n, tmp_path, runtime, form):
    folder = tmp_path / "made"
    source = runtime[form == "folder"]
    result = run(checkpoint_n, "-o", folder, "--ort", source, "--no-verify")
    assert result.exit_code == 0, result.output
    assert "serve.py" in result.stdout
    scripts = [f"runtime/{name}" for name in runtime_web.FILES]
    assert files_of(folder) == sorted([*NAMES, "index.html", "serve.py", *scripts])
    html = (folder / "index.html").read_text()
    assert f'content="{content_security_policy(html)}"' in html
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert " style=" not in html
    assert not [word for word in html.split() if word.startswith("on") and '="' in word]


def test_npm_gets_the_runtime(tmp_path, runtime, monkeypatch):
    package, _ = runtime
    asked = []

    def pack(command, **how):
        asked.append(command)
        shutil.copy(package, f"{command[-1]}/onnxruntime-web.tgz")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(runtime_web.shutil, "which", lambda name: f"bin/{name}")
    monkeypatch.setattr(runtime_web.subprocess, "run", pack)
    assert set(runtime_web.read_runtime(None)) == set(runtime_web.FILES)
    assert asked[0][:3] == ["bin/npm", "pack", f"onnxruntime-web@{runtime_web.VERSION}"]
    monkeypatch.setattr(
        runtime_web.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "no network")
    )
    with pytest.raises(SetupError, match=r"no network.*npm pack.*--ort"):
        runtime_web.read_runtime(None)


def test_without_npm(checkpoint_n, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = run(checkpoint_n, "-o", tmp_path / "made")
    assert result.exit_code == 5
    assert "npm pack onnxruntime-web@" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["package", "folder", "missing", "empty"])
def test_another_runtime_is_refused(tmp_path, runtime, form):
    package, folder = runtime
    source = {"package": package, "folder": folder, "missing": tmp_path / "none.tgz", "empty": tmp_path / "empty"}[form]
    (tmp_path / "empty").mkdir()
    package.write_bytes(package.read_bytes() + b"\0")
    (folder / "dist" / "ort.wasm.min.mjs").write_text("alert(1)")
    with pytest.raises(UsageError, match="--ort"):
        runtime_web.read_runtime(source)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--decode", "onnx"], "--decode onnx"),
        (["--decode", "raw"], "--decode raw"),
        (["--batch", 2], "--batch 2"),
        (["--letterbox", "top-left"], "--letterbox top-left"),
        (["--min-rows", 1], "--min-rows 1"),
        (["--dump-info"], "--dump-info"),
    ],
)
def test_options_that_do_not_apply(checkpoint_n, tmp_path, arguments, named):
    result = run(checkpoint_n, "-o", tmp_path / "made", "--no-page", *arguments)
    assert result.exit_code == 2, result.output
    assert f"{named} does not apply to --format web" in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", [["--fp16"], ["--no-page"], ["--ort", "x.tgz"]])
def test_its_options_apply_to_no_file(checkpoint_n, option):
    result = CliRunner().invoke(app, ["export", str(checkpoint_n), *option])
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert f"{option[0]} does not apply to --format onnx" in told
    assert ("rtmo-deploy cast MODEL.onnx --fp16" in told) == (option == ["--fp16"])


def test_a_folder_is_replaced_when_asked(bare, checkpoint_n, tmp_path):
    folder = shutil.copytree(bare[1], tmp_path / "made")
    with pytest.raises(UsageError, match="--force"):
        require_free_folder(folder, force=False)
    (folder / "onnx" / "left.onnx").write_text("old")
    result = run(checkpoint_n, "-o", folder, "--no-page", "--no-verify", "--force", "--imgsz", 64, 64)
    assert result.exit_code == 0, result.output
    assert files_of(folder) == sorted(NAMES)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (folder / "thesis.tex").write_text("mine")
    result = run(checkpoint_n, "-o", folder, "--no-page", "--no-verify", "--force")
    assert result.exit_code == 2
    assert "thesis.tex" in result.stderr
    (folder / "thesis.tex").unlink()


def test_nothing_is_left_of_a_failure(checkpoint_n, tmp_path, monkeypatch):
    monkeypatch.setattr("rtmo_deploy.package.web.export_onnx", lambda *_, **__: 1 / 0)
    assert isinstance(run(checkpoint_n, "-o", tmp_path / "made", "--no-page").exception, ZeroDivisionError)
    assert list(tmp_path.iterdir()) == []


def convolution(inputs, outputs, group):
    rng = np.random.default_rng(outputs)
    weight = rng.normal(size=(outputs, inputs // group, 3, 3)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["input", "weight"], ["out"], name="/conv", group=group, pads=[1] * 4)
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info("input", kind, [1, inputs, 5, 6])],
        [onnx.helper.make_tensor_value_info("out", kind, [1, outputs, 5, 6])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "group", "expected"),
    [
        (72, 72, 8, 2),  # rtmo-n: 9 channels a group
        (24, 24, 4, 2),  # 6 a group, 4 at once
        (18, 36, 6, 3),
        (20, 20, 4, 1),
        (30, 30, 6, 3),  # 5 a group, 2 at once
        (18, 18, 3, 3),  # 6 a group, 2 at once: right as it is
        (64, 64, 8, 8),
        (16, 16, 16, 16),  # depthwise
        (9, 9, 1, 1),
    ],
)
def test_groups_are_joined(inputs, outputs, group, expected):
    model = convolution(inputs, outputs, group)
    before = onnxruntime.InferenceSession(model.SerializeToString())
    align_groups(model)
    onnx.checker.check_model(model, full_check=True)
    after = onnxruntime.InferenceSession(model.SerializeToString())
    (groups,) = (one.i for one in model.graph.node[0].attribute if one.name == "group")
    assert groups == expected
    assert len(model.graph.initializer) == 1
    image = np.random.default_rng(1).normal(size=(1, inputs, 5, 6)).astype(np.float32)
    (one,), (other,) = (session.run(None, {"input": image}) for session in (before, after))
    assert np.abs(one - other).max() < 1e-5


def test_the_policy_names_what_is_in_the_page():
    html = page("serve")
    policy = content_security_policy(html)
    (script,) = script_hashes(html)
    assert f"script-src {script};" in policy
    assert "unsafe" not in policy
    assert script_hashes(html.replace("const ", "let ", 1)) != (script,)
    assert "\\u003c/script>" in page("web", {"name": "</script>"})
