"""The real actions, as far as they can be looked at without a model."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from rtmo_deploy.errors import CheckpointError, InputDataError, UsageError
from rtmo_deploy.release import make
from rtmo_deploy.release.actions import ACTIONS, Actions
from rtmo_deploy.release.graph import Step, build_steps
from rtmo_deploy.release.pipeline import plan_release, run_release
from rtmo_deploy.release.record import Job, NotHereError, Status, StepRecord
from rtmo_deploy.release.schema import load_release, parse_release
from rtmo_deploy.zoo import EMBEDDED

ROOT = Path(__file__).parents[2]
HEAD = "name: toy\nsource: rtmo-s\nartifacts:\n  onnx: {make: export}\n"


def steps_of(text):
    return {step.name: step for step in build_steps(parse_release(HEAD + text, where=Path("r.yaml")), Path())}


def test_every_step_of_every_recipe_has_an_action():
    actions = Actions()
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        for step in build_steps(load_release(path), path.parent):
            assert step.action in ACTIONS
            assert "rtmo-deploy" in actions.versions(step.action)
            assert actions.revision(step.action) >= 1


def test_the_quickstart_can_be_carried_out():
    path = ROOT / "recipes" / "quickstart.yaml"
    Actions().check(build_steps(load_release(path), path.parent))


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("  bad: {make: export, decode: fixed, max_dets: 400}\n", "bad: max_dets is 400"),
        ("  bad: {make: quantize, from: onnx, calibration: pictures}\n", "bad: 'pictures' is neither a folder nor a"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_made(text, finding):
    with pytest.raises(UsageError, match=finding):
        Actions().check(list(steps_of(text).values()))


def test_what_depends_on_the_machine():
    steps = steps_of(
        "  engine: {make: engine, from: onnx}\n"
        "accuracy: {data: {synthetic: {}}, measure: [onnx], device: 'cuda:0'}\n"
        "parity: [{b: onnx, synthetic: 1}, {a: onnx, b: engine, synthetic: 1, device_b: 'cuda:0'}]\n"
        "latency: [{contenders: [onnx]}]\n"
    )
    actions = Actions()
    depends = {name for name, step in steps.items() if actions.depends_on_machine(step)}
    assert depends == {"engine", "accuracy:onnx", "parity:onnx:engine", "latency:latency"}


def test_annotated_images_are_known_by_content_names_and_sizes(tmp_path):
    def facts(name, annotations="{}", images=("a", "b")):
        folder = tmp_path / name
        (folder / "images" / "below").mkdir(parents=True)
        (folder / "val.json").write_text(annotations)
        for number, content in enumerate(images):
            (folder / f"images/below/{number}.jpg").write_text(content)
        files = {"annotations": folder / "val.json", "images": folder / "images"}
        return make.annotated(Job(tmp_path, {"max_images": None}, {}, files, print)).facts

    first = facts("one")
    assert facts("two") == first
    assert facts("three", annotations="[]")["annotations_sha256"] != first["annotations_sha256"]
    assert facts("four", images=("a", "bb"))["images_sha256"] != first["images_sha256"]


def test_a_name_is_not_fetched_by_looking(monkeypatch, tmp_path):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path))
    step = steps_of("")["source"]
    assert step.files == {}
    assert Actions().locate(step, fetch=False) is None
    with pytest.raises(UsageError, match="no published model called 'rtmo-x'"):
        Actions().locate(Step("source", "source", {"source": "rtmo-x"}), fetch=False)


def test_a_source_may_have_an_address(monkeypatch, tmp_path):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = EMBEDDED["rtmo-n"].path
    for address in (path.as_uri(), "hf://owner/repository/best.pth@v1"):
        step = build_steps(parse_release(HEAD.replace("rtmo-s", address), where=Path("r.yaml")), Path())[0]
        assert (step.options, step.files) == ({"source": address}, {})
        assert Actions().locate(step, fetch=False) == ({"checkpoint": path} if address.startswith("file") else None)
    with pytest.raises(UsageError, match=r"password or a token") as caught:
        parse_release(HEAD.replace("rtmo-s", "https://me:hunter2@host/best.pth"), where=Path("r.yaml"))
    assert "hunter2" not in str(caught.value)


def test_an_engine_is_never_judged_on_the_cpu(monkeypatch):
    asked = []
    monkeypatch.setattr(make, "_require_device", asked.append)
    for kind, device in (("engine", "cuda:0"), ("onnx", "cpu")):
        made = StepRecord(Step("x", "engine"), Status.DONE, facts={"kind": kind})
        assert make._usable_device(made, "cpu") == device
    assert asked == ["cuda:0", "cpu"]


def test_without_torch_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(make.importlib.util, "find_spec", lambda _: None)
    make._require_device("cpu")
    with pytest.raises(NotHereError, match="no usable GPU"):
        make._require_device("cuda:0")


def test_ratios():
    ratio = Actions().ratio([2.0, 2.2, 2.1], [1.0, 1.1, 1.05], paired=True)
    assert ratio.value == pytest.approx(2.0)
    assert ratio.low <= ratio.value <= ratio.high


REFUSED = {
    "exported": ("toy.onnx", {}, CheckpointError, "It is an ONNX model, and 'release' takes a checkpoint"),
    "exported at an address": ("toy.onnx", {"as_uri": True}, CheckpointError, "It is an ONNX model, and 'release'"),
    "archive": ("toy.zip", {}, CheckpointError, r"It is a \.zip archive, in which exported models are published"),
    "no file": ("toy.pth", {}, InputDataError, "No such file or directory"),
    "no images": ("good.pth", {"images": "nowhere"}, InputDataError, "nowhere: It cannot be read"),
    "no device": ("good.pth", {"device": "gpu"}, UsageError, "accuracy:source: There is no device 'gpu'"),
}


@pytest.mark.parametrize(("name", "change", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_known_is_refused_before_anything_is_touched(tmp_path, name, change, error, said):
    (tmp_path / "toy.onnx").write_bytes(b"\x08\x08\x12\x04test" + bytes(200))
    with zipfile.ZipFile(tmp_path / "toy.zip", "w") as archive:
        archive.write(tmp_path / "toy.onnx", "20230831/end2end.onnx")
    shutil.copy(EMBEDDED["rtmo-n"].path, tmp_path / "good.pth")
    (tmp_path / "val.json").write_text("{}")
    (tmp_path / "images").mkdir()
    source = (tmp_path / name).as_uri() if change.get("as_uri") else name
    data = f"{{annotations: val.json, images: {change.get('images', 'images')}}}"
    device = change.get("device", "cpu")
    text = HEAD.replace("rtmo-s", source)
    text += f"accuracy: {{data: {data}, measure: [source], device: {device}}}\n"
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(text)
    for run in (plan_release, run_release):
        with pytest.raises(error, match=said):
            run(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
