"""The batcher, with runs that end when the test says so."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import PATIENCE_S, in_loop

from rtmo_deploy.serve import batcher as module
from rtmo_deploy.serve.batcher import Batcher, BusyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Runs:
    """What ran; the first run waits for ``gate``."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.gate = threading.Event()

    def __call__(self, key: Any, payloads: Sequence[Any]) -> list[Any]:
        self.batches.append((key, list(payloads)))
        assert self.gate.wait(PATIENCE_S)
        return [(key, payload) for payload in payloads]


def batching(work: Callable[[Batcher, Runs], Awaitable[Any]], **more: Any) -> tuple[Any, Runs]:
    """Run a coroutine beside a batcher."""
    runs = Runs()

    async def main() -> Any:
        options = {"most": 4, "delay_s": 0.0, "slots": 100, "timeout_s": PATIENCE_S, **more}
        batcher = Batcher(runs, **options)
        task = asyncio.create_task(batcher.work())
        try:
            return await work(batcher, runs)
        finally:
            runs.gate.set()
            task.cancel()
            batcher.close()

    return in_loop(main()), runs


async def submit(batcher: Batcher, key: Any, payload: Any, size: int = 1) -> Any:
    with batcher.slot() as slot:
        return await batcher.submit(slot, key, payload, size)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=1, max_size=30), st.integers(1, 5))
def test_everything_runs_once_with_its_kind_in_order(items: list[tuple[str, int]], most: int) -> None:
    """A plain reference of what a batch is: the first that waits, and all of its kind that fit, in order."""

    async def work(batcher: Batcher, runs: Runs) -> list[Any]:
        first = asyncio.create_task(submit(batcher, "first", -1))
        await asyncio.sleep(0)
        while not runs.batches:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(submit(batcher, key, number, size)) for number, (key, size) in enumerate(items)]
        await asyncio.sleep(0)
        runs.gate.set()
        await first
        return await asyncio.gather(*rest)

    done, runs = batching(work, most=most)
    assert [one.value for one in done] == [(key, number) for number, (key, _) in enumerate(items)]
    waiting, expected = list(enumerate(items)), []
    while waiting:
        key, room = waiting[0][1][0], most - waiting[0][1][1]
        batch = [waiting[0][0]]
        for number, (other, size) in waiting[1:]:
            if other == key and size <= room:
                batch.append(number)
                room -= size
        waiting = [one for one in waiting if one[0] not in batch]
        expected.append((key, batch))
    assert runs.batches[1:] == expected
    sizes = {number: len(batch) for _, batch in expected for number in batch}
    assert [one.batch for one in done] == [sizes[number] for number in range(len(items))]


def test_waits_for_those_on_their_way_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(batcher: Batcher, runs: Runs) -> tuple[float, Any]:
        runs.gate.set()
        loop = asyncio.get_running_loop()
        with batcher.slot() as coming:
            one = asyncio.create_task(submit(batcher, "a", 1))
            await asyncio.sleep(0.1)
            both = await asyncio.gather(one, batcher.submit(coming, "a", 2))
            assert [done.batch for done in both] == [2, 2]
        batcher.delay_s = 0.5
        with batcher.slot():  # who never comes
            start = loop.time()
            await submit(batcher, "a", 3)
            waited = loop.time() - start
        batcher.delay_s = PATIENCE_S
        start = loop.time()
        await submit(batcher, "a", 4)
        return waited, loop.time() - start

    (waited, alone), _ = batching(work, delay_s=PATIENCE_S, timeout_s=2 * PATIENCE_S)
    assert 0.45 < waited < PATIENCE_S / 2
    assert alone < PATIENCE_S / 2


def test_no_place_and_too_late() -> None:
    async def work(batcher: Batcher, runs: Runs) -> list[Any]:
        tasks = [asyncio.create_task(submit(batcher, "a", number)) for number in range(4)]
        while not runs.batches:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.5)
        assert (batcher.taken, batcher.depth) == (1, 0)  # the first still runs
        runs.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers, runs = batching(work, most=1, slots=3, timeout_s=0.2)
    assert answers[0].value == ("a", 0)
    reasons = [(error.reason, error.retry_s >= 1) for error in answers[1:] if isinstance(error, BusyError)]
    assert sorted(reasons) == [("queue", True), ("timeout", True), ("timeout", True)]
    assert len(runs.batches) == 1


def test_time_on_the_way_counts() -> None:
    async def work(batcher: Batcher, runs: Runs) -> None:
        runs.gate.set()
        with batcher.slot() as slot:
            await asyncio.sleep(0.3)
            with batcher.slot(), pytest.raises(BusyError) as caught:
                await batcher.submit(slot, "a", 1)
            assert caught.value.reason == "timeout"

    batching(work, timeout_s=0.2, delay_s=PATIENCE_S)


def test_cancelled_items_do_not_run() -> None:
    async def work(batcher: Batcher, runs: Runs) -> Any:
        tasks = [asyncio.create_task(submit(batcher, "a", number)) for number in range(3)]
        while not runs.batches:
            await asyncio.sleep(0.001)
        tasks[1].cancel()
        tasks[0].cancel()  # which runs
        await asyncio.sleep(0.05)
        runs.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers, runs = batching(work, most=1)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[2].value == ("a", 2)
    assert [payloads for _, payloads in runs.batches] == [[0], [2]]


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError, MemoryError]
)
def test_failures_stay_with_their_item(error: type[BaseException]) -> None:
    def run(_: Any, payloads: Sequence[Any]) -> list[Any]:
        if 1 in payloads:
            raise error("no")
        if 2 in payloads:
            return []
        return list(payloads)

    async def main() -> Any:
        batcher = Batcher(run, most=4, delay_s=0.1, slots=9, timeout_s=PATIENCE_S)
        task = asyncio.create_task(batcher.work())
        answers = await asyncio.gather(*(submit(batcher, "a", number) for number in range(4)), return_exceptions=True)
        again = await submit(batcher, "a", 5)
        assert not task.done()
        task.cancel()
        batcher.close()
        return [*answers, again]

    answers = in_loop(main())
    assert [getattr(one, "value", None) for one in answers] == [0, None, None, 3, 5]
    assert all(isinstance(one, Exception) for one in answers[1:3])


def test_stuck_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUCK_S", 0.1)

    async def work(batcher: Batcher, runs: Runs) -> list[bool]:
        seen = [batcher.stuck]
        task = asyncio.create_task(submit(batcher, "a", 1))
        while not batcher.stuck:
            await asyncio.sleep(0.01)
        runs.gate.set()
        await task
        return [*seen, batcher.stuck]

    assert batching(work)[0] == [False, False]
