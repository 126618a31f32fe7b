"""A training state that is damaged or another's is refused whole, in a sentence, before anything is changed."""

import copy
import math
import os
from dataclasses import replace

import pytest
import torch
from toys import assert_same, synthetic, toy_recipe, trainer, weights

from rtmo_deploy.errors import CheckpointError, ModelError, UsageError
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from rtmo_deploy.model.rtmo import initialise
from rtmo_deploy.model.spec import Settings
from rtmo_deploy.train.log import read_log
from rtmo_deploy.train.start import load_state
from rtmo_deploy.zoo import COCO_17

#: Factors that no published model has, in the smallest network.
SMALL = {"deepen": 0.1, "widen": 0.0625, "hidden_dim": 32}
RECIPE = toy_recipe(model=SMALL, loss={"heatmap": 1.0}, data={"train": [synthetic(images=4)]})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that stopped after its first step, what its last.pth holds, and that as it is read."""
    folder = tmp_path_factory.mktemp("stopped")
    run = trainer(folder, RECIPE, stop_after=0.0, log_every=1)
    assert not run.run()
    return folder, torch.load(folder / "last.pth", weights_only=True), load_state(folder / "last.pth")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A run that has not begun, and its weights."""
    run = trainer(tmp_path_factory.mktemp("fresh"), RECIPE)
    return run, weights(run.average.model)


def resumed(folder, contents, recipe=RECIPE):
    torch.save(contents, folder / "last.pth")
    return trainer(folder, recipe, resume=True)


def put(*way, value):
    """A change that sets what lies at the end of a way into the file; ``value`` may be a function of what is there."""

    def change(contents):
        for part in way[:-1]:
            contents = contents[part]
        contents[way[-1]] = value(contents[way[-1]]) if callable(value) else value

    return change


def drop(*way):
    def change(contents):
        for part in way[:-1]:
            contents = contents[part]
        del contents[way[-1]]

    return change


PROGRESS = ("meta", "rtmo_deploy", "progress")
MOMENT = ("optimizer", "state", 0, "exp_avg")
WEIGHT = "head.dcc.pos_enc"
#: Weights and record, which only the file shows.
FILE_DAMAGE = {
    "no averaged weights": drop("state_dict"),
    "no raw weights": drop("ema_state_dict"),
    "a weight gone": drop("ema_state_dict", f"module.{WEIGHT}"),
    "a weight that is NaN": put("ema_state_dict", f"module.{WEIGHT}", value=lambda weight: weight / 0),
    "an averaged weight that is NaN": put("state_dict", WEIGHT, value=lambda weight: weight * math.nan),
    "a weight of another shape": put("ema_state_dict", f"module.{WEIGHT}", value=torch.zeros(3)),
    "a weight of text": put("state_dict", WEIGHT, value="weight"),
    "no record": drop("meta", "rtmo_deploy"),
    "no meta": put("meta", value=7),
    "no progress": drop(*PROGRESS),
    "progress a list": put(*PROGRESS, value=[1]),
    "no keypoints": put("meta", "rtmo_deploy", "skeleton", value=None),
    "other keypoints": put("meta", "rtmo_deploy", "skeleton", "keypoints", value=["a", "b"]),
    "a keypoint's sigma of text": put("meta", "rtmo_deploy", "skeleton", "sigmas", value=["x"] * 17),
    "unknown settings": put("meta", "rtmo_deploy", "settings", value={"backbone_act": "os.system"}),
    "heads that do not divide": put("meta", "rtmo_deploy", "settings", value={"attention_heads": 7}),
}
#: What an intact file may hold beside them.
DAMAGE = {
    "no optimizer": drop("optimizer"),
    "an optimizer of text": put("optimizer", value="adam"),
    "no groups": drop("optimizer", "param_groups"),
    "groups of numbers": put("optimizer", "param_groups", value=[1, 2]),
    "a group less": put("optimizer", "param_groups", value=lambda groups: groups[1:]),
    "a parameter less in a group": put("optimizer", "param_groups", 0, "params", value=lambda params: params[1:]),
    "parameters in another order": put("optimizer", "param_groups", 0, "params", value=lambda params: params[::-1]),
    "no moments": put("optimizer", "state", value={}),
    "moments of one parameter gone": drop("optimizer", "state", 3),
    "a moment gone": drop(*MOMENT),
    "a moment of another shape": put(*MOMENT, value=torch.zeros(1)),
    "a moment of integers": put(*MOMENT, value=lambda moment: moment.int()),
    "a moment that is a list": put(*MOMENT, value=lambda moment: moment.tolist()),
    "a moment that is NaN": put(*MOMENT, value=lambda moment: moment * math.nan),
    "a negative second moment": put("optimizer", "state", 0, "exp_avg_sq", value=lambda moment: moment - 1),
    "the optimizer's step a number": put("optimizer", "state", 0, "step", value=1),
    "the optimizer's step a vector": put("optimizer", "state", 0, "step", value=torch.ones(5)),
    "the optimizer's step NaN": put("optimizer", "state", 0, "step", value=torch.tensor(math.nan)),
    "a name that no optimizer has": put("optimizer", "state", 0, value=lambda one: {**one, "evil": 1}),
    "no auxiliary layers": put("auxiliary", value=None),
    "auxiliary layers of another shape": put("auxiliary", "predict.weight", value=torch.zeros(2)),
    "no step": drop(*PROGRESS, "step"),
    "no recipe": put(*PROGRESS, "recipe", value=[]),
    "history a number": put(*PROGRESS, "history", value=3),
    "a row of the history without metrics": put(*PROGRESS, "history", value=[{"epoch": 1, "step": 1, "pictures": 1}]),
    "a metric of text": put(
        *PROGRESS, "history", value=[{"epoch": 1, "step": 1, "pictures": 1, "metrics": {"AP": "high"}}]
    ),
    "sums of an unknown term": put(*PROGRESS, "pending", value={"count": 1, "sums": {"luck": 1.0}}),
    "sums of nothing": put(*PROGRESS, "pending", value={"count": 0, "sums": {"cls": 1.0}}),
    "sums of text": put(*PROGRESS, "pending", value={"count": 1, "sums": {"cls": "1"}}),
    "no sums": drop(*PROGRESS, "pending"),
    **{
        f"{name} {value!r}": put(*PROGRESS, name, value=value)
        for name, values in {
            "step": (-1, 1.0, True, "1", None, 10**30, 5),
            "epoch": (-1, 0.0, False, "0", 10**30, 2),
            "best": ("0.5", None, 2, -7.5, [0.1]),
        }.items()
        for value in values
    },
}


def refused(run, state, path, before):
    with pytest.raises(CheckpointError, match=r"cannot go on from this file: .*--init, in another folder") as caught:
        run._restore(state() if callable(state) else state, path)
    assert len(str(caught.value)) < 600
    assert_same(weights(run.average.model), before)
    assert (run.step, run.best, run.history, len(run.optimizer.state)) == (0, -1.0, [], 0)


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_a_damaged_file_is_refused_and_changes_nothing(stopped, fresh, tmp_path, damage):
    contents = copy.deepcopy(stopped[1])
    FILE_DAMAGE[damage](contents)
    torch.save(contents, path := tmp_path / "last.pth")
    refused(fresh[0], lambda: load_state(path), path, fresh[1])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_and_changes_nothing(stopped, fresh, damage):
    folder, _, state = stopped
    contents = {"meta": {"rtmo_deploy": {"progress": state.progress}}, **state.parts}
    DAMAGE[damage](contents := copy.deepcopy(contents))
    progress = contents.pop("meta")["rtmo_deploy"]["progress"]
    refused(fresh[0], replace(state, progress=progress, parts=contents), folder / "last.pth", fresh[1])


@pytest.mark.parametrize("damage", ["a moment of another shape", "no progress"])
def test_a_run_does_not_begin_from_a_damaged_state(stopped, tmp_path, damage):
    contents = copy.deepcopy(stopped[1])
    {**DAMAGE, **FILE_DAMAGE}[damage](contents)
    with pytest.raises(CheckpointError, match=r"cannot go on from this file"):
        resumed(tmp_path, contents)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_rates_and_options_are_the_recipes(stopped, fresh, tmp_path):
    contents = copy.deepcopy(stopped[1])
    for group in contents["optimizer"]["param_groups"]:
        group.update(lr=1e9, weight_decay=-1, betas=(2, 2), eps="x", fused="yes", foreach=[1])
    run = resumed(tmp_path, contents)
    for mine, theirs in zip(run.optimizer.param_groups, fresh[0].optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}


def test_another_network_or_another_data_set(stopped, tmp_path):
    contents = stopped[1]
    wider = RECIPE.model_dump(mode="json") | {"model": {"deepen": 0.33, "widen": 0.25, "hidden_dim": 32}}
    other = copy.deepcopy(contents)
    other["meta"]["rtmo_deploy"]["progress"]["recipe"] = wider
    with pytest.raises(CheckpointError, match="another network than the recipe's"):
        resumed(tmp_path, other, type(RECIPE).model_validate(wider))
    with pytest.raises(UsageError, match="model differ"):
        resumed(tmp_path, contents, type(RECIPE).model_validate(wider))


def test_a_scale_of_fp16(tmp_path):
    recipe = toy_recipe(model=SMALL, precision="fp16", data={"train": [synthetic(images=4)]})
    assert not trainer(tmp_path, recipe, stop_after=0.0).run()
    contents = torch.load(tmp_path / "last.pth", weights_only=True)
    assert trainer(tmp_path, recipe, resume=True).step == 1
    for scaler in (None, {}, "x", {**contents["scaler"], "scale": math.nan}, {**contents["scaler"], "scale": 0}):
        with pytest.raises(CheckpointError, match="scale of its FP16 gradients"):
            resumed(tmp_path, contents | {"scaler": scaler}, recipe)


@pytest.mark.parametrize("kind", ["fifo", "folder", "link to nowhere", "endless"])
def test_a_state_that_is_no_file(tmp_path, kind):
    path = tmp_path / "last.pth"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot go on from this file"):
        trainer(tmp_path, RECIPE, resume=True)


def test_a_variants_settings_and_widths_stay(tmp_path):
    """Own activation, normalisation, heads and widths of parts: from --init through a stop to the result."""
    settings = Settings(
        backbone_act="ReLU", head_act="LeakyReLU(0.2)", mean=(9.0, 8.0, 7.0), std=(58.0, 57.0, 55.0), rgb=True,
        attention_heads=2, neck_eps=1e-4,
    )  # fmt: skip
    spec = NetworkSpec(0.1, 0.0625, 17, 32, neck_widen=0.125, head_widen=0.125, ffn_dim=48, settings=settings)
    source = RTMO(spec)
    initialise(source, 3)
    save_checkpoint(tmp_path / "variant.pth", source, skeleton=COCO_17, input_hw=(64, 64))
    wanted = load_checkpoint(tmp_path / "variant.pth").spec
    assert (wanted.csp_hidden, wanted.ffn_channels, wanted.settings) == (spec.csp_hidden, 48, settings)
    recipe = toy_recipe(model={**SMALL, "init": str(tmp_path / "variant.pth")}, data={"train": [synthetic(images=4)]})
    assert not trainer(tmp_path / "run", recipe, stop_after=0.0).run()
    (tmp_path / "variant.pth").unlink()  # a run that goes on has all it needs
    again = trainer(tmp_path / "run", recipe, resume=True)
    assert again.step == 1
    assert again.run()
    assert load_checkpoint(tmp_path / "run" / "final.pth").spec == wanted


LOG = "step,epoch,lr,pictures_per_second,loss,cls\n1,0,0.1,5,2.5,1\n"
LOGS = {
    "binary": bytes(range(256)) * 10,
    "no header": LOG.encode().partition(b"\n")[2],
    "another table": b"name,age\nann,3\n",
    "an unknown column": LOG.replace("cls", "luck").encode(),
    "a column twice": LOG.replace("loss", "lr").encode(),
    "a row too long": LOG.encode() + b"2,0,0.1,5,2.5,1,9\n3,0,0,0,0,0\n",
    "text in a row": LOG.encode() + b"2,0,0.1,five,2.5,1\n",
    "a step of text": LOG.encode() + "\u00b2,0,0.1,5,2.5,1\n".encode(),
    "a step without end": LOG.encode() + b"9" * 5000 + b",0,0.1,5,2.5,1\n",
    "NaN": LOG.encode() + b"2,0,0.1,nan,2.5,1\n",
    "an endless field": LOG.encode() + b'"' + b"x" * 200_000 + b'"\n',
    "a zero byte": LOG.encode() + b"\0,0,0.1,5,2.5,1\n",
}


@pytest.mark.parametrize("damage", LOGS)
def test_a_damaged_log_is_refused(tmp_path, damage):
    path = tmp_path / "log.csv"
    path.write_bytes(LOGS[damage])
    with pytest.raises(ModelError, match=r"log of this run cannot be continued: .*Move it away") as caught:
        read_log(path)
    assert caught.value.exit_code == 4


def test_a_row_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "log.csv").write_text(LOG + "2,0\n3,0,0.1,5,2.5,1\n4,0,0.")
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == ["1", "3"]


def test_a_damaged_log_is_said_before_the_training(stopped, tmp_path):
    (tmp_path / "log.csv").write_bytes(LOGS["binary"])
    with pytest.raises(ModelError, match="log of this run cannot be continued"):
        resumed(tmp_path, stopped[1])
    assert (tmp_path / "log.csv").read_bytes() == LOGS["binary"]


def test_a_log_that_is_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "log.csv")
    with pytest.raises(ModelError, match="it is a FIFO"):
        read_log(tmp_path / "log.csv")
