"""Completion: what the shells are told, asked as each shell asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from rtmo_deploy.cli.app import _COMMANDS
from rtmo_deploy.zoo import EMBEDDED, VARIANTS

#: Line before the cursor -> some of what is offered, and what is not.
CASES = {
    "rtmo-deploy qu": ({"quantize"}, {"export"}),
    "rtmo-deploy --v": ({"--version"}, {"--help"}),
    "rtmo-deploy export --dec": ({"--decode"}, {"--format"}),
    "rtmo-deploy export --decode f": ({"fixed"}, {"raw"}),
    "rtmo-deploy export --format o": ({"onnx", "openvino"}, {"web"}),
    "rtmo-deploy package tr": ({"triton"}, {"cpp"}),
    "rtmo-deploy models download rtmo-": ({*EMBEDDED, *VARIANTS}, {"list"}),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """An environment in which the shells find the command."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "rtmo-deploy"
    script.write_text(f"#!{sys.executable}\nfrom rtmo_deploy.cli import main\nmain()\n")
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "TERM": "vt100"}


def script_of(shell, env):
    env = env | {"_RTMO_DEPLOY_COMPLETE": f"source_{shell}"}
    return subprocess.run(["rtmo-deploy"], env=env, capture_output=True, text=True, check=True).stdout


def ask(shell, code, env):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    done = subprocess.run([shell, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=60)
    return {line.split("\t")[0].strip() for line in done.stdout.splitlines()}


def bash(line, env):
    count = len(line.split()) - 1
    code = (
        f"{script_of('bash', env)}\nCOMP_WORDS=({line}); COMP_CWORD={count}\n"
        "_rtmo_deploy_completion rtmo-deploy\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return ask("bash", code, env)


def fish(line, env):
    return ask("fish", f"{script_of('fish', env)}\ncomplete -C'{line}'", env)


ZSH = r"""
zmodload zsh/zpty
zpty shell "zsh -f -i"
zpty -w shell 'autoload -U compinit; compinit -u -D; bindkey "^I" complete-word'
zpty -w shell 'eval "$(_RTMO_DEPLOY_COMPLETE=source_zsh rtmo-deploy)"; print REA""DY'
while zpty -r shell out; do [[ $out == *READY* ]] && break; done
zpty -n -w shell "$1"$'\t'
for attempt in {1..100}; do
    zpty -r -t shell out && seen+=$out
    [[ $seen == *$2* ]] && break
    sleep 0.1
done
print -r -- $seen
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    ("line", "completed"), [("rtmo-deploy qu", "quantize"), ("rtmo-deploy export --decode fi", "fixed")]
)
def test_zsh_completes_in_a_terminal(line, completed, program):
    command = ["zsh", "-f", "-c", ZSH, "zsh", line, completed]
    done = subprocess.run(command, env=program, capture_output=True, check=False, timeout=60)
    assert completed.encode() in done.stdout


@pytest.mark.parametrize("shell", [bash, fish], ids=lambda shell: shell.__name__)
@pytest.mark.parametrize("line", CASES)
def test_a_shell_completes(shell, line, program):
    wanted, unwanted = CASES[line]
    found = shell(line, program)
    assert wanted <= found
    assert not unwanted & found


def test_files_are_left_to_the_shell(program):
    assert bash("rtmo-deploy inspect mod", program) <= {""}


@pytest.mark.parametrize("home", ["a file", None])
def test_a_home_that_cannot_be_written_to(home, program, tmp_path):
    bash = shutil.which("bash")
    env = {name: value for name, value in program.items() if name not in {"HOME", "USERPROFILE"}}
    if home is not None:
        (tmp_path / home).touch()
        env["HOME"] = str(tmp_path / home)
    else:  # and a user without an entry in the list of users
        code = "import pathlib; pathlib.Path.expanduser = lambda self: (_ for _ in ()).throw(RuntimeError('None.'))\n"
        script = tmp_path / "rtmo-deploy"
        script.write_text(f"#!{sys.executable}\n{code}from rtmo_deploy.cli import main\nmain()\n")
        script.chmod(0o755)
        env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    command = [bash, "-c", "rtmo-deploy --install-completion; exit $?"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    assert "Completion cannot be installed: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shell_that_is_not_supported(program, tmp_path):
    env = {**program, "HOME": str(tmp_path)}
    command = ["sh", "-c", "rtmo-deploy --install-completion; exit $?"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    assert "the shell is not supported. Call it from bash, zsh or fish, or print it: " in done.stderr
    command[-1] = "rtmo-deploy --help --install-completion; exit $?"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_commands_imports_none_of_them(program):
    code = "import sys; sys.argv[0] = 'rtmo-deploy'; from rtmo_deploy.cli import main\n"
    code += "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    env = program | {"_RTMO_DEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": "rtmo-deploy ", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert set(_COMMANDS) <= set(done.stdout.split())
    loaded = done.stderr.split()
    assert "rtmo_deploy.cli.app" in loaded
    assert not {"rtmo_deploy.cli.export", "rtmo_deploy.cli.serve", "numpy"} & set(loaded)
