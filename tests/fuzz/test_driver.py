"""The fuzzer itself: it finds each kind of fault, and its edits are the same ones at each run."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from driver import FOLDER, Reader, register, sweep
from mutators import mutate

# A case is its own number; the one that hangs is stopped earlier, and a peak is lower.
CHANGES = [
    ("ITIMER_REAL, LONGEST_S", "ITIMER_REAL, 1.0 if index == 2 else LONGEST_S"),
    ("PEAK = 1 << 30", "PEAK = 1 << 26"),
    ("return mutate(", "return str(index).encode() or mutate("),
]
BAD_READER = """
import os, time
from driver import Reader, register
from rtmo_deploy.errors import RtmoDeployError

HELD = []

def read(path):
    match int(path.read_bytes()):
        case 1:
            raise KeyError("x")
        case 2:
            time.sleep(60)
        case 3:
            HELD.append(bytearray(b"x") * (3 << 25))
        case 4:
            os.abort()
        case 5:
            bytearray(1 << 40)
        case 7:
            raise RtmoDeployError("Refused.", remedy="Go.")

register(Reader("bad", ".txt", lambda folder: [b"0"], read))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="bounds a worker's memory as Linux does")
def test_a_long_run_counts_every_kind_of_fault(tmp_path: Path) -> None:
    for name in ("driver.py", "mutators.py", "run.py"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        for old, new in CHANGES:
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "readers_bad.py").write_text(BAD_READER)
    command = [sys.executable, str(tmp_path / "run.py"), "--count", "9", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" (seed 1): ")[0] for line in lines[:-1]] == [
        "traceback: bad:1",
        "hang: bad:2",
        "memory: bad:3",
        "crash: bad:4",
        "memory: bad:5",
    ]
    assert "KeyError" in lines[0]
    assert "'refused': 1" in lines[-1]
    assert (tmp_path / "kept" / "bad-1-4.txt").read_bytes() == b"4"


def test_a_sweep_fails_on_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b'{"a": 1}':
            raise KeyError("spoiled")

    monkeypatch.setattr("driver.READERS", {})
    register(Reader("toy", ".json", lambda _: [b'{"a": 1}'], read))
    monkeypatch.setattr("driver.load_readers", lambda: __import__("driver").READERS)
    with pytest.raises(AssertionError, match=r"toy seed 0 case \d+: KeyError at \?: "):
        sweep("toy", tmp_path, 20)


@pytest.mark.parametrize("data", [b'{"a": [1, {"b": "x"}], "c": 2.5}', b"model:\n  width: 3\n", bytes(range(256)), b""])
def test_the_same_seed_gives_the_same_edits(data: bytes) -> None:
    first = [mutate(data, random.Random(seed), [data]) for seed in range(200)]
    assert first == [mutate(data, random.Random(seed), [data]) for seed in range(200)]
    assert len(set(first)) > (100 if data else 1)
