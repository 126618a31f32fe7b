"""Killed at any moment, a release goes on where it was; and what a kill leaves never passes for a finished release."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from release_keys import write_pair
from release_toys import RECIPE, ToyActions, make, write_recipe

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.release.integrity import UNFINISHED, verify_release

ROOT = Path(__file__).parents[2]
#: One artifact fewer: its files have to go.
SMALLER = RECIPE.replace("  fp16: {make: cast, from: fixed}\n", "").replace(
    "    - {artifact: fp16, ap_drop_max: 0.005}\n", ""
)
#: Kills itself, a child at a time, at moments that are counted: in file operations, or in lines of this package.
DRIVER = """
import json, os, random, signal, sys
from pathlib import Path

sys.path[:0] = [sys.argv[1], sys.argv[2]]
from release_toys import RECIPE, ToyActions, make, write_recipe
from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.release.integrity import verify_release

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.utime"}
PLACES = (os.path.join(sys.argv[2], "rtmo_deploy", "release"), os.path.join(sys.argv[2], "rtmo_deploy", "files.py"))
base, kind, before, after = Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]).read_text(), Path(sys.argv[6]).read_text()
sign, key = sys.argv[9:] or (None, None)


class Counter:
    def __init__(self, last):
        self.count, self.last = 0, last

    def tick(self):
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event, _):
        if event in OPERATIONS:
            self.tick()

    def trace(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(PLACES):
            return None
        if event == "line":
            self.tick()
        return self.trace


def run(folder, text, last):
    counter = Counter(last)
    path = write_recipe(folder, text)
    if kind == "operation":
        sys.addaudithook(counter.audit)
    else:
        sys.settrace(counter.trace)
    make(folder, text, ToyActions(), sign=sign)
    sys.settrace(None)
    return counter.count


def forked(folder, text, last):
    \"\"\"How a child ended, and how far it counted.\"\"\"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        count = run(folder, text, last)
        os.write(write, str(count).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        told = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(told or 0)


def looked_at(folder):
    try:
        found = verify_release(folder / "out", key=key)
    except ArtifactError as error:
        return "unfinished" if "was not finished" in str(error) else str(error)
    return "whole" if found.ok else str(found)


make(base / "warm", RECIPE, ToyActions(), sign=sign)  # everything is imported from here on
chance = random.Random(int(sys.argv[7]))
for number in range(-1, int(sys.argv[8])):
    folder = base / f"{kind}-{number}"
    if before:
        make(folder, before, ToyActions(), sign=sign)
    code, counted = forked(folder, after, 0 if number < 0 else chance.randint(1, total))
    if number < 0:
        total = counted
    left, actions = looked_at(folder), ToyActions()
    release = make(folder, after, actions, sign=sign)
    print(json.dumps({
        "code": code, "total": total, "left": left, "verdict": release.verdict, "end": looked_at(folder),
        "again": len(actions.ran),
        "litter": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                         if ".part" in path.name or path.name == ".unfinished"),
    }), flush=True)
"""


def moments(folder, kind, before, after, *, count=10, seed=1, pair=()):
    """What became of each of ``count`` kills; the first entry is of a run that was not killed."""
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    texts = []
    for name, text in (("before", before), ("after", after)):
        texts.append(folder / f"{name}.yaml")
        texts[-1].write_text(text)
    command = [sys.executable, driver, Path(__file__).parent, ROOT, folder, kind, *texts, seed, count, *pair]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count + 1
    assert found[0]["code"] == 0
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kind", ["operation", "line"])
def test_killed_at_ten_random_moments(tmp_path, kind):
    first, *killed = moments(tmp_path, kind, "", RECIPE)
    assert first["left"] == "whole"
    assert first["again"] == 0
    for one in killed:
        assert one["code"] == -9
        assert one["left"] in {"unfinished", "whole"} or "This is no release's folder" in one["left"], one
        assert (one["verdict"], one["end"], one["litter"]) == ("passed", "whole", []), one
    assert any(one["left"] == "unfinished" for one in killed)
    assert any(one["again"] < 12 for one in killed)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kind", ["operation", "line"])
def test_killed_while_it_replaces_another(tmp_path, kind):
    """The folder is the old release, an unfinished one, or the new one; never something between that verifies."""
    _, *killed = moments(tmp_path, kind, RECIPE, SMALLER, seed=2)
    for one in killed:
        assert one["code"] == -9
        assert one["left"] in {"unfinished", "whole"}, one
        assert (one["verdict"], one["end"], one["litter"]) == ("passed", "whole", []), one
    if kind == "operation":  # few of the lines are those that write
        assert {one["left"] for one in killed} == {"unfinished", "whole"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_while_it_replaces_a_signed_one(tmp_path):
    """No moment leaves a release without its signature, or with the signature of another."""
    pair = write_pair(tmp_path / "keys")
    _, *killed = moments(tmp_path, "operation", RECIPE, SMALLER, count=12, seed=3, pair=pair)
    for one in killed:
        assert one["code"] == -9
        assert one["left"] in {"unfinished", "whole"}, one
        assert (one["verdict"], one["end"], one["litter"]) == ("passed", "whole", []), one
    assert {one["left"] for one in killed} == {"unfinished", "whole"}


def test_what_a_kill_left_in_the_folder_goes(tmp_path):
    """What atomic_write was writing, beside files of this release and of one that was not finished."""
    make(tmp_path)
    out = tmp_path / "out"
    left = [
        out / ".manifest.json.abc.part",
        out / ".SHA256SUMS.abc.part",
        out / "artifacts" / ".toy-int8.onnx.q_8x.part",
        out / "latency" / ".cpu.json.x.part",
    ]
    for path in left:
        path.write_text("half")
    others = out / "artifacts" / ".notes.part"
    others.write_text("somebody's own")
    (out / "manifest.json").unlink()
    make(tmp_path, SMALLER)
    assert not any(path.exists() for path in left)
    assert others.read_text() == "somebody's own"
    others.unlink()
    assert (out / "artifacts" / "toy-fp16.onnx").exists()  # nobody knows any more whose it is
    assert verify_release(out).extra == ("artifacts/toy-fp16.onnx", "artifacts/toy-fp16.onnx.extra")


def test_files_of_an_unfinished_release_are_known(tmp_path):
    make(tmp_path)
    out = tmp_path / "out"
    names = [entry["path"] for entry in json.loads((out / "manifest.json").read_text())["files"]]
    (out / UNFINISHED).write_text(json.dumps([*names, "../../somebody", "/etc/passwd", 7, None, ""]))
    (tmp_path.parent / "somebody").write_text("else's")
    (out / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="was not finished"):
        verify_release(out)
    make(tmp_path, SMALLER)
    assert not (out / UNFINISHED).exists()
    assert not (out / "artifacts" / "toy-fp16.onnx").exists()
    assert (tmp_path.parent / "somebody").read_text() == "else's"
    assert verify_release(out).ok


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", '{"a": 1}', "\x00"])
def test_a_damaged_list_is_no_obstacle(tmp_path, text):
    path = write_recipe(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNFINISHED).write_text(text)
    assert path.is_file()
    assert make(tmp_path, actions=ToyActions()).verdict == "passed"
    assert verify_release(tmp_path / "out").ok
