"""Standard streams that are closed or full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("set") / "annotations.json"
    people = [{"id": 1, "name": "person", "keypoints": ["a", "b"], "skeleton": []}]
    box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "keypoints": [2, 2, 2, 8, 8, 2], "num_keypoints": 2}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 32}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
        "categories": people,
    }
    file.write_text(json.dumps(document))
    return file


def shell(annotations: Path, redirected: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = f'exec "$@" {redirected}'
    command = [sys.executable, "-m", "rtmo_deploy", "data", "check", "--ann", str(annotations), *more]
    return subprocess.run(
        ["sh", "-c", line, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@full
@pytest.mark.parametrize(("more", "unbuffered"), [((), ""), ((), "1"), (("--json",), "")])
def test_stdout_on_a_full_disk(annotations: Path, more: tuple[str, ...], unbuffered: str) -> None:
    done = shell(annotations, ">/dev/full", *more, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith("Error: stdout: The result could not be written: No space left")
    assert "Traceback" not in done.stderr


@full
def test_stderr_on_a_full_disk(annotations: Path) -> None:
    done = shell(annotations, "2>/dev/full", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"] == "data check"
    missing = annotations.with_name("nowhere.json")
    assert shell(missing, "2>/dev/full").returncode == 3
    assert shell(missing, "2>/dev/full", "--no-such-option").returncode == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(annotations: Path, closed: str) -> None:
    done = shell(annotations, closed)
    assert done.returncode == 0
    assert (done.stdout == "") is (" >&-" in f" {closed}")
    assert (done.stderr == "") is ("2>&-" in closed)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_files_do_not_take_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom rtmo_deploy.cli.streams import prepare\nprepare()\n"
        "opened = open(sys.argv[1], 'w')\nassert opened.fileno() > 2\nos.write(2, b'a library complains')\n"
    )
    file = tmp_path / "result"
    command = [sys.executable, "-c", script, str(file)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False)
    assert done.returncode == 0
    assert file.read_text() == ""


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("rtmo_deploy.cli.models.print_table", rows)
    done = CliRunner().invoke(app, ["models", "list"])
    assert done.exit_code == 5
    assert done.stderr.startswith("Error: The memory does not suffice.")
