"""A build runs in a child process; whatever becomes of that ends in an answer or an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtmo_deploy.convert.trt.job import Job
from rtmo_deploy.convert.trt.process import run_child
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError

DONE = 'print(\'{"event": "done", "version": "1"}\')'


def job(tmp_path, **changes):
    return Job("tensorrt-rtx", "m.onnx", str(tmp_path / "folder" / "plan"), (((1,) * 4,) * 3,), **changes)


def run(tmp_path, code, **options):
    command = [sys.executable, "-c", f"import json, os, sys, time\njob = json.loads(sys.stdin.readline())\n{code}"]
    return run_child(job(tmp_path), where=Path("m.onnx"), command=command, **options)


def test_a_job_survives_its_line(tmp_path):
    asked = job(tmp_path, targets=("8.6",), timing_cache_out="c", workspace=5, plugin=True)
    assert Job.from_json(asked.to_json()) == asked
    assert asked.to_json().count("\n") == 1


def test_an_answer(tmp_path):
    told = []
    events = [
        {"event": "progress", "text": "parsing"},
        {"event": "progress", "text": "Building engine", "done": 3, "total": 6},
        {"event": "log", "severity": "warning", "message": "mind"},
        {"event": "log", "severity": "warning", "message": "mind"},
        {"event": "network", "inputs": [["input", "FLOAT", [1]]]},
        {"event": "done", "version": "1.7"},
    ]
    answer = run(tmp_path, f"for e in {events!r}: print(json.dumps(e), flush=True)", progress=told.append)
    assert told == ["parsing", "Building engine: 3 of 6"]
    assert answer.warnings == ["mind"]
    assert answer.network == {"inputs": [["input", "FLOAT", [1]]]}
    assert answer.done == {"version": "1.7"}


def test_the_child_gets_the_job(tmp_path):
    answer = run(tmp_path, "print(json.dumps({'event': 'done', 'job': job}))")
    assert answer.done["job"]["backend"] == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("os.kill(os.getpid(), 11)", ArtifactError, "crashed (SIGSEGV)"),
        ("sys.stderr.write('terminate called\\n'); sys.stderr.flush(); os.abort()", ArtifactError, "terminate called"),
        ("os.kill(os.getpid(), 9)", SetupError, "ended from outside (SIGKILL)"),
        ("os.kill(os.getpid(), 15)", SetupError, "(SIGTERM)"),
        ("os._exit(7)", ArtifactError, "ended with code 7"),
        ("pass", ArtifactError, "ended with code 0"),
        ("raise RuntimeError('odd')", ArtifactError, "RuntimeError: odd"),
        ("print('not json'); os._exit(1)", ArtifactError, "ended with code 1"),
        (f"{DONE}; sys.stdout.flush(); os.kill(os.getpid(), 11)", ArtifactError, "SIGSEGV"),
    ],
)
def test_a_death_is_an_error_that_says_how(tmp_path, code, kind, said):
    with pytest.raises(kind) as caught:
        run(tmp_path, code)
    assert said in str(caught.value)
    assert caught.value.where == "m.onnx"
    assert caught.value.remedy


def test_the_last_it_said_is_told(tmp_path):
    event = json.dumps({"event": "log", "severity": "error", "message": "the reason"})
    with pytest.raises(ArtifactError, match="the reason"):
        run(tmp_path, f"print({event!r}, flush=True)\nos.kill(os.getpid(), 11)")


@pytest.mark.parametrize(
    ("event", "kind", "said"),
    [
        ({"kind": "parse", "message": "bad", "node": "/a", "operator": "Foo"}, ArtifactError, "node /a (Foo): bad."),
        ({"kind": "parse", "message": "bad"}, ArtifactError, "cannot parse it: bad."),
        ({"kind": "build", "message": "no\n  runners."}, ArtifactError, "cannot build it: no runners."),
        ({"kind": "setup", "message": "no GPU"}, SetupError, "no GPU."),
        ({"kind": "usage", "message": "no SM"}, UsageError, "no SM."),
        ({"kind": "disk", "message": "No space left"}, SetupError, "could not be written: No space left."),
        ({"kind": "timing-cache", "message": "other GPU"}, ArtifactError, "timing cache cannot be used: other GPU."),
    ],
)
def test_a_failure_becomes_the_error_it_is(tmp_path, event, kind, said):
    with pytest.raises(kind) as caught:
        run(tmp_path, f"print(json.dumps({dict(event, event='failed')!r})); sys.exit(1)")
    assert said in str(caught.value)


def test_a_child_that_hangs_is_ended(tmp_path):
    started = time.monotonic()
    with pytest.raises(SetupError, match="took more than 1 seconds"):
        run(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)", timeout=1)
    assert time.monotonic() - started < 120


def test_a_broken_callback_leaves_no_child(tmp_path):
    def fail(text):
        raise ValueError(text)

    pid = tmp_path / "pid"
    code = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nprint(json.dumps({{'event': 'progress', 'text': 'x'}}), "
    with pytest.raises(ValueError, match="x"):
        run(tmp_path, f"{code}flush=True)\ntime.sleep(600)", progress=fail)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match="could not be started"):
        run_child(job(tmp_path), where=Path("m.onnx"), command=["/nowhere/at/all"])


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


PARENT = """
import sys, time
from rtmo_deploy.convert.trt import child
def build(job, events):
    open(job.plan, "wb").write(b"half")
    open(job.onnx, "w").write("begun")
    time.sleep(600)
child._build = build
sys.exit(child.main())
"""


def test_a_child_whose_parent_is_killed_removes_what_it_wrote(tmp_path):
    folder, begun = tmp_path / "folder", tmp_path / "begun"
    folder.mkdir()
    asked = Job("tensorrt-rtx", str(begun), str(folder / "plan"), ())
    pipe = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {PARENT!r}], stdin=subprocess.PIPE)"
    code = f"{pipe}; p.stdin.write({asked.to_json().encode()!r}); p.stdin.flush(); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])
    assert wait_until(begun.exists)
    assert (folder / "plan").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not folder.exists())
