"""The command line as a whole: how it starts, how it fails, and what it costs to ask for help."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rtmo_deploy import __version__, errors
from rtmo_deploy.cli import app as app_module
from rtmo_deploy.cli.app import app
from rtmo_deploy.cli.console import print_json
from rtmo_deploy.doctor.requirements import EXTRAS

COMMANDS = [(), ("eval",), ("export",), ("predict",), ("inspect",), ("train",), ("validate",), ("models",)]
COMMANDS += [(name,) for name in ("cast", "calibrate", "quantize", "build-trt", "parity", "bench", "tune")]
COMMANDS += [(name,) for name in ("release", "sign", "verify", "diff", "doctor")]
COMMANDS += [("serve",), ("package",), ("package", "cpp"), ("package", "deepstream"), ("package", "triton")]
COMMANDS += [("data",), ("data", "synth"), ("data", "check")]
COMMANDS += [("models", name) for name in ("list", "download", "init", "path", "pack")]
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "cv2",
    "numpy",
    "supervision",
    "rich",
    "requests",
    "PIL",
    "safetensors",
    "platformdirs",
    "filelock",
    "google.protobuf",
}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "rtmo_deploy", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def subclasses(kind):
    return {kind} | {below for child in kind.__subclasses__() for below in subclasses(child)}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_page(command):
    result = run(*command, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.stdout
    assert result.stderr == ""
    assert run(*command, "-h").stdout == result.stdout


def test_the_commands_above_are_all_there_are():
    group = typer.main.get_command(app)
    found = {()} | {(name,) for name in group.commands}
    found |= {(name, below) for name, command in group.commands.items() for below in getattr(command, "commands", {})}
    assert found == set(COMMANDS)


def test_the_help_page_lists_the_exit_codes():
    text = " ".join(run("--help").stdout.split())
    assert "0 ok, 1 failure, 2 usage, 3 input data, 4 model or artifact, 5 environment, 6 gate failed" in text


def test_without_a_command_the_help_is_shown_and_it_is_a_usage_error():
    result = run()
    assert "Usage: " in result.output
    assert result.exit_code == 2
    assert run("no-such-command").exit_code == 2
    assert run("export").exit_code == 2


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; started = time.perf_counter()\n"
        "from rtmo_deploy.cli import main\n"
        f"sys.argv = ['rtmo-deploy', *{{arguments}}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"loaded = sorted({HEAVY!r} & set(sys.modules))\n"
        "assert not loaded, f'loaded: {loaded}'\n"
    )
    for arguments in (["--help"], ["--version"], ["export", "--help"], ["models", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{arguments}", repr(arguments))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def processor_seconds(*arguments):
    """What a Python process takes of the processor: other work on the machine does not count."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs os.wait4")
@pytest.mark.parametrize(("option", "bound"), [("--help", 1.5), ("--version", 4)])
def test_starting_takes_little_more_than_its_two_packages(option, bound):
    ours, packages = [], []
    for _ in range(5):
        ours.append(processor_seconds("-m", "rtmo_deploy", option))
        packages.append(processor_seconds("-c", "import typer, rich.console"))
    # NumPy and OpenCV would double it, PyTorch take twenty times as long.
    assert min(ours) < bound * min(packages)


def test_the_version():
    done = start("--version")
    assert (done.returncode, done.stderr) == (0, "")
    first, *more = done.stdout.splitlines()
    assert first == f"rtmo-deploy {__version__}"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)
    assert [line.split()[0] for line in more] == ["Python", "system", "CPU", "GPU", "packages", "extras"]
    assert f"numpy {metadata.version('numpy')}, " in done.stdout
    private = {str(Path.home()), sys.prefix, platform.node(), getpass.getuser()} - {"", "/", "root"}
    assert not [name for name in private if name in done.stdout]


@pytest.mark.parametrize("arguments", [("--version", "--json"), ("--json", "--version")])
def test_the_version_for_programs(arguments):
    result = run(*arguments)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["command"], document["version"]) == (0, "version", __version__)
    assert {"name": "numpy", "version": metadata.version("numpy")} in document["packages"]
    assert set(document["extras"]) <= set(EXTRAS)


def test_json_without_a_command_is_a_usage_error():
    assert run("--json").exit_code == run("--json", "models").exit_code == 2


def test_the_console_script_is_the_module():
    from importlib.metadata import PackageNotFoundError, entry_points

    from rtmo_deploy.cli import main

    try:
        (script,) = entry_points(group="console_scripts", name="rtmo-deploy")
    except (ValueError, PackageNotFoundError):
        pytest.skip("the package is importable but not installed")
    assert script.load() is main


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("export", "{tmp}/nowhere.pth"), 4),
        (("export", "{tmp}/nowhere.pth", "--opset", "5"), 2),
        (("inspect", "{tmp}/nowhere.onnx"), 4),
        (("validate", "{tmp}/nowhere.onnx"), 4),
        (("models", "download", "rtmo-x"), 2),
        (("models", "download", "rtmo-s"), 5),
    ],
)
def test_an_error_is_one_paragraph_on_stderr(tmp_path, arguments, code):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    done = start(*arguments, RTMO_DEPLOY_OFFLINE="1", RTMO_DEPLOY_CACHE=str(tmp_path / "cache"))
    assert done.returncode == code
    assert done.stdout == ""
    *before, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert all(line.endswith(" ...") for line in before)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no working directory can be removed there")
def test_a_working_directory_that_was_removed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = run("models", "init", "rtmo-n", "-o", "n.pth")
    assert done.exit_code == 5
    assert done.stderr.startswith("Error: The working directory cannot be used: No such file or directory.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_commands_are_loaded(number):
    script = f"""
import os, signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
loading = types.ModuleType("rtmo_deploy.cli.app")
loading.__getattr__ = lambda name: (os.kill(os.getpid(), {int(number)}), time.sleep(30))
sys.modules["rtmo_deploy.cli.app"] = loading
from rtmo_deploy.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_a_real_run(onnx_n, pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    done = start("predict", onnx_n, pictures[3], tmp_path / "bad.jpg", "--json", "--threads", "1")
    assert done.returncode == 3
    document = json.loads(done.stdout)
    assert (document["schema_version"], len(document["images"]), len(document["failed"])) == (1, 1, 1)
    assert done.stderr.splitlines()[-1].startswith(f"Error: {tmp_path / 'bad.jpg'}: ")
    assert "Warning" not in done.stderr


@pytest.fixture
def model(tmp_path):
    """What begins like an ONNX model."""
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\x08\x12\x00")
    return path


@pytest.mark.parametrize("error", sorted(subclasses(errors.RtmoDeployError), key=lambda kind: kind.__name__))
def test_every_error_becomes_its_exit_code(monkeypatch, model, error):
    def fail(*_):
        if error is errors.MissingDependencyError:
            raise error("torch", purpose="Testing", extra="cpu")
        raise error("It [red]broke[/red] :boom:.", remedy="Mend it.", where="some/file")

    import rtmo_deploy.measure

    monkeypatch.setattr(rtmo_deploy.measure, "validate_onnx", fail)
    result = run("validate", model)
    assert result.exit_code == error.exit_code
    assert result.stdout == ""
    if error is not errors.MissingDependencyError:
        assert result.stderr.endswith("Error: some/file: It [red]broke[/red] :boom:. Mend it.\n")


def test_json_is_json(capsys):
    print_json("x", value=[1.5, None, "ü"])
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "command": "x", "value": [1.5, None, "ü"]}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            print_json("x", value=value)
    assert capsys.readouterr().out == ""


def test_a_bug_is_not_dressed_up_as_an_error(monkeypatch, model):
    import rtmo_deploy.measure

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(rtmo_deploy.measure, "validate_onnx", fail)
    result = run("validate", model)
    assert isinstance(result.exception, ZeroDivisionError)
    assert app_module.app.pretty_exceptions_enable is False
