"""A child process: where it looks for packages, what it is told and tells, and how it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import rtmo_deploy
from rtmo_deploy import child
from rtmo_deploy.child import Child, error_message, exit_name, python_command, revived
from rtmo_deploy.errors import ArtifactError, RtmoDeployError, SetupError

HEAD = "import sys, time\nfrom rtmo_deploy.child import *\n"


def run(code, **options):
    return Child(python_command("-c", HEAD + code), **options)


def test_it_imports_the_package_of_its_parent_and_nothing_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "rtmo_deploy").mkdir()
    (tmp_path / "numpy.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    with run("import numpy, rtmo_deploy\nopen_answers()(file=rtmo_deploy.__file__)") as found:
        assert found.receive(60) == {"file": rtmo_deploy.__file__}
        assert found.receive(60) is None
        assert found.exit() == 0


def test_what_libraries_print_does_not_stand_between_the_answers():
    code = "import os\ntell = open_answers()\nprint('from Python', flush=True)\nos.write(1, b'from C\\n')\ntell(a=1)"
    with run(code) as found:
        assert list(found.messages(60)) == [{"a": 1}]
        assert found.printed() == "from Python\nfrom C"
        assert found.last_lines(["before"]) == " Its last output: before | from Python | from C"


def test_lines_that_are_no_objects_are_output():
    with run("print('[1]'); print('{'); print('{\"a\": 1}'); print('\\x1b[31mred\\x1b[m', file=sys.stderr)") as found:
        assert list(found.messages(60)) == [{"a": 1}]
        assert found.last_lines() == " Its last output: [1] | { | red"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("hold", ["sys.stdout", "sys.stderr"])
def test_a_grandchild_that_holds_the_pipe_is_not_waited_for(monkeypatch, hold):
    monkeypatch.setattr(child, "GRACE_S", 0.3)
    code = (
        f"import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(61)'], stdout={hold})\n"
    )
    started = time.monotonic()
    with run(code) as found:
        assert found.receive(60) is None
    assert time.monotonic() - started < 60


def test_a_timeout_is_of_all_messages_together():
    with run("tell = open_answers()\nwhile True: tell(a=1); time.sleep(0.05)") as found:
        with pytest.raises(TimeoutError):
            list(found.messages(1))
        assert not found.ended
        found.kill()
        assert found.ended


def test_a_child_ends_with_its_parent(tmp_path):
    mark = tmp_path / "mark"
    code = f"end_with_parent(lambda: open({str(mark)!r}, 'w'))\nopen_answers()(pid=1)\ntime.sleep(600)"
    with run(code) as found:
        assert found.receive(60)
    assert mark.exists()
    assert found.exit() == 3


def test_an_error_inside_the_block_kills_at_once():
    with pytest.raises(KeyError), run("time.sleep(600)") as found:
        raise KeyError
    assert found.ended


def test_an_interpreter_that_is_not_there():
    with pytest.raises(SetupError, match="could not be started: No such file"):
        Child([str(Path("/no/such/python"))])


def test_an_error_comes_back_as_what_it_was():
    error = revived(error_message(ArtifactError("No good.", remedy="Try.")), "m.onnx")
    assert (type(error), str(error)) == (ArtifactError, "m.onnx: No good. Try.")
    assert type(revived({"class": "SystemExit"}, None)) is RtmoDeployError


@pytest.mark.parametrize(
    ("code", "name"), [(0, "exit code 0"), (3, "exit code 3"), (-11, "SIGSEGV"), (-99, "signal 99")]
)
def test_names_of_ends(code, name):
    assert exit_name(code) == name


def test_the_interpreter_is_this_one():
    assert python_command("-m", "x") == (sys.executable, "-P", "-m", "x")
