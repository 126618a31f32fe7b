"""SIGKILL at any moment, in the middle of writing a checkpoint too: the run goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from toys import assert_same, recipe_values, toy_recipe, trainer

from rtmo_deploy.model.checkpoint import load_checkpoint
from rtmo_deploy.train.state import load_state

#: Saves after every step, slowly, and says where it is.
DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from toys import trainer, toy_recipe

torch.set_num_threads(1)
folder, stop_at, moment = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
run = trainer(folder, toy_recipe(), resume=True, save_every=0.0, log_every=1)
write, step = torch.save, run._train_step

def wait(where):
    print(where, flush=True)
    time.sleep(600)

def save(contents, stream):
    if run.step == stop_at and moment == "writing":
        write(contents, stream)
        stream.flush()
        stream.truncate(stream.tell() // 2)
        wait("writing")
    write(contents, stream)
    if run.step == stop_at and moment == "written":
        stream.flush()
        wait("written")

def train_step(stream):
    terms = step(stream)
    if run.step + 1 == stop_at and moment == "step":
        wait("step")
    return terms

torch.save, run._train_step = save, train_step
run.run()
print("finished", flush=True)
"""


def drive(folder, driver, stop_at, moment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(driver), str(Path(__file__).parent), str(folder), str(stop_at), moment]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        said = process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return said


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    whole = trainer(tmp_path / "whole", toy_recipe(), log_every=1)
    assert whole.run()
    (tmp_path / "driver.py").write_text(DRIVER)
    folder = tmp_path / "killed"
    for stop_at, moment, saved in ((3, "writing", 2), (4, "step", 3), (5, "written", 4)):
        assert drive(folder, tmp_path / "driver.py", stop_at, moment) == moment
        assert load_state(folder / "last.pth").progress["step"] == saved
        assert load_checkpoint(folder / "last.pth").model is not None
        if moment != "step":
            assert list(folder.glob(".last.pth.*.part"))
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
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_its_state_written(tmp_path, number, code):
    values = recipe_values(epochs=400, schedule={"warmup": 1, "switch": None, "constant": 0})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    command = [
        sys.executable,
        "-m",
        "rtmo_deploy",
        "train",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "run"),
    ]
    options = ["--threads", "1", "--workers", "1", "--log-every", "1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log = tmp_path / "run" / "log.csv"
        deadline = time.monotonic() + 300
        while not (log.is_file() and len(log.read_text().splitlines()) > 2):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert "stopped" in out
    step = load_state(tmp_path / "run" / "last.pth").progress["step"]
    assert f"Stopped at step {step} of 800" in err
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["meta"]["iter"] == step
