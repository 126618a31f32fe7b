"""The same first steps on a GPU as on the CPU."""

import pytest
import torch
from toys import toy_recipe, trainer

from rtmo_deploy.train.distributed import Group
from rtmo_deploy.train.loop import RunOptions, Trainer
from rtmo_deploy.train.start import load_state

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]


@pytest.fixture(autouse=True)
def exact():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 0.1), ("fp16", 0.03)])
def test_the_loss_is_the_cpus(tmp_path, precision, tolerance):
    expected, found = [], []
    trainer(tmp_path / "cpu", toy_recipe(), log_every=1).run(expected.append)
    options = RunOptions(tmp_path / "cuda", workers=0, log_every=1)
    gpu = Trainer(toy_recipe(precision=precision), options, Group(0, 1, torch.device("cuda", 0)))
    assert gpu.run(found.append)
    for name, value in expected[0].terms.items():
        assert found[0].terms[name] == pytest.approx(value, rel=tolerance, abs=1e-3), name
    state = load_state(tmp_path / "cuda" / "last.pth")
    assert all(torch.isfinite(value).all() for value in state.average.state_dict().values())
    assert bool(state.parts["scaler"]) == (precision == "fp16")


def test_a_run_goes_on_on_a_gpu(tmp_path):
    group = Group(0, 1, torch.device("cuda", 0))
    first = Trainer(toy_recipe(), RunOptions(tmp_path, workers=0, stop_after=0.0), group)
    assert not first.run()
    again = Trainer(toy_recipe(), RunOptions(tmp_path, workers=0, resume=True), group)
    assert again.step == 1
    assert again.run()
    assert (tmp_path / "final.pth").is_file()
