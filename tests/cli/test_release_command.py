"""``release`` and ``verify``: what they print, and how they end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rtmo_deploy.cli.app import _ErrorsToExitCodes
from rtmo_deploy.cli.release import release, sign, verify

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
from release_keys import write_pair
from release_toys import RECIPE, ToyActions, write_recipe

app = typer.Typer(cls=_ErrorsToExitCodes)
app.command()(release)
app.command()(sign)
app.command()(verify)


@pytest.fixture
def toys(monkeypatch):
    """The actions that a command takes instead of the real ones."""
    actions = ToyActions()
    monkeypatch.setattr("rtmo_deploy.release.pipeline.Actions", lambda: actions)
    return actions


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_release_and_its_verification(toys, tmp_path):
    path = write_recipe(tmp_path)
    done = call("release", path)
    assert done.exit_code == 0, done.stderr
    assert "passed" in done.stdout
    assert "[12/12] latency:cpu: done" in done.stderr
    assert Path("releases/toy/report.html").is_file()
    found = call("verify", "releases/toy")
    assert found.exit_code == 0, found.stderr
    assert "every file is as it was made" in found.stdout
    Path("releases/toy/artifacts/toy-onnx.onnx").write_text("other")
    found = call("verify", "releases/toy", "--json")
    assert found.exit_code == 6
    assert json.loads(found.stdout)["changed"] == ["artifacts/toy-onnx.onnx"]
    assert "artifacts/toy-onnx.onnx" in found.stderr
    Path("releases/toy/manifest.json").write_text("{")
    assert call("verify", "releases/toy").exit_code == 4
    assert call("verify", "nowhere").exit_code == 4


def test_a_signed_release(toys, tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_SIGN_PASSWORD", "secret")
    pair, out = write_pair(tmp_path / "keys", password="secret"), tmp_path / "out"
    done = call("release", write_recipe(tmp_path), "-o", out, "--sign", pair.private)
    assert done.exit_code == 0, done.stderr
    assert str(out / "model.sig") in "".join(done.stdout.split())
    assert "secret" not in done.stdout + done.stderr + (out / "manifest.json").read_text()
    signed = json.loads(call("sign", out, "--key", pair.private, "--json").stdout)
    assert (signed["name"], signed["files"], len(signed["key_sha256"])) == ("toy", 18, 64)
    assert signed["key_sha256"] in "".join(call("sign", out, "--key", pair.private).stdout.split())
    found = call("verify", out, "--key", pair.public)
    assert found.exit_code == 0, found.stderr
    said = " ".join(found.stdout.split())
    assert f"valid: key with SHA-256 {signed['key_sha256']}" in said
    made = json.loads((out / "manifest.json").read_text())["made"]
    assert f"made {made}" in said
    assert "not compared .cache, .lock: working files" in said
    assert "signature not checked: give --key" in " ".join(call("verify", out).stdout.split())
    (out / "report.html").write_text("x")
    document = json.loads(call("verify", out, "--key", pair.public, "--json").stdout)
    assert (document["ok"], document["changed"], document["signature"]["status"]) == (False, ["report.html"], "valid")
    assert document["made"] == made
    again = call("release", write_recipe(tmp_path), "-o", out)
    assert "not signed" in again.stdout
    found = call("verify", out, "--key", pair.public)
    assert (found.exit_code, "It is not signed." in found.stderr) == (6, True)
    assert "result failed: the signature that was asked for is" in " ".join(found.stdout.split())


def test_wrong_keys_are_usage_errors(toys, tmp_path, monkeypatch):
    monkeypatch.delenv("RTMO_DEPLOY_SIGN_PASSWORD", raising=False)
    pair, recipe = write_pair(tmp_path / "keys", password="secret"), write_recipe(tmp_path)
    for words in (["release", recipe, "--sign", pair.private], ["release", recipe, "--dry-run", "--sign", pair.public]):
        assert call(*words).exit_code == 2
    assert not toys.ran
    call("release", recipe, "-o", tmp_path / "out")
    assert "RTMO_DEPLOY_SIGN_PASSWORD" in call("sign", tmp_path / "out", "--key", pair.private).stderr
    for options in (["--key", pair.private], ["--identity", "me"], ["--key", pair.public, "--identity", "me"]):
        assert call("verify", tmp_path / "out", *options).exit_code == 2


def test_json_holds_the_manifest(toys, tmp_path):
    done = call("release", write_recipe(tmp_path), "-o", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert document["command"] == "release"
    assert document["directory"] == str(tmp_path / "out")
    manifest = document["manifest"]
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["verdict"] == "passed"
    assert len(manifest["gates"]) == 6


def test_dry_run(toys, tmp_path):
    path = write_recipe(tmp_path)
    done = call("release", path, "--dry-run")
    assert done.exit_code == 0
    assert "12 of 12 steps would be carried out" in done.stdout
    assert toys.ran == []
    call("release", path)
    document = json.loads(call("release", path, "--dry-run", "--from", "fp16", "--json").stdout)
    assert [step["name"] for step in document["steps"] if not step["cached"]] == ["fp16", "accuracy:fp16"]


@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({"ap": {"fp16": 0.01}}, [], 6),
        ({"fail": {"fp16": "model"}}, [], 4),
        ({"fail": {"fp16": "setup"}}, [], 5),
        ({"fail": {"fp16": "absent"}}, [], 0),
        ({"fail": {"fp16": "absent"}}, ["--strict"], 6),
        ({}, ["--from", "nothing"], 2),
    ],
)
def test_exit_codes(toys, tmp_path, changes, options, code):
    for name, value in changes.items():
        getattr(toys, name).update(value)
    done = call("release", write_recipe(tmp_path), *options)
    assert done.exit_code == code, done.stderr
    assert ("Error:" in done.stderr) == (code != 0)


def test_a_wrong_recipe(toys, tmp_path):
    done = call("release", write_recipe(tmp_path, RECIPE.replace("make: cast", "make: cats")))
    assert done.exit_code == 2
    assert "line 7, column 3: artifacts.fp16: 'make' must be one of" in done.stderr
    assert call("release", "nothing.yaml").exit_code == 2
    assert not Path("releases").exists()


def test_another_source_than_the_recipes(toys, tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").write_bytes(b"other weights")
    assert call("release", recipe, "-o", "out").exit_code == 0
    toys.ran.clear()
    plan = json.loads(call("release", recipe, "-o", "out", "--source", "mine.pth", "--dry-run", "--json").stdout)
    assert not any(step["cached"] for step in plan["steps"] if step["name"] in {"source", "onnx", "fp16"})
    assert call("release", recipe, "-o", "out", "--source", "mine.pth").exit_code == 0
    assert "onnx" in toys.ran
    source = json.loads(Path("out/manifest.json").read_text())["source"]
    assert (source["given"], source["name"], source["size"]) == ("mine.pth", "mine.pth", 13)
    # A file is taken before a model of that name, as by the other commands.
    Path("rtmo-n").write_bytes(b"weights in a file")
    assert call("release", recipe, "-o", "out", "--source", "rtmo-n").exit_code == 0
    assert json.loads(Path("out/manifest.json").read_text())["source"]["size"] == 17
    # The same gates as if the recipe said so.
    published = RECIPE.replace("against: onnx", "against: published")
    path = write_recipe(tmp_path / "published", published)
    assert call("release", path, "-o", "other", "--source", "rtmo-n").exit_code == 2


def test_another_source_that_is_not_there(toys, tmp_path):
    recipe = write_recipe(tmp_path)
    for name in ("nowhere.pth", "rtmo-q", "", "a" * 5000):
        done = call("release", recipe, "-o", tmp_path / "out", "--source", name)
        assert done.exit_code == 4, name
        assert "no such file" in done.stderr
    assert toys.ran == []
    assert not (tmp_path / "out").exists()
    done = call("release", recipe, "-o", tmp_path, "--source", tmp_path / "ckpt.pth")
    assert done.exit_code == 2  # the folder holds the input
