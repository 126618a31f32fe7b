"""Where a training starts from: seeded weights, or a checkpoint, with another number of keypoints if need be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rtmo_deploy.errors import UsageError
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint
from rtmo_deploy.model.rtmo import initialise
from rtmo_deploy.zoo import ARCHITECTURES
from rtmo_deploy.zoo.locate import resolve_checkpoint

if TYPE_CHECKING:
    from rtmo_deploy.model.checkpoint import LoadedCheckpoint
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.train.recipe import Recipe
    from rtmo_deploy.train.sections import ModelSection


#: Factor on what attention is computed from, where a recipe asks for a calm start.
CALM = 0.2


def recipe_network(recipe: Recipe, num_keypoints: int) -> NetworkSpec:
    """The network that a recipe names; a checkpoint's own settings and widths are not in it."""
    section = recipe.model
    if section.architecture is not None:
        return NetworkSpec.of(ARCHITECTURES[section.architecture], num_keypoints)
    return NetworkSpec(section.deepen or 0.0, section.widen or 0.0, num_keypoints, section.hidden_dim)


def is_network_of(spec: NetworkSpec, recipe: Recipe) -> bool:
    """Whether a network is the recipe's, whatever its keypoints, settings and widths of single parts."""
    wanted = recipe_network(recipe, spec.num_keypoints)
    shapes = ("stage_channels", "stage_blocks", "hidden_dim")
    return all(getattr(spec, name) == getattr(wanted, name) for name in shapes)


def starting_model(recipe: Recipe, skeleton: Skeleton) -> RTMO:
    """The network a run begins with, in training mode.

    From a checkpoint every tensor of the same name and shape is taken. With another number of keypoints those are
    all but the ones that have a row for each keypoint: offsets, visibilities, deviations, position encodings and the
    layer that makes keypoint features; these start from the seed, as do those that the checkpoint lacks because only
    training uses them.
    """
    section, spec = recipe.model, recipe_network(recipe, len(skeleton))
    loaded = _load(section) if section.init is not None else None
    if loaded is not None:
        if not is_network_of(loaded.spec, recipe):
            raise UsageError(
                f"The recipe's model and its 'init' differ: {section.init} is {loaded.architecture}.",
                remedy="Name that architecture in the recipe, or another checkpoint.",
            )
        spec = replace(loaded.spec, num_keypoints=len(skeleton))
    model = RTMO(spec)
    initialise(model, recipe.seed)
    if skeleton.sigmas:
        model.head.loss_oks.sigmas.copy_(torch.tensor(skeleton.sigmas))
    if section.calm:
        _calm(model)
    if loaded is None:
        return model
    state = model.state_dict()
    for key, tensor in loaded.model.state_dict().items():
        if state[key].shape == tensor.shape and not key.endswith("loss_oks.sigmas") and key not in loaded.absent:
            state[key] = tensor
    model.load_state_dict(state)
    return model


def initial_skeleton(recipe: Recipe) -> Skeleton | None:
    """Keypoints of the checkpoint that a run starts from, None without one."""
    if recipe.model.init is None:
        return None
    return _load(recipe.model).skeleton


def _load(section: ModelSection) -> LoadedCheckpoint:
    """What a recipe starts from."""
    assert section.init is not None
    return load_checkpoint(resolve_checkpoint(section.init), ignore_cfg=True if section.ignore_cfg else None)


@torch.no_grad()
def _calm(model: RTMO) -> None:
    """Let the classifier's attention begin as the identity, with small products of queries and keys.

    Its squared ReLU has no softmax: with position encodings of deviation 1 over 128 channels, keypoint features start
    fifteen times as large as their normalised inputs, and grow from there.
    """
    dcc = model.head.dcc
    dcc.gau.o.weight.zero_()
    dcc.pos_enc.mul_(CALM)
    dcc.gau.beta.mul_(CALM)
