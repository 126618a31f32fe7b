"""A test of plumbing, not of accuracy: the whole loop, over-fitted on four photographs until it knows them by heart.

Half an hour on one core: ``pytest -m long tests/train/test_overfit_photographs.py``.

Reading, augmentation, assignment, losses, optimiser, averaging, judging, checkpoint and prediction have to work
together for this to succeed. The AP it ends with says nothing about any other image and is quoted nowhere.

Two things about four images differ from two hundred thousand:

* Keypoints that are known by heart make the predicted deviations tiny, and the likelihood's slope, which the boxes feel
  too, outgrows all other losses by twenty times: its weight is as low as the published recipes have it for rtmo-m.
* A keypoint whose heatmap peaks in a wrong place when the deviations are tiny stays there, for neither the likelihood
  nor the OKS loss has a slope so far away. Moved, turned and resized images keep the deviations wide in the first
  half; the second half learns the images as they are.
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
@pytest.mark.timeout(7200)
def test_rtmo_t_learns_four_photographs_by_heart(shared: Path, tmp_path: Path) -> None:
    photographs = shared / "data" / "coco"
    source = {"type": "coco", "annotations": str(photographs / "test_coco.json"), "images": str(photographs)}
    recipe = Recipe.model_validate(
        {
            "name": "overfit",
            "epochs": 100,
            "batch": 4,
            "input": [320, 320],
            "ema": 0.02,
            "val_interval": 10,
            "model": {"architecture": "rtmo-t", "calm": True},
            "data": {"train": [{**source, "ratio": 10}], "val": source},  # ten steps an epoch
            "augment": {
                "preset": "none",
                "flip": 0.5,
                "shift": 0.1,
                "rotate": 10,
                "scale": [0.75, 1.0],
                "plain_epochs": 45,
                "multi_scale": None,
            },
            "optimizer": {
                "lr": 0.002,
                "base_batch": 4,
                "weight_decay": 0.0,
                "clip": 1.0,
                "encoder_lr": 0.5,
                "classifier_lr": 1.0,
            },
            "schedule": {"warmup": 1, "switch": None, "min_lr": 0.00005, "constant": 2},
            "loss": {"oks": 20.0, "mle": 0.05, "bbox_aux": 1.0, "least_cells": 3, "heatmap": 30.0},
        }
    )
    run = Trainer(recipe, RunOptions(tmp_path, workers=0, log_every=50), ALONE)
    assert run.run(lambda row: print(row.step, row.report and row.report.metrics.get("AP")))
    measured = run.history[-1]["metrics"]
    print(measured)
    assert measured["AP"] > 0.95
    assert measured["AP50"] > 0.99
    # The file on disk finds the people too, on the photographs as they are.
    estimator = PoseEstimator.open(tmp_path / "final.pth", input_hw=(320, 320))
    for photograph in sorted(photographs.glob("*.jpg")):
        picture = cv2.imread(str(photograph))
        people = estimator(photograph)
        assert len(people)
        cv2.imwrite(str(tmp_path / f"{photograph.stem}.png"), draw_poses(picture, people))
