"""Bulk runs with Ray: what is left after kills, signals and a full disk. One cluster of two CPUs serves most tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from rtmo_deploy import RTMO
from rtmo_deploy.bulk import cluster as module
from rtmo_deploy.cli.app import app
from rtmo_deploy.errors import SetupError

pytest.importorskip("ray", reason="needs the package ray")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ends processes by Linux's signals")

HEAD = """
import sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27,
         _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def short() -> Iterator[Path]:
    """A folder with a short name, as sockets need it, for all temporary files."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def environment(short: Path) -> dict[str, str]:
    (short / "t").mkdir()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **token, "OMP_NUM_THREADS": "1", "TMPDIR": str(short / "t"), "HOME": str(short)}


@pytest.fixture(scope="module")
def head(short: Path, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Address and process of a Ray with two CPUs."""
    words = [sys.executable, "-c", HEAD, str(short / "head")]
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment) as ray:
        assert ray.stdout is not None
        yield ray.stdout.readline().strip(), ray.pid
        ray.communicate()


@pytest.fixture(scope="module")
def photos(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images, five different ones."""
    folder = tmp_path_factory.mktemp("photos") / "süß #1 100%"
    folder.mkdir()
    for number in range(120):
        shutil.copy(pictures[number % 5], folder / f"{number:03}.png")
    return folder


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command with some arguments."""
    with contextlib.ExitStack() as stack:

        def begin(*words: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "rtmo_deploy", "predict", *map(str, words), "--engine", "ray"]
            left_out = () if "--ray-address" in words else ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
            variables = {name: value for name, value in environment.items() if name not in left_out}
            begun = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=variables)
            stack.enter_context(begun)
            stack.callback(begun.kill)
            return begun

        yield begin


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def stop_in_the_middle(process: subprocess.Popen[str], out: Path, number: int, before: int) -> str:
    """Send a signal when some more files are whole; gives stderr."""
    wait_for(lambda: len([*out.glob("results/*.parquet")]) > before + 3, process)
    process.send_signal(number)
    return process.communicate(timeout=120)[1]


def rows(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "results" / "*.parquet").sort("id")


def require_all(out: Path, photos: Path, model: Path) -> None:
    """Every image has one row, with the people that RTMO finds in it."""
    found = rows(out)
    assert found["id"].to_list() == [str(file) for file in sorted(photos.iterdir())]
    assert found["error"].is_null().all()
    expected = RTMO(model, device="cpu").predict(sorted(photos.iterdir())[:5])
    for number, people in enumerate(found["people"].to_list()):
        poses = expected[number % 5]
        assert len(people) == len(poses) > 0
        keypoints = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=-1)
        assert np.allclose([person["keypoints"] for person in people], keypoints, atol=0.05)
        assert np.allclose([person["box"] for person in people], poses.boxes, atol=0.05)
        assert np.allclose([person["score"] for person in people], poses.scores, atol=1e-4)


def workers_below(pid: int, called: bytes = b"ray::MapWorker") -> set[int]:
    """Processes that hold a model, or are called otherwise, below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
            parents[int(stat.parent.name)] = (int(rest.split()[1]), name)
        except OSError:
            continue

    def below(one: int) -> bool:
        return one in parents and (parents[one][0] == pid or below(parents[one][0]))

    def is_worker(one: int) -> bool:
        try:
            return called in Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            return False

    return {one for one in parents if below(one) and is_worker(one)}


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_twice(onnx_n, photos, head, start, tmp_path):
    """The driver is killed, then terminated, then a worker is killed; at last all is there."""
    out = tmp_path / "out ü"
    words = (onnx_n, photos, "--parquet", out, "--ray-address", head[0], "--rows-per-file", 2, "--json")
    before = 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = start(*words)
        told = stop_in_the_middle(process, out, number, before)
        assert process.returncode == code, told
        assert ("what was done so far is kept" in told) == (code != -9)
        assert "Traceback" not in told
        before = len(rows(out)) // 2 if code != -9 else len([*out.glob("results/*.parquet")])
    assert 0 < len(rows(out)) < 120
    assert rows(out)["id"].is_unique().all()
    old = workers_below(head[1])
    process = start(*words)
    # Attempts of the run before may still be there.
    wait_for(lambda: any(out.glob(".work/attempts/*")) and bool(workers_below(head[1]) - old), process)
    (victim,) = workers_below(head[1]) - old
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: bool(workers_below(head[1]) - old - {victim}), process)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    document = json.loads(stdout)
    assert (document["images"], document["failed"]) == (120, [])
    assert document["images_before"] >= 2 * before - 2
    require_all(out, photos, onnx_n)
    assert {path.name for path in out.iterdir()} == {"run.json", "results", ".lock"}
    stamps = {file: file.stat().st_mtime_ns for file in out.glob("results/*")}
    again = start(onnx_n, photos, "--parquet", out, "--ray-address", "127.0.0.1:1")
    assert "nothing was run" in again.communicate(timeout=120)[1]
    assert again.returncode == 0
    assert stamps == {file: file.stat().st_mtime_ns for file in out.glob("results/*")}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_folder_of_a_process_that_has_just_begun_goes_too():
    script = "import os, sys, time; print(flush=True); time.sleep(1); os.makedirs(sys.argv[1])"
    with module._temporary() as folder:
        late = subprocess.Popen([sys.executable, "-c", script, str(folder / "logs")], stdout=-1)
        late.stdout.readline()
    assert late.communicate() == (b"", None)
    assert late.returncode == 0
    assert not folder.exists()


@pytest.mark.slow
def test_ray_of_its_own_leaves_nothing(onnx_n, photos, environment, start, tmp_path):
    """What cannot be read is a row; stdout is the result alone; Ray's files and processes go, after Ctrl-C as well."""
    shutil.copytree(photos, tmp_path / "in")
    (tmp_path / "in" / "cut.png").write_bytes((photos / "000.png").read_bytes()[:400])
    words = (onnx_n, tmp_path / "in", tmp_path / "none.jpg", "--parquet", tmp_path / "out")
    process = start(*words, "--rows-per-file", 2)
    stop_in_the_middle(process, tmp_path / "out", signal.SIGINT, 0)
    assert process.returncode == 130
    assert not [*Path(environment["TMPDIR"]).glob("rtmo-*")]
    process = start(*words, "--rows-per-file", 2)
    wait_for(lambda: bool(workers_below(process.pid)), process)
    (raylet,) = workers_below(process.pid, b"raylet/raylet --")
    os.kill(raylet, signal.SIGKILL)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 5, told
    assert "Ray's process raylet has ended" in told
    assert not [*Path(environment["TMPDIR"]).glob("rtmo-*")]
    process = start(*words)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    told = [line.split()[0] for line in stdout.splitlines() if not line.startswith(" ")]
    assert told == ["results", "images", "not", "people"]
    assert [line.partition(": ")[0] for line in stderr.splitlines() if "rror" in line] == ["Error", "Error"]
    assert "cut off" in stderr
    assert "WARN" not in stderr
    assert not [*Path(environment["TMPDIR"]).glob("rtmo-*")]
    found = rows(tmp_path / "out")
    assert len(found) == 121
    assert found.filter(pl.col("error").is_not_null())["id"].to_list() == [str(tmp_path / "in" / "cut.png")]


@pytest.mark.slow
def test_a_full_disk(onnx_n, photos, head, start, tmp_path):
    out = tmp_path / "small"
    out.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=120k", "none", str(out)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        words = (onnx_n, photos, "--parquet", out, "--ray-address", head[0], "--rows-per-file", 4)
        process = start(*words)
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 5, told
        assert "No space left on device" in told
        assert "then call again" in told
        subprocess.run(["mount", "-o", "remount,size=20m", str(out)], check=True)
        process = start(*words)
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 0, told
        require_all(out, photos, onnx_n)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def test_nobody_answers(onnx_n, pictures, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["--engine", "ray", "--parquet", str(tmp_path / "out"), "--ray-address", address]
    result = CliRunner().invoke(app, ["predict", str(onnx_n), str(pictures[0]), *words])
    assert result.exit_code == 5, result.output
    assert f"Nothing answers at {address}" in " ".join(result.stderr.split())


def test_sockets_have_short_names(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    for above in (str(deep), "/ü"):
        monkeypatch.setattr(tempfile, "tempdir", above)
        with module._temporary() as folder:
            assert len(str(folder)) <= module._LONGEST
            (folder / "socket").touch()
        assert not folder.exists()


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        ({"CPU": 3}, {}, (2, 2, 1, 0)),
        ({"CPU": 9}, {"threads": 4}, (2, 2, 4, 0)),
        ({"CPU": 9}, {"most": 3}, (3, 3, 1, 0)),
        ({"CPU": 9}, {"own": False}, (1, 8, 1, 0)),
        ({"CPU": 2}, {"own": False, "most": 30}, (1, 30, 1, 0)),
        ({"CPU": 9, "GPU": 2}, {"device": "auto"}, (2, 2, 1, 1)),
        ({"CPU": 9, "GPU": 2}, {"device": "cuda", "gpus_each": 0.5}, (4, 4, 1, 0.5)),
        ({"CPU": 9, "GPU": 2}, {}, (8, 8, 1, 0)),
    ],
)
def test_how_many_workers(monkeypatch, there, asked, expected):
    monkeypatch.setattr(module, "import_ray", lambda: SimpleNamespace(cluster_resources=lambda: there))
    given = {"threads": 1, "device": "cpu", "gpus_each": 1.0, "most": None, "own": True, **asked}
    assert module.workers_for(**given) == module.Workers(*expected)


@pytest.mark.parametrize(
    ("there", "asked"), [({"CPU": 1}, {}), ({"CPU": 4}, {"threads": 4}), ({"CPU": 4}, {"device": "cuda"})]
)
def test_no_room_for_a_worker(monkeypatch, there, asked):
    monkeypatch.setattr(module, "import_ray", lambda: SimpleNamespace(cluster_resources=lambda: there))
    with pytest.raises(SetupError, match="one CPU for reading and writing"):
        module.workers_for(**{"threads": 1, "device": "cpu", "gpus_each": 1.0, "most": None, "own": True, **asked})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--parquet", "out", "--stride", "2"), "--stride: It does not apply with --engine ray"),
        (("--parquet", "out", "--jsonl", "x"), "--jsonl: It does not apply with --engine ray"),
        (("--parquet", "out", "--device", "cuda:1"), "Ray chooses the GPU"),
        ((), "writes a folder"),
        (("--parquet", "-"), "writes a folder"),
        (("--parquet", "out", "--ray-address", "ray://host:1"), "Ray Client is not used"),
        (("--parquet", "out", "--score-thr", "0.001"), "below 0.1"),
        (("--parquet", "s3://bucket/x"), "not to addresses"),
        (("--parquet", "out", "--ray-address", "nonsense"), "HOST:PORT"),
    ],
)
def test_what_makes_no_sense(onnx_n, pictures, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["predict", str(onnx_n), str(pictures[0]), "--engine", "ray", *words])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, ["predict", str(onnx_n), str(pictures[0]), "--workers", "2"])
    assert "does not apply with --engine process" in " ".join(result.stderr.split())
