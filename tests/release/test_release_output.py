"""What a release leaves: manifest, hashes, JUnit, summary, report; and what verify finds in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from release_toys import RECIPE, ToyActions, make

from rtmo_deploy.errors import ArtifactError, GateFailedError, UsageError
from rtmo_deploy.release.integrity import read_manifest, require_folder, verify_release
from rtmo_deploy.release.pipeline import run_release

NASTY = 'Toys & <script>alert("x")</script> ]]> \u0007 "quoted"'
FILES = [
    "MODEL_CARD.md",
    "SHA256SUMS",
    "artifacts/toy-fixed.onnx",
    "artifacts/toy-fixed.onnx.extra",
    "artifacts/toy-fp16.onnx",
    "artifacts/toy-fp16.onnx.extra",
    "artifacts/toy-int8.onnx",
    "artifacts/toy-int8.onnx.extra",
    "artifacts/toy-onnx.onnx",
    "artifacts/toy-onnx.onnx.extra",
    "bom.json",
    "junit.xml",
    "latency/cpu.json",
    "manifest.json",
    "recipe.yaml",
    "report.html",
    "statement.json",
    "summary.md",
]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    text = RECIPE + f"report: {{title: {json.dumps(NASTY)}}}\n"
    return make(tmp_path_factory.mktemp("release"), text, command="rtmo-deploy release <toy>.yaml")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    make(folder)
    return folder


@pytest.fixture
def folder(tmp_path, pristine):
    """A release of its own, with its recipe beside it."""
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def files_of(folder):
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith((".cache", ".lock")))


def test_the_folder(release):
    assert files_of(release.folder) == FILES


def test_the_manifest(release):
    manifest = read_manifest(release.folder)
    assert manifest["schema_version"] == 1
    assert manifest["verdict"] == "passed"
    assert manifest["command"] == "rtmo-deploy release <toy>.yaml"
    assert manifest["machine"]["cpu"] == "Abacus <1>"
    assert manifest["source"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    for entry in manifest["files"]:
        data = (release.folder / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["size"] == len(data)
    by_path = {entry["path"]: entry for entry in manifest["files"]}
    assert by_path.keys() == {*FILES} - {"manifest.json", "SHA256SUMS"}
    fixed = by_path["artifacts/toy-fixed.onnx"]
    assert by_path["artifacts/toy-fp16.onnx"]["parents"] == [{"step": "fixed", "sha256": fixed["sha256"]}]
    assert fixed["parents"] == [{"step": "source", "sha256": manifest["source"]["sha256"]}]
    assert [gate["status"] for gate in manifest["gates"]] == ["passed"] * 6
    assert {step["name"]: step["status"] for step in manifest["steps"]}["fp16"] == "done"


def test_hashes_are_those_that_sha256sum_reads(release):
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=release.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(FILES) - 1


def test_junit(release, tmp_path):
    root = ET.fromstring((release.folder / "junit.xml").read_text(encoding="utf-8"))
    gates, steps = root.findall("testsuite")
    assert gates.get("tests") == str(len(gates.findall("testcase"))) == "6"
    assert steps.get("tests") == "12"
    assert not root.findall(".//failure") + root.findall(".//error") + root.findall(".//skipped")
    bad = make(tmp_path, actions=ToyActions(fail={"fixed": "model", "parity:source:onnx": "absent"}, ap={"onnx": 0.01}))
    root = ET.fromstring((bad.folder / "junit.xml").read_text(encoding="utf-8"))
    gates, steps = root.findall("testsuite")
    assert [case.get("name") for case in steps.findall("testcase[error]")] == ["fixed"]
    assert gates.get("skipped") == str(len(gates.findall(".//skipped"))) == "4"
    strict = make(tmp_path, actions=ToyActions(fail={"parity:source:onnx": "absent"}), strict=True)
    root = ET.fromstring((strict.folder / "junit.xml").read_text(encoding="utf-8"))
    assert [case.get("name") for case in root.findall(".//testcase[failure]")] == ["parity: source and onnx"]


def test_the_summary_is_also_githubs(tmp_path, monkeypatch):
    target = tmp_path / "step.md"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    made = make(tmp_path, actions=ToyActions(ap={"fp16": 0.01}))
    text = (made.folder / "summary.md").read_text(encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "before\n" + text
    assert text.startswith("## toy: failed\n")
    assert "❌ failed" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_the_report_needs_nothing_and_is_well_formed(release):
    text = (release.folder / "report.html").read_text(encoding="utf-8")
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert root.tag == "html"
    for element in root.iter():
        assert element.tag not in {"script", "link", "iframe", "object", "embed"}
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "data", "poster"}:
                assert value.startswith("data:image/")
    style = root.find("head/style").text
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in text.replace("GITHUB", "")
    for condition in ("prefers-color-scheme: dark", "@media print", "max-width: 600px"):
        assert condition in style
    assert root.find("body/h1").text == NASTY.replace("\u0007", "�")
    titles = [heading.text for heading in root.iter("h2")]
    assert titles == [
        "Gates",
        "Accuracy",
        "Latency: cpu",
        "Sizes",
        "Parity",
        "Provenance",
        "Files",
        "Steps",
        "Machine and versions",
    ]
    assert root.find("body/div").get("class") == "verdict passed"
    assert len(list(root.iter("img"))) == 3
    assert len(list(root.iter("svg"))) == 5
    assert all(svg.find("title").text for svg in root.iter("svg"))


def test_the_report_of_a_failure_still_opens(tmp_path):
    fail = {"source": "model"}
    made = make(tmp_path, actions=ToyActions(fail=fail))
    root = ET.fromstring((made.folder / "report.html").read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>\n"))
    assert root.find("body/div").get("class") == "verdict failed"
    assert verify_release(made.folder).ok


def looked_at(folder):
    """What verify finds, or what it ends with."""
    try:
        return verify_release(folder), None
    except ArtifactError as error:
        return None, error


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_and_named(folder, name):
    path = folder / name
    data = path.read_bytes()
    for at in (0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        path.unlink()  # the file of that name, not what else is linked to it
        path.write_bytes(bytes(changed))
        found, error = looked_at(folder)
        if found is None:
            assert name == "manifest.json"
            assert name in str(error)
            assert error.exit_code == 4
            continue
        assert not found.ok
        assert any(one.startswith(name) or name in one for one in found.changed), found
        with pytest.raises(GateFailedError, match=re.escape(name)) as caught:
            found.require_ok()
        assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert verify_release(folder).missing == (name,)


def test_extra_files_and_links_are_named(folder):
    (folder / "artifacts" / "more.onnx").write_text("x")
    assert verify_release(folder).extra == ("artifacts/more.onnx",)
    (folder / "artifacts" / "more.onnx").unlink()
    target = folder / "artifacts" / "toy-onnx.onnx"
    target.rename(folder.parent / "elsewhere")
    target.symlink_to(folder.parent / "elsewhere")
    assert verify_release(folder).changed == ("artifacts/toy-onnx.onnx",)


def test_an_unfinished_release_says_so(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="was not finished"):
        verify_release(folder)
    with pytest.raises(ArtifactError, match="no release's folder"):
        verify_release(folder / "artifacts")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": None},
        {"files": None},
        {"files": [1]},
        {"files": [{"path": "../x", "sha256": "0" * 64, "size": 1}]},
        {"files": [{"path": "/etc/passwd", "sha256": "0" * 64, "size": 1}]},
        {"files": [{"path": "a", "sha256": "0", "size": 1}]},
        {"files": [{"path": "a", "sha256": "0" * 64, "size": -1}]},
        {"verdict": 3},
        {"verdict": "\ud800"},
        {"name": "\x1b[2J"},
    ],
)
def test_a_manifest_that_is_none(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match="damaged"):
        verify_release(folder)
    assert make(folder.parent).verdict == "passed"


def test_a_newer_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(ArtifactError, match="Upgrade"):
        verify_release(folder)


def test_two_steps_with_one_file_name_are_refused(tmp_path):
    class Clash(ToyActions):
        def _artifact(self, step, job):
            outcome = super()._artifact(step, job)
            (job.folder / outcome.files[1]).rename(job.folder / "same.bin")
            return type(outcome)((outcome.files[0], "same.bin"), outcome.facts)

    with pytest.raises(ArtifactError, match=r"both made a file same\.bin"):
        make(tmp_path, actions=Clash())


def test_a_manifest_that_was_edited_is_named(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    assert text.count('"verdict": "passed"') == 1
    path.write_text(text.replace('"verdict": "passed"', '"verdict": "glossy"'))
    assert verify_release(folder).changed == ("manifest.json (or its line in SHA256SUMS)",)
    assert read_manifest(folder)["verdict"] == "glossy"


def test_a_manifest_of_strange_names(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("a\nb", "\ud800", "a/../../b", "..", "a\\b", "C:x", "\u202ex", "a//b"):
        path.write_text(json.dumps({**manifest, "files": [{**manifest["files"][0], "path": name}]}))
        with pytest.raises(ArtifactError, match="damaged") as caught:
            verify_release(folder)
        str(caught.value).encode()
    path.write_text(json.dumps({**manifest, "files": manifest["files"][:1] * 2}))
    with pytest.raises(ArtifactError, match="names a file twice"):
        verify_release(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema_version": 1, "files": Infinity}', "\0", "1" * 5000, '"\\ud800"']
)
def test_a_manifest_that_is_no_json(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        verify_release(folder)


def test_a_manifest_that_one_may_not_read_is_not_called_damaged(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rtmo_deploy.plain.read_bounded", refuse)  # root may read everything
    with pytest.raises(ArtifactError, match=r"cannot be read: Permission denied\. Check who may read it"):
        verify_release(folder)


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "report.html", "artifacts/toy-onnx.onnx"])
def test_no_fifo_or_device_of_a_release_is_read(folder, name):
    path = folder / name
    for make_other in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        path.unlink()
        make_other()
        found, error = looked_at(folder)
        assert (error is not None) == (name == "manifest.json")
        assert error is not None or name in found.changed


def test_a_folder_that_is_a_link_is_not_followed(folder):
    (folder / "artifacts").rename(folder.parent / "elsewhere")
    (folder / "artifacts").symlink_to(folder.parent / "elsewhere")
    found = verify_release(folder)
    assert "artifacts/toy-onnx.onnx" in found.changed
    with pytest.raises(UsageError, match="a link in the release's folder"):
        make(folder.parent, SMALLER, actions=ToyActions())
    assert (folder.parent / "elsewhere" / "toy-fp16.onnx").exists()


def test_a_name_that_is_no_text_can_be_shown(folder):
    (folder / os.fsdecode(b"a\xffb")).write_text("x")
    assert verify_release(folder).extra == ("a\\xffb",)


SMALLER = RECIPE.replace("  fp16: {make: cast, from: fixed}\n", "").replace(
    "    - {artifact: fp16, ap_drop_max: 0.005}\n", ""
)


@pytest.mark.parametrize("names", [["toy.txt"], [".cache/pip/x"], ["manifest.json", "a.txt"], ["report.html"]])
def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path, names):
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text('{"files": [{"path": "a.txt"}]}')
    (tmp_path / "out" / "notes.txt").write_text("mine")
    actions = ToyActions()
    with pytest.raises(UsageError, match="holds other things"):
        make(tmp_path, actions=actions)
    assert not actions.ran
    assert all((tmp_path / "out" / name).is_file() for name in names)


def test_a_file_that_no_release_wrote_is_not_replaced(folder):
    for name in ("latency/more.json", "artifacts/toy-more.onnx"):
        (folder / name).write_text("mine")
    text = RECIPE.replace("name: cpu", "name: more")
    actions = ToyActions()
    with pytest.raises(UsageError, match=r"more\.json: No release wrote this file"):
        make(folder.parent, text, actions=actions)
    assert not actions.ran
    (folder / "latency" / "more.json").unlink()
    with pytest.raises(UsageError, match=r"toy-more\.onnx: No release wrote this file"):
        make(folder.parent, RECIPE.replace("  onnx: {make: export}", "  onnx: {make: export}\n  more: {make: export}"))
    assert (folder / "artifacts" / "toy-more.onnx").read_text() == "mine"
    assert verify_release(folder).extra == ("artifacts/toy-more.onnx",)


def test_a_release_writes_over_none_of_its_inputs(folder):
    text = RECIPE.replace(
        "      - {artifact: onnx, p95_ms: 50}", "      - {artifact: onnx, baseline: BASE, max_ratio: 2}"
    )
    with pytest.raises(UsageError, match=r"cpu\.json: This is one of the inputs"):
        make(folder.parent, text.replace("BASE", "out/latency/cpu.json"))
    shutil.copy(folder / "recipe.yaml", folder.parent / "again.yaml")
    (folder.parent / "out" / "ckpt.pth").write_bytes(b"weights")
    assert run_release(folder / "recipe.yaml", folder, actions=ToyActions()).verdict == "passed"


@pytest.mark.parametrize("change", ["digest", "key", "facts", "files"])
def test_a_step_record_that_was_edited_is_not_used(folder, change):
    for path in (folder / ".cache").glob("*/record.json"):
        record = json.loads(path.read_text())
        record[change] = [{"name": "../../x", "sha256": "0", "size": 1}] if change == "files" else "x"
        path.write_text(json.dumps(record))
    actions = ToyActions()
    assert make(folder.parent, actions=actions).verdict == "passed"
    assert len(actions.ran) == 12


def test_a_folder_that_is_not_there_is_called_that(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path / "no" / "where"):
        with pytest.raises(ArtifactError, match="There is no such folder"):
            verify_release(path)


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "report.html", "artifacts/toy-onnx.onnx"])
def test_a_file_of_a_release_is_named_as_such(folder, name):
    with pytest.raises(ArtifactError, match="It is a file of a release, and 'x' takes") as caught:
        require_folder(folder / name, "'x' takes a folder")
    assert caught.value.remedy == f"Give the folder: {folder}"
    other = folder.parent / "ckpt.pth"
    with pytest.raises(ArtifactError, match="It is a text file, and 'x' takes"):
        require_folder(other, "'x' takes a folder")
