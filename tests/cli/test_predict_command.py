"""``rtmo-deploy predict``."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.media.sources import Source
from rtmo_deploy.runtime import PoseEstimator, read_image
from rtmo_deploy.runtime.draw import draw_poses
from rtmo_deploy.runtime.sinks import target_names


def run(*arguments):
    return CliRunner().invoke(app, ["predict", *(str(argument) for argument in arguments)])


def no_constants(name):
    raise AssertionError(f"{name} is no JSON")


def document_of(result, code=0):
    assert result.exit_code == code, result.output
    document = json.loads(result.stdout, parse_constant=no_constants)
    assert document["schema_version"] == 1
    assert document["command"] == "predict"
    return document


@pytest.fixture
def folder(pictures, tmp_path):
    """Two good images, two bad ones, a note, and one more in a folder inside."""
    made = tmp_path / "in"
    (made / "deeper").mkdir(parents=True)
    shutil.copy(pictures[0], made / "a.png")
    shutil.copy(pictures[3], made / "d.png")
    (made / "b.png").write_bytes(pictures[1].read_bytes()[:500])
    (made / "c.jpg").write_bytes(b"")
    (made / "note.txt").write_text("no image")
    shutil.copy(pictures[3], made / "deeper" / "a.png")
    return made


def test_the_json_document(onnx_n, pictures):
    document = document_of(run(onnx_n, pictures[0], pictures[1], "--json"))
    found = {"images", "videos", "frames", "events", "failed"}
    assert set(document) == {"schema_version", "command", "model", "backend", "device", "skeleton"} | found
    assert document["model"] == str(onnx_n)
    assert (document["backend"], document["device"], document["failed"]) == ("onnxruntime", "cpu", [])
    assert document["skeleton"]["name"] == "coco-17"
    estimator = PoseEstimator.open(onnx_n)
    for image, picture in zip(document["images"], pictures[:2], strict=True):
        poses = estimator(picture)
        height, width = read_image(picture).shape[:2]
        assert (image["path"], image["width"], image["height"], image["drawn"]) == (str(picture), width, height, None)
        assert len(image["people"]) == len(poses) > 0
        assert image["people"] == poses.to_dict()
        assert len(image["people"][0]["keypoints"]) == 17


def test_people_below_a_threshold_are_left_out(onnx_n, checkpoint_n, pictures):
    everybody = [entry["people"] for entry in document_of(run(onnx_n, *pictures, "--json"))["images"]]
    scores = sorted(person["score"] for people in everybody for person in people)
    threshold = scores[len(scores) // 2]
    some = document_of(run(onnx_n, *pictures, "--score-thr", threshold, "--json"))["images"]
    assert [entry["people"] for entry in some] == [
        [person for person in people if person["score"] > threshold] for people in everybody
    ]
    result = run(onnx_n, *pictures, "--score-thr", 0.001)
    assert result.exit_code == 2
    assert "0.001 is below 0.1, the model's own" in " ".join(result.stderr.split())
    weak = document_of(run(checkpoint_n, *pictures, "--score-thr", 0.001, "--json"))["images"]
    assert sum(len(entry["people"]) for entry in weak) > len(scores)


def test_the_table(checkpoint_n, pictures):
    result = run(checkpoint_n, pictures[3], "--threads", 1)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if str(pictures[3]) in line]
    poses = PoseEstimator.open(checkpoint_n)(pictures[3])
    cells = re.split(r"  +", line.strip())
    strong = int((poses.scores > 0.5).sum())
    assert cells == [str(pictures[3]), "160x120", str(len(poses)), str(strong), f"{poses.scores[0]:.3f}"]
    assert f"{len(poses)} people in 1 image, {strong} with a score above 0.5." in result.stderr
    assert f"detecting: 1 of 1 ({pictures[3].name}) ..." in result.stderr
    assert "detecting" not in result.stdout


def test_a_folder_with_bad_pictures_in_it(onnx_n, folder):
    result = run(onnx_n, folder, "--json")
    document = document_of(result, code=3)
    assert [image["path"] for image in document["images"]] == [str(folder / "a.png"), str(folder / "d.png")]
    assert [failed["path"] for failed in document["failed"]] == [str(folder / "b.png"), str(folder / "c.jpg")]
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == [f"Error: {failed['error']}" for failed in document["failed"]]
    assert "cut off" in errors[0]
    assert "empty" in errors[1]
    assert "Traceback" not in result.stderr


def test_globs_files_and_folders_each_picture_once(onnx_n, folder, monkeypatch):
    monkeypatch.chdir(folder)
    document = document_of(run(onnx_n, "a.png", "[ad].png", "./deeper", "--json"))
    assert [image["path"] for image in document["images"]] == ["a.png", "d.png", "deeper/a.png"]
    document = document_of(run(onnx_n, ".", "--recursive", "--json"), code=3)
    assert {image["path"] for image in document["images"]} == {"a.png", "d.png", "deeper/a.png"}


def test_a_source_that_is_nothing_does_not_stop_the_others(onnx_n, pictures):
    document = document_of(run(onnx_n, "nowhere.jpg", pictures[3], "*.nothing", "--json"), code=3)
    assert len(document["images"]) == 1
    assert [failed["path"] for failed in document["failed"]] == ["nowhere.jpg", "*.nothing"]


def test_drawing(onnx_n, pictures, tmp_path):
    out = tmp_path / "vis" / "deep"
    document = document_of(run(onnx_n, pictures[0], pictures[1], "--vis-out-dir", out, "--kpt-thr", 0, "--json"))
    assert {path.name for path in out.iterdir()} == {pictures[0].name, pictures[1].name}
    for image, picture in zip(document["images"], pictures[:2], strict=True):
        assert image["drawn"] == str(out / picture.name)
        before, after = cv2.imread(str(picture)), cv2.imread(image["drawn"])
        assert before.shape == after.shape
        assert 0.001 < (before != after).any(axis=2).mean() < 0.99


def test_weak_people_are_in_the_results_and_not_in_the_drawing(onnx_n, pictures, tmp_path):
    source = pictures[3]
    poses = PoseEstimator.open(onnx_n)(source)
    assert 0 < (poses.scores > 0.5).sum() < len(poses)
    for options, threshold in (((), 0.5), (("--score-thr", 0.2), 0.2), (("--draw-thr", 0.3), 0.3)):
        document = document_of(run(onnx_n, source, "--vis-out-dir", tmp_path, "--force", *options, "--json"))
        least = 0.2 if "--score-thr" in options else 0.1
        assert len(document["images"][0]["people"]) == int((poses.scores > least).sum())
        wanted = draw_poses(read_image(source), poses[poses.scores > threshold], keypoint_thr=0.3)
        assert np.array_equal(cv2.imread(document["images"][0]["drawn"]), wanted)


def test_nobody_is_said(onnx_n, pictures):
    result = run(onnx_n, *pictures[:3], "--score-thr", 0.999)
    assert result.exit_code == 0
    assert "0 people in 3 images: no score is above 0.999." in result.stderr


def test_two_pictures_of_one_name_do_not_overwrite_each_other(onnx_n, folder, pictures, tmp_path):
    shutil.copy(pictures[4], folder / "A.PNG")
    out = tmp_path / "vis"
    sources = (folder / "a.png", folder / "deeper" / "a.png", folder / "A.PNG")
    document = document_of(run(onnx_n, *sources, "--vis-out-dir", out, "--json"))
    drawn = [image["drawn"] for image in document["images"]]
    assert [path.rsplit("/", 1)[-1] for path in drawn] == ["a.png", "a_2.png", "A_3.PNG"]
    for source, path in zip(sources, drawn, strict=True):
        assert cv2.imread(path).shape == cv2.imread(str(source)).shape


def test_pictures_of_every_kind(onnx_n, tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 9, 3), np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(image[:1, :1]).save(tmp_path / "one.png")
    cv2.imwrite(str(tmp_path / "deep.png"), image.astype(np.uint16) * 257)
    Image.fromarray(image).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(image).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(image).convert("RGBA").save(tmp_path / "alpha.webp")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "turned.jpg", exif=turned)
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((2, 20_000, 3), 90, np.uint8))
    document = document_of(run(onnx_n, tmp_path, "--vis-out-dir", tmp_path / "vis", "--json"))
    sizes = {image["path"].rsplit("/", 1)[-1]: (image["width"], image["height"]) for image in document["images"]}
    assert sizes == {
        "one.png": (1, 1),
        "deep.png": (90, 60),
        "cmyk.jpg": (90, 60),
        "grey.png": (90, 60),
        "alpha.webp": (90, 60),
        "turned.jpg": (60, 90),
        "wide.png": (20_000, 2),
    }
    for image in document["images"]:
        assert cv2.imread(image["drawn"]).shape == (image["height"], image["width"], 3)


def test_another_size_and_backend(onnx_n, checkpoint_n, pictures):
    one = document_of(run(onnx_n, pictures[0], "--imgsz", 128, 192, "--json"))
    two = document_of(run(checkpoint_n, pictures[0], "--imgsz", 128, 192, "--backend", "torch", "--json"))
    assert (one["backend"], two["backend"]) == ("onnxruntime", "torch")
    scores = [[person["score"] for person in document["images"][0]["people"]] for document in (one, two)]
    assert len(scores[0]) == len(scores[1]) > 0
    assert np.allclose(*scores, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--imgsz", "100", "100"), 2, "multiples of 32"),
        (("--device", "tpu"), 2, "There is no device 'tpu'"),
        (("--backend", "torch"), 2, "Those that do: onnxruntime"),
        (("--threads", "0"), 2, "threads"),
        (("--kpt-thr", "2"), 2, "kpt-thr"),
    ],
)
def test_what_makes_no_sense(onnx_n, pictures, arguments, code, words):
    result = run(onnx_n, pictures[0], *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""


def test_a_gpu_that_is_not_there(onnx_n, pictures, monkeypatch):
    import onnxruntime as ort

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    result = run(onnx_n, pictures[0], "--device", "cuda")
    assert result.exit_code == 5
    assert "--device cpu" in result.stderr
    assert result.stdout == ""


def test_models_that_are_none(pictures, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    (tmp_path / "x.pth").write_bytes(b"garbage")
    for name in ("x.onnx", "x.pth", "nowhere.onnx", "nowhere.pth"):
        result = run(tmp_path / name, pictures[0])
        assert result.exit_code == 4, name
        assert str(tmp_path / name) in result.stderr
        assert result.stdout == ""


def test_a_folder_for_drawings_that_cannot_be_written_to(onnx_n, pictures, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    result = run(onnx_n, pictures[0], "--vis-out-dir", tmp_path / "file" / "vis")
    assert result.exit_code == 5
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["with [brackets] and :cat:.png", "ünï☃.png"])
def test_names_are_printed_as_they_are(onnx_n, pictures, tmp_path, name):
    shutil.copy(pictures[3], tmp_path / name)
    result = run(onnx_n, tmp_path / name, "--vis-out-dir", tmp_path / "vis")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / name) in result.stdout
    (tmp_path / name).write_bytes(b"")
    result = run(onnx_n, tmp_path / name)
    assert result.exit_code == 3
    assert str(tmp_path / name) in result.stderr


def test_a_name_that_is_no_text(onnx_n, pictures, tmp_path):
    name = tmp_path.joinpath("\udcff.png")
    try:
        shutil.copy(pictures[3], name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    assert document_of(run(onnx_n, tmp_path, "--json"))["images"][0]["path"] == str(name)
    result = run(onnx_n, tmp_path)
    assert result.exit_code == 0, result.output
    assert "160x120" in result.stdout


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_photograph_is_never_drawn_over(onnx_n, pictures, tmp_path, force):
    mine = tmp_path / "a" / "y.jpg"
    mine.parent.mkdir()
    mine.write_bytes(pictures[0].read_bytes())
    (tmp_path / "link").symlink_to(mine.parent)
    for out in (mine.parent, tmp_path / "link"):
        result = run(onnx_n, mine, "--vis-out-dir", out, *force)
        assert result.exit_code == 2
        assert "one of the inputs" in result.stderr
    assert mine.read_bytes() == pictures[0].read_bytes()


def test_a_folder_goes_on_after_files_that_are_no_images(onnx_n, folder):
    os.mkfifo(folder / "fifo.jpg")
    (folder / "bomb.png").write_bytes(cv2.imencode(".png", np.zeros((300, 400, 3), np.uint8))[1].tobytes())
    document = document_of(run(onnx_n, folder, "--max-pixels", 100_000, "--json"), code=3)
    assert [Path(image["path"]).name for image in document["images"]] == ["a.png", "d.png"]
    failed = {Path(one["path"]).name: one["error"] for one in document["failed"]}
    assert sorted(failed) == ["b.png", "bomb.png", "c.jpg", "fifo.jpg"]
    assert "400x300 = 120,000 pixels; at most 100,000 are read" in failed["bomb.png"]
    assert "it is a FIFO" in failed["fifo.jpg"]
    assert "RTMO_DEPLOY_MAX_PIXELS" not in os.environ


def test_thousands_of_images_of_one_name_take_no_time(tmp_path):
    names = target_names([Source(str(tmp_path / str(number) / "x.jpg"), "image") for number in range(5000)])
    assert len(set(names.values())) == 5000
    assert list(names.values())[:3] == ["x.jpg", "x_2.jpg", "x_3.jpg"]
