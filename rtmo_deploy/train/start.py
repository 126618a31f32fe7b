"""Where a training starts from: seeded weights, or a checkpoint, with another number of keypoints if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.errors import UsageError
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.checkpoint import load_checkpoint
from rtmo_deploy.model.init import initialise
from rtmo_deploy.zoo import ARCHITECTURES
from rtmo_deploy.zoo.download import resolve_checkpoint

if TYPE_CHECKING:
    from rtmo_deploy.train.recipe import Recipe

__all__ = ["starting_model"]


def starting_model(recipe: Recipe, num_keypoints: int) -> RTMO:
    """The network a run begins with, in training mode.

    From a checkpoint every tensor of the same name and shape is taken. With another number of keypoints those are
    all but the ones that have a row for each keypoint: offsets, visibilities, deviations, position encodings and the
    layer that makes keypoint features; these start from the seed.

    Args:
        recipe: Its ``model`` and ``seed`` are read.
        num_keypoints: Keypoints to predict.

    Raises:
        CheckpointError: ``init`` cannot be read.
        UsageError: ``init`` is of another network than the recipe names.
        DownloadError: ``init`` is a published model's name, and it cannot be fetched.
    """
    section = recipe.model
    if section.architecture is not None:
        spec = NetworkSpec.of(ARCHITECTURES[section.architecture], num_keypoints)
    else:
        spec = NetworkSpec(section.deepen or 0.0, section.widen or 0.0, num_keypoints, section.hidden_dim)
    model = RTMO(spec)
    initialise(model, recipe.seed)
    if section.init is None:
        return model
    loaded = load_checkpoint(resolve_checkpoint(section.init)[0])
    theirs = loaded.spec
    if (theirs.deepen, theirs.widen, theirs.hidden_dim) != (spec.deepen, spec.widen, spec.hidden_dim):
        raise UsageError(
            f"The recipe's model and its 'init' differ: {section.init} is {loaded.architecture}.",
            remedy="Name that architecture in the recipe, or another checkpoint.",
        )
    state = model.state_dict()
    for key, tensor in loaded.model.state_dict().items():
        if state[key].shape == tensor.shape and not key.endswith("loss_oks.sigmas"):
            state[key] = tensor
    model.load_state_dict(state)
    return model
