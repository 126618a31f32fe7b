"""A test of plumbing, not of accuracy: the whole loop, over-fitted on four photographs until it knows them by heart.

Five to thirty minutes: ``pytest -m long tests/train/test_overfit_photographs.py``.

Reading, augmentation, assignment, losses, optimiser, averaging, judging, checkpoint and prediction have to work
together for this to succeed. The AP it ends with says nothing about any other picture and is quoted nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import pytest
from toys import ALONE

from rtmo_deploy.runtime import PoseEstimator, draw_poses
from rtmo_deploy.train.loop import RunOptions, Trainer
from rtmo_deploy.train.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.long
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(
    ("steps", "ap", "ap50"),
    [
        # Measured: AP 0.758, AP50 0.981, and AP 0.807, AP50 0.931; everybody is found by both (AR50 1.0).
        (240, 0.65, 0.9),
        (900, 0.75, 0.9),
    ],
)
def test_rtmo_t_learns_four_photographs_by_heart(
    shared: Path, tmp_path: Path, steps: int, ap: float, ap50: float
) -> None:
    photographs = shared / "data" / "coco"
    source = {"type": "coco", "annotations": str(photographs / "test_coco.json"), "images": str(photographs)}
    recipe = Recipe.model_validate(
        {
            "name": "overfit",
            "epochs": steps,  # steps: the four photographs are one batch
            "batch": 4,
            "input": [320, 320],
            "ema": 0.02,
            "val_interval": steps // 3,
            "model": {"architecture": "rtmo-t", "calm": True},
            "data": {"train": [source], "val": source},
            "augment": {"preset": "none", "plain_epochs": 0, "multi_scale": None},
            "optimizer": {
                "lr": 0.002,
                "base_batch": 4,
                "weight_decay": 0.0,
                "clip": 1.0,
                "encoder_lr": 0.5,
                "classifier_lr": 1.0,
            },
            "schedule": {"warmup": 5, "switch": None, "min_lr": 0.00005, "constant": 10},
            "loss": {"oks": 20.0, "mle": 3.0, "bbox_aux": 1.0, "least_cells": 3, "heatmap": 30.0},
        }
    )
    run = Trainer(recipe, RunOptions(tmp_path, workers=0, log_every=20), ALONE)
    assert run.run(lambda row: print(row.step, row.report and row.report.metrics.get("AP")))
    measured = run.history[-1]["metrics"]
    print(measured)
    assert measured["AP"] > ap
    assert measured["AP50"] > ap50
    # The file on disk finds the people too, on the photographs as they are.
    estimator = PoseEstimator.open(tmp_path / "final.pth", input_hw=(320, 320))
    for photograph in sorted(photographs.glob("*.jpg")):
        picture = cv2.imread(str(photograph))
        people = estimator(photograph)
        assert len(people)
        cv2.imwrite(str(tmp_path / f"{photograph.stem}.png"), draw_poses(picture, people))
