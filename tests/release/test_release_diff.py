"""A release beside an earlier one: what counts as worse, what is not compared, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import xml.etree.ElementTree as ET

import pytest
from release_toys import RECIPE, ToyActions, make, places

from rtmo_deploy.errors import ArtifactError, GateFailedError, RtmoDeployError, UsageError
from rtmo_deploy.release.comparison import DiffOptions, Kind, Result, compare_releases
from rtmo_deploy.release.comparison.documents import MAX_COMMENT, tables, to_html, to_markdown

HOSTILE = '<img src=x onerror="alert(1)"> @everybody | [a](http://b) `c`\n# d \x1b[2J'


class Larger(ToyActions):
    """Artifacts with more bytes."""

    def _artifact(self, step, job):
        outcome = super()._artifact(step, job)
        with (job.folder / outcome.files[0]).open("a") as stream:
            stream.write("more " * 100)
        return outcome


class Elsewhere(ToyActions):
    """Another machine."""

    def machine(self):
        return {**super().machine(), "cpu": "Slide rule", "fingerprint": "other"}


class OtherProtocol(ToyActions):
    """AP by other rules."""

    def _accuracy(self, step, job):
        outcome = super()._accuracy(step, job)
        return type(outcome)(outcome.files, {**outcome.facts, "protocol": "crowdpose"})


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return make(tmp_path_factory.mktemp("old")).folder


def rows(found, *results):
    return {(row.kind.value, row.name) for row in found.of(*results)}


def note(found, kind, name):
    return next(row.note for row in found.rows if (row.kind, row.name) == (kind, name))


def rewrite(folder, change):
    """Change a manifest as somebody could who also writes SHA256SUMS."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    sums = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    sums["manifest.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


@pytest.fixture
def copied(old, tmp_path):
    return shutil.copytree(old, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache", ".lock"))


def test_the_same_once_more_is_not_worse(old, copied):
    found = compare_releases(str(old), copied, DiffOptions(strict=True))
    assert (found.verdict, found.error) == ("passed", None)
    assert {row.result for row in found.rows} == {Result.NOT_WORSE}
    assert {row.kind for row in found.rows} == {*Kind}
    assert {file.status for file in found.files} == {"unchanged"}
    assert (found.recipe, found.changes, found.notes) == ((), (), ())
    json.dumps(found.to_dict(), allow_nan=False)


def test_less_ap_and_more_time_is_worse_and_the_other_way_round_not(old, tmp_path):
    worse = make(tmp_path, actions=ToyActions(ap={"int8": 0.5}, slow=1.5)).folder
    found = compare_releases(old, worse)
    slow = {("latency", f"cpu, onnx, batch 1, {people}") for people in ("1 person", "10 people")}
    gate = ("gates", "accuracy: int8, AP lost against onnx")
    assert rows(found, Result.WORSE) == {("accuracy", "int8"), *slow, gate}
    assert isinstance(found.error, GateFailedError)
    assert "accuracy: int8: -0.0900" in str(found.error)
    times = [row for row in found.rows if row.kind is Kind.LATENCY and "onnx" in row.name]
    assert [round(row.value, 3) for row in times] == [round(15.1 / 10.1, 3), round(16 / 11, 3)]
    assert all(1.05 < row.low < row.value < row.high for row in times)
    back = compare_releases(worse, old)
    assert (back.verdict, rows(back, Result.WORSE)) == ("passed", set())
    allowed = DiffOptions(max_ap_drop=0.1, max_slowdown=1, ignore=("gates",))
    assert compare_releases(old, worse, allowed).verdict == "passed"
    assert rows(compare_releases(old, worse, allowed), Result.NOT_JUDGED) == {
        ("gates", name) for kind, name in rows(found, *Result) if kind == "gates"
    }


def test_bounds_are_exact(old, tmp_path):
    found = make(tmp_path, actions=ToyActions(ap={"fixed": 0.595, "int8": 0.5849})).folder
    assert rows(compare_releases(old, found), Result.WORSE) == {("accuracy", "int8")}


def test_an_interval_that_reaches_the_bound_is_not_worse(old, tmp_path):
    found = compare_releases(old, make(tmp_path, actions=ToyActions(slow=1.055)).folder)
    assert found.verdict == "passed"
    assert rows(compare_releases(old, found.new["folder"], DiffOptions(max_slowdown=0.0)), Result.WORSE)


def test_larger_artifacts(old, tmp_path):
    found = compare_releases(old, make(tmp_path, actions=Larger()).folder)
    assert rows(found, Result.WORSE) == {("sizes", name) for name in ("onnx", "fixed", "fp16", "int8")}


def test_artifacts_that_go_and_come(old, tmp_path):
    text = RECIPE.replace("  onnx: {make: export}\n", "  onnx: {make: export}\n  more: {make: export}\n")
    text = text.replace("  fp16: {make: cast, from: fixed}\n", "")
    text = text.replace("    - {artifact: fp16, ap_drop_max: 0.005}\n", "")
    found = compare_releases(old, make(tmp_path, text).folder)
    assert rows(found, Result.WORSE) == {("artifacts", "fp16")}
    lost = {("gates", "accuracy: fp16, AP lost against source"), ("accuracy", "source")}  # it was measured for the gate
    assert rows(found, Result.NOT_COMPARED) == lost
    assert ("artifacts", "more") in rows(found, Result.NEW)
    assert not any("fp16" in name for kind, name in rows(found, *Result) if kind in {"accuracy", "sizes"})
    assert any(line.startswith("-  fp16: ") for line in found.recipe)
    statuses = {file.status for file in found.files}
    assert {"added", "removed", "changed", "unchanged"} <= statuses


@pytest.mark.parametrize(("why", "result"), [("model", Result.WORSE), ("absent", Result.NEW)])
def test_a_new_artifact_that_could_not_be_made(old, tmp_path, why, result):
    text = RECIPE.replace("  onnx: {make: export}\n", "  onnx: {make: export}\n  more: {make: cast, from: fixed}\n")
    text = text.replace("    - {artifact: fp16,", "    - {artifact: more, ap_drop_max: 0.005}\n    - {artifact: fp16,")
    new = make(tmp_path, text, ToyActions(fail={"more": why})).folder
    found = compare_releases(old, new)
    gate = ("gates", "accuracy: more, AP lost against source")
    assert {("artifacts", "more"), gate} <= rows(found, result)
    assert (found.verdict == "failed") == (result is Result.WORSE)
    assert all(row.note for row in found.of(Result.WORSE))


def test_a_signature_that_only_one_has_is_told(old, tmp_path):
    new = make(tmp_path, RECIPE, ToyActions()).folder
    assert not [note for note in compare_releases(old, new).notes if "signed" in note]
    (new / "model.sig").write_text("{}")
    assert "NEW is signed, OLD is not." in compare_releases(old, new).notes
    assert "OLD is signed, NEW is not." in compare_releases(new, old).notes


def test_artifacts_and_releases_with_other_names(old, tmp_path):
    text = RECIPE.replace("name: toy", "name: other").replace("int8", "small")
    found = compare_releases(old, make(tmp_path, text, ToyActions(ap={"small": 0.5})).folder)
    assert "Renamed, by their bytes: int8 to small." in found.notes
    assert "OLD is called toy, NEW other." in found.notes
    assert ("accuracy", "small") in rows(found, Result.WORSE)
    assert not [row for row in found.rows if row.kind is Kind.ARTIFACTS and row.result is not Result.NOT_WORSE]


@pytest.mark.parametrize(("why", "result"), [("model", Result.WORSE), ("absent", Result.NOT_COMPARED)])
def test_an_artifact_that_could_not_be_made(old, tmp_path, why, result):
    new = make(tmp_path, actions=ToyActions(fail={"fp16": why})).folder
    found = compare_releases(old, new)
    assert ("artifacts", "fp16") in rows(found, result)
    assert ("gates", "accuracy: fp16, AP lost against source") in rows(found, result)
    assert found.verdict == ("failed" if result is Result.WORSE else "incomplete")
    assert compare_releases(old, new, DiffOptions(strict=True)).verdict == "failed"
    back = compare_releases(new, old)
    assert ("artifacts", "fp16") in rows(back, Result.NEW)


def test_ap_of_other_data_is_not_compared(old, tmp_path):
    text = RECIPE.replace("images: 4", "images: 8")
    found = compare_releases(old, make(tmp_path / "a", text, ToyActions(ap={"int8": 0.5})).folder)
    assert found.verdict == "failed"  # by its gate
    assert {name for kind, name in rows(found, Result.NOT_COMPARED) if kind == "accuracy"} == {"source", "onnx"} | {
        "fixed",
        "fp16",
        "int8",
    } & {row.name for row in found.rows if row.kind is Kind.ACCURACY}
    assert "other" in note(found, Kind.ACCURACY, "int8")
    assert not [figure for figure in found.figures if figure.kind is Kind.ACCURACY]
    found = compare_releases(old, make(tmp_path / "b", actions=OtherProtocol()).folder)
    assert note(found, Kind.ACCURACY, "int8") == "other protocol: coco in OLD, crowdpose in NEW"


@pytest.mark.parametrize("known", [True, False])
def test_annotated_images_are_known_by_their_content(old, copied, tmp_path, known):
    def annotated(content):
        def change(manifest):
            for step in manifest["steps"]:
                if step["kind"] == "data":
                    facts = {"source": "val.json", "max_images": None}
                    hashes = {"annotations_sha256": content, "images_sha256": "1"} if known else {}
                    step.update(action="annotated", options={}, key=f"key {content}", facts={**facts, **hashes})

        return change

    one = shutil.copytree(copied, tmp_path / "one")
    two = shutil.copytree(copied, tmp_path / "two")
    rewrite(one, annotated("a"))
    rewrite(two, annotated("b"))
    found = compare_releases(one, two)
    wanted = "val.json has other content" if known else "did not write down which images these are"
    assert wanted in note(found, Kind.ACCURACY, "int8")
    if known:
        rewrite(two, annotated("a"))
        rewrite(two, lambda manifest: [step.update(key="x") for step in manifest["steps"] if step["kind"] == "data"])
        assert compare_releases(one, two).verdict == "passed"


@pytest.mark.parametrize(
    ("actions", "told"),
    [
        (Elsewhere(slow=3.0), "other machine: Abacus <1> in OLD, Slide rule in NEW"),
        (ToyActions(slow=3.0, busy=["a build"]), "busy machine in NEW: a build"),
    ],
)
def test_times_that_cannot_be_compared(old, tmp_path, actions, told):
    found = compare_releases(old, make(tmp_path, actions=actions).folder, DiffOptions(ignore=("gates",)))
    assert {note(found, Kind.LATENCY, row.name) for row in found.rows if row.kind is Kind.LATENCY} == {told}
    assert found.verdict == "incomplete"


def test_parity(old, tmp_path):
    people = {"matched": 6, "missed": 1, "extra": 0, "oks_mean": 1.0}
    actions = ToyActions(change={"parity:source:onnx": {"people": people}})
    found = compare_releases(old, make(tmp_path, actions=actions).folder)
    assert rows(found, Result.WORSE) == {("parity", "source and onnx")}


def test_figures_that_are_no_numbers(old, copied):
    def change(manifest):
        for step in manifest["steps"]:
            if step["name"] == "accuracy:int8":
                step["facts"]["ap"] = None

    rewrite(copied, change)
    found = compare_releases(old, copied)
    assert (found.verdict, rows(found, Result.NOT_COMPARED)) == ("incomplete", {("accuracy", "int8")})


def test_nothing_in_common_is_no_pass(old, copied):
    def change(manifest):
        manifest["steps"] = [step for step in manifest["steps"] if step["name"] == "source"]
        manifest["gates"] = []

    rewrite(copied, change)
    assert compare_releases(copied, old).verdict == "incomplete"
    assert compare_releases(copied, old, DiffOptions(strict=True)).error is not None


def in_points(manifest):
    (made,) = (step for step in manifest["steps"] if step["name"] == "accuracy:fp16")
    made["facts"]["ap"] = 59.9


def swap(folder):
    first, second = folder / "artifacts/toy-fp16.onnx", folder / "artifacts/toy-int8.onnx"
    first.rename(folder / "between")
    second.rename(first)
    (folder / "between").rename(second)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "artifacts/toy-int8.onnx").write_text("other"), "artifacts/toy-int8.onnx"),
        (swap, "swapped: artifacts/toy-fp16.onnx and artifacts/toy-int8.onnx"),
        (lambda folder: (folder / "recipe.yaml").unlink(), "missing: recipe.yaml"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "manifest.json").rename(folder / ".unfinished"), "not finished"),
        (lambda folder: rewrite(folder, lambda manifest: manifest.update(schema_version=9)), "schema version 9"),
        (lambda folder: rewrite(folder, lambda manifest: manifest["steps"].append({})), "damaged"),
        (lambda folder: rewrite(folder, in_points), "AP runs from 0 to 1, and this is 59.9"),
        (shutil.rmtree, "There is no such folder"),
    ],
)
def test_what_is_no_whole_release_is_refused(old, copied, change, told):
    change(copied)
    for pair in ((old, copied), (copied, old)):
        with pytest.raises(ArtifactError, match=told):
            compare_releases(*pair)


def test_other_wrong_arguments(old, copied, tmp_path):
    (tmp_path / "link").symlink_to(old)
    with pytest.raises(UsageError, match="same release"):
        compare_releases(old, tmp_path / "link")
    with pytest.raises(ArtifactError, match="a release is a folder"):
        compare_releases(old, old / "recipe.yaml")
    for wrong in ({"max_ap_drop": float("nan")}, {"max_growth": -1.0}, {"ignore": ("all",)}):
        with pytest.raises(UsageError):
            DiffOptions(**wrong)
    (copied / "notes.txt").write_text("mine")
    assert any("notes.txt" in one for one in compare_releases(old, copied).notes)


@pytest.mark.parametrize("value", [None, "x", -1e308, [], {}, [[{}]], HOSTILE])
def test_any_value_in_a_manifest_gives_a_result_or_an_error(old, copied, value):
    manifest = json.loads((copied / "manifest.json").read_text())
    names = {"accuracy:int8", "latency:cpu", "parity:source:onnx", "pictures", "fp16"}
    steps = [step for step in manifest["steps"] if step["name"] in names]
    tried = [way for at, step in enumerate(steps) for way in places(step, (at,)) if len(way) > 1]
    found = 0
    for way in tried[::5]:
        changed = json.loads(json.dumps(manifest))
        target = next(step for step in changed["steps"] if step["name"] == steps[way[0]]["name"])
        for key in way[1:-1]:
            target = target[key]
        target[way[-1]] = value
        rewrite(copied, lambda one, changed=changed: (one.clear(), one.update(changed)))
        try:
            diff = compare_releases(old, copied)
        except RtmoDeployError:
            continue
        found += 1
        json.dumps(diff.to_dict(), allow_nan=False)
        ET.fromstring(to_html(diff).removeprefix("<!DOCTYPE html>\n"))
        to_markdown(diff)
    assert found or value != HOSTILE


@pytest.fixture
def hostile(copied):
    def change(manifest):
        manifest["gates"] = [{**gate, "name": f"{HOSTILE} {n}"} for n, gate in enumerate(manifest["gates"] * 40)]
        manifest["files"] += [
            {**manifest["files"][0], "path": f"latency/<b>@x{n}.json", "step": None} for n in range(3000)
        ]
        manifest["machine"]["cpu"] = HOSTILE * 100
        for step in manifest["steps"]:
            step["message"] = HOSTILE

    rewrite(copied, change)
    content = (copied / json.loads((copied / "manifest.json").read_text())["files"][0]["path"]).read_bytes()
    for number in range(3000):
        (copied / f"latency/<b>@x{number}.json").write_bytes(content)
    return copied


def test_documents_hold_any_text(old, hostile):
    found = compare_releases(old, hostile)
    text = to_markdown(found)
    assert len(text.encode()) <= MAX_COMMENT
    assert "<img" not in text
    assert "@everybody" not in text
    assert "[a](" not in text
    assert "\x1b" not in text
    assert text.count("<details>") == text.count("</details>") > 3
    lines = text.splitlines()
    assert lines[0].startswith("## ⚠️ toy against")
    assert not [line for line in lines[1:] if line.startswith("#")]
    page = to_html(found)
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert not {element.tag for element in root.iter()} & {"script", "img", "b:b"}
    assert len(list(root.iter("tr"))) < 3000
    shown = "".join(cell for table in tables(found) for row in table.rows for cell in row)
    assert shown.isprintable()


def test_documents_tell_all_of_it(old, tmp_path):
    actions = ToyActions(ap={"int8": 0.5}, slow=1.5)
    text = RECIPE.replace("count: 8", "count: 9")
    found = compare_releases(old, make(tmp_path, text, actions).folder)
    root = ET.fromstring(to_html(found).removeprefix("<!DOCTYPE html>\n"))
    said = " ".join("".join(root.itertext()).split())
    for row in found.rows:
        for part in (row.name, row.old, row.new, row.change, row.result.value, row.note):
            assert part in said
    assert len(list(root.iter("svg"))) == 3
    told = to_markdown(found)
    assert told.startswith("## ❌ toy against the release before: failed")
    assert "| accuracy: int8 | ❌ worse | 0.5900 | 0.5000 | -0.0900 |" in told
    assert "-  int8: {make: quantize, from: fixed, count: 8}" in told
