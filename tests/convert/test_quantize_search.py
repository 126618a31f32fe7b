"""Giving layers back until a budget is met, tried with a judge that only pretends."""

from __future__ import annotations

import pytest

from rtmo_deploy.convert.quantize.judge import Verdict
from rtmo_deploy.convert.quantize.search import search
from rtmo_deploy.convert.quantize.source_model import Block
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure import Figures

BLOCKS = tuple(
    Block(name, (number,), macs) for number, (name, macs) in enumerate(zip("abcd", (40, 30, 20, 10), strict=True))
)
#: Points of AP that each block loses.
LOSS = {"a": 0.1, "b": 2.0, "c": 0.0, "d": 3.0}
BASELINE = 60.0


class PretendedJudge:
    def __init__(self, loss):
        self.loss, self.asked = loss, []

    def __call__(self, names):
        self.asked.append(names)
        lost = sum(self.loss[name] for name in names)
        return Verdict(BASELINE - lost, Figures(people_a=10, matched=10, oks_mean=1 - lost / 100))


def test_nothing_is_reverted_where_the_budget_holds_at_once():
    judge = PretendedJudge(LOSS)
    found = search(BLOCKS, judge, BASELINE, 6)
    assert found.met
    assert judge.asked == [frozenset("abcd")]
    assert found.costs == ()
    assert [(p.reverted, p.macs, round(p.ap_drop, 6)) for p in found.frontier] == [(None, 100, 5.1)]


def test_the_costly_ones_for_what_they_carry_go_first():
    judge = PretendedJudge(LOSS)
    said = []
    found = search(BLOCKS, judge, BASELINE, 0.5, progress=said.append)
    assert found.met
    assert [point.reverted for point in found.frontier] == [None, "d", "b"]
    assert [point.macs for point in found.frontier] == [100, 90, 60]
    assert [cost.blocks[0] for cost in found.costs] == ["d", "b", "a", "c"]
    assert found.chosen.blocks == ("a", "c")
    assert found.chosen.ap_drop == pytest.approx(0.1)
    assert judge.asked[1:5] == [frozenset(name) for name in "abcd"]
    assert len(said) == 1 + 4 + 2


def test_a_large_block_with_some_loss_outlives_a_small_one_with_a_little_less():
    found = search(BLOCKS[::3], PretendedJudge({"a": 1.0, "d": 0.9}), BASELINE, 1.5)
    assert [point.reverted for point in found.frontier] == [None, "d"]


def test_what_costs_next_to_nothing_is_not_reverted_first():
    # d alone would be dearest for its arithmetic; its loss is 1 % of b's, which is chance.
    found = search(BLOCKS, PretendedJudge({"a": 0, "b": 3.0, "c": 0, "d": 0.03}), BASELINE, 0.5)
    assert [point.reverted for point in found.frontier] == [None, "b"]


def test_a_budget_that_cannot_be_met_keeps_one_block_and_says_so():
    judge = PretendedJudge(dict.fromkeys("abcd", 5.0))
    found = search(BLOCKS, judge, BASELINE, 1)
    assert not found.met
    assert len(found.frontier) == 4
    assert [len(point.blocks) for point in found.frontier] == [4, 3, 2, 1]
    assert found.chosen.ap_drop == 5
    assert frozenset() not in judge.asked


def test_one_block_is_not_reverted():
    found = search(BLOCKS[:1], PretendedJudge({"a": 5.0}), BASELINE, 1)
    assert not found.met
    assert len(found.frontier) == 1


def test_a_gain_is_within_any_budget():
    assert search(BLOCKS, PretendedJudge(dict.fromkeys("abcd", -0.1)), BASELINE, 0).met


@pytest.mark.parametrize("baseline", [None, 0.0])
def test_without_anything_to_lose_there_is_no_search(baseline):
    with pytest.raises(UsageError, match="no loss of it can be measured"):
        search(BLOCKS, PretendedJudge(LOSS), baseline, 1)
