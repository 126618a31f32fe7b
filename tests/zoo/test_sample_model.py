"""The model that comes with the package: it is what its record and its card say, and it really finds people."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from rtmo_deploy.cli.app import app
from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.runtime import PoseEstimator
from rtmo_deploy.zoo import EMBEDDED
from rtmo_deploy.zoo.locate import resolve_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

RECORD = EMBEDDED["rtmo-n"]
#: As in the card: never drawn while it was trained.
HELD_OUT = ["--images", "500", "--seed", "2026", "--people", "1-6"]


def test_it_is_small_and_what_the_record_says() -> None:
    assert RECORD.path.stat().st_size < 6 * 1024 * 1024
    loaded = load_checkpoint(RECORD.path)
    assert loaded.architecture == RECORD.architecture.name == "rtmo-n"
    assert loaded.input_hw == RECORD.architecture.input_hw
    assert loaded.skeleton == RECORD.skeleton
    assert loaded.contents.stored_dtype == "float16"
    assert resolve_checkpoint("rtmo-n") == RECORD.path


def test_the_card_has_the_records_figures() -> None:
    card = RECORD.card.read_text(encoding="utf-8")
    assert re.search(rf"\bAP {RECORD.ap:.3f}\b", card)
    assert re.search(rf"\bAP50 {RECORD.ap50:.3f}\b", card)
    assert " ".join(HELD_OUT) in card


def test_it_finds_who_is_in_a_picture() -> None:
    dataset = SyntheticPeople(12, seed=77, options=SyntheticOptions(people=(1, 2), occluded=0, truncated=0))
    estimator = PoseEstimator.open("rtmo-n")
    found, there, near = 0, 0, 0
    for index in range(12):
        sample = dataset[index]
        people = estimator(sample.image)
        for box, keypoints, flags in zip(
            sample.people.boxes, sample.people.keypoints, sample.people.visible, strict=True
        ):
            there += 1
            if not len(people):
                continue
            errors = np.linalg.norm(people.keypoints - keypoints, axis=2)[:, flags == 2]
            best = errors.mean(axis=1).min() / np.hypot(*(box[2:] - box[:2]))
            found += best < 0.1
            near += best < 0.04
    assert found >= 0.85 * there
    assert near >= 0.7 * there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "ap", "ap50"),
    [(100, 0.637, 0.912), pytest.param(500, RECORD.ap, RECORD.ap50, marks=pytest.mark.long)],
)
def test_average_precision_on_the_held_out_set(tmp_path: Path, images: int, ap: float, ap50: float) -> None:
    """The card's figure is that of 500 images; the first 100 of them are as good a witness of changed weights."""
    runner = CliRunner()
    folder = tmp_path / "people"
    assert runner.invoke(app, ["data", "synth", str(folder), *HELD_OUT, "--images", str(images)]).exit_code == 0
    where = ["--ann", str(folder / "annotations.json"), "--images", str(folder / "images")]
    result = runner.invoke(app, ["eval", "rtmo-n", *where, "--json"])
    assert result.exit_code == 0, result.stderr
    measured = json.loads(result.stdout)["metrics"]
    assert measured["AP"] == pytest.approx(ap, abs=0.005)
    assert measured["AP50"] == pytest.approx(ap50, abs=0.005)
    # What a model that comes with the package must reach.
    assert measured["AP"] >= 0.60
    assert measured["AP50"] >= 0.90
