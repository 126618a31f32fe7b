"""Looks in child processes that crash, hang, print rubbish, or cannot be started."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from rtmo_deploy.doctor.children import Children

PROBE = """
import json, os, signal, subprocess, sys, time
def tell(**facts): print(json.dumps(facts), flush=True)
name = sys.argv[1]
tell(name=name, pid=os.getpid())
if name == "crash": print("out of luck", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGSEGV)
if name == "abort": os._exit(134)
if name == "quiet": sys.exit(0)
if name == "hang": time.sleep(600)
if name == "family": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]); time.sleep(600)
if name == "fail": tell(failed="ImportError:   libfoo.so\\n is missing"); sys.exit(1)
if name == "rubbish": print("no json"); print("[1]"); print('{"half": '); sys.stdout.flush()
if name == "colour": print("\\x1b[0;93mbad\\x1b[m\\n\\nthings", file=sys.stderr)
tell(ended=True)
"""


def children(timeout=60.0, at_once=2, command=(sys.executable, "-S", "-c", PROBE)):
    return Children(timeout, at_once, command)


def answers_of(*names, **options):
    with children(**options) as looks:
        for name in names:
            looks.add(name, name)
        return dict(looks.answers())


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_end_is_told_of():
    found = answers_of("good", "crash", "abort", "quiet", "fail", "rubbish", "colour")
    assert found["good"].trouble is None
    assert found["good"].facts["name"] == "good"
    crash = found["crash"].trouble
    assert (crash.kind, crash.text) == ("crashed", "It crashed (SIGSEGV); its last output: out of luck.")
    assert found["crash"].facts["name"] == "crash"  # what was told before is kept
    assert found["abort"].trouble.text == "It crashed (exit code 134)."
    assert found["quiet"].trouble.kind == "crashed"
    failed = found["fail"].trouble
    assert (failed.kind, failed.text) == ("failed", "ImportError: libfoo.so is missing.")
    assert (found["rubbish"].trouble, set(found["rubbish"].facts)) == (None, {"name", "pid"})
    assert found["colour"].said == "bad\nthings"


def test_what_hangs_is_stopped_and_the_rest_goes_on():
    started = time.monotonic()
    found = answers_of("hang", "good", timeout=8)
    assert found["hang"].trouble.kind == "slow"
    assert found["hang"].trouble.text == "It did not answer within 8 s and was stopped."
    assert found["good"].trouble is None
    assert time.monotonic() - started < 60
    if found["hang"].facts and Path("/proc/self/stat").exists():
        assert not is_running(found["hang"].facts["pid"])


def give_up_on(looks):
    """Wait until the look has begun, and leave as Ctrl-C does."""
    with looks:
        looks.add("family", "family")
        child, _ = looks._running["family"]
        assert child.receive(60)["name"] == "family"
        give_up_on.child = child
        raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_nothing_is_left_behind_when_the_reader_gives_up():
    with pytest.raises(KeyboardInterrupt):
        give_up_on(children())
    group = give_up_on.child.pid
    assert give_up_on.child.ended
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(_in_group(group)):
        time.sleep(0.1)
    assert not list(_in_group(group))


def _in_group(group):
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_running(folder.name):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(folder.name)) == group:
                    yield folder.name


def test_no_more_than_allowed_at_once():
    with children(at_once=2) as looks:
        for index in range(5):
            looks.add(f"good {index}", "good")
            assert len(looks.labels) <= 2
        seen = []
        for label, _ in looks.answers():
            seen.append(label)
            assert len(looks.labels) <= 2
            if label == "good 4":
                looks.add("later", "good")
        assert sorted(seen) == [*(f"good {index}" for index in range(5)), "later"]


def test_an_interpreter_that_is_not_there():
    found = answers_of("good", command=("/no/such/python",))
    assert found["good"].trouble.kind == "failed"
    assert "could not be started: No such file" in found["good"].trouble.text


def test_much_output_is_not_kept():
    code = "import sys; sys.stderr.write('x' * 10**6 + ' end'); print('{\"ended\": true}')"
    with Children(60, 1, (sys.executable, "-S", "-c", code)) as looks:
        looks.add("loud", "loud")
        ((_, answer),) = looks.answers()
    assert answer.trouble is None
    assert answer.said.endswith(" end")
    assert len(answer.said) <= 4000
