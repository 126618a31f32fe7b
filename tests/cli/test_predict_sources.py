"""``rtmo-deploy predict`` on videos and mixed sources: every output, what cannot be read, and interrupts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.interrupt import Interrupts
from rtmo_deploy.cli.tally import Tally
from rtmo_deploy.data.images import read_image
from rtmo_deploy.media.frame import Event
from rtmo_deploy.media.sources import Source
from rtmo_deploy.media.video import video_info
from rtmo_deploy.media.video_writer import VideoWriter
from rtmo_deploy.runtime import stream as streaming


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)


def video_of(path: Path, picture: Path, times: Sequence[float]) -> Path:
    """A view that moves over a picture."""
    image = read_image(picture)
    with VideoWriter(path) as writer:
        for number, time_s in enumerate(times):
            writer.write(np.roll(image, number, axis=1), time_s)
    return path


TIMES = [0.0, 0.04, 0.1, 0.5, 0.54, 0.6, 0.64, 1.2]


@pytest.fixture(scope="module")
def walk(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_of(tmp_path_factory.mktemp("walk") / "walk.mp4", pictures[0], TIMES)


def frames_in(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_every_output_of_a_video_and_an_image(onnx_n: Path, walk: Path, pictures: list[Path], tmp_path: Path) -> None:
    import polars as pl
    from faster_coco_eval import COCO

    out = {kind: tmp_path / f"out.{kind}" for kind in ("jsonl", "csv", "parquet", "coco")}
    options = [word for kind, path in out.items() for word in (f"--{kind}", path)]
    drawing = ("--vis-out-dir", tmp_path / "vis", "--save-video", tmp_path / "drawn.mkv", "--crops", tmp_path / "crops")
    result = run(onnx_n, walk, pictures[3], *options, *drawing, "--track", "--smooth", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    frames = document["frames"]
    assert [frame["time_s"] for frame in frames] == pytest.approx(TIMES, abs=1e-3)
    assert [frame["frame"] for frame in frames] == list(range(8))
    (video,) = document["videos"]
    assert video == {
        "path": str(walk),
        "frames": 8,
        "people": sum(len(frame["people"]) for frame in frames),
        "drawn": [str(tmp_path / "vis" / "walk.mp4"), str(tmp_path / "drawn.mkv")],
    }
    (image,) = document["images"]
    assert (image["path"], image["drawn"]) == (str(pictures[3]), str(tmp_path / "vis" / pictures[3].name))
    everybody = video["people"] + len(image["people"])
    ids = [[person["track_id"] for person in frame["people"]] for frame in frames]
    assert all(len({*known}) == len(known) for row in ids if (known := [one for one in row if one is not None]))
    assert not any("track_id" in person for person in image["people"])

    lines = [json.loads(line) for line in out["jsonl"].read_text("utf-8").splitlines()]
    kept = ("source", "frame", "time_s", "width", "height", "people")
    assert [{name: line[name] for name in kept} for line in lines[:8]] == frames
    assert lines[8]["people"] == image["people"]
    with out["csv"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == everybody
    assert pl.read_parquet(out["parquet"])["frame"].to_list() == [int(row["frame"]) for row in rows]
    coco = COCO(str(out["coco"]))
    assert (len(coco.getImgIds()), len(coco.getAnnIds())) == (9, everybody)

    for path in (tmp_path / "vis" / "walk.mp4", tmp_path / "drawn.mkv"):
        drawn = frames_in(path)
        assert [frame.time for frame in drawn] == pytest.approx(TIMES, abs=2e-3)
        plain = frames_in(walk)
        changed = np.abs(drawn[3].to_ndarray(format="bgr24").astype(int) - plain[3].to_ndarray(format="bgr24"))
        assert (changed.max(axis=2) > 40).mean() > 0.01
    strong = [row for row in rows if float(row["score"]) > 0.5]
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == len(strong)
    named = {path.stem for path in (tmp_path / "crops" / "walk").iterdir() if path.name.startswith("000003_")}
    shown = [person["track_id"] for person in frames[3]["people"] if person["score"] > 0.5]
    wanted = {f"id{number}" if number is not None else f"{place}" for place, number in enumerate(shown, 1)}
    assert named == {f"000003_{name}" for name in wanted}
    assert f"{everybody} people in 1 image and 8 frames, {len(strong)} with a score above 0.5." in result.stderr


def test_the_table_and_stride_and_most_people(onnx_n: Path, walk: Path, pictures: list[Path]) -> None:
    result = run(onnx_n, walk, pictures[3], "--stride", 3, "--max-people", 1)
    assert result.exit_code == 0, result.output
    rows = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines() if "/" in line]
    assert rows[0][:4] == [str(walk), "256x256", "3", "3"]
    assert rows[1][:4] == [str(pictures[3]), "160x120", "1", "1"]
    assert "detecting: 1 of 4 (" in result.stderr


def test_a_written_video_has_the_rate_of_the_frames_taken(
    onnx_n: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    even = video_of(tmp_path / "even.mp4", pictures[3], [index / 30 for index in range(12)])
    result = run(onnx_n, even, "--stride", 3, "--save-video", "o.mp4")
    assert result.exit_code == 0, result.output
    info = video_info("o.mp4")
    assert (info.frames, info.fps) == (4, 10)
    assert [frame.time for frame in frames_in(Path("o.mp4"))] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-4)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_results_on_stdout(onnx_n: Path, walk: Path, kind: str) -> None:
    result = run(onnx_n, walk, f"--{kind}", "-")
    assert result.exit_code == 0, result.output
    if kind == "jsonl":
        assert [json.loads(line)["frame"] for line in result.stdout.splitlines()] == list(range(8))
    else:
        assert {row["source"] for row in csv.DictReader(io.StringIO(result.stdout))} == {str(walk)}


def test_a_list_on_stdin_and_in_a_file(onnx_n: Path, walk: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"# two\n{pictures[3]}\n\n{walk}\n")
    for result in (
        run(onnx_n, tmp_path / "list.txt", "--json"),
        run(onnx_n, "-", "--json", stdin=f"{pictures[3]}\n{walk}"),
    ):
        document = json.loads(result.stdout)
        assert [image["path"] for image in document["images"]] == [str(pictures[3])]
        assert [video["path"] for video in document["videos"]] == [str(walk)]
    assert "one of the inputs" in run(onnx_n, tmp_path / "list.txt", "--csv", tmp_path / "list.txt", "--force").stderr
    assert "there are only images" in run(onnx_n, pictures[3], "--track").stderr


def test_a_hostile_folder(onnx_n: Path, walk: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = read_image(pictures[3])
    for name, image in (("a.png", good), ("b.gif", good), ("c.jpg", good)):
        mode = Image.fromarray(image).convert("CMYK" if name == "c.jpg" else "RGB")
        turned = Image.Exif()
        turned[0x0112] = 6
        mode.save(folder / name, **({"exif": turned} if name == "c.jpg" else {}))
    shutil.copy(walk, folder / "walk.mp4")
    data = walk.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "bomb.png").write_bytes(cv2.imencode(".png", np.zeros((3000, 3000, 3), np.uint8))[1].tobytes())
    (folder / "corrupt.png").write_bytes(pictures[1].read_bytes()[:500])
    (folder / "document.jpg").write_bytes(b"%PDF-1.7\n" + bytes(100))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "photo.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(200))
    (folder / "note.md").write_text("nothing")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    words = (
        "--recursive",
        "--max-pixels",
        1_000_000,
        "--jsonl",
        tmp_path / "out.jsonl",
        "--vis-out-dir",
        tmp_path / "vis",
    )
    result = run(onnx_n, folder, *words)
    assert result.exit_code == 3, result.output
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    read = [Path(line["source"]).name for line in lines]
    assert sorted({*read}) == ["a.png", "b.gif", "c.jpg", "walk.mp4"]
    assert read.count("walk.mp4") == 8
    assert {line["width"] for line in lines if line["source"].endswith("c.jpg")} == {120}  # upright
    refused = {"bomb.png", "corrupt.png", "cut.mp4", "document.jpg", "empty.mp4", "fifo.jpg", "gone.jpg", "photo.heic"}
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert {next(name for name in refused if name in line) for line in errors} == refused
    assert len(errors) == len(refused)
    assert "people in 3 images and 8 frames" in result.stderr
    assert f"{len(refused)} sources not read" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in (tmp_path / "vis").iterdir()} == {"a.png", "b.gif.png", "c.jpg", "walk.mp4"}


def test_damaged_frames_are_counted(onnx_n: Path, walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(model: Any, sources: Any, *, on_event: Any, **_: Any) -> Any:
        frames = list(streaming_stream(model, sources, on_event=on_event))
        for event in (
            Event(str(walk), "broken", f"{walk}: one", frames=2),
            Event(str(walk), "broken", "two"),
            Event("0", "lost", "gone"),
            Event("0", "reconnected", "back"),
            Event("0", "dropped", "5 frames were skipped", frames=5),
        ):
            on_event(event)
        yield from frames

    streaming_stream = streaming.stream
    monkeypatch.setattr(streaming, "stream", damaged)
    result = run(onnx_n, walk, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["events"] == {"broken": 3, "lost": 1, "reconnected": 1, "dropped": 5}
    assert [one["path"] for one in document["failed"]] == [str(walk)]
    assert "3 frames damaged or missing" in document["failed"][0]["error"]
    assert len(document["frames"]) == 8
    assert "3 broken frames, 1 reconnect, 5 skipped frames." in result.stderr
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    told = [f"Note: {walk}: one", "Note: 0: gone", "Note: 0: back", "Note: 0: 5 frames were skipped"]
    assert [note for note in notes if "onnxruntime on" not in note] == told


def test_events_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally([Source("7", "live")], 0.5, total=None, keep=False)
    for kind in ("lost", "reconnected", "broken", "broken", "dropped"):
        tally.event(Event("7", kind, f"{kind} now", frames=3))
    notes = [f"Note: 7: {kind} now" for kind in ("lost", "reconnected", "broken", "dropped")]
    assert capsys.readouterr().err.splitlines() == notes
    assert tally.document()["events"] == {"broken": 6, "lost": 3, "reconnected": 3, "dropped": 3}


def test_which_is_the_model(
    onnx_n: Path, checkpoint_n: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pictures[3], tmp_path / "rtmo-s")  # a file of a published name
    for words in (("photo.png",), ("rtmo-s",)):
        result = run(*words)
        assert result.exit_code == 2
        assert f"'{words[0]}' is not a model, and none was made in this directory" in " ".join(result.stderr.split())
    result = run("rtmo-z", pictures[3])
    assert result.exit_code == 2
    assert "'rtmo-z' is neither a file nor a published model" in result.stderr
    for words in ((onnx_n,), (), ("--model", onnx_n)):
        result = run(*words)
        assert result.exit_code == 2
        assert "nothing to find people in" in result.stderr
    result = run("--model", onnx_n, "rtmo-s", "--json")
    assert [image["path"] for image in json.loads(result.stdout)["images"]] == ["rtmo-s"]
    shutil.copy(checkpoint_n, tmp_path / "mine.pth")
    made = CliRunner().invoke(app, ["export", "mine.pth", "-o", "newest.onnx", "--no-verify"])
    assert made.exit_code == 0, made.output
    result = run("rtmo-s", pictures[3])
    assert result.exit_code == 0, result.output
    assert "MODEL is newest.onnx, made here by export on " in result.stderr
    assert "2 images" in result.stderr
    with zipfile.ZipFile("published.zip", "w") as packed:
        packed.write("newest.onnx", "end2end.onnx")
    shutil.copy("published.zip", "packed")
    for word in ("published.zip", "packed", Path("packed").resolve().as_uri(), Path("newest.onnx").resolve().as_uri()):
        result = run(word, pictures[3])
        assert result.exit_code == 0, result.output
        assert "MODEL is" not in result.stderr
    monkeypatch.setenv("RTMO_DEPLOY_OFFLINE", "1")
    for word in ("hf://a/b/c.onnx@v1.0", "https://h/a.onnx?raw=1", "http://h/a.zip", f"https://h/a#sha256={'0' * 64}"):
        result = run(word, pictures[3])
        assert (result.exit_code, "is not in the cache" in " ".join(result.stderr.split())) == (5, True), result.output
    (tmp_path / "rtmo-n").mkdir()  # a folder does not hide a model
    result = run("rtmo-n", pictures[3], "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"].endswith(".pth")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--save-video", "walk.mp4"), "one of the inputs"),
        (("--save-video", "walk.mp4", "--force"), "one of the inputs"),
        (("--vis-out-dir", ".", "--force"), "one of the inputs"),
        (("--csv", "out", "--jsonl", "out"), "Two outputs have this name"),
        (("--csv", "-", "--jsonl", "-"), "cannot both be stdout"),
        (("--jsonl", "-", "--json"), "cannot both be stdout"),
        (("--coco", "-"), "cannot be written to stdout"),
        (("--csv", "there.csv"), "exists already"),
        (("--crops", "full"), "not empty"),
        (("--save-video", "drawn.gif"), "cannot be written as '.gif'"),
        (("--stride", "0"), "stride"),
        (("--policy", "best"), "policy"),
    ],
)
def test_outputs_that_are_refused(
    onnx_n: Path, walk: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    shutil.copy(walk, tmp_path / "walk.mp4")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    result = run(onnx_n, "walk.mp4", *words)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "walk.mp4").read_bytes() == walk.read_bytes()


def test_a_window_that_is_closed_ends_the_run(onnx_n: Path, walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Window:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def show(self, image: Any, *, title: str, wait: bool) -> bool:
            assert image.shape == (256, 256, 3)
            assert not wait
            shown.append(title)
            return len(shown) < 3

    monkeypatch.setattr("rtmo_deploy.media.window.Window", Window)
    result = run(onnx_n, walk, "--show")
    assert result.exit_code == 0, result.output
    assert shown == [str(walk)] * 3
    assert "3 frames" in result.stderr


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_while_the_model_opens(number, ended):
    with pytest.raises(ended) as caught, Interrupts():
        signal.raise_signal(number)
    assert ended is KeyboardInterrupt or caught.value.code == 143


#: The command, which comes no farther than to the frame 300: it is not done before the signal comes.
WAITING = """
import time
from rtmo_deploy.cli import main, tally
count = tally.Tally.count
def waiting(self, frame):
    if frame.index == 300:
        time.sleep(600)
    return count(self, frame)
tally.Tally.count = waiting
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_whole_files(onnx_n: Path, pictures: list[Path], tmp_path: Path, number: int) -> None:
    video_of(tmp_path / "long.mp4", pictures[3], [index / 25 for index in range(400)])
    words = [
        "--save-video",
        "o.mp4",
        "--jsonl",
        "o.jsonl",
        "--csv",
        "o.csv",
        "--coco",
        "o.json",
        "--parquet",
        "o.parquet",
    ]
    command = [sys.executable, "-c", WAITING, "predict", str(onnx_n), "long.mp4", *words, "--imgsz", "64"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "detecting" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "Interrupted: what was done so far is kept." in stderr
    assert "people in" in stderr
    assert "Traceback" not in stderr
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text("utf-8").splitlines()]
    assert 0 < len(lines) < 400
    people = sum(len(line["people"]) for line in lines)
    assert ["long.mp4", "160x120", str(len(lines)), str(people)] in [line.split()[:4] for line in stdout.splitlines()]
    drawn = frames_in(tmp_path / "o.mp4")
    assert len(drawn) == len(lines)
    assert [frame.time for frame in drawn] == pytest.approx([line["time_s"] for line in lines], abs=2e-3)
    assert (tmp_path / "o.csv").read_text("utf-8").count("\n") == people + 1
    assert len(json.loads((tmp_path / "o.json").read_text("utf-8"))["annotations"]) == people
    import polars as pl

    assert pl.read_parquet(tmp_path / "o.parquet").height == people
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "long.mp4",
        "o.csv",
        "o.json",
        "o.jsonl",
        "o.mp4",
        "o.parquet",
    ]


def test_nobody_reads_stdout(onnx_n: Path, walk: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rtmo_deploy", "predict", str(onnx_n), str(walk), "--jsonl", "-", "--csv", "o.csv"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert process.returncode == 0
    assert "Nobody reads stdout" in stderr
    assert "Exception ignored" not in stderr
    assert len((tmp_path / "o.csv").read_text("utf-8").splitlines()) >= 1


def test_without_pyav(onnx_n: Path, walk: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run(onnx_n, walk)
    assert result.exit_code == 5
    assert "pip install 'rtmo-deploy[video]'" in result.stderr
    assert run(onnx_n, pictures[3]).exit_code == 0
