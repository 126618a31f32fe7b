"""A backend that was slowed on purpose is blamed on the right stage, in processes as they are measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bench_results import simple

from rtmo_deploy.measure.bench import BenchOptions, compare_with_baseline
from rtmo_deploy.measure.bench.report import baseline_table, blamed, result_tables
from rtmo_deploy.measure.bench.run import run_bench
from rtmo_deploy.measure.bench.worker import WorkerProcess

NAP = 0.25
#: What sleeps, and the stage that is to be blamed.
SLOWED = {"network": "network+NMS+DCC", "letterbox": "letterbox", "draw": "draw"}
#: The worker, with one function of its pipeline that naps first. Nothing is drawn: it is much slower than the rest.
WORKER = f"""
import sys, time
from rtmo_deploy.child import open_answers
from rtmo_deploy.measure.bench import pipeline, worker
from rtmo_deploy.runtime import estimator, onnxruntime_backend

places = {{
    "network": (onnxruntime_backend, "run_session"),
    "letterbox": (estimator, "letterbox"),
    "draw": (pipeline, "draw_poses"),
}}
pipeline.draw_poses = lambda image, _: image
if sys.argv[1] in places:
    module, name = places[sys.argv[1]]
    original = getattr(module, name)

    def napping(*arguments, **options):
        time.sleep({NAP})
        return original(*arguments, **options)

    setattr(module, name, napping)
worker.serve(worker.Worker(), sys.stdin, open_answers())
"""


@pytest.fixture(scope="module")
def measured(onnx_n, tmp_path_factory):
    """The same model four times, three of them with a sleep somewhere; by the file's name."""
    folder = tmp_path_factory.mktemp("slowed")
    script = folder / "worker.py"
    script.write_text(WORKER)
    models = [folder / f"{name}.onnx" for name in ("plain", *SLOWED)]
    for path in models:
        path.write_bytes(onnx_n.read_bytes())

    def start(contender):
        command = (sys.executable, str(script), Path(contender.model).stem)
        return WorkerProcess(contender, command)

    options = BenchOptions(
        models=tuple(models),
        threads=(1,),
        input_hw=(128, 128),
        seconds=0.2,
        warmup_s=0.0,
        rounds=2,
        no_reference=True,
        pictures=1,
        picture_hw=(120, 160),
    )
    return run_bench(options, start=start)


def least(table):
    """Milliseconds by stage of the fastest call, of a stage table as it is printed: what others do slows some calls."""
    place = table.headings.index("min")
    return {row[0]: float(row[place]) for row in table.rows}


@pytest.mark.slow
def test_a_sleep_is_blamed_on_its_stage(measured):
    tables = {table.title.split(".onnx")[0]: least(table) for table in result_tables(measured)[1:]}
    assert tables.keys() == {"plain", *SLOWED}
    for name, stage in SLOWED.items():
        more = {key: value - tables["plain"][key] for key, value in tables[name].items()}
        total = more.pop("file to poses")
        assert max(more, key=more.get) == stage, (name, more)
        assert more.pop(stage) >= 900 * NAP
        assert max(more.values()) < 500 * NAP, (name, more)
        assert (total >= 900 * NAP) == (stage != "draw")  # which is not part of the way to the poses


@pytest.mark.slow
def test_the_ratio_is_of_the_whole_way(measured):
    by_name = {entry.label.split(".onnx")[0]: entry for entry in measured.entries}
    for name in ("network", "letterbox"):
        assert by_name[name].total.min >= 1000 * NAP > by_name["plain"].total.min
        ratio, busy = by_name[name].ratio, by_name[name].interference.reasons
        assert busy if ratio is None else ratio.value > 1
    assert {entry.found for entry in measured.entries} == {by_name["plain"].found}
    assert not any("different numbers of people" in text for text in measured.warnings)


@pytest.mark.parametrize("stage", ["decode file", "network+NMS+DCC"])
def test_a_baseline_tells_which_stage_became_slower(stage):
    now, before = simple(24.0, seed=5).to_dict(), simple(20.0).to_dict()
    then = {entry["contender"]["label"]: entry["stages_ms"] for entry in before["entries"]}
    for entry in now["entries"]:
        for name, summary in entry["stages_ms"].items():
            summary["p50"] = then[entry["contender"]["label"]][name]["p50"] + {stage: 4.1, "draw": 90}.get(name, 0.1)
    report = compare_with_baseline(now, before, 0.05)
    (row,) = report.slower
    assert (row.stage, row.stage_ms) == (stage, pytest.approx(4.1))
    assert blamed(row) == f" ({stage} grew most: +4.10 ms)"
    assert any(f"SLOWER ({stage} grew most: +4.10 ms)" in cells for cells in baseline_table(report).rows)
    assert all(not one.stage for one in report.rows if not one.slower)


def test_nothing_is_blamed_that_was_not_measured():
    now, before = simple(24.0, seed=5).to_dict(), simple(20.0).to_dict()
    for entry in before["entries"]:
        entry.pop("stages_ms")
    (row,) = compare_with_baseline(now, before, 0.05).slower
    assert (row.stage, row.stage_ms, blamed(row)) == ("", None, "")
