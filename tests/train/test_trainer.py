"""The loop: what a run writes, and that nothing changes when it is interrupted."""

import csv
import math

import numpy as np
import pytest
import torch
from toys import ALONE, assert_same, start, synthetic, toy_recipe, trainer, weights

from rtmo_deploy.data.coco_writer import write_coco, write_dataset
from rtmo_deploy.data.sample import Sample
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import CheckpointError, InputDataError, MissingDependencyError, TrainingError, UsageError
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from rtmo_deploy.model.rtmo import initialise
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.train import loop
from rtmo_deploy.train.start import load_state
from rtmo_deploy.zoo import COCO_17, CROWDPOSE_14

VAL = synthetic(fresh=False, images=2, seed=9)
#: With an auxiliary task, another image size every step and two stages, all of which a resumed run must find again.
BUSY = {
    "data": {"train": [synthetic(), synthetic(fresh=False, seed=2, images=4)], "val": VAL},
    "batch": 4,
    "augment": {"preset": "coco", "plain_epochs": 1, "multi_scale": [64, 96], "mosaic": 0.5},
    "loss": {"heatmap": 1.0, "least_cells": 2},
}


def log_of(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "pictures_per_second"} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run = trainer(folder, toy_recipe(**BUSY))
    rows = []
    assert run.run(rows.append)
    return folder, run, rows


def test_what_a_run_leaves(straight):
    folder, run, rows = straight
    assert {path.name for path in folder.iterdir()} == {"last.pth", "best.pth", "final.pth", "log.csv", "curves.png"}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [(row.step, row.steps, row.epoch) for row in rows] == [(2, 9, 0), (4, 9, 1), (6, 9, 1), (8, 9, 2), (9, 9, 2)]
    assert [row.report is not None for row in rows] == [False, False, True, False, True]
    assert all(math.isfinite(value) for row in rows for value in row.terms.values())
    assert ["bbox_aux" in row.terms for row in rows] == [False] * 3 + [True] * 2
    assert all("heatmap" in row.terms for row in rows)
    assert [entry["step"] for entry in run.history] == [6, 9]


def test_the_files_are_checkpoints(straight):
    folder, run, _ = straight
    final = load_checkpoint(folder / "final.pth")
    assert_same(weights(final.model), weights(run.average.model))
    last = load_checkpoint(folder / "last.pth")
    assert_same(weights(last.model), weights(run.average.model))
    assert_same(weights(load_checkpoint(folder / "last.pth", ema=True).model), weights(run.model))
    assert final.skeleton == last.skeleton == COCO_17
    assert final.input_hw == last.input_hw == (64, 64)
    facts = final.contents.meta["rtmo_deploy"]
    assert (facts["recipe"], facts["step"], facts["pictures"], facts["trained"]) == ("toy", 9, 36, True)
    for name in ("final.pth", "best.pth", "last.pth"):
        assert (
            torch.load(folder / name, weights_only=True)["state_dict"].keys()
            == RTMO(run.model.spec).state_dict().keys()
        )
    changed = [
        k
        for k, v in weights(run.model).items()
        if v.is_floating_point() and not torch.equal(v, weights(run.average.model)[k])
    ]
    assert len(changed) > 100, "raw and averaged weights are not mixed up"


@pytest.mark.parametrize("stop", [1, pytest.param(3, marks=pytest.mark.long), 6])
def test_a_stopped_run_goes_on_bit_by_bit(straight, tmp_path, stop):
    folder, whole, _ = straight
    first = trainer(tmp_path, toy_recipe(**BUSY))
    step = first._train_step

    def stopping(stream):
        if first.step == stop - 1:
            first.interrupt()
        return step(stream)

    first._train_step = stopping
    assert not first.run()
    assert not (tmp_path / "final.pth").exists()
    assert load_state(tmp_path / "last.pth").progress["step"] == stop
    again = trainer(tmp_path, toy_recipe(**BUSY), resume=True)
    assert again.step == stop
    assert again.run()
    assert_same(weights(whole.model), weights(again.model))
    assert_same(weights(whole.average.model), weights(again.average.model))
    assert log_of(folder) == log_of(tmp_path)
    assert whole.history == again.history
    assert (folder / "final.pth").read_bytes() == (tmp_path / "final.pth").read_bytes()


def test_an_exception_leaves_the_last_state(straight, tmp_path):
    _, whole, _ = straight
    first = trainer(tmp_path, toy_recipe(**BUSY), save_every=0.0, log_every=1)
    step = first._train_step

    def failing(stream):
        if first.step == 5:
            raise InputDataError("The disk is gone.")
        return step(stream)

    first._train_step = failing
    with pytest.raises(InputDataError):
        first.run()
    (tmp_path / ".last.pth.abc.part").write_bytes(b"half written")
    again = trainer(tmp_path, toy_recipe(**BUSY), resume=True)
    assert again.step == 5
    assert again.run()
    assert_same(weights(whole.model), weights(again.model))
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_may_be_resumed(straight, tmp_path):
    folder, *_ = straight
    (tmp_path / "last.pth").write_bytes((folder / "last.pth").read_bytes())
    again = trainer(tmp_path, toy_recipe(**BUSY), resume=True)
    assert again.run()
    assert (tmp_path / "final.pth").read_bytes() == (folder / "final.pth").read_bytes()


def test_another_recipe_is_refused(straight):
    folder, *_ = straight
    with pytest.raises(UsageError, match="seed differ"):
        trainer(folder, toy_recipe(**BUSY, seed=3), resume=True)
    trainer(folder, toy_recipe(**BUSY | {"val_interval": 1}), resume=True)


def test_a_damaged_state_is_said(tmp_path):
    for content in (b"", b"nonsense", b"PK\x03\x04 cut"):
        (tmp_path / "last.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot go on from this file"):
            trainer(tmp_path, resume=True)


def test_stop_after_and_a_new_run_in_an_old_folder(tmp_path):
    first = trainer(tmp_path, stop_after=0.0)
    assert not first.run()
    assert first.step == 1
    second = trainer(tmp_path, toy_recipe(seed=1))
    assert second.step == 0
    second.batches = []
    second._train_step = next
    with pytest.raises(StopIteration):
        second.run()
    assert not (tmp_path / "last.pth").exists(), "the old run's state would be taken for the new one's"
    assert trainer(tmp_path, toy_recipe(seed=1), resume=True).step == 0


def test_a_loss_that_is_not_a_number_is_never_saved(tmp_path):
    run = trainer(tmp_path, save_every=0.0, log_every=1000)
    step = run._train_step

    def breaking(stream):
        if run.step == 3:
            with torch.no_grad():
                run.model.head.head_module.out_cls[0].bias.fill_(math.nan)
        return step(stream)

    run._train_step = breaking
    with pytest.raises(TrainingError, match=r"no longer finite at step 4: .*cls") as caught:
        run.run()
    assert caught.value.exit_code == 1
    state = load_state(tmp_path / "last.pth")
    assert state.progress["step"] == 3
    assert all(torch.isfinite(value).all() for value in state.model.state_dict().values())


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"accumulate": 2},
        {"grow": [[0, 0.5], [1, 1.0]]},
        {"schedule": {"warmup": 0, "switch": None, "constant": 0}},
    ],
    ids=["bf16", "fp16", "accumulate", "grow", "one-stage"],
)
def test_ways_to_train(tmp_path, changes):
    recipe = toy_recipe(**{"epochs": 3, "data": {"train": [synthetic(images=4)]}} | changes)
    run = trainer(tmp_path, recipe)
    before = weights(run.model)
    assert run.run()
    after = weights(run.model)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    # fp16 skips its first steps, until the gradients' scale suits them.
    assert len(changed) > 0.9 * len(before) or recipe.precision == "fp16"
    assert any("running_mean" in key for key in changed)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_mixed_precision_is_near_full_precision(tmp_path):
    terms = {}
    for precision in ("fp32", "bf16"):
        rows = []
        trainer(tmp_path / precision, toy_recipe(precision=precision), log_every=1).run(rows.append)
        terms[precision] = rows[0].terms
    for name, value in terms["fp32"].items():
        assert terms["bf16"][name] == pytest.approx(value, rel=0.15), name
    assert terms["bf16"] != terms["fp32"]


def test_accumulated_gradients_are_the_mean_of_the_parts(tmp_path):
    """Two equal halves: the step is the one of a half."""
    seen = {}
    for parts in (1, 2):
        recipe = toy_recipe(batch=2 * parts, accumulate=parts, optimizer={"lr": 0.002, "base_batch": 2 * parts})
        run = trainer(tmp_path / str(parts), recipe)
        run.model.eval()
        part = next(iter(run.batches[i] for i in range(1)))
        gradients = []
        clip = torch.nn.utils.clip_grad_norm_

        def keep(parameters, limit, gradients=gradients, clip=clip):
            parameters = list(parameters)
            gradients += [p.grad.clone() for p in parameters]
            return clip(parameters, limit)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.nn.utils, "clip_grad_norm_", keep)
            terms = run._train_step(iter([part] * parts))
        seen[parts] = gradients, terms
    (one, first), (two, second) = seen[1], seen[2]
    for mine, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)


def test_fp16_steps_that_overflow_are_skipped(tmp_path):
    run = trainer(tmp_path, toy_recipe(precision="fp16"))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    stream = iter([run.batches[0]])
    run._train_step(stream)
    assert all(torch.equal(before[name], value) for name, value in run.model.named_parameters())
    assert run.scaler.get_scale() < 2.0**120


SPECIAL = ("out_kpt_reg", "out_kpt_vis", "sigma_fc.0", "pos_enc", "pose_to_kpts", "loss_oks.sigmas")


def test_fine_tuning_to_other_keypoints(tmp_path):
    spec = NetworkSpec(0.33, 0.125, 17, 32)
    source = RTMO(spec)
    initialise(source, 7)
    save_checkpoint(tmp_path / "17.pth", source, skeleton=COCO_17, input_hw=(64, 64))
    model = {"deepen": 0.33, "widen": 0.125, "hidden_dim": 32}
    five = Skeleton("five", ("a", "b", "c", "d", "e"))
    path = tmp_path / "17.pth"
    for skeleton in (CROWDPOSE_14, five):
        recipe = toy_recipe(model={**model, "init": str(path)})
        made = start(recipe, skeleton)
        fresh = start(toy_recipe(), skeleton).state_dict()
        kept = load_checkpoint(path).model.state_dict()
        for name, value in made.state_dict().items():
            expected = fresh[name] if any(part in name for part in SPECIAL) and "scale" not in name else kept[name]
            if "pose_to_kpts" in name and "num_batches" in name:
                expected = kept[name]
            assert torch.equal(value, expected), name
        sigmas = made.head.loss_oks.sigmas
        assert torch.equal(sigmas, torch.tensor(skeleton.sigmas or (0.079,) * 5))
        path = tmp_path / f"{len(skeleton)}.pth"
        save_checkpoint(path, made, skeleton=skeleton, input_hw=(64, 64))
    same = start(toy_recipe(model={**model, "init": str(tmp_path / "17.pth")}, seed=5), COCO_17)
    assert_same(weights(same), weights(source))
    with pytest.raises(UsageError, match="'init' differ"):
        start(toy_recipe(model={"architecture": "rtmo-s", "init": str(tmp_path / "17.pth")}), COCO_17)
    cfg = "model = dict(backbone=dict(act_cfg=dict(type='ReLU')))"
    torch.save({"state_dict": source.state_dict(), "meta": {"cfg": cfg}}, tmp_path / "cfg.pth")
    for ignored, act in ((False, "ReLU"), (True, "SiLU")):
        recipe = toy_recipe(model={**model, "init": str(tmp_path / "cfg.pth"), "ignore_cfg": ignored})
        assert start(recipe, COCO_17).spec.settings.backbone_act == act
    (tmp_path / "bad.pth").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        start(toy_recipe(model={**model, "init": str(tmp_path / "bad.pth")}), COCO_17)


def test_fine_tuning_from_a_file_without_training_only_tensors(tmp_path):
    source = RTMO(NetworkSpec(0.33, 0.125, 17, 32))
    initialise(source, 7)
    absent = ("loss_oks", "out_kpt_reg", "sigma_fc", "num_batches_tracked")
    left = {key: value for key, value in source.state_dict().items() if not any(part in key for part in absent)}
    torch.save(left, tmp_path / "x.pth")
    model = {"deepen": 0.33, "widen": 0.125, "hidden_dim": 32, "init": str(tmp_path / "x.pth")}
    made = start(toy_recipe(model=model), COCO_17).state_dict()
    fresh = start(toy_recipe(), COCO_17).state_dict()
    for name, value in made.items():
        assert torch.equal(value, left.get(name, fresh[name])), name


@pytest.mark.parametrize("sigmas", [None, [0.02, 0.03, 0.04, 0.05, 0.06]])
def test_keypoints_of_no_convention(tmp_path, sigmas):
    drawn = SyntheticPeople(4, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2)))
    write_dataset(tmp_path, drawn)
    five = Skeleton("five", ("nose", "left_ear", "right_ear", "neck", "tail"))
    samples = []
    for index in range(4):
        people = drawn[index].people
        people = type(people)(people.boxes, people.keypoints[:, :5], np.maximum(people.visible[:, :5], 1), people.areas)
        samples.append(Sample(drawn[index].image, people, index + 1, f"{index + 1:012d}.jpg"))
    write_coco(tmp_path / "five.json", samples, five)
    source = {"type": "coco", "annotations": str(tmp_path / "five.json"), "images": str(tmp_path / "images")}
    recipe = toy_recipe(epochs=3, batch=2, data={"train": [source], "val": source, "sigmas": sigmas})
    run = trainer(tmp_path / "run", recipe)
    assert run.run()
    made = load_checkpoint(tmp_path / "run" / "final.pth")
    assert made.skeleton.keypoints == five.keypoints
    assert made.model.head.loss_oks.sigmas.tolist() == pytest.approx(sigmas or [0.079] * 5)
    assert run.history[-1]["metrics"]["AP"] is not None


def test_a_validation_set_of_other_keypoints_is_refused_at_once(tmp_path):
    drawn = SyntheticPeople(2, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 1)))
    write_dataset(tmp_path, drawn)
    five = Skeleton("five", ("a", "b", "c", "d", "e"))
    people = drawn[0].people
    people = type(people)(people.boxes, people.keypoints[:, :5], people.visible[:, :5], people.areas)
    write_coco(tmp_path / "five.json", [Sample(drawn[0].image, people, 1, "000000000001.jpg")], five)
    val = {"type": "coco", "annotations": str(tmp_path / "five.json"), "images": str(tmp_path / "images")}
    with pytest.raises(UsageError, match="validation set has 5 keypoints, the model 17"):
        trainer(tmp_path / "run", toy_recipe(data={"train": [synthetic()], "val": val}))
    with pytest.raises(UsageError, match="validation set has 17 keypoints, the model 5"):
        trainer(tmp_path / "run", toy_recipe(batch=1, data={"train": [val], "val": synthetic()}))


@pytest.mark.parametrize(("package", "options"), [("matplotlib.figure", {}), ("tensorboard", {"tensorboard": True})])
def test_a_missing_package_is_noticed_before_anything(tmp_path, monkeypatch, package, options):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rtmo-deploy\[train\]'"):
        trainer(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_alone_is_alone():
    assert ALONE.main
    assert ALONE.mean(3.0) == 3.0
    assert ALONE.divisor(0) == ALONE.divisor(1) == 1
    assert ALONE.divisor(5) == 5
    assert ALONE.any(True, False) == (True, False)
