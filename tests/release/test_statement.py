"""statement.json: an in-toto statement that agrees with the manifest, and whose fields the documentation describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from release_toys import ToyActions, make

from rtmo_deploy.release.integrity import read_manifest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "statement.md"


def read(folder):
    """The statement, as the package of in-toto reads it too."""
    text = (folder / "statement.json").read_text(encoding="utf-8")
    found = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(found).validate()
    document = json.loads(text)
    assert json.loads(json_format.MessageToJson(found)) == document
    return document


def test_it_says_what_the_manifest_says(tmp_path):
    folder = make(tmp_path, actions=ToyActions(ap={"int8": 0.3}, change={"fp16": {"decode": "raw"}})).folder
    statement, manifest = read(folder), read_manifest(folder)
    files = {entry["path"]: entry for entry in manifest["files"]}
    artifacts = {name: entry for name, entry in files.items() if name.startswith("artifacts/")}
    subjects = {one["name"]: one["digest"] for one in statement["subject"]}
    assert subjects == {name: {"sha256": entry["sha256"]} for name, entry in artifacts.items()}
    predicate = statement["predicate"]
    assert statement["predicateType"] == "urn:rtmo-deploy:release:v1"
    assert predicate["gates"] == manifest["gates"]
    assert {gate["status"] for gate in predicate["gates"]} == {"passed", "failed"}
    assert predicate["verdict"] == manifest["verdict"] == "failed"
    for name in ("strict", "made", "rtmo_deploy"):
        assert predicate[name] == manifest[name]
    assert predicate["recipe"] == {"name": "recipe.yaml", "sha256": files["recipe.yaml"]["sha256"]}
    assert predicate["source"].items() <= manifest["source"].items()
    assert {one["name"]: one["made_of"] for one in predicate["artifacts"]} == {
        name: entry["parents"] for name, entry in artifacts.items()
    }
    steps = {step["name"]: step for step in manifest["steps"]}
    assert {one["model"] for one in predicate["accuracy"]} == {"source", "onnx", "fp16", "int8"}
    for one in predicate["accuracy"]:
        assert one["ap"] == steps[f"accuracy:{one['model']}"]["facts"]["ap"]
    assert predicate["parity"][0]["checks"] == steps["parity:source:onnx"]["facts"]["checks"]


@pytest.mark.parametrize("fail", [{"source": "model"}, {"accuracy:onnx": "model", "parity:source:onnx": "setup"}])
def test_one_of_a_release_that_lacks_something(tmp_path, fail):
    made = make(tmp_path, actions=ToyActions(fail=fail))
    statement = read(made.folder)
    if "source" in fail:
        assert [one["name"] for one in statement["subject"]] == ["recipe.yaml"]
        assert statement["predicate"]["artifacts"] == statement["predicate"]["accuracy"] == []
    else:
        assert {one["model"] for one in statement["predicate"]["accuracy"]} == {"source", "fp16", "int8"}
        assert statement["predicate"]["parity"] == []
    assert statement["predicate"]["verdict"] == "failed"


def test_the_page_describes_every_field(tmp_path):
    predicate = read(make(tmp_path).folder)["predicate"]
    page = PAGE.read_text(encoding="utf-8").partition("## Predicate")[2]
    named = set(re.findall(r"^\| `([a-z_\d\[\].]+)` \|", page, re.MULTILINE))
    fields = set(predicate)
    for name in ("recipe", "source"):
        fields |= {f"{name}.{inner}" for inner in predicate[name]}
    for name in ("artifacts", "gates", "accuracy", "parity"):
        fields |= {f"{name}[].{inner}" for inner in predicate[name][0]}
    assert named == fields
