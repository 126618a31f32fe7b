"""The rows of a block of images, and the folder that they are in; without Ray."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtmo_deploy import RTMO
from rtmo_deploy.bulk import Job, RunFolder, find_images
from rtmo_deploy.bulk.worker import Worker, schema
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError


@pytest.fixture
def job(onnx_n):
    return Job.of(onnx_n, opening={"threads": 1}, device="cpu", batch=2)


@pytest.fixture
def images(pictures, tmp_path):
    """Five good images with two bad ones among them."""
    (tmp_path / "cut.png").write_bytes(pictures[1].read_bytes()[:500])
    (tmp_path / "text.jpg").write_text("no image")
    names = [pictures[0], tmp_path / "cut.png", pictures[1], tmp_path / "text.jpg", *pictures[2:]]
    return find_images([str(name) for name in names])[0]


def same(people: list[dict], poses) -> None:
    """Whether a row's people are these, but for the last digits."""
    assert len(people) == len(poses)
    for person, one in zip(people, poses.to_dict(), strict=True):
        assert person["score"] == pytest.approx(one["score"], abs=1e-4)
        assert np.allclose(person["box"], one["box"], atol=0.05)
        assert np.allclose(person["keypoints"], one["keypoints"], atol=0.05)


def test_rows_are_what_predict_finds(job, images, pictures, tmp_path):
    table = Worker(job, tmp_path)(images)
    assert table.schema == schema()
    rows = {Path(row["id"]).name: row for row in table.to_pylist()}
    assert [row["id"] for row in rows.values()] == images["id"].to_pylist()
    found = RTMO(job.model, device="cpu").predict(pictures)
    for picture, poses in zip(pictures, found, strict=True):
        row = rows[picture.name]
        assert (row["height"], row["width"], row["error"]) == (*poses.image_hw, None)
        assert row["source"] == str(picture)
        same(row["people"], poses)
        assert row["people"]
    for name, said in (("cut.png", "cut off"), ("text.jpg", "not")):
        row = rows[name]
        assert said in row["error"]
        assert row["people"] is row["width"] is row["height"] is None
    assert not [*tmp_path.glob("*[0-9a-f]" * 64)]


def test_thresholds_and_nobody(job, images, pictures, tmp_path):
    strict = replace(job, score_thr=0.999, max_people=1)
    assert {len(people) for people in Worker(strict, tmp_path)(images)["people"].to_pylist() if people is not None} == {
        0
    }
    one = Worker(replace(job, max_people=1), tmp_path)(images)["people"].to_pylist()
    assert {len(people) for people in one if people is not None} == {1}


def test_an_image_that_workers_died_of_is_a_row(job, images, tmp_path):
    """A worker that dies leaves the mark of its block; the next does the images one by one and names each."""
    worker = Worker(job, tmp_path)
    whole = worker(images)
    mark = tmp_path / hashlib.sha256(images["id"][0].as_py().encode()).hexdigest()
    mark.touch()
    assert worker(images).column("error").to_pylist() == whole.column("error").to_pylist()
    assert not mark.exists()
    killer = images["file"][2].as_py()
    mark.write_text(f"{killer.hex()}\n" * 2)
    rows = worker(images).to_pylist()
    assert "Workers die of it." in rows[2]["error"]
    assert rows[2]["people"] is None
    assert [row["people"] is None for row in rows] == [False, True, True, False, False, False, True]
    mark.write_text(f"{killer.hex()}\n")  # once may be chance
    assert worker(images).to_pylist()[2]["people"]


def test_another_model_on_a_node(job, tmp_path):
    with pytest.raises(ArtifactError, match="another file on this node"):
        Worker(replace(job, files={str(job.model): "0" * 64}), tmp_path)
    with pytest.raises(ArtifactError, match="every node"):
        Worker(replace(job, files={str(tmp_path / "none.onnx"): "0" * 64}), tmp_path)


def filled(folder: RunFolder, job: Job, images: pa.Table) -> None:
    """Results as Ray writes them: two files that are whole, and one that is being written."""
    folder.plan(images)
    table = Worker(job, folder.attempts)(images)
    for number, part in enumerate((table[:3], table[3:5], table[5:])):
        name = f"a_b_{number:06}"
        pq.write_table(part, folder.results / f"{name}-0.parquet")
        pq.write_table(part.select(["id"]), folder.marks / f"{name}{'.pending' if number == 2 else ''}.parquet")


def test_only_whole_files_count(job, images, tmp_path):
    folder = RunFolder(tmp_path / "out")
    with folder.opened(job.asked(), {}):
        assert folder.left(images).equals(images)
        filled(folder, job, images)
        (folder.results / "a_b_000002-0.parquet").write_bytes(b"PAR1 half")
        assert len([*folder.written()]) == 2
        left = folder.left(images)
        assert left["id"].to_pylist() == images["id"].to_pylist()[5:]
        (folder.results / "a_b_000001-0.parquet").write_bytes(b"PAR1 cut off by a power failure")
        assert folder.left(images)["id"].to_pylist() == images["id"].to_pylist()[3:]
        found = folder.found(0.5)
        assert (found.images, len(found.failures)) == (3, 1)
        with pytest.raises(UsageError, match="rows of 3 images that are not among"):
            folder.left(images[3:])


def test_files_of_workers_that_outlived_their_run(job, images, tmp_path):
    folder = RunFolder(tmp_path / "out")
    with folder.opened(job.asked(), {}):
        filled(folder, job, images)
        folder.clean()
        before = folder.files()
        for name in ("old_b_000007-0.parquet", "new_b_000000-0.parquet"):
            (folder.results / name).touch()
        folder.clean(keep="new", before=before)
        assert [file.name for file in folder.files()] == [*(file.name for file in before), "new_b_000000-0.parquet"]


def test_a_run_goes_on_only_with_the_same(job, images, tmp_path, onnx_n):
    folder = RunFolder(tmp_path / "out")
    with folder.opened(job.asked(), {}):
        filled(folder, job, images)
        with pytest.raises(UsageError, match="Another process"), RunFolder(folder.path).opened(job.asked(), {}):
            pass
    others = {
        "score thr": replace(job, score_thr=0.3),
        "max people": replace(job, max_people=3),
        "input hw": replace(job, opening={"input_hw": (256, 256)}),
        "reduce jpeg": replace(job, reduce=True),
        "model": replace(job, files={"x": "0" * 64}),
        "max pixels": replace(job, environment={"RTMO_DEPLOY_MAX_PIXELS": "1"}),
    }
    for name, other in others.items():
        with pytest.raises(UsageError, match=f"another {name}"), folder.opened(other.asked(), {}):
            pass
    with folder.opened(replace(job, batch=5, threads=3, device="cuda").asked(), {}):
        assert folder.files()
    with folder.opened(others["model"].asked(), {}, force=True):
        assert not folder.files()
    record = json.loads((folder.path / "run.json").read_text())
    assert (record["asked"]["model"], record["finished"]) == (["0" * 64], False)
    (folder.path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="it is not JSON"), folder.opened(job.asked(), {}):
        pass


def test_folders_that_are_something_else(job, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    (tmp_path / "file").touch()
    refused = {"mine": "no bulk run has made it", "file": "This is a file", "s3://bucket/x": "not to addresses"}
    for name, said in refused.items():
        for force in (False, True):
            path = tmp_path / name if "://" not in name else type(tmp_path)(name)
            with pytest.raises(UsageError, match=said), RunFolder(path).opened(job.asked(), {}, force=force):
                pass
    assert (tmp_path / "mine" / "photo.jpg").exists()
    below = RunFolder(tmp_path / "file" / "out")
    with pytest.raises(SetupError, match="could not be written"), below.opened(job.asked(), {}):
        pass


def test_the_example_of_the_docs(job, images, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "bulk.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("people"))
    with folder.opened(job.asked(), {}):
        filled(folder, job, images)
    scope: dict = {}
    exec(page.partition("```python\n")[2].partition("```")[0], scope)
    assert len(scope["found"]) == len(images)
    assert scope["bad"]["source"].str.ends_with("cut.png").any()
    strong = sum(person["score"] > 0.5 for people in scope["found"]["people"].drop_nulls() for person in people)
    assert len(scope["people"]) == strong > 0
    assert len(scope["people"]["nose"][0]) == 3
