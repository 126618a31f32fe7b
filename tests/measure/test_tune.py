"""Candidates that are wrong are refused however fast they are, and of the others the fastest is taken."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from int8_files import stamped_int8

from rtmo_deploy.errors import ArtifactError, RtmoDeployError
from rtmo_deploy.measure.bench.options import Contender
from rtmo_deploy.measure.bench.worker import WorkerProcess
from rtmo_deploy.measure.tune import run
from rtmo_deploy.measure.tune.judge import BOUNDS, LEAST_PEOPLE, UNMATCHED, compare, poses_of
from rtmo_deploy.measure.tune.run import TuneOptions, plan, tune, verdict_of
from rtmo_deploy.measure.tune.worker import Worker
from rtmo_deploy.runtime import choice
from rtmo_deploy.runtime.choice import Trial, fastest, fits, key_of, read_decisions, tuning_alone
from rtmo_deploy.runtime.estimator import read_artifact
from rtmo_deploy.zoo import COCO_17

QUICK = TuneOptions(timeout_s=120, reference_s=120)
FP32 = Trial("onnxruntime", "fp32", "n.onnx")
FAST = Trial("openvino", "fp32", "n.onnx")
LOSSY = Trial("openvino", "bf16", "n.onnx", "bf16")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tune"


def people(count=2, images=4, seed=0):
    """What a worker answers: ``count`` people of 100 pixels in each image."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        corners = rng.uniform(0, 200, (count, 1, 2)) + 300 * np.arange(count)[:, None, None]
        keypoints = corners + rng.uniform(0, 100, (count, 17, 2))
        boxes = np.concatenate([corners[:, 0], corners[:, 0] + 100], axis=1)
        found.append({"boxes": boxes.tolist(), "scores": [0.8] * count, "keypoints": keypoints.tolist()})
    return found


def spoilt(found, how):
    """The same with a fault in it."""
    result = json.loads(json.dumps(found))
    for one in result:
        if how == "shifts":
            one["keypoints"] = (np.array(one["keypoints"]) + 3).tolist()
        elif how == "drops":
            for name in one:
                one[name] = one[name][1:]
        elif how == "nan":
            one["keypoints"][0][0][0] = math.nan
    return result


WORKER = """
import json, sys, time
fault, times, people = sys.argv[1], json.loads(sys.argv[2]), json.load(open(sys.argv[3]))
for line in sys.stdin:
    command = json.loads(line)["command"]
    if fault == "crashes" or (fault == "crashes later" and command == "time"):
        sys.exit(3)
    if fault == "hangs" or (fault == "hangs later" and command == "time"):
        time.sleep(1000)
    answer = {"people": people} if command == "find" else {"ms": times.pop(0) if times[1:] else times[0]}
    if fault == "lacks":
        error = {"class": "SetupError", "finding": "This CPU has no bf16 arithmetic.", "remedy": "", "where": None}
        print(json.dumps({"error": error}), flush=True)
        continue
    print(json.dumps({"ok": {} if fault == "nonsense" else answer}), flush=True)
"""


class Hurried:
    """A worker of which what hangs, and only that, is waited for less long: the others may stand still for seconds."""

    def __init__(self, fault, worker):
        self._worker, self.close = worker, worker.close
        self._hangs = {"hangs": "find", "hangs later": "time"}.get(fault)

    def ask(self, command, *, timeout_s):
        assert QUICK.timeout_s <= timeout_s < math.inf
        return self._worker.ask(command, timeout_s=0.5 if command["command"] == self._hangs else timeout_s)


@pytest.fixture
def tuned(tmp_path, onnx_n, monkeypatch):
    """Tune with workers that answer what they are told to: ``(fault, milliseconds)`` by trial."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)

    def run_it(told, found=None, options=QUICK, model=onnx_n):
        monkeypatch.setattr(run, "plan", lambda *_: list(told))

        def start(trial):
            fault, times = told[trial]
            file = tmp_path / f"{fault}.json"
            file.write_text(json.dumps(spoilt(people() if found is None else found, fault)))
            times = json.dumps(times if isinstance(times, list) else [times])
            command = (sys.executable, "-I", "-S", str(script), fault, times, str(file))
            return Hurried(fault, WorkerProcess(Contender(str(trial), "m"), command))

        return tune(model, options, start=start)

    return run_it


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("shifts", "shifted by 3.00 px"),
        ("drops", "4 missed and 0 extra of 8 people"),
        ("nan", "shifted by nan px"),
        ("crashes", "Its process ended during 'find' (exit code 3)"),
        ("crashes later", "Its process ended during 'time' (exit code 3)"),
        ("hangs", "did not answer 'find' within"),
        ("hangs later", "did not answer 'time' within"),
        ("nonsense", "answered nonsense"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_fault_is_refused_and_a_slower_candidate_taken(tuned, fault, reason, precision):
    fast = Trial("openvino", precision, "n.onnx")
    told = {FP32: ("none", 10.0), fast: (fault, 0.1), LOSSY: ("none", 5.0)}
    decision = tuned(told)
    wrong = decision.trials[1]
    assert (wrong.verdict, wrong.ms) == ("refused", None)
    assert reason in wrong.reason
    assert decision.chosen == decision.trials[2]
    assert decision.speedup(decision.chosen) == 2


def test_what_the_cpu_lacks_is_not_available(tuned):
    decision = tuned({FP32: ("none", 10.0), LOSSY: ("lacks", 1.0)})
    assert verdict_of(decision, decision.trials[1]) == "not available: This CPU has no bf16 arithmetic"
    assert verdict_of(decision, decision.trials[0]) == "chosen"


def test_a_reference_that_fails_is_an_error(tuned):
    with pytest.raises(RtmoDeployError, match="ended during 'find'"):
        tuned({FP32: ("crashes", 10.0), FAST: ("none", 1.0)})


def test_nothing_lossy_where_the_samples_show_few(tuned):
    told = {FP32: ("none", 10.0), FAST: ("none", 5.0), LOSSY: ("none", 1.0)}
    decision = tuned(told, people(LEAST_PEOPLE - 1, images=1))
    assert decision.chosen == decision.trials[1]
    assert "give --images" in decision.trials[2].reason
    decision = tuned(told, people(0), replace(QUICK, force=True))
    assert decision.chosen == decision.trials[0]
    assert all("show nobody" in trial.reason for trial in decision.trials[1:])


def test_rounds_that_differ_are_followed_by_one_more(tuned):
    decision = tuned({FP32: ("none", 10.0), FAST: ("none", [5.0, 9.0, 8.0])})
    assert [len(trial.rounds) for trial in decision.trials] == [3, 3]
    assert decision.trials[1].ms == 8.0
    assert any("openvino fp32 differ by 80%" in note for note in decision.facts["notes"])
    steady = tuned({FP32: ("none", 10.0), FAST: ("none", [5.0, 5.5])}, options=replace(QUICK, force=True))
    assert [len(trial.rounds) for trial in steady.trials] == [2, 2]
    assert not any("differ by" in note for note in steady.facts["notes"])


def test_a_decision_is_made_once(tuned, cache, onnx_n):
    told = {FP32: ("none", 10.0), FAST: ("none", 5.0)}
    decision = tuned(told)
    assert tuned({FP32: ("crashes", 1.0)}) == decision
    key = key_of(read_artifact(onnx_n), threads=None, input_hw=None)
    assert read_decisions(key) == [decision]
    assert tuned({FP32: ("none", 1.0), FAST: ("none", 5.0)}, options=replace(QUICK, force=True)).chosen.ms == 1.0
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 1}', "[]", "nonsense", None])
def test_a_damaged_decision_is_made_again_and_that_is_said(tuned, cache, content, caplog):
    told = {FP32: ("none", 10.0), FAST: ("none", 5.0)}
    tuned(told)
    (file,) = cache.glob("*.json")
    if content is None:
        document = json.loads(file.read_text())
        document["decisions"][0]["trials"][0]["file"] = "../elsewhere.onnx"
        content = json.dumps(document)
    file.write_text(content)
    with caplog.at_level("WARNING", "rtmo_deploy"):
        decision = tuned({FP32: ("none", 1.0), FAST: ("none", 5.0)})
    assert decision.chosen.backend == "onnxruntime"
    assert "is damaged" in caplog.text


def test_images_have_decisions_of_their_own(tuned, pictures, onnx_n):
    told = {FP32: ("none", 10.0), FAST: ("none", 5.0)}
    first = tuned(told)
    second = tuned(told, options=replace(QUICK, images=pictures[0].parent))
    assert first.samples != second.samples
    assert second.facts["images"] == "5 images"
    key = key_of(read_artifact(onnx_n), threads=None, input_hw=None)
    assert read_decisions(key) == [first, second]
    tuned(told)
    assert read_decisions(key) == [second, first]  # the newest is the one that was asked for last


def test_what_a_decision_depends_on(onnx_n, tmp_path, monkeypatch):
    model = tmp_path / "n.onnx"
    model.write_bytes(onnx_n.read_bytes())
    artifact, plain = read_artifact(model), {"threads": None, "input_hw": None}
    files = {choice.decision_file(key_of(artifact, **plain))}
    for other in ({**plain, "threads": 1}, {**plain, "input_hw": (128, 128)}):
        files.add(choice.decision_file(key_of(artifact, **other)))
    with monkeypatch.context() as patch:
        patch.setattr(choice, "read_cpu", lambda: ("another CPU", ("avx2",)))
        files.add(choice.decision_file(key_of(artifact, **plain)))
    with monkeypatch.context() as patch:
        patch.setattr(choice, "read_cpu", lambda: (choice.key_of.__name__, ("avx2", "avx512_vnni")))
        files.add(choice.decision_file(key_of(artifact, **plain)))
    with monkeypatch.context() as patch:
        patch.setattr(choice, "made_with", lambda *_: {"openvino": "1.0"})
        files.add(choice.decision_file(key_of(artifact, **plain)))
    stamped_int8(model, tmp_path / "n.int8.onnx", parent=model)
    files.add(choice.decision_file(key_of(artifact, **plain)))
    stamped_int8(model, tmp_path / "n.int8.onnx", parent=model, target="openvino")
    files.add(choice.decision_file(key_of(artifact, **plain)))
    assert len(files) == 8
    assert choice.decision_file(key_of(artifact, **plain)) in files


def test_one_waits_for_the_other(tuned, caplog):
    done = []
    with tuning_alone():
        thread = threading.Thread(target=lambda: done.append(tuned({FP32: ("none", 10.0)})))
        thread.start()
        for _ in range(600):
            if "waiting" in caplog.text:
                break
            time.sleep(0.1)
        assert not done
    thread.join(60)
    assert done
    assert "Another process is tuning" in caplog.text


# The worker


class Faulty:
    """A backend whose graph answers otherwise than the model."""

    def __init__(self, backend, fault):
        self.artifact, self.name, self.device, self._run, self._fault = backend.artifact, "fake", "cpu", backend, fault

    def __call__(self, images):
        outputs = {name: value.copy() for name, value in self._run(images).items()}
        if self._fault == "shifts":
            outputs["keypoints"][..., :2] += 3
        elif self._fault == "drops":
            outputs = {name: value[:, ::2] for name, value in outputs.items()}
        elif self._fault == "nan":
            outputs["keypoints"][:] = np.nan
        return outputs


@pytest.mark.parametrize(("fault", "reason"), [("none", ""), ("shifts", "shifted by 3.00"), ("drops", "missed")])
def test_a_backend_that_is_wrong(onnx_n, pictures, fault, reason):
    artifact, options = read_artifact(onnx_n), TuneOptions(threads=1, input_hw=(256, 256))
    command = run._finding(artifact, replace(FP32, file=onnx_n.name), options, pictures)
    worker, right = FaultyWorker(fault), Worker()
    reference, other = (
        poses_of(json.loads(json.dumps(one.answer(command)))["people"], COCO_17) for one in (right, worker)
    )
    figures = compare(reference, other)
    assert figures.people > 10
    assert reason in figures.problem("int8")
    assert bool(figures.problem("int8")) == bool(reason)
    answer = worker.answer({"command": "time", "seconds": 0})
    assert answer["ms"] > 0
    assert answer["calls"] >= 5


def test_a_backend_that_gives_no_numbers(onnx_n, pictures):
    command = run._finding(read_artifact(onnx_n), replace(FP32, file=onnx_n.name), QUICK, pictures[:1])
    with pytest.raises(ArtifactError, match="not finite"):
        FaultyWorker("nan").answer(command)


class FaultyWorker(Worker):
    def __init__(self, fault):
        super().__init__()
        self._fault = fault

    def open(self, command):
        return Faulty(super().open(command), self._fault)


# The plan


def test_int8_files_beside_a_model(onnx_n, tmp_path):
    model = tmp_path / "n.onnx"
    model.write_bytes(onnx_n.read_bytes())
    stamped_int8(model, tmp_path / "n.int8.onnx", parent=model)
    stamped_int8(model, tmp_path / "n.openvino.int8.onnx", parent=model, target="openvino")
    stamped_int8(model, tmp_path / "another_name.onnx", parent=model, target="onnxruntime")
    stamped_int8(model, tmp_path / "of_another_model.onnx", parent=tmp_path / "n.int8.onnx")
    trials = plan(read_artifact(model), ["avx512_vnni"])
    found = [(trial.backend, trial.file, trial.verdict) for trial in trials if trial.precision == "int8"]
    assert found == [
        ("onnxruntime", "another_name.onnx", ""),
        ("tensorrt", "n.int8.onnx", "not available"),
        ("openvino", "n.openvino.int8.onnx", ""),
    ]
    assert [trial.file for trial in trials if trial.precision == "int8+bf16"] == ["n.openvino.int8.onnx"]
    trials = plan(read_artifact(model), ["avx2"])
    assert {trial.reason for trial in trials if trial.precision == "int8"} == {"this CPU has no VNNI"}


def test_int8_files_that_are_not_of_the_model(onnx_n, tmp_path):
    model = tmp_path / "n.onnx"
    model.write_bytes(onnx_n.read_bytes())
    (tmp_path / "n.openvino.int8.onnx").write_bytes(b"\x08\x08damaged")
    stamped_int8(model, tmp_path / "n.int8.onnx", parent=tmp_path / "n.openvino.int8.onnx")
    (tmp_path / "folder.onnx").mkdir()
    trials = plan(read_artifact(model), ["avx_vnni"])
    reasons = {trial.file: trial.reason for trial in trials if trial.precision == "int8"}
    assert reasons == {"n.int8.onnx": "it was not made from this model", "n.openvino.int8.onnx": "it is damaged"}
    (tmp_path / "n.int8.onnx").unlink()
    (tmp_path / "n.int8.onnx").mkdir()
    assert "cannot be read" in next(
        one.reason for one in plan(read_artifact(model), ["avx_vnni"]) if one.file == "n.int8.onnx"
    )


@pytest.mark.parametrize(
    ("target", "backend"), [(None, "onnxruntime"), ("tensorrt", "onnxruntime"), ("openvino", "openvino")]
)
def test_an_int8_model_has_itself_only(onnx_n, tmp_path, target, backend):
    model = stamped_int8(onnx_n, tmp_path / "m.onnx", parent=onnx_n, target=target)
    trial, *more = plan(read_artifact(model), ["avx512_vnni"])
    assert [one.asked for one in more] == (["bf16"] if target == "openvino" else [])
    assert (trial.backend, trial.precision, trial.file) == (backend, "int8", "m.onnx")
    reference, exact, candidate = run._reference(read_artifact(model), [trial])
    assert (reference.backend, reference.file, exact, candidate) == ("onnxruntime", "m.onnx", True, False)
    (tmp_path / onnx_n.name).write_bytes(onnx_n.read_bytes())
    reference, exact, candidate = run._reference(read_artifact(model), [trial])
    assert (reference.precision, reference.file, exact, candidate) == ("fp32", onnx_n.name, False, False)


def test_without_openvino(onnx_n, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda _: None)
    trials = plan(read_artifact(onnx_n), ["avx512_vnni"])
    assert [trial.verdict for trial in trials] == ["", *["not available"] * 3]
    assert [trial.reason for trial in trials[1:3]] == ["OpenVINO is not installed"] * 2
    assert trials[3].reason == "there is no INT8 file of it beside it"


# The decision

TRIALS = st.lists(
    st.builds(
        Trial,
        backend=st.sampled_from(["onnxruntime", "openvino"]),
        precision=st.sampled_from(["fp32", "bf16", "int8", "int8+fp16", "fp16"]),
        verdict=st.sampled_from(["accepted", "refused", "not available"]),
        ms=st.none() | st.floats(0.1, 100) | st.sampled_from([10.0, 10.2, 10.3, 10.31]),
    ),
    max_size=6,
).map(tuple)


@given(TRIALS, st.sampled_from([None, "auto", "onnxruntime", "openvino"]), st.sampled_from([None, "fp32", "int8"]))
def test_the_fastest(trials, backend, precision):
    possible = [one for one in trials if one.verdict == "accepted" and one.ms is not None]
    possible = [one for one in possible if fits(one, backend, precision)]
    best = fastest(trials, backend, precision)
    if not possible:
        assert best is None
        return
    assert best in possible
    assert best.ms <= min(one.ms for one in possible) * 1.03
    equal = [one for one in possible if one.ms <= min(other.ms for other in possible) * 1.03]
    if best.backend != "onnxruntime":
        assert all(one.backend != "onnxruntime" for one in equal)
    if best.precision != "fp32":
        assert not any(one.precision == "fp32" and one.backend == best.backend for one in equal)


@given(TRIALS)
def test_a_refused_trial_changes_nothing(trials):
    wrong = Trial("onnxruntime", "fp32", verdict="refused", ms=0.001)
    assert fastest((wrong, *trials)) == fastest(trials)


@given(TRIALS)
def test_trials_come_back_from_json(trials):
    told = [json.loads(json.dumps(choice.plain(trial))) for trial in trials]
    assert tuple(map(Trial.from_dict, told)) == trials


# The comparison


def found(*changes, **more):
    return poses_of(people(**more), COCO_17) if not changes else poses_of(spoilt(people(**more), *changes), COCO_17)


def test_the_same_people():
    figures = compare(found(), found())
    assert (figures.people, figures.matched, figures.missed, figures.extra) == (8, 8, 0, 0)
    assert (figures.oks, figures.shift_px, figures.distance_px) == (1.0, (0.0, 0.0), 0.0)
    assert not any(figures.problem(precision) for precision in BOUNDS)


@pytest.mark.parametrize(("fault", "precisions"), [("shifts", BOUNDS), ("drops", BOUNDS), ("nan", BOUNDS)])
def test_each_fault_breaks_every_bound(fault, precisions):
    figures = compare(found(), found(fault))
    assert all(figures.problem(precision) for precision in precisions)
    assert compare(found(fault), found()).problem("int8")


@pytest.mark.parametrize(("px", "right"), [(0.04, {"fp32", "bf16", "int8"}), (0.2, {"bf16", "int8"}), (0.3, set())])
def test_a_shift_that_hides_in_oks(px, right):
    moved = [replace(one, keypoints=one.keypoints + np.float32([px, 0])) for one in found()]
    figures = compare(found(), moved)
    assert figures.oks > 0.998
    assert {precision for precision in BOUNDS if not figures.problem(precision)} == right


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        (0.8, 0.1, (8, 0, 8, 0)),
        (0.8, 0.25, (8, 8, 0, 0)),
        (0.35, 0.15, (8, 0, 0, 0)),
        (0.45, 0.15, (8, 0, 8, 0)),
        (0.15, 0.35, (0, 0, 0, 0)),
        (0.15, 0.45, (0, 0, 0, 8)),
    ],
)
def test_people_near_the_threshold_are_neither_missed_nor_extra(before, after, counts):
    one, two = (
        [replace(poses, scores=np.full(2, score, np.float32)) for poses in found()] for score in (before, after)
    )
    figures = compare(one, two)
    assert (figures.people, figures.matched, figures.missed, figures.extra) == counts


def test_the_table_of_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "guides" / "tune.md").read_text(encoding="utf-8")
    for name, bound in BOUNDS.items():
        assert f"| {name} | {UNMATCHED:.0%} | {bound.oks:g} | {bound.shift_px:g} | {bound.distance_px:g} |" in page


def test_a_model_that_is_no_graph(checkpoint_n):
    with pytest.raises(ArtifactError, match="There is no such file"):
        tune(checkpoint_n.with_name("nothing.onnx"), QUICK)
