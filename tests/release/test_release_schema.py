"""Release recipes: what is read, what is refused, in which words and where."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from release_toys import RECIPE, places

from rtmo_deploy.errors import UsageError
from rtmo_deploy.release.graph import build_steps
from rtmo_deploy.release.schema import load_release, parse_release, recipe_schema
from rtmo_deploy.zoo import VARIANTS

ROOT = Path(__file__).parents[2]
HERE = Path("/somewhere/r.yaml")
HEAD = "name: toy\nsource: rtmo-s\nartifacts:\n  onnx: {make: export}\n"


def complaint(text):
    with pytest.raises(UsageError) as caught:
        parse_release(text, where=HERE)
    assert str(caught.value).startswith("/somewhere/r.yaml: ")
    assert caught.value.remedy
    return caught.value.finding


def test_every_recipe_here_is_valid():
    paths = sorted((ROOT / "recipes").glob("*.yaml"))
    assert {path.stem for path in paths} == {"quickstart", *VARIANTS}
    for path in paths:
        recipe = load_release(path)
        assert recipe.name == path.stem
        steps = build_steps(recipe, path.parent)
        assert len({step.name for step in steps}) == len(steps)
        if path.stem in VARIANTS:
            assert recipe.source == path.stem
            assert {"fp16", "int8"} <= recipe.artifacts.keys()
            assert any(section.protocol == "v100" for section in recipe.latency)


def test_the_shipped_schema_is_fresh():
    path = ROOT / "recipes" / "release.schema.json"
    assert json.loads(path.read_text()) == recipe_schema(), "write it again: see docs/guides/release.md"


def test_defaults():
    recipe = parse_release(HEAD, where=HERE)
    assert recipe.artifacts["onnx"].origin == "source"
    assert recipe.parity == ()
    assert recipe.order() == ["onnx"]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (HEAD + "artefacts: {}\n", "line 5, column 1: artefacts: there is no such field; perhaps 'artifacts' is meant"),
        (
            HEAD + "  fp16: {make: cast, from: onnx, precison: fp16}\n",
            "line 5, column 34: artifacts.fp16.precison: there is no such field; perhaps 'precision' is meant",
        ),
        (
            HEAD + "  cast: {make: cast, from: onnx, precison: fp16}\n",
            "artifacts.cast.precison: there is no such field; perhaps 'precision' is meant",
        ),
        (
            HEAD + "  fp16: {make: cats, from: onnx}\n",
            "'make' must be one of export, cast, quantize, engine, openvino; perhaps 'cast' is meant",
        ),
        (HEAD + "  fp16: {from: onnx}\n", "artifacts.fp16: 'make' must be one of export, cast, quantize"),
        (
            HEAD + "  fp16: {make: cast, from: onyx}\n",
            "line 5, column 22: artifacts.fp16.from: there is no 'onyx' here",
        ),
        (HEAD + "  fp16: {make: cast, from: onyx}\n", "perhaps 'onnx' is meant"),
        (HEAD + "  fp16: {make: cast}\n", "'cast' takes an ONNX model, and 'source' is a checkpoint; export it first"),
        (HEAD + "  a: {make: cast, from: b}\n  b: {make: cast, from: a}\n", "artifacts.a.from: goes round in a circle"),
        (HEAD + "  a: {make: cast, from: a}\n", "goes round in a circle: a from a"),
        (HEAD + "  a: {make: export, from: onnx}\n", "an export is made from 'source'"),
        (
            HEAD + "  a: {make: cast, from: onnx}\n  b: {make: quantize, from: a}\n",
            "artifacts.b.from: 'quantize' takes a float32 model, and 'a' is none any more",
        ),
        (
            HEAD + "  a: {make: openvino, from: onnx}\n  b: {make: engine, from: a}\n",
            "'engine' takes an ONNX model, and 'a' is of another kind",
        ),
        (HEAD + "  source: {make: export}\n", "artifacts.source: this name has a meaning of its own"),
        (HEAD + "  ONNX: {make: export}\n", "differs from 'onnx' by capitals only"),
        (HEAD + "  a/b: {make: export}\n", "a name is made of at most 40 letters"),
        (HEAD + "  onnx: {make: export}\n", "line 5, column 3: onnx: this field is given twice"),
        (HEAD + "  raw: {make: export, decode: raw, max_dets: 3}\n", "'max_dets' does not apply to decode: raw"),
        (HEAD + "  q: {make: quantize, from: onnx, max_ap_drop: 0.01}\n", "'max_ap_drop' needs 'judge'"),
        (HEAD + "  e: {make: engine, from: onnx, opt: 1x64}\n", "artifacts.e.opt"),
        ("source: rtmo-s\nartifacts: {a: {make: export}}\n", "line 1, column 1: name: this field is missing"),
        ("name: a b\nsource: s\nartifacts: {a: {make: export}}\n", "line 1, column 1: name: String should match"),
        ("name: a\nsource: s\nartifacts: {}\n", "line 3, column 1: artifacts: "),
        (HEAD + "accuracy: {data: {}}\n", "accuracy.data: give either 'synthetic', or 'annotations' and 'images'"),
        (HEAD + "accuracy: {data: {annotations: a}}\n", "give either 'synthetic'"),
        (
            HEAD + "accuracy:\n  data: {synthetic: {}}\n  gates:\n    - {artifact: onnx, ap_min: 60}\n",
            "line 8, column 24: accuracy.gates.0.ap_min: AP runs from 0 to 1, so this is 0 to 1 at most",
        ),
        (
            HEAD + "accuracy:\n  data: {synthetic: {}}\n  gates:\n    - {artifact: omnx, ap_min: 0.6}\n",
            "line 8, column 8: accuracy.gates.0.artifact: there is no 'omnx' here; perhaps 'onnx' is meant",
        ),
        (
            HEAD + "accuracy:\n  data: {synthetic: {}}\n  gates:\n"
            "    - {artifact: onnx, ap_drop_max: 0.01, against: published}\n",
            "published figures are of a whole published data set",
        ),
        (HEAD + "parity:\n  - {b: source, synthetic: 1}\n", "parity.0: 'a' and 'b' are the same"),
        (HEAD + "parity:\n  - {b: onnx}\n", "give either 'images' or 'synthetic'"),
        (HEAD + "latency:\n  - {contenders: []}\n", "latency.0.contenders"),
        (
            HEAD + "latency:\n  - {contenders: [onnx], gates: [{artifact: onnx, max_ratio: 1}]}\n",
            "'max_ratio' and one of 'against' and 'baseline' go together",
        ),
        (
            HEAD + "latency:\n  - {contenders: [onnx], gates: [{artifact: onnx, max_ratio: 1, against: source}]}\n",
            "latency.0.gates.0.against: there is no 'source' among the contenders",
        ),
        (
            HEAD + "latency:\n  - {contenders: [onnx]}\n  - {contenders: [onnx]}\n",
            "two benchmarks are called 'latency'",
        ),
        (HEAD + "latency:\n  - {contenders: [onnx], duration: .inf}\n", "a number must be finite"),
        (HEAD + "latency:\n  - {contenders: [onnx], protocol: v100, people: [1]}\n", "does not sweep people"),
        (HEAD + "card: {licence: MIT}\n", "card.licence: there is no such field; perhaps 'license' is meant"),
        (HEAD + "card: {license: ' '}\n", "card.license: "),
        (HEAD + "card: {links: {site: 'javascript:alert(1)'}}\n", "card.links.site: "),
        (HEAD + "card: {links: {site: 'https://example.com/a b'}}\n", "card.links.site: "),
        (HEAD + "card: {base_model: 'a/b\\n'}\n", "card.base_model: "),
        ("", "The recipe is empty"),
        ("- a\n", "no mapping"),
        ("name: [\n", "This is not YAML: line 2, column 1"),
        ("name: &a x\nsource: *a\n", "line 1, column 7: anchors are not taken"),
        ("name: " + "[" * 3000, "more than 20 sections in each other"),
        ('name: "a\\0b"\n', "zero character"),
        ("name: 2026-99-99\n", "artifacts: this field is missing"),
        ("name: 0x_\n", "a value cannot be read"),
    ],
)
def test_what_is_refused(text, finding):
    assert finding in complaint(text)


def test_all_that_is_wrong_is_said_at_once():
    found = complaint("name: toy\nsorce: a\nartifacts:\n  a: {make: export, opset: 5}\n")
    assert found.index("line 2") < found.index("line 4")
    assert "perhaps 'source' is meant" in found


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_release(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match="no such file"):
        load_release(tmp_path / "other.yaml")


LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["onnx", "source", "int8"]),
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


PLACES = list(places(yaml.safe_load(RECIPE)))[1:]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), VALUE)
def test_a_value_in_the_wrong_place_is_an_error_and_no_traceback(place, value):
    recipe = yaml.safe_load(RECIPE)
    target = recipe
    for part in place[:-1]:
        target = target[part]
    target[place[-1]] = value
    try:
        text = yaml.safe_dump(recipe, allow_unicode=True)
    except UnicodeEncodeError:
        return
    try:
        steps = build_steps(parse_release(text, where=HERE), HERE.parent)
    except UsageError:
        return
    assert steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(RECIPE)), st.integers(0, 12), st.text(max_size=6))
def test_a_mangled_text_is_an_error_and_no_traceback(at, cut, put):
    with contextlib.suppress(UsageError):
        parse_release(RECIPE[:at] + put + RECIPE[at + cut :], where=HERE)


GATE = "accuracy:\n  data: {synthetic: {}}\n  gates:\n    - {artifact: onnx, %s}\n"
V1 = (
    HEAD.replace("schema_version: 2", "schema_version: 1") if "schema_version" in HEAD else f"schema_version: 1\n{HEAD}"
)


@pytest.mark.parametrize(
    ("head", "bound", "finding"),
    [
        (HEAD, "ap_min: 1", None),
        (HEAD, "ap_drop_max: 0.2", None),
        (HEAD, "ap_drop_max: 0.5", "AP runs from 0 to 1, so this is 0 to 0.2 at most; 0.5 points are 0.005"),
        (HEAD, "ap_min: 1.5", "AP runs from 0 to 1"),
        (V1, "ap_drop_max: 0.1", "version 1 gave AP in points of 100"),
        (V1, "ap_min: 0.6", "write schema_version: 2"),
    ],
)
def test_points_of_100_are_never_taken_for_a_fraction(head, bound, finding):
    text = head + GATE % bound
    if finding is None:
        assert parse_release(text, where=HERE).accuracy is not None
        return
    with pytest.raises(UsageError, match=finding):
        parse_release(text, where=HERE)


def test_a_recipe_of_version_1_without_bounds_on_ap_is_taken():
    assert parse_release(V1, where=HERE).schema_version == 1
