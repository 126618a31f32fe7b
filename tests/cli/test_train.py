"""``rtmo-deploy train``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.data.coco_writer import write_dataset
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.model.checkpoint import load_checkpoint
from rtmo_deploy.train.recipe import load_recipe

RECIPE = {
    "name": "toy",
    "epochs": 2,
    "batch": 2,
    "input": [64, 64],
    "model": {"deepen": 0.33, "widen": 0.125, "hidden_dim": 32},
    "data": {"train": [{"type": "synthetic", "images": 4, "size": [64, 64], "people": [1, 2]}]},
    "augment": {"preset": "none", "plain_epochs": 0, "multi_scale": None},
    "schedule": {"warmup": 1, "switch": None, "constant": 0},
}
SMALL = ["--threads", "1", "--workers", "0"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["train", *(str(argument) for argument in arguments)])


def refused(result, code, *words):
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


def test_a_run_is_refused_a_second_time_and_resumed(recipe, tmp_path):
    folder = tmp_path / "run"
    result = run(recipe, "--out", folder, *SMALL, "--stop-after", 0, "--json", "--log-every", 1)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made == {
        "schema_version": 1,
        "command": "train",
        "folder": str(folder),
        "finished": False,
        "step": 1,
        "steps": 4,
        "best_ap": None,
        "metrics": None,
        "files": ["last.pth", "log.csv", "curves.png"],
    }
    assert "training: 1 of 4 (epoch 0: " in result.stderr
    assert "go on with the same command and --resume" in result.stderr
    assert load_recipe(folder / "recipe.yaml") == load_recipe(recipe)

    refused(run(recipe, "--out", folder, *SMALL), 2, "holds a run already", "--resume")
    refused(run(recipe, "--out", folder, *SMALL, "--resume", "--set", "seed=3"), 2, "another recipe: seed")

    result = run(folder / "recipe.yaml", "--out", folder, *SMALL, "--resume")
    assert result.exit_code == 0, result.output
    assert "finished" in result.stdout
    assert "4 of 4" in result.stdout
    assert "Stopped" not in result.stderr
    assert load_checkpoint(folder / "final.pth").contents.meta["rtmo_deploy"]["recipe"] == "toy"

    (folder / "last.pth").unlink()
    refused(run(recipe, "--out", folder, *SMALL), 2, "holds a run already")
    result = run(recipe, "--out", folder, *SMALL, "--force", "--stop-after", 0)
    assert result.exit_code == 0, result.output
    assert not (folder / "final.pth").exists()


def test_flags_instead_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "set", SyntheticPeople(4, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2))))
    settings = {
        "epochs": 2, "batch": 2, "input": "[64, 64]", "augment": "{preset: none, plain_epochs: 0, multi_scale: null}",
        "schedule": "{warmup: 1, switch: null, constant: 0}", "model": "{deepen: 0.33, widen: 0.125, hidden_dim: 32}",
    }  # fmt: skip
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    flags = ["--model", "rtmo-t", "--ann", "set/annotations.json", "--images", "set/images"]
    result = run(*flags, "--val-ann", "set/annotations.json", *sets, *SMALL, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["folder"] == str(Path("runs") / "rtmo-t")
    assert made["finished"]
    assert made["metrics"]["AP"] is not None
    assert made["best_ap"] == max(0.0, made["best_ap"])
    assert made["files"] == ["final.pth", "best.pth", "last.pth", "log.csv", "curves.png"]
    assert load_recipe(tmp_path / "runs" / "rtmo-t" / "recipe.yaml").data.train[0].images == tmp_path / "set" / "images"


def test_starting_from_a_checkpoint(recipe, tmp_path, checkpoint_n, monkeypatch):
    monkeypatch.chdir(checkpoint_n.parent)
    settings = ["--set", "model.deepen=null", "--set", "model.widen=null", "--set", "model.architecture=rtmo-n"]
    out = ["--out", tmp_path / "run", *SMALL, "--stop-after", 0]
    result = run(recipe, *out, *settings, "--init", checkpoint_n.name, "--set", "optimizer.lr=1e-9")
    assert result.exit_code == 0, result.output
    before = load_checkpoint(checkpoint_n).model.head.dcc.pos_enc
    torch.testing.assert_close(load_checkpoint(tmp_path / "run" / "last.pth").model.head.dcc.pos_enc, before)
    out[1] = tmp_path / "other"
    refused(run(recipe, *out, "--init", checkpoint_n), 2, "'init' differ")


def test_wrong_calls(recipe, tmp_path):
    out = ["--out", tmp_path / "run"]
    refused(run(*out), 2, "--model, --ann, --images are missing")
    refused(run(recipe, "--model", "rtmo-s", *out), 2, "A recipe and --model were given")
    refused(run("--model", "rtmo-q", "--ann", "a", "--images", "b", *out), 2, "no architecture 'rtmo-q'")
    refused(run(tmp_path / "none.yaml", *out), 2, "There is no such file")
    refused(run(recipe, "--set", "epochs", *out), 2, "names no field")
    refused(run(recipe, "--device", "tpu9", *out), 2, "no device")
    refused(run(recipe, "--init", tmp_path / "none.pth", *out), 4, "There is no such file")
    refused(run("--model", "rtmo-s", "--ann", tmp_path / "none.json", "--images", tmp_path, *out), 3)
    if not torch.cuda.is_available():
        refused(run(recipe, "--device", "cuda", *out), 5, "cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("package", "options"), [("matplotlib", []), ("tensorboard", ["--tensorboard"])])
def test_missing_packages_are_said_before_the_training(recipe, tmp_path, monkeypatch, package, options):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = run(recipe, "--out", tmp_path / "run", *SMALL, *options)
    refused(result, 5, "pip install 'rtmo-deploy[train]'")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number(recipe, tmp_path):
    result = run(recipe, "--out", tmp_path / "run", *SMALL, "--set", "loss.oks=1.0e+300", "--log-every", 1)
    refused(result, 1, "no longer finite at step 1")
    assert not (tmp_path / "run" / "final.pth").exists()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Four images of 64x64 with somebody in each."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, SyntheticPeople(4, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2))))
    return ["--ann", folder / "annotations.json", "--images", folder / "images"]


def test_fine_tuning_needs_a_checkpoint_and_annotations_alone(people, checkpoint_n, tmp_path):
    out = tmp_path / "run"
    result = run("--init", checkpoint_n, *people, "--epochs", 1, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert "1 of 1" in result.stdout
    assert "Schedule: 1 epoch of 1 step, 4 images a step." in result.stderr
    loaded = load_checkpoint(out / "final.pth")
    assert (loaded.input_hw, loaded.architecture, loaded.domain, loaded.untrained) == (
        (256, 256),
        "rtmo-n",
        None,
        False,
    )


def test_the_initial_checkpoint_is_judged_too(people, checkpoint_n, tmp_path):
    out = tmp_path / "run"
    flags = ["--val-ann", people[1], "--epochs", 1, "--set", "optimizer.lr=1e-9", "--out", out]
    result = run("--init", checkpoint_n, *people, *flags, *SMALL)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 0/1, epoch 0: before the training | AP ")
    state = torch.load(out / "last.pth", weights_only=True)["meta"]["rtmo_deploy"]["progress"]
    assert [(row["epoch"], row["step"]) for row in state["history"]] == [(0, 0), (1, 1)]
    before = state["history"][0]["metrics"]["AP"]
    assert state["best"] >= before >= 0
    if state["best"] == before:
        assert "of the initial checkpoint" in " ".join(result.stdout.split())
        assert load_checkpoint(out / "best.pth").contents.meta["rtmo_deploy"]["step"] == 0


def test_what_was_trained_on_synthetic_people_alone_says_so(recipe, tmp_path):
    result = run(recipe, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.output
    for name in ("final.pth", "last.pth"):
        assert load_checkpoint(tmp_path / "run" / name).domain == "synthetic"


def test_epochs_scale_a_recipe(recipe, tmp_path):
    recipe.write_text(yaml.safe_dump(RECIPE | {"epochs": 600, "schedule": {}}))
    out = ["--out", tmp_path / "run", *SMALL, "--stop-after", 0]
    refused(run(recipe, *out, "--set", "epochs=30"), 2, "'schedule.switch' is 280", "--epochs 30 scales")
    refused(run(recipe, *out, "--set", "epochs=30", "--epochs", 40), 2, "--epochs and --set epochs=30")
    result = run(recipe, *out, "--epochs", 30)
    assert result.exit_code == 0, result.output
    plan = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (plan.epochs, plan.schedule.warmup, plan.schedule.switch, plan.schedule.constant) == (30, 0.25, 14, 1)


def test_wrong_fine_tuning(people, checkpoint_n, tmp_path):
    call = ["--init", checkpoint_n, *people, "--out", tmp_path / "run", *SMALL]
    refused(run(*call[:2], "--ann", people[1]), 2, "--images is missing", "--init CKPT")
    refused(run(*call, "--batch-size", 5), 2, "--batch-size is 5", "has 4 images", "at most 4")
    refused(run(*call, "--model", "rtmo-s"), 2, "--model is rtmo-s, and --init is rtmo-n", "Leave --model out")
    refused(run(*call, "--val-images", tmp_path), 2, "--val-images was given without --val-ann")
    refused(run(*call, "--set", "schedule.min_lr=0.1"), 2, "'schedule.min_lr' 0.1 is above 'optimizer.lr'", "lower")
    refused(run(*call, "--epochs", 3, "--set", "schedule.switch=3"), 2, "'schedule.switch' is 3")
    assert not (tmp_path / "run").exists()


def test_a_run_writes_over_none_of_its_inputs(recipe, people, tmp_path, checkpoint_n):
    def unchanged(path, *arguments, code=2, words="one of the inputs"):
        before = path.read_bytes()
        for force in ((), ("--force",), ("--resume",)):
            result = run(*arguments, *force, *SMALL, "--stop-after", 0)
            refused(result, code, *((words,) if force else ()))
            assert path.read_bytes() == before
            assert sorted(path.parent.iterdir()) == there

    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("best.pth", "last.pth", "final.pth"):
        init = folder / name
        init.write_bytes(checkpoint_n.read_bytes())
        there = sorted(folder.iterdir())
        unchanged(init, "--init", init, *people, "--out", folder)
        init.unlink()
    annotations = folder / "log.csv"
    annotations.write_bytes(people[1].read_bytes())
    there = [annotations]
    unchanged(annotations, "--init", checkpoint_n, "--ann", annotations, *people[2:], "--out", folder)
    annotations.unlink()
    for source in people[3].iterdir():
        shutil.copy(source, folder)
    image = folder / "curves.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    there = sorted(folder.iterdir())
    unchanged(image, "--init", checkpoint_n, *people[:2], "--images", folder, "--out", folder)


def test_a_recipe_in_the_runs_own_folder_stays_as_it_is(recipe, tmp_path):
    recipe.write_text("# mine\n" + recipe.read_text())
    text = recipe.read_text()
    refused(run(recipe, "--out", tmp_path, *SMALL, "--set", "seed=3"), 2, "options change it")
    result = run(recipe, "--out", tmp_path, *SMALL, "--stop-after", 0)
    assert result.exit_code == 0, result.output
    assert recipe.read_text() == text
    other = tmp_path / "other.yaml"
    other.write_text(text)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("# somebody's\n")
    refused(run(other, "--out", tmp_path / "run", *SMALL), 2, "holds a run already")
    (tmp_path / "run" / "recipe.yaml").unlink()
    (tmp_path / "run" / "last.pth").mkdir()
    refused(run(other, "--out", tmp_path / "run", *SMALL), 2, "This is a folder")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("name=../../../x", "a name is made of"),
        ("name=CON", "keeps for devices"),
        ("epochs=true", "'epochs' takes no true"),
        ("input=[64, true]", "'input' takes no true"),
        ("seed=1000000000000000000", "less than"),
        ("model.widen=1000000", "less than or equal to 4"),
        ("data.train.0.size=[1000000000, 1]", "less than or equal to 8192"),
        ("data.train.0.people=[2, 1]", "must not be greater"),
        ("optimizer.lr=.inf", "must be finite"),
        (f"model.init={'x' * 5000}", "too long"),
    ],
)
def test_settings_beyond_reason(recipe, tmp_path, setting, words):
    refused(run(recipe, "--out", tmp_path / "run", *SMALL, "--set", setting), 4 if "init" in setting else 2, words)
    assert not (tmp_path / "run").exists()
