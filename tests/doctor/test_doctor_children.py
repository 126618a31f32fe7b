"""Probes in child processes that crash, hang, print rubbish, or cannot be started."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from rtmo_deploy.doctor.collecting import run_probes

PROBE = """
import json, os, signal, subprocess, sys, time
def tell(**facts): print(json.dumps(facts), flush=True)
name = sys.argv[1]
tell(name=name, pid=os.getpid())
if name == "crash": print("out of luck", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGSEGV)
if name == "abort": os._exit(134)
if name == "quiet": sys.exit(0)
if name == "hang": time.sleep(600)
if name == "family":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(sys.argv[2], "w").write(str(os.getpid()))
    time.sleep(600)
if name == "nap": tell(begin=time.time()); time.sleep(0.2); tell(until=time.time())
if name == "fail": tell(failed="ImportError:   libfoo.so\\n is missing"); sys.exit(1)
if name == "rubbish": print("no json"); print("[1]"); print('{"half": '); sys.stdout.flush()
if name == "colour": print("\\x1b[0;93mbad\\x1b[m\\n\\nthings", file=sys.stderr)
tell(ended=True)
"""


COMMAND = (sys.executable, "-S", "-c", PROBE)


def answers_of(*names, timeout=60.0, at_once=2, command=COMMAND):
    return run_probes({name: (name,) for name in names}, {}, at_once, timeout, lambda _: None, command)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_end_is_told_of():
    found = answers_of("good", "crash", "abort", "quiet", "fail", "rubbish", "colour")
    assert found["good"]["trouble"] is None
    assert found["good"]["name"] == "good"
    crash = found["crash"]["trouble"]
    assert (crash.kind, crash.text) == ("crashed", "It crashed (SIGSEGV); its last output: out of luck.")
    assert found["crash"]["name"] == "crash"  # what was told before is kept
    assert found["abort"]["trouble"].text == "It crashed (exit code 134)."
    assert found["quiet"]["trouble"].kind == "crashed"
    failed = found["fail"]["trouble"]
    assert (failed.kind, failed.text) == ("failed", "ImportError: libfoo.so is missing.")
    assert (found["rubbish"]["trouble"], set(found["rubbish"])) == (None, {"name", "pid", "trouble", "stderr"})
    assert found["colour"]["stderr"] == "bad\nthings"


def test_what_hangs_is_stopped_and_the_rest_goes_on():
    started = time.monotonic()
    found = answers_of("hang", "good", timeout=5)
    assert found["hang"]["trouble"].kind == "slow"
    assert found["hang"]["trouble"].text == "It did not answer within 5 s and was stopped."
    assert found["good"]["trouble"] is None
    assert time.monotonic() - started < 60
    if "pid" in found["hang"] and Path("/proc/self/stat").exists():
        assert not is_running(found["hang"]["pid"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_nothing_is_left_behind_when_the_reader_gives_up(tmp_path):
    file = tmp_path / "pid"

    def give_up(_):
        """Wait until the probe has begun, and leave as Ctrl-C does."""
        while not (file.exists() and file.read_text()):
            time.sleep(0.02)
        raise KeyboardInterrupt

    probes = {"family": ("family", str(file)), "good": ("good",)}
    with pytest.raises(KeyboardInterrupt):
        run_probes(probes, {}, 1, 60.0, give_up, COMMAND)
    group = int(file.read_text())
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
    told = []
    probes = {f"nap {index}": ("nap",) for index in range(5)}
    found = run_probes(probes, {"before": {}}, 2, 60.0, told.append, COMMAND)
    assert found.keys() == {"before", *probes}
    for label in probes:
        during = [one for one in probes if found[one]["begin"] <= found[label]["begin"] < found[one]["until"]]
        assert len(during) <= 2
    assert (told[0].done, told[-1].done, told[-1].detail) == (1, 6, "")
    assert told[0].detail == "nap 0 in ONNX Runtime, nap 1 in ONNX Runtime"


def test_an_interpreter_that_is_not_there():
    found = answers_of("good", command=("/no/such/python",))
    assert found["good"]["trouble"].kind == "failed"
    assert "could not be started: No such file" in found["good"]["trouble"].text


def test_much_output_is_not_kept():
    code = "import sys; sys.stderr.write('x' * 10**6 + ' end'); print('{\"ended\": true}')"
    answer = answers_of("loud", command=(sys.executable, "-S", "-c", code))["loud"]
    assert answer["trouble"] is None
    assert answer["stderr"].endswith(" end")
    assert len(answer["stderr"]) <= 4000
