"""Steps: cached by content, resumed after a kill, blocked by their own parents only."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from release_toys import RECIPE, ToyActions, make, write_recipe

from rtmo_deploy.errors import InputDataError, ModelError, SetupError, UsageError
from rtmo_deploy.release.integrity import verify_release
from rtmo_deploy.release.pipeline import locked, plan_release, run_release
from rtmo_deploy.release.record import Status
from rtmo_deploy.zoo.locate import cfg_is_ignored

ROOT = Path(__file__).parents[2]
ALL = [
    "source",
    "onnx",
    "fixed",
    "fp16",
    "int8",
    "pictures",
    "accuracy:source",
    "accuracy:onnx",
    "accuracy:fp16",
    "accuracy:int8",
    "parity:source:onnx",
    "latency:cpu",
]


def again(folder, text=RECIPE, **options):
    """Names of the steps that another run carries out."""
    actions = options.pop("actions", None) or ToyActions()
    make(folder, text, actions, **options)
    return actions.ran


@pytest.fixture
def done(tmp_path):
    actions = ToyActions()
    release = make(tmp_path, actions=actions)
    assert actions.ran == ALL
    assert release.verdict == "passed", release.gates
    return tmp_path


def test_a_recipe_may_ignore_the_config_inside_its_checkpoint(done):
    seen = {}

    class Actions(ToyActions):
        def run(self, step, job):
            seen[step.name] = cfg_is_ignored()
            return super().run(step, job)

    make(done, RECIPE.replace("source: ckpt.pth", "source: ckpt.pth\nignore_cfg: true"), actions=Actions())
    assert {"source", "onnx", "fixed", "accuracy:source"} <= seen.keys()
    assert "pictures" not in seen
    assert all(seen.values())
    assert not cfg_is_ignored()
    assert again(done) == []


def test_nothing_is_done_twice(done):
    before = {path: path.read_bytes() for path in (done / "out" / "artifacts").iterdir()}
    assert again(done) == []
    assert {path: path.read_bytes() for path in (done / "out" / "artifacts").iterdir()} == before


@pytest.mark.parametrize(
    ("old", "new", "ran"),
    [
        ("{make: cast, from: fixed}", "{make: cast, from: fixed, precision: bf16}", ["fp16", "accuracy:fp16"]),
        ("count: 8", "count: 9", ["int8", "accuracy:int8"]),
        ("decode: fixed", "decode: fixed, max_dets: 20", ["fixed", "fp16", "int8", "accuracy:fp16", "accuracy:int8"]),
        ("images: 4", "images: 5", ["pictures", *(name for name in ALL if name.startswith("accuracy"))]),
        ("ap_drop_max: 0.02", "ap_drop_max: 0.03", []),
        ("people: [1, 10]", "people: [1]", ["latency:cpu"]),
        ("name: toy", "name: other", ["onnx", "fixed", "fp16", "int8"]),
    ],
)
def test_a_change_carries_out_what_depends_on_it_and_no_more(done, old, new, ran):
    assert RECIPE.replace(old, new, 1) != RECIPE
    assert again(done, RECIPE.replace(old, new, 1)) == ran
    assert again(done) == []


def test_other_weights_change_everything_but_the_pictures(done):
    path = write_recipe(done)
    (done / "ckpt.pth").write_bytes(b"other weights")
    actions = ToyActions()
    run_release(path, done / "out", actions=actions)
    assert actions.ran == [name for name in ALL if name != "pictures"]


def test_a_version_counts_where_it_matters(done):
    actions = ToyActions()
    actions.package = "2"
    assert again(done, actions=actions) == ["fp16"]  # its bytes came out the same, so nothing after it


def test_from_forces_a_step_and_its_descendants(done):
    assert again(done, force="int8") == ["int8", "accuracy:int8"]
    with pytest.raises(UsageError, match="There is no step 'int9'; perhaps 'int8' is meant"):
        again(done, force="int9")


def test_a_damaged_result_is_made_again(done):
    for entry in (done / "out" / ".cache").iterdir():
        record = json.loads((entry / "record.json").read_text())
        if record["step"] == "fp16":
            (entry / record["files"][0]["name"]).write_bytes(b"flipped")
        if record["step"] == "accuracy:onnx":
            (entry / "record.json").write_text("{")
    assert again(done) == ["fp16", "accuracy:onnx"]
    assert verify_release(done / "out").ok


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path):
    path = write_recipe(tmp_path)
    planned = plan_release(path, tmp_path / "out", actions=ToyActions())
    assert [step.name for step, _ in planned] == ALL
    assert all(why for _, why in planned)
    assert not (tmp_path / "out").exists()
    run_release(path, tmp_path / "out", actions=ToyActions())
    assert not any(why for _, why in plan_release(path, tmp_path / "out", actions=ToyActions()))
    forced = plan_release(path, tmp_path / "out", actions=ToyActions(), force="fixed")
    assert [step.name for step, why in forced if why] == again(tmp_path, force="fixed")


def test_a_failure_blocks_only_what_needs_it(tmp_path):
    actions = ToyActions(fail={"fp16": "model"})
    release = make(tmp_path, actions=actions)
    assert actions.ran == [name for name in ALL if name != "accuracy:fp16"]
    status = {name: result.status for name, result in release.results.items()}
    assert status["fp16"] is Status.FAILED
    assert status["accuracy:fp16"] is Status.BLOCKED
    assert [gate.status for gate in release.gates].count("blocked") == 1
    assert release.verdict == "failed"
    assert isinstance(release.error, ModelError)
    assert release.error.exit_code == 4
    assert "It is damaged. Mend it." in str(release.error)
    assert verify_release(tmp_path / "out").ok
    assert again(tmp_path) == ["fp16", "accuracy:fp16"]


@pytest.mark.parametrize(("error", "code"), [("model", 4), ("setup", 5)])
def test_exit_codes_of_steps(tmp_path, error, code):
    assert make(tmp_path, actions=ToyActions(fail={"latency:cpu": error})).error.exit_code == code


def test_a_failed_gate_comes_before_a_failed_step(tmp_path):
    actions = ToyActions(fail={"latency:cpu": "setup"}, ap={"fp16": 0.1})
    assert make(tmp_path, actions=actions).error.exit_code == 6


@pytest.mark.parametrize("error", ["absent", "package"])
def test_what_this_machine_cannot_do_is_no_pass(tmp_path, error):
    actions = ToyActions(fail={"fp16": error})
    release = make(tmp_path, actions=actions)
    assert release.verdict == "incomplete"
    assert release.error is None
    assert release.results["accuracy:fp16"].status is Status.UNAVAILABLE
    assert [gate.status for gate in release.gates].count("not measured") == 1
    strict = make(tmp_path, actions=ToyActions(fail={"fp16": error}), strict=True)
    assert strict.verdict == "failed"
    assert strict.error.exit_code == 6
    without = RECIPE.replace("    - {artifact: fp16, ap_drop_max: 0.005}\n", "")
    strict = make(tmp_path, without, ToyActions(fail={"fp16": error}), strict=True)
    assert strict.error.exit_code == 5  # no gate asks for it, and it is not there


def test_somebodys_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        make(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        run_release(tmp_path / "toy.yaml", tmp_path / "out" / "thesis.tex", actions=ToyActions())


def test_a_checkpoint_that_is_not_there(tmp_path):
    path = write_recipe(tmp_path, RECIPE.replace("ckpt.pth", "../elsewhere/ckpt.pth"))
    release = run_release(path, tmp_path / "out", actions=ToyActions())
    assert isinstance(release.error, InputDataError)
    assert release.results["onnx"].status is Status.BLOCKED


def test_files_that_are_no_part_any_more_go(done):
    extra = done / "out" / "artifacts" / "toy-fp16.onnx"
    assert extra.is_file()
    text = RECIPE.replace("  fp16: {make: cast, from: fixed}\n", "")
    text = text.replace("    - {artifact: fp16, ap_drop_max: 0.005}\n", "")
    make(done, text)
    assert not extra.exists()
    assert verify_release(done / "out").ok


def test_a_second_release_in_the_folder_is_refused(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(SetupError, match="Another release is at work"):
        make(tmp_path)
    assert make(tmp_path).verdict == "passed"


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from release_toys import ToyActions
from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.release.pipeline import run_release
def say(said):
    print(said, flush=True)
    sys.stdin.readline()  # goes on when it is told to, or when nobody can tell it any more

say("ready")
try:
    toys = ToyActions(pause=float(sys.argv[5]))
    release = run_release(Path(sys.argv[3]), Path(sys.argv[4]), actions=toys, progress=say)
except RtmoDeployError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print("finished", release.verdict, flush=True)
"""


def child(folder, pause=0.0):
    """A release in a process of its own, which waits for a line after each that it says."""
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    path = write_recipe(folder / "recipe")
    command = [sys.executable, driver, Path(__file__).parent, ROOT, path, folder / "out", str(pause)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(list(map(str, command)), text=True, env=environment, **streams)
    assert process.stdout.readline() == "ready\n"
    return process


def killed_after(folder, lines, wait):
    """Kill a run when it has said so many lines, and a moment later."""
    process = child(folder, 0.03)
    process.stdin.close()
    try:
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(wait)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path):
    chance = random.Random(7)
    stored = 0
    for lines in (1, 3, 4, 8, 13, 17, 22, 30, 35, 38):
        killed_after(tmp_path, lines, chance.uniform(0, 0.05))
        now = len([path for path in (tmp_path / "out" / ".cache").iterdir() if not path.name.startswith(".")])
        assert now >= stored, "what was finished is kept"
        stored = now
    actions = ToyActions()
    release = run_release(tmp_path / "recipe" / "toy.yaml", tmp_path / "out", actions=actions)
    assert len(actions.ran) <= len(ALL) - stored
    assert release.verdict == "passed"
    found = verify_release(tmp_path / "out")
    assert found.ok, found
    left = [path.name for path in (tmp_path / "out" / ".cache").iterdir() if ".part-" in path.name]
    assert left == []


@pytest.mark.slow
def test_two_processes_in_one_folder(tmp_path):
    first, second = child(tmp_path), child(tmp_path)
    first.stdin.write("\n")
    first.stdin.flush()
    assert "[1/12]" in first.stdout.readline()
    said, _ = second.communicate("", timeout=300)
    assert second.returncode == 5
    assert "Another release is at work in this folder" in said
    said, _ = first.communicate("", timeout=300)
    assert said.endswith("finished passed\n")
    assert verify_release(tmp_path / "out").ok


def test_a_release_stays_when_the_next_source_cannot_be_read(tmp_path):
    make(tmp_path)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").glob("[!.]*/*"))}
    broken = ToyActions(fail={"source": "model"})
    with pytest.raises(ModelError, match="It is damaged"):
        make(tmp_path, RECIPE.replace("name: toy", "name: toy2"), broken, force="source")
    assert before
    assert {path: path.read_bytes() for path in sorted((tmp_path / "out").glob("[!.]*/*"))} == before
    assert verify_release(tmp_path / "out").ok
