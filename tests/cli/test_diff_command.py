"""``diff``: what it prints and writes, and how it ends."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
from release_toys import ToyActions, make


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A release and a worse one."""
    folder = tmp_path_factory.mktemp("pair")
    return make(folder / "a").folder, make(folder / "b", actions=ToyActions(ap={"int8": 0.5})).folder


def call(*arguments):
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


def test_a_worse_release(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    html, md = tmp_path / "diff.html", tmp_path / "diff.md"
    done = call(*pair, "--html", html, "--md", md)
    assert done.exit_code == 6
    assert "-0.0900" in done.stdout
    assert "accuracy: int8" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert md.read_text().startswith("## ❌")
    assert call(*reversed(pair)).exit_code == 0
    assert call(*pair, "--html", html).exit_code == 2
    assert call(*pair, "--html", html, "--force", "--max-ap-drop", "0.1", "--ignore", "gates").exit_code == 0


def test_nobody_reads_stdout(pair, tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenPipeError(errno.EPIPE, "")

    monkeypatch.setattr("rtmo_deploy.cli.diff.print_facts", broken)
    assert call(*reversed(pair), "--html", tmp_path / "diff.html").exit_code == 1
    assert (tmp_path / "diff.html").exists()


def test_json(pair):
    done = call(*pair, "--json")
    document = json.loads(done.stdout)
    assert (document["command"], document["schema_version"], document["verdict"]) == ("diff", 1, "failed")
    assert document["error"]["exit_code"] == done.exit_code == 6
    assert {"old", "new", "options", "rows", "figures", "changes", "files", "recipe", "notes"} <= document.keys()
    assert document["options"]["max_slowdown"] == 0.05


def test_the_summary_of_a_run_is_appended_to(pair, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    assert call(*pair, "--md", summary).exit_code == 2
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert call(*pair, "--md", summary).exit_code == 6
    assert summary.read_text().startswith("before\n## ❌")
    assert summary.read_text().count("## ") == 1
    call(*pair)
    assert summary.read_text().count("## ") == 1


def test_wrong_calls(pair, tmp_path):
    inside = call(*pair, "--html", pair[1] / "diff.html")
    assert inside.exit_code == 2
    assert not (pair[1] / "diff.html").exists()
    assert call(pair[0], pair[0]).exit_code == 2
    assert call(pair[0], tmp_path).exit_code == 4
    assert call(*pair, "--max-slowdown", "much").exit_code == 2
    assert call(*pair, "--ignore", "all").exit_code == 2
    assert call(*pair, "--max-ap-drop", "nan").exit_code == 2
