"""What a recipe says about an epoch: the weights of the loss, and whether the model is judged after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.train.criterion import LossOptions

if TYPE_CHECKING:
    from rtmo_deploy.train.recipe import Recipe


def loss_options(recipe: Recipe, epoch: int) -> LossOptions:
    """Options of the loss in an epoch, counted from 0.

    The auxiliary box loss is on in the plain epochs at the end, or throughout where there are none; from
    ``schedule.switch`` on the coordinate classifier teaches the proxy, with the weights of ``second_stage``.
    """
    weights = recipe.loss.model_dump()
    if recipe.augment.plain_epochs and not recipe.is_plain(epoch):
        weights["bbox_aux"] = 0.0
    if recipe.schedule.switch is not None and epoch >= recipe.schedule.switch:
        weights |= {**recipe.second_stage.model_dump(exclude_none=True), "proxy_target_cc": True}
    return LossOptions(**weights)


def is_judged(recipe: Recipe, epoch: int) -> bool:
    """Whether AP is measured after an epoch, counted from 0: every ``val_interval``, and in the plain ones always."""
    done = epoch + 1
    due = recipe.is_plain(epoch) or done % recipe.val_interval == 0 or done == recipe.epochs
    return recipe.data.val is not None and due
