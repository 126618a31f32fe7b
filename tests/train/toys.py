"""Trainings that take a second: a narrow network, four synthetic images of 64x64 in a batch."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from rtmo_deploy.train.criterion import loss_terms
from rtmo_deploy.train.distributed import Group
from rtmo_deploy.train.loop import RunOptions, Trainer
from rtmo_deploy.train.recipe import Recipe
from rtmo_deploy.train.sections import LossSection
from rtmo_deploy.train.start import initial_checkpoint, starting_model

ALONE = Group(0, 1, torch.device("cpu"))


def synthetic(**changes):
    return {"type": "synthetic", "images": 8, "seed": 1, "fresh": True, "size": [64, 64], "people": [1, 3], **changes}


def recipe_values(**changes):
    """Plain values of a recipe of 3 epochs of 2 steps."""
    return {
        "name": "toy",
        "epochs": 3,
        "batch": 4,
        "input": [64, 64],
        "ema": 0.01,
        "val_interval": 2,
        "model": {"deepen": 0.33, "widen": 0.125, "hidden_dim": 32},
        "data": {"train": [synthetic()]},
        "augment": {"preset": "none", "plain_epochs": 1, "multi_scale": None},
        "optimizer": {"lr": 0.002, "base_batch": 4},
        "schedule": {"warmup": 1, "switch": 2, "constant": 0},
    } | changes


def toy_recipe(**changes):
    return Recipe.model_validate(recipe_values(**changes))


def trainer(folder, recipe=None, **options):
    return Trainer(recipe or toy_recipe(), RunOptions(folder, **({"workers": 0, "log_every": 2} | options)), ALONE)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def start(recipe, skeleton):
    """The network that a run of a recipe begins with."""
    return starting_model(recipe, skeleton, initial_checkpoint(recipe))


def loss_of(head, outputs, targets, *, second_stage=False, divisor=lambda positives: max(positives, 1), **weights):
    """Total and detached terms of the first stage's loss, unless ``weights`` say otherwise, and who was assigned."""
    options = LossSection(**{"bbox_aux": 0.0, **weights})
    terms, found = loss_terms(head, outputs, targets, options, second_stage=second_stage, divisor=divisor)
    detached = {name: term.detach() for name, term in terms.items()}
    return SimpleNamespace(total=sum(terms.values()), terms=detached, assignment=found, num_positives=len(found.cell))
