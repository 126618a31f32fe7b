"""Optimiser, learning rate and averaged weights of RTMO's training."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from rtmo_deploy.train.distributed import SyncBatchNorm

if TYPE_CHECKING:
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.recipe import Recipe

#: The averaged weights follow faster in the beginning: momentum + exp(-(1 + step) / this).
WARMUP_STEPS = 2000
ENCODER_PREFIX = "neck.encoder."
CLASSIFIER_PREFIX = "head.dcc."


def build_optimizer(
    model: RTMO, recipe: Recipe, device: torch.device, *, auxiliary: nn.Module | None = None
) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases and other vectors, and with a smaller rate for the encoder.

    The reference decays by module and parameter name (``norm_decay_mult=0``, ``bias_decay_mult=0``): biases and
    BatchNorm, LayerNorm. Scales, offsets and position encodings of the coordinate classifier do decay there, and
    here.
    """
    settings = recipe.optimizer
    factors = {ENCODER_PREFIX: settings.encoder_lr, CLASSIFIER_PREFIX: settings.classifier_lr}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, SyncBatchNorm)
    extra = auxiliary.named_modules(prefix="auxiliary") if auxiliary is not None else ()
    for module_name, module in (*model.named_modules(), *extra):
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{module_name}.{name}"
            decay = not (isinstance(module, norms) or name.endswith("bias"))
            factor = next((value for prefix, value in factors.items() if full.startswith(prefix)), 1.0)
            groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decay else 0.0,
                "factor": factor,
            }
            for (decay, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=settings.lr,
        fused=device.type in ("cpu", "cuda"),
    )


def learning_rate(recipe: Recipe, steps_per_epoch: int, step: int, factor: float = 1.0) -> float:
    """Rate of a step, counted from 0, for a group of parameters whose rate is ``factor`` times the main one.

    As mmengine's schedulers give it for the published configurations. Both cosines aim at ``min_lr`` for every group
    of parameters (the encoder's, which begins at 0.05 of the others' rate, is flat), and both are cut off shortly
    before they arrive: the first has the length of the whole first stage but begins after the warm-up, the second has
    the length of the second stage but begins after the one epoch in which the risen rate is held.
    """
    plan, epoch = recipe.schedule, step / steps_per_epoch
    scale = recipe.batch / recipe.optimizer.base_batch
    base, end = recipe.optimizer.lr * factor * scale, plan.min_lr * scale
    last = recipe.epochs - plan.constant
    if epoch < plan.warmup:
        return base * min(1.0, (step + 1) / (plan.warmup * steps_per_epoch)) ** 2
    if not plan.switch:
        return _cosine(base, end, (epoch - plan.warmup) / (last - plan.warmup))
    rise = plan.switch if plan.rise is None else plan.rise
    if epoch < rise:
        return _cosine(base, end, (epoch - plan.warmup) / plan.switch)
    risen = plan.second_lr * scale
    if plan.min_lr:
        risen = _cosine(base, end, (rise - plan.warmup) / plan.switch) * plan.second_lr / plan.min_lr
    return _cosine(risen, end, max(min(epoch, last) - rise - 1, 0) / (last - plan.switch))


def _cosine(begin: float, end: float, done: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class ModelAverage:
    """Exponential moving average of weights and buffers, as MMPose's ``ExpMomentumEMA``."""

    def __init__(self, model: RTMO, momentum: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.momentum = momentum
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        self._others = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after step ``step``, counted from 0."""
        momentum = (1 - self.momentum) * math.exp(-(1 + step) / WARMUP_STEPS) + self.momentum
        mine, theirs = zip(*self._floats, strict=True)
        torch._foreach_lerp_(mine, theirs, momentum)
        for own, other in self._others:
            own.copy_(other)
