"""Slower or not: the gate against an earlier result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_results import OTHER_MACHINE, entry, noisy, opened, result, simple

from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.bench import BenchOptions, Case, Protocol, compare_with_baseline, load_baseline
from rtmo_deploy.measure.bench.baseline import require_comparable


def compared(now, before, bound=0.05):
    return compare_with_baseline(now.to_dict(), before.to_dict(), bound)


def verdicts(report):
    return {row.label.split()[0]: (row.how, row.slower) for row in report.rows}


def test_slower_beyond_the_noise():
    report = compared(simple(24.0, seed=5), simple(20.0))
    assert report.verdict == "slower"
    assert verdicts(report) == {"PyTorch": ("times", False), "m.onnx": ("times", True)}
    (row,) = report.slower
    assert row.change.low > 1.05
    assert row.change.value == pytest.approx(1.2, abs=0.05)
    assert not report.notes


def test_slower_but_within_the_bound():
    assert compared(simple(20.4, seed=5, spread=0.002), simple(20.0, spread=0.002)).verdict == "passed"


def test_slower_but_within_the_noise():
    report = compared(simple(21.6, seed=5, spread=0.4), simple(20.0, spread=0.4))
    assert report.verdict == "passed"
    assert all(row.change.low < 1.05 for row in report.rows)


def test_faster():
    report = compared(simple(10.0, seed=5), simple(20.0))
    assert report.verdict == "passed"
    assert report.rows[1].change.high < 1


def test_the_bound_is_the_bound():
    now, before = simple(24.0, seed=5, spread=0.001), simple(20.0, spread=0.001)
    assert compared(now, before, 0.25).verdict == "passed"
    assert compared(now, before, 0.19).verdict == "slower"


def test_a_baseline_that_does_not_say_how_busy_its_machine_was_passes_nothing():
    before = simple(20.0, 40.0).to_dict()
    for one in before["entries"]:
        del one["interference"]
    report = compare_with_baseline(simple(20.0, 40.0).to_dict(), before, 0.05)
    assert report.verdict == "not measured"
    assert {row.reason for row in report.rows} == {"how busy the machine was then is not known"}


def test_a_busier_machine_is_told():
    report = compared(simple(40.0, 80.0, seed=5), simple(20.0, 40.0))
    assert report.verdict == "slower"
    assert "The reference itself takes" in report.notes[0]


def test_another_machine_compares_ratios():
    report = compared(simple(40.0, 80.0, machine=OTHER_MACHINE, seed=5), simple(20.0, 40.0))
    assert not report.same_machine
    assert verdicts(report) == {"m.onnx": ("ratios to the reference", False)}
    assert report.verdict == "passed"
    assert "only ratios" in report.notes[0]
    slower = compared(simple(60.0, 80.0, machine=OTHER_MACHINE, seed=5), simple(20.0, 40.0))
    assert slower.verdict == "slower"
    assert slower.slower[0].change.value == pytest.approx(1.5, abs=0.05)


def test_another_machine_without_a_reference_compares_nothing():
    alone = entry(opened(), Case(), noisy(20.0))
    report = compared(result([alone], machine=OTHER_MACHINE), result([alone]))
    assert report.verdict == "not measured"
    assert "no reference" in report.rows[0].reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "another precision: fp32 then, fp16 now"),
        ({"kind": "engine"}, "another kind"),
        ({"architecture": "rtmo-m"}, "another architecture"),
        ({"facts": {"backend": "openvino"}}, "another backend"),
        ({"facts": {"device": "cuda:0"}}, "another device"),
        ({"facts": {"input_hw": [320, 320]}}, "another input_hw"),
        ({"decode": {"mode": "fixed"}}, "another decode mode: onnx then, fixed now"),
        ({"label": "other.onnx (onnxruntime)"}, "not in the baseline"),
    ],
)
def test_what_is_not_the_same_is_not_compared(change, words):
    report = compared(simple(80.0, seed=5, **change), simple(20.0))
    row = report.rows[1]
    assert (row.how, row.slower) == (None, False)
    assert words in row.reason
    assert report.verdict == "passed"  # the reference was compared


def test_another_case_is_not_compared():
    report = compared(simple(case=Case(batch=4)), simple())
    assert report.verdict == "not measured"
    assert "In the baseline and not measured now" in report.notes[0]


def test_one_round_is_not_enough():
    once = result([entry(opened(), Case(), [[20.0, 21.0]])])
    report = compared(once, once)
    assert report.verdict == "not measured"
    assert "one round" in report.rows[0].reason


def test_a_report_is_json():
    text = json.dumps(compared(simple(24.0, seed=5), simple()).to_dict(), allow_nan=False)
    assert json.loads(text)["verdict"] == "slower"


def written(tmp_path, change=None, **options):
    document = {"schema_version": 1, "command": "bench", **simple(**options).to_dict(), "baseline": None}
    if change is not None:
        change(document)
    path = tmp_path / "base.json"
    path.write_text(json.dumps(document))
    return path


def test_what_was_written_can_be_read(tmp_path):
    before = load_baseline(written(tmp_path))
    assert compare_with_baseline(simple(24.0, seed=5).to_dict(), before, 0.05).verdict == "slower"
    require_comparable(before, BenchOptions(models=(Path("m.onnx"),)), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(command="eval"), "no result of 'rtmo-deploy bench'"),
        (lambda d: d.update(result_version=99), "result version 99"),
        (lambda d: d.update(result_version=True), "result version True"),
        (lambda d: d.pop("machine"), "damaged"),
        (lambda d: d["options"].pop("images"), "damaged"),
        (lambda d: d["entries"][0].update(rounds_ms=[]), "no rounds"),
        (lambda d: d["entries"][0].update(rounds_ms=[1, -1]), "no positive number"),
        (lambda d: d["entries"][0].update(rounds_ms=["1"]), "no positive number"),
        (lambda d: d["entries"][0]["contender"].pop("kind"), "damaged"),
        (lambda d: d["entries"].append(d["entries"][0]), "occurs twice"),
        (lambda d: d.update(entries=[3]), "damaged"),
    ],
)
def test_a_damaged_baseline(tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        load_baseline(written(tmp_path, change))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", "\ufeff{}"])
def test_no_baseline_at_all(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError):
        load_baseline(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_baseline(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": Protocol.V100}, "protocol = e2e, this is v100"),
        ({"device": "cuda:0"}, "device = cpu, this is cuda:0"),
        ({"images": Path("photos")}, "images = None, this is photos"),
    ],
)
def test_other_options_are_refused_before_anything_is_measured(tmp_path, options, words):
    before = load_baseline(written(tmp_path))
    asked = replace(BenchOptions(models=(Path("m.onnx"),)), **options)
    with pytest.raises(UsageError, match=words):
        require_comparable(before, asked, tmp_path / "base.json")
