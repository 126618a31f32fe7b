"""``rtmo-deploy eval``."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_files import category, document, image, person, write
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.measure.accuracy import Published
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.zoo.skeletons import AIC_14

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "metrics" / "cases.json.xz"


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])


def document_of(result):
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["schema_version"], made["command"]) == (1, "eval")
    return made


@pytest.fixture(scope="module")
def annotated(onnx_n, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    estimator = PoseEstimator.open(onnx_n)
    images, people = [], []
    for number, path in enumerate(pictures, 1):
        height, width = cv2.imread(str(path)).shape[:2]
        images.append(image(number, width=width, height=height))
        shutil.copy(path, folder / f"{number}.png")
        best = estimator(path)[0]
        rows = np.concatenate([best.keypoints[0], np.full((17, 1), 2)], axis=1)
        x1, y1, x2, y2 = best.boxes[0].tolist()
        box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        people.append(person(number, number, keypoints=rows.ravel().tolist(), **box))
    made = {"images": images, "annotations": people, "categories": [category()]}
    (folder / "people.json").write_text(json.dumps(made))
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def call(onnx_n, annotated, *more):
    return run(onnx_n, "--ann", annotated / "people.json", "--images", annotated, "--threads", 1, *more)


def test_the_json_document(onnx_n, annotated, tmp_path):
    saved = tmp_path / "found.json"
    made = document_of(call(onnx_n, annotated, "--json", "--save", saved))
    assert made["model"] == str(onnx_n)
    assert len(made["model_sha256"]) == 64
    assert (made["backend"], made["device"], made["input_hw"]) == ("onnxruntime", "cpu", [256, 256])
    assert (made["images"], made["people"], made["protocol"], made["score_thr"]) == (5, 5, "coco", 0.1)
    assert list(made["metrics"]) == ["AP", "AP50", "AP75", "AP(M)", "AP(L)", "AR", "AR50", "AR75", "AR(M)", "AR(L)"]
    assert made["metrics"]["AR"] == pytest.approx(1)
    assert (made["published"], made["saved"], made["resumed"]) == (None, str(saved), 0)
    assert made["annotations"] == str(annotated / "people.json")
    entries = json.loads(saved.read_text())
    assert len(entries) == made["detections"] > 5
    # Judged from the file, the same figures come out.
    again = document_of(run("--predictions", saved, "--ann", annotated / "people.json", "--json"))
    assert again["metrics"] == made["metrics"]
    assert again["predictions"] == str(saved)
    fewer = document_of(
        run("--predictions", saved, "--ann", annotated / "people.json", "--json", "--score-thr", 0.3, "--max-images", 2)
    )
    assert fewer["images"] == 2
    assert fewer["detections"] == sum(entry["score"] > 0.3 and entry["image_id"] <= 2 for entry in entries)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["found.json"], ["cache", "found.json"])


def test_the_table(onnx_n, annotated, monkeypatch):
    import rtmo_deploy.measure.accuracy as accuracy

    figures = Published("rtmo-x-body7", "COCO val2017", "coco", {"AP": 0.5, "AR": 0.625})
    monkeypatch.setattr(accuracy, "published_figures", lambda *_: figures)
    result = call(onnx_n, annotated, "--max-images", 2)
    assert result.exit_code == 0, result.output
    lines = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()]
    assert ["coco protocol", "measured", "rtmo-x-body7, published, COCO val2017"] in lines
    rows = {line[0]: line[1:] for line in lines if len(line) == 3}
    assert rows["AP"][1] == "0.5000"
    assert rows["AR"] == ["1.0000", "0.6250"]
    assert rows["AP50"][1] == "-"
    assert "evaluating: 0 of 2 ..." in result.stderr
    assert "evaluating" not in result.stdout
    other = Published("rtmo-x-crowdpose", "CrowdPose test", "crowdpose", {"AP": 0.5})
    monkeypatch.setattr(accuracy, "published_figures", lambda *_: other)
    assert "published" not in call(onnx_n, annotated, "--max-images", 2).stdout


def test_the_golden_figures(tmp_path):
    cases = json.loads(lzma.decompress(GOLDEN.read_bytes()))
    (tmp_path / "people.json").write_text(json.dumps(cases["ground_truth"]["crowdpose_synth"]))
    (tmp_path / "found.json").write_text(json.dumps(cases["predictions"]["crowdpose_synth_noise0.01"]))
    result = run("--ann", tmp_path / "people.json", "--predictions", tmp_path / "found.json", "--json")
    made = document_of(result)
    assert made["metrics"] == pytest.approx(cases["expected"]["crowdpose_synth_noise0.01"], abs=1e-9)
    as_coco = document_of(
        run("--ann", tmp_path / "people.json", "--predictions", tmp_path / "found.json", "--json", "--dataset", "coco")
    )
    assert as_coco["protocol"] == "coco"
    sigma = document_of(
        run("--ann", tmp_path / "people.json", "--predictions", tmp_path / "found.json", "--json", "--sigma", "0.001")
    )
    assert sigma["metrics"]["AP"] < made["metrics"]["AP"]


@pytest.mark.parametrize(
    ("arguments", "code", "finding"),
    [
        ([], 2, "no annotations"),
        (["--ann", "{ann}"], 2, "Either a model"),
        (["{model}", "--ann", "{ann}", "--predictions", "x.json"], 2, "Either a model"),
        (["{model}", "--ann", "{ann}"], 2, "Give --images"),
        (["--predictions", "{ann}", "--ann", "{ann}", "--save", "x.json"], 2, "Leave --save away"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--dataset", "mpii"], 2, "no protocol 'mpii'"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--sigma", "a,b"], 2, "no list of sigmas"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--sigma", "1,2"], 2, "2 sigmas do not fit 17"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--score-thr", "0.05"], 2, "0.05 is below"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--backend", "x"], 2, "No backend called 'x'"),
        (["{model}", "--ann", "{dir}/no.json", "--images", "{dir}"], 3, "There is no such file"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}/no"], 3, "There is no such folder"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--category", "dog"], 3, "no category 'dog'"),
        (["--predictions", "{ann}", "--ann", "{ann}"], 3, "not a list"),
        (["{dir}/no.onnx", "--ann", "{ann}", "--images", "{dir}"], 4, "no such file"),
        (["{model}", "--ann", "{ann}", "--images", "{dir}", "--journal-dir", "{ann}/x"], 5, "--journal-dir"),
    ],
)
def test_exit_codes(onnx_n, annotated, arguments, code, finding):
    places = {"model": onnx_n, "ann": annotated / "people.json", "dir": annotated}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == code, result.output
    assert finding in result.stderr
    assert result.stdout == ""


def test_unreadable_pictures_and_notes(onnx_n, tmp_path):
    people = [person(1, 1), person(2, 2), person(3, 77)]
    path = write(tmp_path, document([image(1), image(2), image(3)], people))
    for number in (1, 3):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"x")
    result = run(onnx_n, "--ann", path, "--images", tmp_path / "pictures")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "1.png" in result.stderr
    assert "3.png" in result.stderr
    assert "2.png" not in result.stderr
    assert f"Note: {path}: annotation 3: the image id is not in the file" in result.stderr


def test_custom_keypoints_need_a_sigma(tmp_path):
    people = [person(1, 1, joints=2)]
    path = write(tmp_path, document([image(1)], people, [category(["a", "b"])]), pictures=False)
    found = tmp_path / "found.json"
    points = people[0]["keypoints"]
    found.write_text(json.dumps([{"image_id": 1, "keypoints": points, "score": 1, "bbox": [5, 5, 35, 35]}]))
    result = run("--ann", path, "--predictions", found, "--json")
    assert result.exit_code == 2
    assert "--sigma" in result.stderr
    made = document_of(run("--ann", path, "--predictions", found, "--json", "--sigma", "0.05,0.1"))
    assert made["sigmas"] == [0.05, 0.1]
    assert made["metrics"]["AP"] == pytest.approx(1)


#: The command, which comes no farther than to the image 30: it is not done before it is killed.
WAITING = """
import sys, time
from rtmo_deploy.cli import main
sys.addaudithook(lambda event, told: event == "open" and str(told[0]).endswith("30.png") and time.sleep(600))
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
@pytest.mark.slow
def test_killed_and_called_again(onnx_n, annotated, tmp_path):
    """A real process, killed without notice; the next call says where it goes on and ends with the same file."""
    folder = tmp_path / "many"
    folder.mkdir()
    made = json.loads((annotated / "people.json").read_text())
    images = [{**made["images"][n % 5], "id": n, "file_name": f"{n}.png"} for n in range(60)]
    for n in range(60):
        shutil.copy(annotated / f"{n % 5 + 1}.png", folder / f"{n}.png")
    (folder / "people.json").write_text(json.dumps({**made, "images": images}))
    saved, journal = tmp_path / "found.json", tmp_path / ".found.json.journal"
    words = ["eval", str(onnx_n), "--ann", str(folder / "people.json")]
    words += ["--images", str(folder), "--batch", "1", "--threads", "1", "--save", str(saved), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    try:
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert not saved.exists()
    command = [sys.executable, "-m", "rtmo_deploy", *words]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    resumed = json.loads(again.stdout)["resumed"]
    assert resumed >= 4
    assert f"An earlier run had done {resumed} of 60 images; going on from there." in again.stderr
    assert not journal.exists()
    first = saved.read_bytes()
    saved.unlink()
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "An earlier run" not in whole.stderr
    assert saved.read_bytes() == first
    assert {**json.loads(whole.stdout), "resumed": resumed} == json.loads(again.stdout)


def test_sigmas_are_named_and_guesses_refused(tmp_path):
    """AI Challenger's 14 points are not CrowdPose's."""
    people = [person(1, 1, joints=14)]
    entry = {"image_id": 1, "category_id": 1, "keypoints": people[0]["keypoints"], "score": 1, "bbox": [5, 5, 35, 35]}
    found = tmp_path / "found.json"
    found.write_text(json.dumps([entry]))

    def judged(names, *options):
        path = write(tmp_path, document([image(1)], people, [category(names)]), pictures=False)
        return run("--ann", path, "--predictions", found, *options)

    aic = [*AIC_14.keypoints[:12], "top_head", "neck"]
    shown = judged(aic)
    assert shown.exit_code == 0
    assert "aic-14" in shown.stdout
    assert "0.0138815" in shown.stdout
    made = document_of(judged(aic, "--json"))
    assert (made["sigmas_from"], made["sigmas"]) == ("aic-14", list(AIC_14.sigmas))
    mixed = [aic[3], *aic[:3], *aic[4:]]
    refused = judged(mixed)
    assert refused.exit_code == 3
    assert "--skeleton" in refused.stderr
    assert "guessed from names" in refused.stderr
    assert document_of(judged(mixed, "--json", "--sigma", "0.05"))["sigmas_from"] == "given"
    assert document_of(judged(mixed, "--json", "--skeleton", "crowdpose-14"))["sigmas_from"] == "crowdpose-14"
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"keypoints": mixed, "sigmas": [0.03] * 14}))
    assert document_of(judged(mixed, "--json", "--skeleton", own))["sigmas"] == [0.03] * 14
    for text in ("{", "[1]", '{"keypoints": ["a"], "sigmas": [-1]}', '{"keypoints": 3}'):
        own.write_text(text)
        assert judged(mixed, "--skeleton", own).exit_code == 3
    assert judged(mixed, "--skeleton", "nobody-99").exit_code == 3


@pytest.mark.parametrize("fields", [{"category_id": 7}, {"num_keypoints": 0}, {"iscrowd": 1}])
def test_an_evaluation_of_nobody_is_refused(tmp_path, fields):
    path = write(tmp_path, document([image(1)], [person(1, 1, **fields)]), pictures=False)
    found = tmp_path / "found.json"
    found.write_text("[]")
    result = run("--ann", path, "--predictions", found)
    assert result.exit_code == 3
    assert "nobody to find" in result.stderr
