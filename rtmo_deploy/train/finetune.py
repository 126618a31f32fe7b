"""Recipes from a few facts: a short schedule that fits the data set, the checkpoint and the number of epochs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import UsageError
from rtmo_deploy.plain import counted
from rtmo_deploy.train.recipe import parse_values, published_values

if TYPE_CHECKING:
    from rtmo_deploy.model.checkpoint import LoadedCheckpoint
    from rtmo_deploy.train.recipe import Recipe

DEFAULT_EPOCHS = 30
#: Learning rates of AdamW at a batch of 16; they follow the root of the batch. On 120 images of another look rtmo-n
#: came from AP 0.283 to 0.348 with 4e-5, 0.371 with 1.1e-4 (8 epochs), 0.392 with 2e-4 and 0.411 with 4e-4 (6).
TRAINED_LR, UNTRAINED_LR = 2e-4, 1e-3
LARGEST_BATCH, SMALLEST_BATCH = 16, 4
#: Steps that a small data set shall still have in an epoch.
STEPS = 8
#: With fewer images, mosaic takes a trained model further from the data than the data can bring it back.
MOSAIC_IMAGES = 1000
#: Warm-up is this share of the training, and at most so many steps.
WARMUP, WARMUP_STEPS = 0.1, 300
#: A first stage this many times as long as its rate rises before its end keeps that.
SHORTEST = 10
#: Share of the training at its end without mosaic, and with a constant rate.
PLAIN, CONSTANT = 1 / 6, 1 / 15


def finetune_recipe(
    init: str,
    ann: Path,
    images: Path,
    val_ann: Path | None = None,
    val_images: Path | None = None,
    *,
    epochs: int = DEFAULT_EPOCHS,
    batch: int | None = None,
) -> Recipe:
    """A recipe that trains a checkpoint, or a published model, further on other annotations.

    A trained checkpoint with as many keypoints as the data begins in the second stage, where its own training ended.
    Otherwise the layers of the keypoints start anew, and the second stage begins in the middle. The batch follows
    from the size of the data set if it is not given.
    """
    from rtmo_deploy.data.coco import CocoKeypoints

    dataset = CocoKeypoints(ann, images, only_annotated=True)
    size = fitting_batch(len(dataset)) if batch is None else batch
    if size > len(dataset):
        raise UsageError(
            f"--batch-size is {size}, and {ann} has {len(dataset)} images with keypoints.",
            remedy=f"Give at most {len(dataset)}, or leave it out.",
        )
    from rtmo_deploy.model.checkpoint import load_checkpoint
    from rtmo_deploy.zoo.locate import resolve_checkpoint

    loaded = load_checkpoint(resolve_checkpoint(init))
    values = _model_values(loaded, ann, images, val_ann, val_images)
    anew = loaded.untrained or len(dataset.skeleton) != loaded.spec.num_keypoints
    lr = float(f"{(UNTRAINED_LR if loaded.untrained else TRAINED_LR) * math.sqrt(size / 16):.2g}")
    plain = max(1, round(epochs * PLAIN))
    warmup_steps = min(WARMUP * epochs * (len(dataset) // size), WARMUP_STEPS)
    values |= {
        "epochs": epochs,
        "batch": size,
        "val_interval": max(1, epochs // 10),
        "optimizer": {"lr": lr, "base_batch": size},
        "schedule": {
            "warmup": warmup_steps / (len(dataset) // size),
            "switch": (epochs // 2 or None) if anew else 0,
            "min_lr": lr / 20,
            "second_lr": lr / 4,
            "constant": int(epochs * CONSTANT),
        },
    }
    values["model"]["init"] = init
    values["augment"]["plain_epochs"] = plain
    if not anew and len(dataset) < MOSAIC_IMAGES:
        values["augment"] |= {"mosaic": 0.0, "mixup": 0.0}
    return parse_values(values, Path(f"--init {init}"))


def fitting_batch(images: int) -> int:
    """Images in a step: a power of two that leaves an epoch some steps, in equal parts for each process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = min(max(images // STEPS, SMALLEST_BATCH, 1), LARGEST_BATCH, max(images, 1))
    return math.ceil((1 << int(math.log2(wanted))) / world) * world


def _model_values(
    loaded: LoadedCheckpoint, ann: Path, images: Path, val_ann: Path | None, val_images: Path | None
) -> dict[str, Any]:
    """The published way of training such a network, at the checkpoint's own input size."""
    spec, known = loaded.spec, loaded.spec.architecture
    values = published_values(ann, images, val_ann, val_images, input_hw=loaded.input_hw, widen=spec.widen)
    values["name"] = "rtmo" if known is None else known.name
    if known is not None:
        values["model"] = {"architecture": known.name}
    else:
        values["model"] = {"deepen": spec.deepen, "widen": spec.widen, "hidden_dim": spec.hidden_dim}
    height = loaded.input_hw[0]
    values["augment"]["multi_scale"] = (max(32, int(height * 0.75) // 32 * 32), math.ceil(height * 1.25 / 32) * 32)
    return values


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe of another length: whatever begins or ends at an epoch is scaled with it.

    Raises:
        UsageError: ``epochs`` is not positive.
    """
    if epochs == recipe.epochs:
        return recipe
    factor = epochs / recipe.epochs
    values: dict[str, Any] = recipe.model_dump(mode="json")
    schedule, plan = values["schedule"], recipe.schedule
    values["epochs"] = epochs
    schedule["warmup"] = plan.warmup * factor
    schedule["constant"] = min(round(plan.constant * factor), max(0, epochs - 1))
    if plan.switch:
        switch = round(plan.switch * factor)
        schedule["switch"] = switch if 0 < switch < epochs - schedule["constant"] else None
        # Right before a switch that comes early, the rate has not fallen yet, and would rise above its peak.
        early = plan.switch - (plan.rise or plan.switch)
        schedule["rise"] = switch - early if early and schedule["switch"] and switch >= SHORTEST * early else None
    plain = recipe.augment.plain_epochs
    values["augment"]["plain_epochs"] = max(1, round(plain * factor)) if plain else 0
    values["grow"] = [(round(epoch * factor), side) for epoch, side in recipe.grow]
    values["val_interval"] = max(1, round(recipe.val_interval * factor))
    return parse_values(values, Path(f"--epochs {epochs}"))


def schedule_lines(recipe: Recipe, steps_per_epoch: int) -> list[str]:
    """What a run is going to do, one sentence a line."""
    plan, scale = recipe.schedule, recipe.batch / recipe.optimizer.base_batch
    epochs, plain = recipe.epochs, min(recipe.augment.plain_epochs, recipe.epochs)
    lr, least, second = (rate * scale for rate in (recipe.optimizer.lr, plan.min_lr, plan.second_lr))
    lines = [
        f"{counted(epochs, 'epoch')} of {counted(steps_per_epoch, 'step')}, {counted(recipe.batch, 'image')} a step.",
        f"Learning rate {lr:.3g} after {counted(round(plan.warmup * steps_per_epoch), 'step')} of warm-up, then to "
        f"{least:.3g}"
        + (f"; again from {second:.3g} at epoch {plan.rise or plan.switch}" if plan.switch else "")
        + (f"; constant in the last {counted(plan.constant, 'epoch')}." if plan.constant else "."),
    ]
    if plan.switch == 0:
        lines.append("The second stage of RTMO's training from the first epoch on.")
    elif plan.switch is not None:
        lines.append(f"The second stage of RTMO's training from epoch {plan.switch} on.")
    if recipe.augment.preset != "none" and recipe.augment.mosaic != 0:
        lines.append(f"Mosaic in the first {counted(epochs - plain, 'epoch')}, plain images in the last {plain}.")
    return lines
