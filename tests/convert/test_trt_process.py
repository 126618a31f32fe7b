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

from rtmo_deploy.child import error_message
from rtmo_deploy.convert.trt.child import Job, run_child
from rtmo_deploy.errors import ArtifactError, SetupError, UsageError

DONE = 'print(\'{"event": "done", "version": "1"}\')'


def job(tmp_path, **changes):
    return Job("tensorrt-rtx", "m.onnx", str(tmp_path / "folder" / "plan"), (((1,) * 4,) * 3,), **changes)


def run(tmp_path, code, **options):
    command = [sys.executable, "-c", f"import json, os, sys, time\njob = json.loads(sys.stdin.readline())\n{code}"]
    return run_child(job(tmp_path), where=Path("m.onnx"), command=command, **options)


def test_a_job_survives_its_way_to_the_child(tmp_path):
    asked = job(tmp_path, targets=("8.6",), timing_cache_out="c", workspace=5, plugin=True)
    sent = json.dumps(vars(asked))
    assert json.dumps(vars(Job(**json.loads(sent)))) == sent


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
    network, done, warnings = run(
        tmp_path, f"for e in {events!r}: print(json.dumps(e), flush=True)", progress=told.append
    )
    assert told == ["parsing", "Building engine: 3 of 6"]
    assert warnings == ["mind"]
    assert network == {"inputs": [["input", "FLOAT", [1]]]}
    assert done == {"version": "1.7"}


def test_the_child_gets_the_job(tmp_path):
    _, done, _ = run(tmp_path, "print(json.dumps({'event': 'done', 'job': job}))")
    assert done["job"]["backend"] == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("os.kill(os.getpid(), 11)", ArtifactError, "crashed (SIGSEGV)"),
        ("sys.stderr.write('terminate called\\n'); sys.stderr.flush(); os.abort()", ArtifactError, "terminate called"),
        ("os.kill(os.getpid(), 9)", SetupError, "ended from outside (SIGKILL)"),
        ("os.kill(os.getpid(), 15)", SetupError, "(SIGTERM)"),
        ("os._exit(7)", ArtifactError, "ended with exit code 7"),
        ("pass", ArtifactError, "ended with exit code 0"),
        ("raise RuntimeError('odd')", ArtifactError, "RuntimeError: odd"),
        ("print('not json'); os._exit(1)", ArtifactError, "ended with exit code 1"),
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
    ("error", "where"),
    [
        (ArtifactError("It cannot be parsed.", remedy="Export it again."), "m.onnx"),
        (SetupError("No space left.", remedy="Free some.", where="plan"), "plan"),
        (UsageError("No SM.", remedy="Choose another."), "m.onnx"),
    ],
)
def test_an_error_of_the_child_is_raised_here(tmp_path, error, where):
    event = {"event": "failed", "error": error_message(error)}
    with pytest.raises(type(error)) as caught:
        run(tmp_path, f"print(json.dumps({event!r})); sys.exit(1)")
    assert (caught.value.finding, caught.value.remedy, caught.value.where) == (error.finding, error.remedy, where)


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
    code = f"{pipe}; p.stdin.write({(json.dumps(vars(asked)) + chr(10)).encode()!r}); p.stdin.flush(); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2])
    assert wait_until(begun.exists)
    assert (folder / "plan").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not folder.exists())
