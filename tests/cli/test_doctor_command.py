"""``rtmo-deploy doctor``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rtmo_deploy
import rtmo_deploy.doctor as doctor_module
from rtmo_deploy.cli.app import app
from rtmo_deploy.doctor import Facts
from rtmo_deploy.doctor.facts import Driver, Folder, Gpu, Processor, Software, Trouble
from rtmo_deploy.doctor.requirements import requirements

LONG = "x" * 300
FOLDER = Folder("/very/long/" + "folder/" * 30, exists=True, free=2**40, writable=True)
NEEDED = [one.name for one in requirements()]
PYTHON = {"version": (3, 12, 1), "implementation": "CPython", "bits": 64, "executable": "python"}
PYTHON |= {"system": "Linux 6", "machine": "x86_64"}


def machine(**changes):
    """A machine with PyTorch and nothing else; [brackets] and :colons: in its names."""
    facts = {
        "python": PYTHON,
        "package": {"version": "0.1.0", "recorded": None, "folder": "[red]here[/red]"},
        "distributions": dict.fromkeys(NEEDED, ""),
        "torch": Software("2.9.0+cpu"),
        "cpu": Processor("CPU :boom:", ("avx2",), 4, 4),
        "working": FOLDER,
        "cache": FOLDER,
    }
    return Facts(**facts | changes)


def run(monkeypatch, facts, *arguments):
    asked = {}

    def collect(**options):
        asked.update(options)
        return facts

    monkeypatch.setattr(doctor_module, "collect", collect)
    result = CliRunner().invoke(app, ["doctor", *arguments])
    result.asked = asked
    return result


V100 = machine(
    tensorrt=Software("10.13.3.9"),
    driver=Driver("570", (12, 8), gpus=(Gpu(0, "Tesla V100", (7, 0)),)),
    nvidia_card=True,
)


def test_a_machine_without_faults(monkeypatch):
    result = run(monkeypatch, machine())
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    assert "[red]here[/red]" in result.stdout
    assert "CPU :boom:" in result.stdout
    assert "pip install 'rtmo-deploy[openvino]'" in result.stdout
    assert result.stdout.splitlines()[1].split(", ")[-1].strip().endswith("absent")


def test_something_is_broken(monkeypatch):
    result = run(monkeypatch, V100)
    assert result.exit_code == 5
    assert "TensorRT and cuda:0" in result.stdout
    assert "TensorRT 10.4 with CUDA 12 is the last" in " ".join(result.stdout.split())
    assert result.stderr.splitlines()[-1] == (
        "Error: What is installed is broken: TensorRT and cuda:0. The row of each tells what to do."
    )


@pytest.mark.parametrize("facts", [machine(), V100, machine(torch=None, imports={"numpy": LONG, "cv2": "short"})])
def test_the_table_fits(monkeypatch, facts):
    monkeypatch.setenv("COLUMNS", "100")
    result = run(monkeypatch, facts)
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


@pytest.mark.parametrize("columns", [40, 72])
def test_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run(monkeypatch, V100)
    assert result.exit_code == 5
    assert max(len(line) for line in result.stdout.splitlines()) <= columns


def test_the_json_document(monkeypatch):
    result = run(monkeypatch, V100, "--json", "--timeout", "7")
    assert result.exit_code == 5
    assert result.asked["timeout"] == 7
    document = json.loads(result.stdout)
    assert set(document) == {"schema_version", "command", "ok", "counts", "rows", "facts", "error"}
    assert (document["schema_version"], document["command"], document["ok"]) == (1, "doctor", False)
    assert {tuple(row) for row in document["rows"]} == {("area", "name", "verdict", "finding", "remedy")}
    assert document["counts"]["broken"] == sum(row["verdict"] == "broken" for row in document["rows"]) == 1
    assert document["facts"]["driver"]["gpus"][0]["capability"] == [7, 0]
    assert run(monkeypatch, machine(), "--json").exit_code == 0


def test_what_was_too_slow_is_said_and_breaks_nothing(monkeypatch):
    slow = Software(trouble=Trouble("slow", "It did not answer within 7 s and was stopped."))
    result = run(monkeypatch, machine(torch=slow))
    assert result.exit_code == 0
    assert "did not answer within 7 s" in result.stdout
    assert "--timeout 300" in " ".join(result.stdout.split())


def test_a_limit_that_makes_no_sense():
    assert CliRunner().invoke(app, ["doctor", "--timeout", "0"]).exit_code == 2


def real(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "rtmo_deploy", "doctor", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(rtmo_deploy.__file__).parents[1])} | environment,
        check=False,
    )


@pytest.mark.slow
def test_this_machine():
    done = real("--json")
    assert done.returncode in {0, 5}, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    found = {row["name"]: row for row in document["rows"]}
    assert found["Python"]["verdict"] in {"fine", "warning"}
    assert found["PyTorch"]["verdict"] in {"fine", "warning"}
    assert document["facts"]["python"]["executable"] == sys.executable


@pytest.mark.slow
def test_packages_that_crash_hang_and_lie(tmp_path):
    """Made-up packages hide the real ones: none of them takes the command down, or each other."""
    bad = {
        "torch": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "openvino": "import time; time.sleep(600)",
        "onnxruntime": "__version__ = None\ndef get_available_providers(): return 7",
        "tensorrt": "raise OSError('libnvinfer.so.10: cannot open shared object file')",
        "numpy": "raise ImportError('numpy.core.multiarray failed to import')",
    }
    for name, code in bad.items():
        (tmp_path / f"{name}.py").write_text(f"{code}\n")
    path = os.pathsep.join([str(tmp_path), str(Path(rtmo_deploy.__file__).parents[1])])
    done = real("--json", "--timeout", "20", PYTHONPATH=path)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    found = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert "SIGSEGV" in found["PyTorch"]["finding"]
    assert "did not answer within 20 s" in found["OpenVINO"]["finding"]
    assert found["ONNX Runtime"]["verdict"] == "broken"
    assert "libnvinfer.so.10" in found["TensorRT"]["finding"]
    assert "numpy.core.multiarray" in found["required packages"]["finding"]
    for name in ("PyTorch", "TensorRT", "required packages"):
        assert found[name]["verdict"] == "broken"
    assert found["OpenVINO"]["verdict"] == "warning"
    assert found["Python"]["verdict"] in {"fine", "warning"}
