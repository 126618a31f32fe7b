"""SIGKILL at any moment, in the middle of writing a checkpoint too: the run goes on as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from toys import assert_same, recipe_values, toy_recipe, trainer

from rtmo_deploy.model.checkpoint import load_checkpoint
from rtmo_deploy.train.start import load_state

#: Trains on in children that kill themselves, each at a step and a moment, and copies what each one left.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from toys import trainer, toy_recipe

torch.set_num_threads(1)
folder = Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def train(stop_at, moment):
    run = trainer(folder, toy_recipe(), resume=True, save_every=0.0, log_every=1)
    write, step = torch.save, run._train_step

    def save(contents, stream):
        write(contents, stream)
        if run.step == stop_at and moment != "step":
            stream.flush()
            if moment == "writing":
                stream.truncate(stream.tell() // 2)
            die()

    def train_step(stream):
        terms = step(stream)
        if run.step + 1 == stop_at and moment == "step":
            die()
        return terms

    torch.save, run._train_step = save, train_step
    run.run()

for stop_at, moment in ((3, "writing"), (4, "step"), (5, "written")):
    child = os.fork()
    if not child:
        train(stop_at, moment)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    shutil.copytree(folder, folder.with_name(moment))
"""
#: Runs the command in a child for each signal, which it gets when the log has some rows.
SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
import torch, matplotlib.figure, rtmo_deploy.train.loop
from rtmo_deploy.cli import main

folder = Path(sys.argv[1])
for number in (signal.SIGINT, signal.SIGTERM):
    run = folder / number.name
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{number.name}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        options = ["--threads", "1", "--workers", "1", "--log-every", "1"]
        sys.argv = ["rtmo-deploy", "train", str(folder / "recipe.yaml"), "--out", str(run), *options]
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    deadline = time.monotonic() + 300
    log = run / "log.csv"
    while not (log.is_file() and len(log.read_text().splitlines()) > 2):
        assert time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]
        time.sleep(0.05)
    os.kill(child, number)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def drive(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    whole = trainer(tmp_path / "whole", toy_recipe(), log_every=1)
    assert whole.run()
    folder = tmp_path / "killed"
    drive(KILLED, Path(__file__).parent, folder)
    for moment, saved in (("writing", 2), ("step", 3), ("written", 4)):
        left = tmp_path / moment
        assert load_state(left / "last.pth").progress["step"] == saved
        assert load_checkpoint(left / "last.pth").model is not None
        if moment != "step":
            assert list(left.glob(".last.pth.*.part"))
    # A row of the log that is cut off, and one of a step that is not in the state.
    with (folder / "log.csv").open("a") as stream:
        stream.write("6,2,0.1,1.0,1.0\n7,2,0.")
    again = trainer(folder, toy_recipe(), resume=True, log_every=1)
    assert again.step == 4
    assert again.run()
    assert_same(whole.model.state_dict(), again.model.state_dict())
    assert_same(whole.average.model.state_dict(), again.average.model.state_dict())
    assert not list(folder.glob(".*.part"))
    lines = [(path / "log.csv").read_text().splitlines() for path in (tmp_path / "whole", folder)]
    kept = [[",".join(f for i, f in enumerate(line.split(",")) if i != 3) for line in one] for one in lines]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_a_signal_ends_a_run_with_its_state_written(tmp_path):
    values = recipe_values(epochs=400, schedule={"warmup": 1, "switch": None, "constant": 0})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert drive(SIGNALLED, tmp_path).split() == ["130", "143"]
    for name in ("SIGINT", "SIGTERM"):
        out, err = ((tmp_path / f"{name}.{stream}").read_text() for stream in ("out", "err"))
        assert "--resume" in err
        assert "Traceback" not in err
        assert "stopped" in out
        last = tmp_path / name / "last.pth"
        step = load_state(last).progress["step"]
        assert f"Stopped at step {step} of 800" in err
        assert torch.load(last, weights_only=True)["meta"]["iter"] == step
