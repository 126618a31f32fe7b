"""Two processes are one: the same weights and statistics, whoever has people in the images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from toys import recipe_values, synthetic, toy_recipe, trainer

from rtmo_deploy.errors import SetupError, UsageError
from rtmo_deploy.train.distributed import SyncBatchNorm, join_group

HERE = Path(__file__).parent
#: What each process does: norms, whose cases a single one does with the whole batch, and a training.
JOINT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch, torch.distributed as dist
from rtmo_deploy.train.distributed import join_group, synchronise_norms
from rtmo_deploy.train.loop import RunOptions, Trainer
from toys import toy_recipe

torch.set_num_threads(1)

group = join_group("cpu")
found = []
given = json.loads(Path(sys.argv[1]).read_text())
for case in given["cases"]:
    torch.manual_seed(0)
    rows, dims = case["rows"], case["dims"]
    x = torch.randn(sum(rows), 3, *([4] * dims)) * 2 + 50
    first = sum(rows[: group.rank])
    mine = x[first : first + rows[group.rank]].clone().requires_grad_()
    norm = (torch.nn.BatchNorm2d if dims else torch.nn.BatchNorm1d)(3)
    module = torch.nn.Sequential(norm)
    synchronise_norms(module)
    weight = torch.randn(x.shape)[first : first + rows[group.rank]]
    out = module(mine)
    (out * weight).sum().backward()
    state = {name: value.tolist() for name, value in module[0].state_dict().items()}
    half = module(mine.detach().bfloat16())
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()
    found.append({"out": out.tolist(), "grad": mine.grad.tolist(), "state": state,
                  "by_weight": module[0].weight.grad.tolist()})
flags = group.any(group.rank == 1, False)
shares = [group.mean(float(group.rank)), group.divisor(3 * group.rank), group.divisor(0)]
made = {"cases": found, "flags": flags, "shares": shares}
Path(sys.argv[2]).joinpath(f"{group.rank}.json").write_text(json.dumps(made))
options = RunOptions(Path(sys.argv[2]) / "two", workers=0, log_every=1, save_every=1.0)
assert Trainer(toy_recipe(**given["recipe"]), options, group).run()
group.leave()
"""


def torchrun(*arguments, timeout=600):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, arguments),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


CASES = [{"rows": rows, "dims": dims} for rows in ([3, 2], [4, 0], [0, 2], [1, 1]) for dims in (0, 2)]
CASES.append({"rows": [1, 0], "dims": 0})  # a single row: the running statistics


def values_of(accumulate):
    """A recipe with images of one or no person: now and then a process has nobody."""
    return recipe_values(
        batch=4,
        accumulate=accumulate,
        epochs=2,
        data={"train": [synthetic(images=8, people=[0, 1])], "val": synthetic(fresh=False, images=2)},
        # Adam makes of a gradient's rounding noise a step as long as any; so the weights shall hardly move.
        optimizer={"lr": 1e-7, "base_batch": 4},
        schedule={"warmup": 1, "switch": None, "constant": 0, "min_lr": 1e-7},
    )


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """The folder of what two processes did together."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "given.json").write_text(json.dumps({"cases": CASES, "recipe": values_of(1)}))
    (folder / "joint.py").write_text(JOINT)
    torchrun(folder / "joint.py", folder / "given.json", folder, HERE)
    return folder


@pytest.mark.slow
def test_joint_statistics_are_those_of_the_joint_batch(joint):
    parts = [json.loads((joint / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [part["flags"] for part in parts] == [[True, False]] * 2
    assert [part["shares"] for part in parts] == [[0.5, 1.5, 0.5]] * 2
    for number, case in enumerate(CASES):
        rows, dims = case["rows"], case["dims"]
        torch.manual_seed(0)
        x = (torch.randn(sum(rows), 3, *([4] * dims)) * 2 + 50).requires_grad_()
        norm = (nn.BatchNorm2d if dims else nn.BatchNorm1d)(3)
        weight = torch.randn(x.shape)
        if sum(rows) == 1:
            norm.eval()
        out = norm(x)
        (out * weight).sum().backward()
        mine = [part["cases"][number] for part in parts]
        for key, expected in (("out", out), ("grad", x.grad)):
            joined = [torch.tensor(row) for one in mine for row in one[key]]
            torch.testing.assert_close(torch.stack(joined), expected.detach(), rtol=1e-4, atol=1e-4)
        assert mine[0]["state"] == mine[1]["state"]
        if sum(rows) > 1:
            for name, value in norm.state_dict().items():
                found = torch.tensor(mine[0]["state"][name])
                torch.testing.assert_close(found.to(value.dtype), value, rtol=1e-4, atol=1e-5)
        by_weight = torch.tensor(mine[0]["by_weight"]) + torch.tensor(mine[1]["by_weight"])
        torch.testing.assert_close(by_weight, norm.weight.grad, rtol=1e-3, atol=1e-3)


def test_a_layer_takes_its_norms_place():
    norm = nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)
    joint = SyncBatchNorm(norm)
    assert joint.weight is norm.weight
    assert joint.state_dict().keys() == norm.state_dict().keys()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(joint.eval()(x), norm.eval()(x))


@pytest.mark.slow
def test_two_processes_train_as_one(joint, tmp_path):
    assert_trained_as_one(tmp_path, joint / "two", values_of(1))


@pytest.mark.slow
def test_two_processes_train_as_one_by_the_command(tmp_path):
    values = values_of(2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    torchrun(
        "-m", "rtmo_deploy", "train", tmp_path / "recipe.yaml", "--workers", 0, "--threads", 1,
        "--out", tmp_path / "two", "--log-every", 1, "--save-every", 1,
    )  # fmt: skip
    assert_trained_as_one(tmp_path, tmp_path / "two", values)


def assert_trained_as_one(tmp_path, folder, values):
    alone = trainer(tmp_path / "one", toy_recipe(**values), log_every=1)
    assert alone.run()
    folders = (tmp_path / "one", folder)
    one, two = (torch.load(path / "last.pth", weights_only=True) for path in folders)
    for key in ("state_dict", "ema_state_dict"):
        assert one[key].keys() == two[key].keys()
        for name, value in one[key].items():
            scale = float(value.abs().max()) if value.is_floating_point() else 0.0
            torch.testing.assert_close(
                two[key][name], value, rtol=1e-3, atol=1e-3 * scale + 1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    compared = 0
    for number, state in one["optimizer"]["state"].items():
        mine, theirs = two["optimizer"]["state"][number]["exp_avg"], state["exp_avg"]
        if theirs.norm() > 1e-8:  # the rest is rounding: biases that a norm takes away
            # Rounding differs between CPUs; small ones hold most of it.
            assert (mine - theirs).norm() < 0.06 * theirs.norm() + 1e-7, number
            compared += 1
    assert compared > 200
    assert (folder / "final.pth").is_file()
    rows = [(path / "log.csv").read_text().splitlines() for path in folders]
    assert len(rows[0]) == len(rows[1]) == 5
    for number in range(1, 5):
        first, second = (dict(zip(text[0].split(","), text[number].split(","), strict=True)) for text in rows)
        for name in ("cls", "bbox", "oks", "vis", "mle"):
            assert float(first[name]) == pytest.approx(float(second[name]), rel=2e-3, abs=1e-4), (number, name)


def test_processes_that_are_not_there(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SetupError, match="2 processes that WORLD_SIZE speaks of"):
        join_group("cpu")


@pytest.mark.parametrize("device", ["nonsense", "meta", "mps"])
def test_devices_that_cannot_train(device):
    with pytest.raises(UsageError):
        join_group(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(SetupError, match="no CUDA GPU"):
        join_group("cuda")
