"""The first commands of README and docs run as they stand there, in one folder; README's Python and table hold."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from rtmo_deploy.cli.app import app as cli
from rtmo_deploy.media.video_writer import VideoWriter

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Their ``bash`` blocks are run one after the other.
PAGES = ("README.md", "docs/quickstart.md", "docs/guides/data.md")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```bash\n(.*?)^```$", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
]
#: Commands that fetch from the network: here they run offline, and must say so.
NEEDS_NETWORK = {
    "rtmo-deploy models download rtmo-s",
    "rtmo-deploy export rtmo-s",
    "rtmo-deploy predict rtmo-s photo.jpg",
}


def commands() -> list[str]:
    """Every command of the pages in order; ``.ci/run`` runs the two set-up lines, release and images included."""
    lines = [line.strip() for block in BLOCKS for line in block.splitlines()]
    return [line for line in lines if line and not is_set_up(line)]


def is_set_up(line: str) -> bool:
    return line.startswith("pip install ")


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    assert program == "rtmo-deploy", command
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:rtmo_deploy", "-m", "rtmo_deploy", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (360, 480, 3), dtype=np.uint8), (0, 0), 9)
    made = run("rtmo-deploy data synth people --images 6 --seed 7 --people 1-4 --force", path)  # as in the first line
    assert made.returncode == 0, made.stderr
    with VideoWriter(path / "walk.mp4") as writer:
        for number in range(5):
            writer.write(np.roll(picture, 8 * number, axis=1), number / 25)
    (path / "recipes").symlink_to(ROOT / "recipes")
    return path


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_runs(folder: Path) -> None:
    found = commands()
    assert len(found) >= 8
    assert set(found) >= NEEDS_NETWORK
    for command in found:
        variables = {"RTMO_DEPLOY_CACHE": str(folder / "cache"), "RTMO_DEPLOY_OFFLINE": "1"}
        done = run(command, folder, **variables)
        if command in NEEDS_NETWORK:
            assert done.returncode == 5, f"{command}\n{done.stdout}{done.stderr}"
            assert "offline" in done.stderr.lower()
        else:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert done.stdout.strip(), command
    drawn = cv2.imread(str(folder / "drawn" / "000000000001.jpg"))
    assert drawn.shape == (384, 512, 3)


def test_python_snippets_run(folder: Path) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert snippets
    for snippet in snippets:
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_commands_in_its_table_are_there() -> None:
    app = typer.main.get_command(cli)
    table = README.partition("## What works")[2].partition("\n## ")[0]
    names = {
        word.split()[0]
        for row in table.splitlines()
        for word in re.findall(r"`([a-z][a-z0-9 -]*)`", row.split("|")[1] if row.startswith("| `") else "")
    }
    assert {"export", "cast", "quantize", "build-trt", "parity", "bench", "release", "eval"} <= names
    assert names <= set(app.commands)


def test_ci_finds_the_two_set_up_lines() -> None:
    lines = [line for line in README.splitlines() if is_set_up(line)]
    assert len(lines) == 2
    assert any("rtmo-deploy release recipes/quickstart.yaml" in line for line in lines)


def test_the_set_up_line_has_a_recipe_that_can_run(folder: Path) -> None:
    done = run("rtmo-deploy release recipes/quickstart.yaml --dry-run", folder)
    assert done.returncode == 0, done.stderr
    assert "steps would be carried out" in done.stdout
