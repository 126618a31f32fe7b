"""Recipes from a few facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtmo_deploy.data.coco_writer import write_dataset
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.errors import UsageError
from rtmo_deploy.model import initial_checkpoint
from rtmo_deploy.train.finetune import finetune_recipe, fitting_batch, schedule_lines, with_epochs
from rtmo_deploy.train.optimize import learning_rate
from rtmo_deploy.train.recipe import load_recipe, published_recipe, with_settings
from rtmo_deploy.zoo import ARCHITECTURES, COCO_17, skeleton_for

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "train").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder, SyntheticPeople(8, seed=5, options=SyntheticOptions(size=(64, 64), people=(1, 2))))
    return folder / "annotations.json", folder / "images"


def rates(recipe, steps):
    return [learning_rate(recipe, steps, step) for step in range(recipe.epochs * steps)]


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 30, 100])
def test_the_schedule_of_a_trained_checkpoint(checkpoint_n, data, epochs):
    recipe = finetune_recipe(str(checkpoint_n), *data, epochs=epochs)
    assert (recipe.epochs, recipe.batch, recipe.input, recipe.model.architecture) == (epochs, 4, (256, 256), "rtmo-n")
    assert recipe.augment.multi_scale == (192, 320)
    assert all(recipe.in_second_stage(epoch) for epoch in range(epochs))
    assert recipe.is_plain(epochs - 1)
    if epochs > 1:
        assert not recipe.is_plain(0)
    steps = rates(recipe, 2)
    assert max(steps) <= recipe.optimizer.lr == 1e-4
    if epochs >= 3:
        peak = steps.index(max(steps))
        assert peak <= 0.1 * len(steps) + 1
        assert steps[peak:] == sorted(steps[peak:], reverse=True)
        assert steps[-1] < 0.5 * recipe.optimizer.lr


@pytest.mark.parametrize(("keypoints", "lr"), [(17, 5e-4), (6, 5e-4)])
def test_an_untrained_start_has_both_stages(tmp_path, data, keypoints, lr):
    path = initial_checkpoint(
        tmp_path / "u.pth", ARCHITECTURES["rtmo-n"], skeleton=COCO_17 if keypoints == 17 else skeleton_for(6), seed=0
    )
    recipe = finetune_recipe(str(path), *data, epochs=10)
    assert recipe.optimizer.lr == lr
    assert [recipe.in_second_stage(epoch) for epoch in (0, 4, 5, 9)] == [False, False, True, True]
    assert finetune_recipe(str(path), *data, epochs=1).schedule.switch is None


def test_batches_that_a_data_set_can_fill(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    wanted = {1: 1, 2: 2, 3: 2, 4: 4, 31: 4, 60: 4, 64: 8, 128: 16, 100_000: 16}
    assert {images: fitting_batch(images) for images in wanted} == wanted
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert fitting_batch(60) == 6


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30, 299])
def test_every_recipe_can_have_any_length(path, epochs):
    recipe = load_recipe(path)
    short = with_epochs(recipe, epochs)
    assert short.epochs == epochs
    found = rates(short, 3)
    peak = recipe.optimizer.lr * recipe.batch / recipe.optimizer.base_batch
    assert 0 < min(found) <= max(found) <= peak * (1 + 1e-9)
    assert len(schedule_lines(short, 3)) >= 2
    if epochs >= 30:
        share = short.schedule.switch / epochs
        assert abs(share - recipe.schedule.switch / recipe.epochs) < 0.03


def test_rates_follow_the_learning_rate_and_contradictions_are_refused():
    recipe = published_recipe("rtmo-s", Path("a.json"), Path("i"))
    changed = with_settings(recipe, ["optimizer.lr=0.001"])
    assert changed.schedule.min_lr == pytest.approx(5e-5)
    assert changed.schedule.second_lr == pytest.approx(1.25e-4)
    kept = with_settings(recipe, ["optimizer.lr=0.001", "schedule.min_lr=1e-4"])
    assert (kept.schedule.min_lr, kept.schedule.second_lr) == (1e-4, 5e-4)
    for settings, words in (
        (["optimizer.lr=1e-5", "schedule.min_lr=1e-4"], "the rate would rise"),
        (["schedule.second_lr=1e-5"], "is below 'schedule.min_lr'"),
        (["schedule.switch=590"], "nothing is left"),
        (["schedule.switch=580"], "nothing is left"),
        (["schedule.switch=null", "schedule.warmup=580"], "nothing is left"),
        (["schedule.warmup=300"], "'schedule.warmup' ends after"),
        (["schedule.rise=300"], "'schedule.rise' must not be after"),
    ):
        with pytest.raises(UsageError, match=words):
            with_settings(recipe, settings)


def test_a_batch_that_the_data_cannot_fill(checkpoint_n, data):
    with pytest.raises(UsageError, match="has 8 images with keypoints"):
        finetune_recipe(str(checkpoint_n), *data, batch=9)
