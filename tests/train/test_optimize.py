"""Learning rate, parameter groups and averaged weights."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from toys import toy_recipe, trainer

from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.train.distributed import SyncBatchNorm, synchronise_norms
from rtmo_deploy.train.optimize import ModelAverage, build_optimizer, learning_rate

SPEC = NetworkSpec(0.33, 0.125, 5, 32)
PUBLISHED = {"epochs": 600, "batch": 256, "schedule": {}, "optimizer": {}, "augment": {}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RTMO(SPEC)


@pytest.mark.parametrize("factor", [1.0, 0.05])
def test_the_published_schedule(factor):
    rate = partial(learning_rate, toy_recipe(**PUBLISHED), 100)
    base = 0.004 * factor

    def at(epoch):
        return rate(round(epoch * 100), factor)

    for step in (0, 1, 250, 499):
        assert rate(step, factor) == pytest.approx(base * ((step + 1) / 500) ** 2)
    assert at(5) == pytest.approx(base)
    assert at(145) == pytest.approx((base + 2e-4) / 2)
    assert at(5 + 280 / 4) == pytest.approx(2e-4 + (base - 2e-4) * (1 + math.cos(math.pi / 4)) / 2)
    cut = 2e-4 + (base - 2e-4) * (1 + math.cos(math.pi * 275 / 280)) / 2
    assert rate(27_999, factor) == pytest.approx(cut, rel=1e-3)
    assert [at(epoch) for epoch in (280, 280.5, 281)] == pytest.approx([2.5 * cut] * 3)
    assert at(431) == pytest.approx((2.5 * cut + 2e-4) / 2)
    assert rate(57_999, factor) == pytest.approx(2e-4, rel=1e-3)
    assert [at(epoch) for epoch in (580, 590, 599.99)] == pytest.approx([2e-4] * 3, rel=1e-3)


def test_the_rate_may_rise_before_the_second_stage():
    recipe = toy_recipe(**PUBLISHED | {"epochs": 700, "schedule": {"switch": 350, "rise": 349, "constant": 30}})
    rate = partial(learning_rate, recipe, 100)
    cut = 2e-4 + 0.0038 * (1 + math.cos(math.pi * 344 / 350)) / 2
    assert rate(34_899) == pytest.approx(cut, rel=1e-3)
    assert rate(34_900) == rate(35_000) == pytest.approx(2.5 * cut)
    assert rate(51_000) == pytest.approx((2.5 * cut + 2e-4) / 2)


def test_a_cosine_may_end_at_nothing():
    plan = {"warmup": 0, "switch": 10, "constant": 4, "min_lr": 0.0, "second_lr": 1e-3}
    rate = partial(learning_rate, toy_recipe(epochs=20, batch=4, schedule=plan), 10)
    assert rate(99) == pytest.approx(0, abs=1e-5)
    assert rate(105) == pytest.approx(1e-3)


def test_all_rates_scale_with_the_batch():
    whole, half = (partial(learning_rate, toy_recipe(**PUBLISHED | {"batch": batch}), 100) for batch in (256, 128))
    for step in (3, 499, 500, 20_000, 28_000, 40_000, 59_999):
        assert half(step) == pytest.approx(whole(step) / 2)


def test_without_a_second_stage_one_cosine_leads_to_the_constant_end():
    recipe = toy_recipe(
        epochs=20, batch=4, schedule={"warmup": 0, "switch": None, "constant": 4, "min_lr": 1e-4, "second_lr": 1.0}
    )
    rate = partial(learning_rate, recipe, 10)
    assert rate(0) == pytest.approx(0.002)
    assert rate(80) == pytest.approx((0.002 + 1e-4) / 2)
    assert rate(160) == rate(199) == pytest.approx(1e-4)


def test_every_rate_of_a_group_is_set(tmp_path):
    run = trainer(tmp_path, toy_recipe(optimizer={"lr": 0.002, "base_batch": 4, "encoder_lr": 0.5}))
    run.step = 2
    run._train_step(iter([run.batches[0]]))
    assert {(group["factor"], group["lr"]) for group in run.optimizer.param_groups} == {(1.0, 0.002), (0.5, 0.001)}


@pytest.mark.parametrize("synchronised", [False, True])
def test_every_parameter_is_in_one_group_and_only_weights_decay(model, synchronised):
    if synchronised:
        synchronise_norms(model)
    recipe = toy_recipe(optimizer={"weight_decay": 0.07, "classifier_lr": 0.3})
    optimizer = build_optimizer(model, recipe, torch.device("cpu"))
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert group_of.keys() == {id(p) for p in model.parameters()}
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, SyncBatchNorm)
    of_norms = {id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters()}
    assert len(of_norms) > 100
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        free = id(parameter) in of_norms or name.endswith("bias")
        assert group["weight_decay"] == (0 if free else 0.07), name
        factor = 0.05 if name.startswith("neck.encoder.") else 0.3 if name.startswith("head.dcc.") else 1.0
        assert group["factor"] == factor, name
    assert any(name.startswith("neck.encoder.") for name, _ in model.named_parameters())


def test_the_groups_are_the_same_whatever_the_number_of_processes(model):
    other = copy.deepcopy(model)
    synchronise_norms(other)
    recipe = toy_recipe()
    first, second = (build_optimizer(one, recipe, torch.device("cpu")) for one in (model, other))
    for mine, theirs in zip(first.param_groups, second.param_groups, strict=True):
        assert [p.shape for p in mine["params"]] == [p.shape for p in theirs["params"]]


def test_the_average_follows_fast_at_first(model):
    average = ModelAverage(model, 2e-4)
    expected = {name: value.double().clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for step in (0, 1, 500, 5000):
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                if value.is_floating_point():
                    value.copy_(torch.rand(value.shape, generator=generator))
                else:
                    value.add_(3)
        average.update(step)
        momentum = (1 - 2e-4) * math.exp(-(1 + step) / 2000) + 2e-4
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = (1 - momentum) * expected[name] + momentum * value.double()
            else:
                expected[name] = value.double()
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert "running_mean" in " ".join(expected)
