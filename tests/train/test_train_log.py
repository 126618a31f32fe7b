"""``log.csv`` and the curves."""

import csv

import pytest

from rtmo_deploy.errors import SetupError, TrainingError
from rtmo_deploy.train.distributed import Meter
from rtmo_deploy.train.log import Log, Progress, draw_curves, read_log


def write(folder, steps, **options):
    log = Log(folder, **options)
    for step in steps:
        log.write(Progress(step, 99, step // 10, {"cls": 1.5, "oks": step / 2}, 12.345), 0.01)
    log.close()


def test_rows(tmp_path):
    write(tmp_path / "run", [5, 10])
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["5", "10"]
    filled = {name: value for name, value in rows[1].items() if value}
    assert filled == {
        "step": "10", "epoch": "1", "lr": "0.01", "pictures_per_second": "12.35", "loss": "6.5", "cls": "1.5",
        "oks": "5",
    }  # fmt: skip


@pytest.mark.parametrize(("step", "kept"), [(0, []), (10, ["5", "10"]), (12, ["5", "10"]), (99, ["5", "10", "15"])])
def test_going_on_drops_the_rows_after_the_step(tmp_path, step, kept):
    write(tmp_path, [5, 10, 15])
    write(tmp_path, [], step=step)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == kept


@pytest.mark.parametrize("cut", range(2, 30, 4))
def test_a_row_that_is_cut_off_is_left_out(tmp_path, cut):
    write(tmp_path, [5, 10])
    path = tmp_path / "log.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_log(path)] == ["5"]


def test_no_log():
    from pathlib import Path

    assert read_log(Path("nowhere") / "log.csv") == []


def test_curves_of_nothing_and_of_something(tmp_path):
    write(tmp_path, [])
    draw_curves(tmp_path / "log.csv", tmp_path / "empty.png")
    write(tmp_path, [5, 10])
    draw_curves(tmp_path / "log.csv", tmp_path / "two.png")
    for name in ("empty.png", "two.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SetupError):
        Log(tmp_path / "file" / "run")


def test_events(tmp_path):
    pytest.importorskip("tensorboard")
    write(tmp_path, [5], tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_meter_shows_means_and_goes_on():
    import torch
    from toys import ALONE

    meter = Meter(ALONE)
    for value in (1.0, 2.0):
        meter.add({"cls": torch.tensor(value), "oks": torch.tensor(value * 3)})
    again = Meter(ALONE)
    again.restore(meter.state())
    for one in (meter, again):
        one.add({"cls": torch.tensor(6.0), "oks": torch.tensor(0.0)})
        assert one.means(3) == {"cls": 3.0, "oks": 3.0}
    meter.clear()
    assert (meter.count, meter.means(3), meter.state()) == (0, {}, {"count": 0, "sums": {}})
    meter.add({"cls": torch.tensor(float("nan")), "oks": torch.tensor(1.0)})
    with pytest.raises(TrainingError, match="step 4: cls"):
        meter.means(4)
