"""What a model's own record says against its use is said by every command that opens it, once."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rtmo_deploy.artifact import Artifact
from rtmo_deploy.cli.app import app
from rtmo_deploy.model import load_checkpoint, save_checkpoint
from rtmo_deploy.zoo import COCO_17, EMBEDDED

UNTRAINED = "The model is untrained"
SYNTHETIC = "The model was trained on synthetic people only."


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints by what is said of them; beside each stands the model exported from it."""
    folder = tmp_path_factory.mktemp("models")
    run("models", "init", "rtmo-n", "-o", folder / "untrained.pth")
    run("models", "pack", "rtmo-n", "-o", folder / "synthetic.safetensors")
    for name in ("untrained.pth", "synthetic.safetensors"):
        run("export", folder / name, "--imgsz", 64, 64, "--no-verify")
    return {UNTRAINED: folder / "untrained.pth", SYNTHETIC: folder / "synthetic.safetensors"}


@pytest.mark.parametrize("text", [UNTRAINED, SYNTHETIC])
@pytest.mark.parametrize("command", ["inspect", "predict", "cast", "quantize", "export", "pack", "openvino"])
def test_it_is_said_once_and_stays_with_what_is_made(models, text, command, pictures, tmp_path):
    checkpoint = models[text]
    model = checkpoint.with_suffix(".onnx")
    made = tmp_path / "made.onnx"
    if command == "openvino":
        pytest.importorskip("openvino")
        made = made.with_suffix(".xml")
    calls = {
        "inspect": ["inspect", model],
        "predict": ["predict", model, pictures[3]],
        "cast": ["cast", model, "--fp16", "--no-verify", "-o", made],
        "quantize": ["quantize", model, "--count", 2, "--no-judge", "-o", made],
        "export": ["export", checkpoint, "--imgsz", 64, 64, "--no-verify", "-o", made],
        "pack": ["models", "pack", checkpoint, "-o", tmp_path / "made.pth"],
        "openvino": ["export", "--format", "openvino", model, "--no-verify", "-o", made],
    }
    result = run(*calls[command], *(["--json"] if command != "openvino" else []))
    assert result.stderr.count(text) == 1
    if command != "openvino":
        (note,) = json.loads(result.stdout)["model_notes"]
        assert note.startswith(text)
    for file in tmp_path.glob("made.*"):
        if file.suffix in {".onnx", ".xml", ".pth"}:
            facts = json.loads(run("inspect", file, "--json").stdout)
            assert facts["untrained"] is (text == UNTRAINED)
            assert facts["domain"] == (None if text == UNTRAINED else "synthetic")


def test_an_untrained_model_is_why_nobody_is_found(models, pictures):
    result = run("predict", models[UNTRAINED], pictures[0])
    assert "0 people in 1 image: the model is untrained." in result.stderr


def test_the_sample_model_says_it_itself():
    record = EMBEDDED["rtmo-n"]
    loaded = load_checkpoint(record.path)
    assert (loaded.domain, loaded.untrained) == ("synthetic", False)
    assert record.domain == "synthetic"


def test_nothing_is_said_of_other_models(checkpoint_n, onnx_n, tmp_path):
    for file in (checkpoint_n, onnx_n):
        result = run("inspect", file, "--json")
        assert "Note:" not in result.stderr
        assert "model_notes" not in json.loads(result.stdout)
    save_checkpoint(tmp_path / "t.pth", load_checkpoint(checkpoint_n).model, skeleton=COCO_17, meta={"trained": True})
    assert not load_checkpoint(tmp_path / "t.pth").untrained


def test_files_of_earlier_releases_say_nothing(onnx_n, models):
    import onnx

    metadata = {e.key: e.value for e in onnx.load(models[SYNTHETIC].with_suffix(".onnx")).metadata_props}
    assert Artifact.from_metadata(onnx_n, metadata).domain == "synthetic"
    for key in ("domain", "untrained"):
        del metadata[f"rtmo_deploy.{key}"]
    old = Artifact.from_metadata(onnx_n, metadata)
    assert (old.domain, old.untrained, old.note) == (None, False, None)
