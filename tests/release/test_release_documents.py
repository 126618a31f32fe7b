"""bom.json and MODEL_CARD.md of a release: valid in their formats, true to its files, and plain text stays text."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
import shlex

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from markdown_it import MarkdownIt
from release_toys import DESCRIBED, RECIPE, ToyActions, make

from rtmo_deploy.release.publish import publish
from rtmo_deploy.zoo import EMBEDDED, VARIANTS

NASTY = (
    "---\nlicense: mit\n---\n\n# Head <script>x</script> | [a](javascript:b) ![i](x) \u0007\u202e `c` "
    '"q" {{ 1 }} {% x %}'
)
LISTED = "- item\n1. one\n\n===\n\n1. two\n\n> quoted\n\n***\n\n    code"
CARD = {
    "license": NASTY[:150],
    "authors": [NASTY[:150], "Ada"],
    "organization": NASTY[:150],
    "training_data": NASTY,
    "intended_use": f"{NASTY}\n\n{LISTED}",
    "base_model": "somebody/pose",
    "links": {NASTY[:150]: "https://example.com/a_(b)*c*%20?d=1&e=2".replace("(", "%28").replace(")", "%29")},
}
#: Keypoints are named by whoever trained the model.
NAMED = {**DESCRIBED, "skeleton": {**DESCRIBED["skeleton"], "keypoints": [NASTY, "right"]}, "architecture": NASTY}
RAW = {**DESCRIBED, "decode": {**DESCRIBED["decode"], "mode": "raw"}}
NOBODY = {"ap": None, "metrics": {"AP": None, "AP50": None}}
WITHOUT = yaml.safe_dump({key: value for key, value in yaml.safe_load(RECIPE).items() if key != "accuracy"})
BARE = RECIPE.partition("card:")[0]
RELEASES = {
    "passed": (RECIPE, ToyActions()),
    "failed gates": (RECIPE, ToyActions(ap={"int8": 0.1}, fail={"fp16": "absent"})),
    "failed source": (RECIPE, ToyActions(fail={"source": "model"})),
    "nothing measured": (WITHOUT, ToyActions(fail={"parity:source:onnx": "absent", "latency:cpu": "absent"})),
    "nobody to find": (RECIPE, ToyActions(change={"accuracy:onnx": NOBODY, "accuracy:source": NOBODY})),
    "nasty": (
        BARE + f"card: {json.dumps(CARD)}\n",
        ToyActions(change={"source": {"artifact": NAMED, "name": f"{NASTY}\udcff.pth", "architecture": NASTY}}),
    ),
    "raw": (RECIPE, ToyActions(change={name: {"artifact": RAW} for name in ("onnx", "fixed", "fp16", "int8")})),
}


@pytest.fixture(scope="module", params=RELEASES, ids=str)
def release(request, tmp_path_factory):
    return make(tmp_path_factory.mktemp("release"), *RELEASES[request.param])


def bom_of(release):
    return json.loads((release.folder / "bom.json").read_text(encoding="utf-8"))


def card_of(release):
    """Front matter and Markdown."""
    text = (release.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    return yaml.safe_load(found[1]), found[2]


def tokens_of(markdown):
    return MarkdownIt("commonmark").enable("table").parse(markdown)


def test_the_bom_is_valid(release):
    text = (release.folder / "bom.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"modelCard"', '"card"')) or not (
        release.source.good
    )
    json.loads(text, parse_constant=pytest.fail)


def test_the_bom_names_every_model_with_its_hash(release):
    bom = bom_of(release)
    refs = [component["bom-ref"] for component in bom["components"]]
    assert len(refs) == len(set(refs))
    by_ref = dict(zip(refs, bom["components"], strict=True))
    paths = {path.relative_to(release.folder).as_posix() for path in (release.folder / "artifacts").glob("*")}
    assert paths == {ref for ref in refs if ref.startswith("artifacts/")}
    hashes = {one["name"]: one["hashes"] for one in bom["components"] if "hashes" in one}
    for path in paths:
        data, one = (release.folder / path).read_bytes(), by_ref[path]
        assert one["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]
        assert {"name": "rtmo-deploy:size", "value": str(len(data))} in one["properties"]
        assert one["type"] == ("file" if path.endswith(".extra") else "machine-learning-model")
        assert ("modelCard" in one) == (one["type"] == "machine-learning-model")
        for ancestor in one.get("pedigree", {}).get("ancestors", ()):
            assert ancestor["hashes"] == hashes[ancestor["name"]]
    assert bom["metadata"]["timestamp"] == release.started
    reached, left = {"release"}, ["release"]
    graph = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    while left:
        new = set(graph[left.pop()]) - reached
        reached |= new
        left += new
    assert reached == {"release", *refs}


def test_the_bom_has_the_packages_and_the_figures(tmp_path):
    class Local(ToyActions):
        def versions(self, action):  # noqa: ARG002
            return {"rtmo-deploy": "0.1.0", "torch": "2.13.0+cpu"}

    bom = bom_of(make(tmp_path, RECIPE, Local()))
    by_ref = {component["bom-ref"]: component for component in bom["components"]}
    torch = by_ref["pkg:pypi/torch@2.13.0%2Bcpu"]
    assert (torch["version"], torch["type"], torch["scope"]) == ("2.13.0+cpu", "library", "excluded")
    assert "licenses" not in torch
    card = by_ref["artifacts/toy-fp16.onnx"]["modelCard"]
    metrics = {one["type"]: (one["value"], one["slice"]) for one in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["AP"] == ("0.5990", "toys (4 images, 9 people)")
    assert "AP was measured on synthetic images only" in str(card["considerations"])
    shown = by_ref["artifacts/toy-onnx.onnx"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "mean OKS, compared with source", "value": "1", "slice": "toys"} in shown
    assert "(B, 3, 64, 96)" in card["modelParameters"]["inputs"][0]["format"]
    precision = {one["name"]: one["value"] for one in card["properties"]}
    assert precision["rtmo-deploy:precision"] == "fp16"


def test_the_serial_number_follows_from_the_content(tmp_path):
    release = make(tmp_path)
    before = (release.folder / "bom.json").read_bytes()
    publish(release, [])
    assert (release.folder / "bom.json").read_bytes() == before
    publish(dataclasses.replace(release, started="2026-01-01T00:00:00+00:00"), [])
    assert bom_of(release)["serialNumber"] != json.loads(before)["serialNumber"]


@pytest.mark.parametrize(
    ("given", "facts", "in_bom", "in_card"),
    [
        (None, {}, None, None),
        ("apache-2.0", {}, {"license": {"id": "Apache-2.0"}}, {"license": "apache-2.0"}),
        ("MIT OR Apache-2.0", {}, {"expression": "MIT OR Apache-2.0"}, {"license": "other"}),
        ("Ours alone", {}, {"license": {"name": "Ours alone"}}, {"license": "other", "license_name": "ours-alone"}),
        ("許諾", {}, {"license": {"name": "許諾"}}, {"license": "other", "license_name": "other"}),
        (None, {"sha256": EMBEDDED["rtmo-n"].sha256}, {"license": {"id": "Apache-2.0"}}, {"license": "apache-2.0"}),
        (
            None,
            {"artifact": {**DESCRIBED, "variant": "rtmo-l-body7-crowdpose"}},
            {"license": {"id": "Apache-2.0"}},
            {"license": "apache-2.0", "datasets": ["body7", "crowdpose"]},
        ),
        ("MIT", {"sha256": EMBEDDED["rtmo-n"].sha256}, {"license": {"id": "MIT"}}, {"license": "mit"}),
    ],
)
def test_the_licence_is_one_that_somebody_gave(tmp_path, given, facts, in_bom, in_card):
    text = BARE + (f"card: {{license: {given}}}\n" if given else "")
    release = make(tmp_path, text, ToyActions(change={"source": facts}))
    bom, (front, body) = bom_of(release), card_of(release)
    models = [one for one in bom["components"] if one["type"] == "machine-learning-model"]
    assert len(models) == 5
    for one in [*models, bom["metadata"]["component"]]:
        assert one.get("licenses") == (None if in_bom is None else [in_bom])
    assert {key: front.get(key) for key in in_card or ["license"]} == (in_card or {"license": None})
    assert ("nobody has stated the licence" in body) == (in_bom is None)
    if "artifact" in facts:
        assert VARIANTS["rtmo-l-body7-crowdpose"].url in json.dumps(bom)


def test_the_front_matter_is_what_the_hub_reads(release):
    front, _ = card_of(release)
    assert list(front)[:1] in (["library_name"], ["license"])
    assert front["library_name"] == "rtmo-deploy"
    assert re.fullmatch(r"[a-z0-9.-]+", front.get("license_name", "-"))
    assert front["pipeline_tag"] == "keypoint-detection"
    assert all(isinstance(tag, str) for tag in front["tags"])
    measured = [one for one in release.of("accuracy") if one.good and one.step.inputs["model"] != "source"]
    values = []
    for index in front.get("model-index", []):
        assert index["name"] == "toy"
        for result in index["results"]:
            assert result["task"]["type"] == "keypoint-detection"
            assert result["dataset"]["type"] == "synthetic"
            assert "synthetic" in result["dataset"]["name"]
            assert result["metrics"]
            for metric in result["metrics"]:
                assert isinstance(metric["type"], str)
                values += [metric["value"]] if metric["type"] == "AP" else []
    assert values == [one.facts["ap"] for one in measured if one.facts["ap"] is not None]


def test_what_others_wrote_stays_text(release):
    front, body = card_of(release)
    tokens = tokens_of(body)
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[0] == "toy"
    known = [
        "Intended use",
        "Limitations",
        "Files",
        "How to use",
        "Input and output",
        "Keypoints",
        "Accuracy",
        "Parity",
    ]
    known += ["Latency: cpu", "Licence", "Provenance"]
    assert headings[1:] == [title for title in known if title in headings]
    assert {"Limitations", "Licence", "Provenance"} <= set(headings)
    assert not [token for token in tokens if token.type in {"hr", "html_block", "blockquote_open", "code_block"}]
    inline = [child for token in tokens for child in token.children or ()]
    assert not [child for child in inline if child.type in {"html_inline", "image"}]
    links = [child.attrs["href"] for child in inline if child.type == "link_open"]
    assert links == [*release.recipe.card.links.values()]
    shown = "".join(child.content for child in inline)
    assert "\u0007" not in shown
    assert "\u202e" not in shown
    tables = [token for token in tokens if token.type == "table_open"]
    assert len(tables) == body.count("\n| --- |")
    if release.recipe.card.license:
        assert front["license"] == "other"
        assert front["base_model"] == "somebody/pose"
        assert "<script>x</script>" in shown
        assert "{{ 1 }}" in shown


def test_the_examples_are_code(release):
    _, body = card_of(release)
    blocks = {token.info: token.content for token in tokens_of(body) if token.type == "fence"}
    if not release.source.good:
        assert blocks == {}
        return
    assert "release/" not in body
    words = shlex.split(blocks["bash"])
    assert words[:2] == ["rtmo-deploy", "predict"]
    assert (release.folder / words[2]).is_file()
    for token in tokens_of(body):
        if token.type == "fence" and token.info == "python":
            ast.parse(token.content)
    raw = release.results["onnx"].facts["artifact"]["decode"]["mode"] == "raw"
    assert ("onnxruntime.InferenceSession" in body) != raw


def test_the_card_says_what_failed(tmp_path):
    made = make(tmp_path, *RELEASES["failed gates"])
    _, body = card_of(made)
    assert "Verdict of the release: **failed**." in body
    assert re.search(r"^- failed: accuracy: int8", body, re.MULTILINE)
    assert re.search(r"^- unavailable: step fp16 ", body, re.MULTILINE)
    assert "toy-fp16.onnx" not in body
    assert {"name": "rtmo-deploy:verdict", "value": "failed"} in bom_of(made)["metadata"]["component"]["properties"]
