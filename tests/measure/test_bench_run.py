"""Who takes a turn when, what is sent to the workers, and what is made of their answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_results import ARTIFACT, entry, opened

from rtmo_deploy.errors import RtmoDeployError, UsageError
from rtmo_deploy.measure.bench import BenchOptions, Case, Contender, Protocol, Spinning, run
from rtmo_deploy.measure.bench.interference import Interference
from rtmo_deploy.measure.bench.options import parse_counts, parse_share, unique_labels
from rtmo_deploy.measure.bench.plan import ImageSet
from rtmo_deploy.measure.bench.run import _notes
from rtmo_deploy.plain import plain

ARTIFACTS = {"A": {**ARTIFACT, "kind": "checkpoint"}, "B": ARTIFACT}
TIMES = {"A": 40.0, "B": 20.0}


class Link:
    """A worker that is none."""

    def __init__(self, contender, log, *, broken="", size=(640, 640), found=3.0):
        self.contender, self.log, self.broken, self.size, self.found = contender, log, broken, size, found
        self.closed = 0
        self.starts = []
        log.append((contender.label, "start", contender.batch, contender.threads))

    def ask(self, command, *, timeout_s):
        assert timeout_s > 0
        json.dumps(command)
        label, kind = self.contender.label, command["command"]
        people = Path(command["pictures"][0]).stem if "pictures" in command else None
        self.log.append((label, kind, people, command.get("calls")))
        if self.broken == kind:
            raise RtmoDeployError("It broke.", where=label)
        if kind == "open":
            assert Contender.from_dict(command["contender"]) == self.contender
            facts = {"backend": "torch" if label == "A" else "onnxruntime", "device": "cpu", "input_hw": [*self.size]}
            return {
                "artifact": ARTIFACTS[label],
                "sha256": "ab" * 32,
                "facts": facts,
                "versions": {"python": "3"},
                "open_s": 1.0,
                "memory": 1,
            }
        if kind == "warm":
            return {"calls": 2, "seconds": 0.1}
        self.starts.append(command["start"])
        times = [TIMES[label]] * (command["calls"] or 4)
        return {
            "stages": {"draw": times, "network": times},
            "totals": times,
            "found": dict.fromkeys(command["pictures"], self.found) if isinstance(self.found, float) else self.found,
            "memory": 2**20,
        }

    def close(self):
        self.closed += 1


@pytest.fixture
def bench(monkeypatch):
    """Runs a benchmark with such workers; gives the result, the log and the workers."""

    def go(contenders=("A", "B"), links=None, sets=(None,), batches=(1,), **options):
        log, started = [], []
        planned = tuple(Contender(label, label, reference=label == "A") for label in contenders)
        monkeypatch.setattr(run, "plan_contenders", lambda _: (planned, batches, ["a note"]))
        images = [ImageSet(n, (Path(f"{n}.jpg"),), "images") for n in sets]
        monkeypatch.setattr(run, "image_sets", lambda *_: images)
        # Whatever else this machine does: nothing disturbs these turns.
        monkeypatch.setattr(run.Observer, "result", lambda _: Interference())

        def start(contender):
            started.append(Link(contender, log, **(links or {}).get(contender.label, {})))
            return started[-1]

        asked = BenchOptions(models=(Path("B"),), pictures=1, **options)
        try:
            return run.run_bench(asked, start=start), log, started
        finally:
            assert all(link.closed == 1 for link in started)

    return go


def turns(log, kind="measure"):
    return [(label, people) for label, what, people, _ in log if what == kind]


def test_they_take_turns(bench):
    _, log, _ = bench(rounds=3)
    assert turns(log) == [("A", "None"), ("B", "None")] * 3
    assert [entry[1] for entry in log[:4]] == ["start", "open", "start", "open"]
    assert turns(log, "warm") == [("A", "None"), ("B", "None")]


def test_a_sweep_of_people_is_in_every_round(bench):
    result, log, _ = bench(sets=(0, 4), people=(0, 4), rounds=2)
    assert turns(log) == [("A", "0"), ("B", "0"), ("A", "4"), ("B", "4")] * 2
    assert [(entry.label, entry.case) for entry in result.entries] == [
        ("A", Case(people=0)),
        ("B", Case(people=0)),
        ("A", Case(people=4)),
        ("B", Case(people=4)),
    ]


def test_each_batch_and_number_of_threads_has_processes_of_its_own(bench):
    result, log, started = bench(batches=(1, 8), threads=(1, 2), rounds=2)
    assert len(started) == 8
    cases = [Case(1, 1), Case(1, 2), Case(8, 1), Case(8, 2)]
    assert [entry.case for entry in result.entries[::2]] == cases
    assert [(entry[2], entry[3]) for entry in log if entry[1] == "start"][::2] == [(1, 1), (1, 2), (8, 1), (8, 2)]


def test_what_is_made_of_it(bench):
    result, _, _ = bench(rounds=4)
    first, second = result.entries
    assert (first.ratio, second.ratio.value) == (None, pytest.approx(0.5))
    assert second.rounds == (20.0,) * 4
    assert second.total.n == 16
    assert second.throughput == pytest.approx(50)
    assert list(second.stages) == ["network", "draw"]  # in the pipeline's order, not the answer's
    assert "a note" in result.warnings
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["reference"] == "A"
    assert document["entries"][1]["contender"]["sha256"] == "ab" * 32
    assert document["machine"]["fingerprint"] == result.machine.fingerprint


@pytest.mark.parametrize("rounds", [1, 3, 10, 1000])
def test_v100_is_ten_and_a_hundred(bench, rounds):
    _, log, _ = bench(protocol=Protocol.V100, rounds=rounds)
    for label in "AB":
        assert sum(calls for name, kind, _, calls in log if (name, kind) == (label, "measure")) == 100
        assert [calls for name, kind, _, calls in log if (name, kind) == (label, "warm")] == [10]


def test_v100_stands_beside_the_published_figure(bench):
    result, _, _ = bench(protocol=Protocol.V100)
    figure = result.published["B"]
    assert (figure.model, figure.latency_ms, figure.same_hardware) == ("rtmo-s", 8.9, False)
    assert figure.verdict() == "not comparable: other hardware"
    assert result.published["A"].verdict() == "not comparable: other hardware; the runtime is torch"
    assert any("synthetic ones" in text for text in result.warnings)


@pytest.mark.parametrize("where", ["open", "warm", "measure"])
def test_no_process_is_left_where_one_breaks(bench, where):
    with pytest.raises(RtmoDeployError, match="B: It broke"):
        bench(links={"B": {"broken": where}})


def test_models_of_different_sizes_do_not_meet(bench):
    with pytest.raises(UsageError, match="A takes 640x640; B takes 320x320"):
        bench(links={"B": {"size": (320, 320)}})


def test_unequal_work_is_told(bench):
    result, _, _ = bench(links={"B": {"found": 5.0}})
    assert any("different numbers of people" in text for text in result.warnings)
    result, _, _ = bench(links={"B": {"found": 3.01}})
    assert not any("different numbers of people" in text for text in result.warnings)


def test_people_are_counted_on_the_same_images(bench):
    """A slow contender sees fewer images in its time, which says nothing of what it finds in them."""
    fast, slow = {"a.jpg": 1, "b.jpg": 12, "c.jpg": 2}, {"a.jpg": 1}
    result, _, _ = bench(links={"A": {"found": slow}, "B": {"found": fast}})
    assert [entry.found for entry in result.entries] == [1, 1]
    assert not any("different numbers of people" in text for text in result.warnings)
    result, _, _ = bench(links={"A": {"found": slow}, "B": {"found": {**fast, "a.jpg": 2}}})
    assert any("in the same images (batch 1: 1.00 to 2.00" in text for text in result.warnings)
    result, _, _ = bench(links={"A": {"found": {"a.jpg": 4}}, "B": {"found": {"b.jpg": 4}}})
    assert [entry.found for entry in result.entries] == [4, 4]


def test_contenders_begin_a_round_with_the_same_image(bench):
    _, _, started = bench(rounds=3, batches=(2,))
    assert [link.starts for link in started] == [[0, 2, 4]] * 2


def test_one_alone_has_no_ratio(bench):
    result, _, _ = bench(contenders=("B",))
    assert result.reference is None
    assert result.entries[0].ratio is None


def test_a_contender_survives_its_journey():
    one = Contender("x", "m", "torch", "cuda:1", 2, 3, (64, 96), True, Spinning.OFF, (0.2, 0.5), "center", True)
    assert Contender.from_dict(json.loads(json.dumps(plain(one)))) == one


@pytest.mark.parametrize(
    ("text", "option", "least", "expected"),
    [("1", "batch", 1, (1,)), ("4, 1,4", "batch", 1, (4, 1)), ("0,50", "people", 0, (0, 50))],
)
def test_lists_of_numbers(text, option, least, expected):
    assert parse_counts(text, option, least=least) == expected


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("", "batch"),
        ("0", "batch"),
        ("1,", "batch"),
        ("-1", "people"),
        ("61", "people"),
        ("x", "threads"),
        ("²", "batch"),
        ("9" * 5000, "batch"),
    ],
)
def test_what_is_no_list_of_numbers(text, option):
    with pytest.raises(UsageError, match=f"--{option}"):
        parse_counts(text, option, least=0 if option == "people" else 1)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.05", 0.05), (" 0% ", 0), ("12.5%", 0.125), ("999%", 9.99)]
)
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "-1%", "nan", "inf", "x%", "1001%", "5%%"])
def test_what_is_no_share(text):
    with pytest.raises(UsageError, match="is no share"):
        parse_share(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": 0.0}, "duration of 0 s"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"warmup_s": -1.0}, "warm-up of -1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"images": Path("d"), "people": (1,)}, "--people makes its own"),
        ({"protocol": Protocol.V100, "people": (1,)}, "does not sweep people"),
        ({"protocol": Protocol.V100, "batches": (2,)}, "is at batch 1"),
        ({"no_reference": True, "compiled": True}, "leaves PyTorch out"),
    ],
)
def test_what_makes_no_sense(options, words):
    with pytest.raises(UsageError, match=words):
        BenchOptions(**{"models": (Path("m.onnx"),), **options})


def test_without_a_model_nothing_starts():
    with pytest.raises(UsageError, match="no model"):
        run.run_bench(BenchOptions())


def test_labels_are_unique():
    assert unique_labels(["a", "b", "a", "a"]) == ["a", "b", "a #2", "a #3"]


def test_8_bits_of_another_runtime_are_told():
    case = Case()
    own, other = (
        entry(opened(f"{target}.onnx", precision="int8", target=target), case, [[5.0]])
        for target in ("onnxruntime", "tensorrt")
    )
    notes = _notes([own, other], [], BenchOptions(models=()))
    assert "tensorrt.onnx was quantised for tensorrt: its 8 bits are computed in float32." in notes
    assert not any(note.startswith("onnxruntime.onnx") for note in notes)
