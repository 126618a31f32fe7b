"""The parent's end of a worker, against workers that crash, hang and talk nonsense."""

from __future__ import annotations

import contextlib
import json
import sys

import pytest

from rtmo_deploy import child
from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError
from rtmo_deploy.measure.bench import Contender, worker
from rtmo_deploy.measure.bench.worker import WorkerProcess

ECHO = "import sys\nfor line in sys.stdin:\n"


def fake(body, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(body)
    return contextlib.closing(WorkerProcess(Contender("the fake", "m"), (sys.executable, "-I", "-S", str(script))))


def test_it_answers_and_ends_when_told(tmp_path):
    body = ECHO + "    print('{\"ok\": {\"got\": ' + line.strip() + '}}', flush=True)\n"
    with fake(body, tmp_path) as link:
        assert link.ask({"command": "a"}, timeout_s=60) == {"got": {"command": "a"}}
        assert link.ask({"command": "b", "n": 2}, timeout_s=60) == {"got": {"command": "b", "n": 2}}
    assert link._child.exit() == 0
    link.close()  # twice does no harm


@pytest.mark.parametrize(
    ("end", "how"),
    [("raise SystemExit(3)", "exit code 3"), ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "SIGKILL")],
)
def test_one_that_crashes(tmp_path, end, how):
    body = f"import sys\nsys.stdin.readline()\nsys.stderr.write('the last line')\nsys.stderr.flush()\n{end}\n"
    with fake(body, tmp_path) as link, pytest.raises(RtmoDeployError) as caught:
        link.ask({"command": "measure"}, timeout_s=60)
    assert caught.value.exit_code == 1
    assert "the fake: Its process ended during 'measure'" in str(caught.value)
    assert how in str(caught.value)
    assert "the last line" in str(caught.value)


def test_one_that_has_ended_already(tmp_path):
    with fake("", tmp_path) as link:
        link._child.exit()
        for _ in range(2):
            with pytest.raises(RtmoDeployError, match="ended during 'open'"):
                link.ask({"command": "open"}, timeout_s=60)


def test_one_that_hangs_is_stopped(tmp_path):
    with fake("import time\ntime.sleep(1000)\n", tmp_path) as link:
        with pytest.raises(RtmoDeployError, match="did not answer 'warm' within 0 s"):
            link.ask({"command": "warm"}, timeout_s=0.3)
        assert link._child.ended


@pytest.mark.parametrize("line", ['{"ok": 3}', "{}", '{"error": "x"}'])
def test_one_that_talks_nonsense(tmp_path, line):
    body = f"import sys\nsys.stdin.readline()\nsys.stdout.buffer.write(b'{line}' + b'\\n')\n"
    body += "sys.stdout.flush()\nsys.stdin.read()\n"
    with fake(body, tmp_path) as link:
        with pytest.raises(RtmoDeployError, match="something that is no answer"):
            link.ask({"command": "open"}, timeout_s=60)
        assert link._child.ended


@pytest.mark.parametrize("line", ["hello", "[1]", "\\xff\\xfe"])
def test_one_that_writes_no_json(tmp_path, line):
    body = f"import sys\nsys.stdin.readline()\nsys.stdout.buffer.write(b'{line}' + b'\\n')\n"
    with fake(body, tmp_path) as link, pytest.raises(RtmoDeployError, match=r"exit code 0\)\. Its last output: \S+"):
        link.ask({"command": "open"}, timeout_s=60)


def test_one_that_does_not_want_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "GRACE_S", 0.3)
    with fake("import time\nwhile True: time.sleep(10)\n", tmp_path) as link:
        pass
    assert link._child.ended


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SetupError", SetupError),
        ("ArtifactError", ArtifactError),
        ("MissingDependencyError", SetupError),
        ("SystemExit", RtmoDeployError),
        ("annotations", RtmoDeployError),
    ],
)
def test_the_errors_of_a_worker_come_back_as_what_they_were(tmp_path, name, kind):
    answer = json.dumps({"error": {"class": name, "finding": "No good.", "remedy": "Try.", "where": None}})
    body = f"input()\nprint({answer!r}, flush=True)\ninput()\n"
    with fake(body, tmp_path) as link, pytest.raises(RtmoDeployError) as caught:
        link.ask({"command": "open"}, timeout_s=60)
    assert isinstance(caught.value, kind)
    assert str(caught.value) == "the fake: No good. Try."


def served(*commands):
    answers = []
    worker.serve(worker.Worker(), map(json.dumps, commands), lambda **message: answers.append(message))
    return answers


def test_the_worker_tells_errors_of_the_project_and_goes_on(tmp_path):
    contender = {
        "label": "x",
        "model": str(tmp_path / "nowhere.onnx"),
        "backend": None,
        "device": "cpu",
        "batch": 1,
        "threads": None,
        "input_hw": [64, 64],
        "compiled": False,
        "spinning": "stop",
        "thresholds": None,
        "placement": None,
        "reference": False,
    }
    opening = {"command": "open", "contender": contender}
    answers = served(opening, opening)
    assert [answer["error"]["class"] for answer in answers] == ["ArtifactError"] * 2
    assert answers[0]["error"]["finding"] == "There is no such file."


def test_a_bug_in_the_worker_is_not_hidden():
    with pytest.raises(RuntimeError, match="nothing has been opened"):
        served({"command": "warm", "pictures": [], "whole": True, "seconds": 0, "calls": None})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_this_process_own():
    import resource

    found = worker.peak_memory()
    assert found is not None
    assert 2**22 < found <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**20
