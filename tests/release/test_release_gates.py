"""Gates: what passes, what fails, and that what was not measured is neither."""

from __future__ import annotations

import json
import os

import pytest
from release_toys import RECIPE, ToyActions, make

from rtmo_deploy.measure.bench.statistics import Ratio
from rtmo_deploy.release.gates import _baseline, _busy
from rtmo_deploy.release.record import GateResult, GateStatus

NAN = float("nan")


def gates(folder, text=RECIPE, **options):
    release = make(folder, text, ToyActions(**options))
    return {gate.name: gate for gate in release.gates}, release


def only(folder, section, **options):
    """The one gate of a recipe that ends in this section."""
    head = RECIPE[: RECIPE.index("accuracy:")]
    found, release = gates(folder, head + section, **options)
    (gate,) = found.values()
    return gate, release


ACCURACY = "accuracy:\n  data: {synthetic: {images: 4}}\n  gates:\n    - "
LATENCY = "latency:\n  - contenders: [source, onnx]\n    gates:\n      - "


def test_a_busy_gate_gives_the_reasons_of_its_busiest_case_once():
    cases = [{"interference": {"busy": reasons}} for reasons in (["cores 56%"], [], ["cores 55%", "364 switches"])]
    found = _busy(GateResult("latency: cpu", "latency", GateStatus.PASSED, "at most 1"), cases)
    assert found is not None
    assert found.message == "machine busy: cores 55%; 364 switches"
    assert _busy(found, cases[1:2]) is None


@pytest.mark.parametrize(
    ("bound", "ap", "status"),
    [
        ("ap_min: 0.599", 0.599, "passed"),
        ("ap_min: 0.6", 0.599, "failed"),
        ("ap_min: 0", NAN, "failed"),
        ("ap_min: 0", None, "not measured"),
        ("ap_drop_max: 0.005", 0.596, "passed"),
        ("ap_drop_max: 0.005", 0.594, "failed"),
        ("ap_drop_max: 0", 0.61, "passed"),
        ("ap_drop_max: 0.2", NAN, "failed"),
        ("ap_drop_max: 0.2", float("-inf"), "failed"),
        ("ap_drop_max: 0.2", None, "not measured"),
        ("ap_drop_max: 0.2", 0.0, "not measured"),
    ],
)
def test_accuracy(tmp_path, bound, ap, status):
    from rtmo_deploy.release.gates import evaluate_gates
    from rtmo_deploy.release.graph import build_steps
    from rtmo_deploy.release.record import Status, StepRecord
    from rtmo_deploy.release.schema import parse_release

    head = RECIPE[: RECIPE.index("accuracy:")]
    recipe = parse_release(head + ACCURACY + f"{{artifact: fp16, {bound}}}\n", where=tmp_path / "r.yaml")
    steps = build_steps(recipe, tmp_path)
    facts = {"accuracy:source": {"ap": 0.6 * (ap != 0)}, "accuracy:fp16": {"ap": ap}}
    results = {step.name: StepRecord(step, Status.DONE, facts=facts.get(step.name, {})) for step in steps}
    (gate,) = evaluate_gates(recipe, results, ToyActions(), tmp_path)
    assert gate.status == status, gate


def test_a_number_that_is_none_does_not_pass_a_whole_release(tmp_path):
    gate, release = only(tmp_path, ACCURACY + "{artifact: fp16, ap_min: 0}\n", ap={"fp16": NAN})
    assert gate.status == "not measured"  # JSON has no NaN: it is kept as nothing
    assert release.verdict == "incomplete"


def test_the_source_must_work_before_anything_is_measured_against_it(tmp_path):
    gate, _ = only(tmp_path, ACCURACY + "{artifact: fp16, ap_drop_max: 0.01}\n", fail={"accuracy:source": "model"})
    assert gate.status == "blocked"
    assert "It is damaged" in gate.message


@pytest.mark.parametrize(
    ("published", "status", "note"),
    [
        (None, "not measured", "no published checkpoint"),
        ({"metrics": {"AP": 0.604}}, "passed", "published 0.604 on COCO val2017"),
        ({"metrics": {"AP": 0.62}}, "failed", "published 0.620 on COCO val2017"),
        ({"protocol": "crowdpose", "metrics": {"AP": 0.6}}, "not measured", "is of COCO val2017"),
    ],
)
def test_against_published(tmp_path, published, status, note):
    section = (
        "accuracy:\n  data: {annotations: a.json, images: i}\n  gates:\n"
        "    - {artifact: onnx, against: published, ap_drop_max: 0.005}\n"
    )
    (tmp_path / "i").mkdir()
    (tmp_path / "a.json").write_text("{}")
    figures = published and {"dataset": "COCO val2017", "protocol": "coco", **published}
    gate, _ = only(tmp_path, section, change={"source": {"published": figures}})
    assert gate.status == status
    assert note in gate.message


def test_parity(tmp_path):
    section = "parity:\n  - {a: source, b: onnx, synthetic: 2}\n"
    assert only(tmp_path, section)[0].status == "passed"
    step = "parity:source:onnx"
    bad = {"verdict": "differ", "failures": ["99 of 100 keypoints are within 3 px"], "causes": ["swapped channels"]}
    gate, release = only(tmp_path / "b", section, change={step: bad})
    assert gate.status == "failed"
    assert gate.message == "99 of 100 keypoints are within 3 px; swapped channels"
    assert release.error.exit_code == 6
    assert only(tmp_path / "c", section, change={step: {"verdict": "nobody found"}})[0].status == "not measured"
    assert only(tmp_path / "d", section, change={step: {"verdict": None}})[0].status == "failed"
    assert only(tmp_path / "e", section, fail={step: "absent"})[0].status == "not measured"


def test_a_failed_gate_on_ap_leads_to_the_cause(tmp_path):
    """What judging saw; else what parity of the artifact says; else where to look."""
    section = "accuracy:\n  data: {synthetic: {}}\n  gates:\n    - {artifact: onnx, ap_drop_max: 0.01}\n"
    both = RECIPE[: RECIPE.index("accuracy:")] + section + "parity:\n  - {a: source, b: onnx, synthetic: 2}\n"
    name = "accuracy: onnx, AP lost against source"
    gate, _ = only(tmp_path / "a", section, ap={"onnx": 0.1})
    assert gate.name == name
    assert gate.message == ("beyond the bound; compare 'source' and 'onnx' with: rtmo-deploy parity --layers")
    found, _ = gates(tmp_path / "e", both, ap={"onnx": 0.1})
    assert found[name].message == (
        "beyond the bound; source and onnx: parity measured 7 matched, 0 missed, 0 extra, mean OKS 1.0000"
    )
    told = {
        "parity:source:onnx": {
            "verdict": "differ",
            "failures": ["far"],
            "causes": ["The first layer below the bound is x."],
        }
    }
    found, _ = gates(tmp_path / "b", both, ap={"onnx": 0.1}, change=told)
    assert found[name].message == "beyond the bound; source and onnx: The first layer below the bound is x."
    told["accuracy:onnx"] = {"causes": ["Left and right are swapped (mean OKS 0.2)."]}
    found, _ = gates(tmp_path / "c", both, ap={"onnx": 0.1}, change=told)
    assert found[name].message == "beyond the bound; Left and right are swapped (mean OKS 0.2)."
    told["accuracy:source"] = {"causes": ["Left and right are swapped (mean OKS 0.1)."]}
    found, _ = gates(tmp_path / "f", both, ap={"onnx": 0.1}, change=told)
    assert found[name].message == "beyond the bound; source and onnx: The first layer below the bound is x."
    gate, _ = only(tmp_path / "d", section, change={"accuracy:onnx": {"causes": ["Swapped."]}})
    assert (gate.status, gate.message) == ("passed", "")


def test_parity_passes_with_what_a_reader_should_know(tmp_path):
    section = "parity:\n  - {a: source, b: onnx, synthetic: 2}\n"
    gate, _ = only(tmp_path, section, change={"parity:source:onnx": {"notes": ["Clients put images elsewhere."]}})
    assert (gate.status, gate.message) == ("passed", "Clients put images elsewhere.")


@pytest.mark.parametrize("bound", ["against: source, max_ratio: 9", "p95_ms: 9999", "baseline: old.json, max_ratio: 9"])
def test_a_busy_machine_passes_no_gate(tmp_path, bound):
    """And every form of the report says it in the same words."""
    section = LATENCY + f"{{artifact: onnx, {bound}}}\n"
    only(tmp_path, section)
    (tmp_path / "old.json").write_text((tmp_path / "out" / "latency" / "latency.json").read_text())
    gate, release = only(tmp_path, section + "    duration: 2\n", busy=["others used 80% of the cores"])
    assert (gate.status, gate.message) == ("not measured", "machine busy: others used 80% of the cores")
    assert release.verdict == "incomplete"
    for name in ("report.html", "summary.md", "junit.xml", "manifest.json"):
        text = (release.folder / name).read_text()
        assert "ratios not measured: machine busy" in text, name
        assert "machine busy: others used 80% of the cores" in text, name
    page = (release.folder / "report.html").read_text()
    assert "Percentiles" not in page  # no plot of disturbed times
    assert ">not measured: machine busy<" in page
    assert ">reference<" in page


@pytest.mark.parametrize(
    ("gate", "slow", "status", "note"),
    [
        ("{artifact: onnx, against: source, max_ratio: 1.0}", 1.0, "passed", ""),
        ("{artifact: onnx, against: source, max_ratio: 1.0}", 2.05, "passed", "the interval reaches below it"),
        ("{artifact: onnx, against: source, max_ratio: 1.0}", 2.5, "failed", "the whole interval is above the bound"),
        ("{artifact: onnx, against: source, max_ratio: 1.0}", NAN, "failed", "not a number"),
        ("{artifact: onnx, p95_ms: 13.0}", 1.0, "passed", ""),
        ("{artifact: onnx, p95_ms: 12.9}", 1.0, "failed", "beyond the bound"),
    ],
)
def test_latency(tmp_path, gate, slow, status, note):
    if slow != slow:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ToyActions, "ratio", lambda *_, **__: Ratio(NAN, None, None))
            found, _ = only(tmp_path, LATENCY + gate + "\n")
    else:
        found, _ = only(tmp_path, LATENCY + gate + "\n", slow=slow)
    assert found.status == status, found
    assert note in found.message


def test_a_baseline_is_a_file_of_an_earlier_release(tmp_path):
    section = LATENCY + "{artifact: onnx, baseline: old.json, max_ratio: 1.05}\n"
    assert only(tmp_path, section)[0].message == "there is no old.json"
    old = (tmp_path / "out" / "latency" / "latency.json").read_text()
    (tmp_path / "old.json").write_text(old)
    assert only(tmp_path, section)[0].status == "passed"
    assert only(tmp_path / "x", section, slow=1.3)[0].status == "not measured"  # its folder has no old.json
    (tmp_path / "x" / "old.json").write_text(old)
    slower, release = only(tmp_path / "x", section + "    duration: 2\n", slow=1.3)
    assert slower.status == "failed"
    assert release.error.exit_code == 6
    elsewhere = json.loads(old)
    elsewhere["machine"]["fingerprint"] = "another"
    (tmp_path / "old.json").write_text(json.dumps(elsewhere))
    gate = only(tmp_path, section)[0]
    assert gate.status == "not measured"
    assert "another machine" in gate.message
    unknown = json.loads(old)
    del unknown["entries"][-1]["interference"]  # how busy the machine was is not known
    for text in (json.dumps(unknown), "{", "[]", '{"machine": {}, "protocol": 1, "entries": [{}]}'):
        (tmp_path / "old.json").write_text(text)
        assert "no latency file" in only(tmp_path, section)[0].message


HOSTILE = {
    "deep": "[" * 100_000,
    "Infinity": '{"protocol": Infinity}',
    "binary": "\0\0",
    "a list": "[]",
    "no times": '{"machine": {"fingerprint": "toy"}, "protocol": "paired", "entries": [{"artifact": "onnx", "case": '
    '{"batch": 1}, "rounds_ms": []}]}',
    "negative times": '{"machine": {"fingerprint": "toy"}, "protocol": "paired", "entries": [{"artifact": "onnx", '
    '"case": {"batch": 1}, "rounds_ms": [-1]}]}',
    "a case of text": '{"machine": {"fingerprint": "toy"}, "protocol": "paired", "entries": [{"artifact": "onnx", '
    '"case": {"batch": "1"}, "rounds_ms": [1]}]}',
    "all lost": '{"machine": {"fingerprint": "toy"}, "protocol": "paired", "entries": [{"artifact": "onnx", "case": '
    '{"batch": 1}, "rounds_ms": [1], "interference": {"lost": 1}}]}',
}


@pytest.mark.parametrize("kind", [*HOSTILE, "fifo", "endless"])
def test_a_baseline_that_is_none(tmp_path, kind):
    path = tmp_path / "baseline.json"
    if kind in HOSTILE:
        path.write_text(HOSTILE[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    entries, why = _baseline(path, "onnx", {"machine": {"fingerprint": "toy"}, "protocol": "paired"})
    assert entries == []
    assert "is no latency file of a release" in why
