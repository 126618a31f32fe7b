"""Micro-batching: requests of one kind run together, in one thread, behind a bounded queue."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence


#: Seconds after which a batch that still runs counts as stuck.
STUCK_S: Final = 120.0


class BusyError(Exception):
    """There is no room, or what waited has waited too long; ``retry_s`` is when it may be better."""

    def __init__(self, reason: str, retry_s: float) -> None:
        super().__init__(reason)
        self.reason = reason  #: ``queue``, ``timeout``, ``memory``, ``connections``, ``streams`` or ``drain``.
        self.retry_s = max(1, math.ceil(retry_s))


class Done(NamedTuple):
    """A result, and how it came about."""

    value: Any
    queue_s: float  #: Seconds it waited.
    run_s: float  #: Seconds the batch ran.
    batch: int  #: How many it ran with, itself included.


@dataclass(eq=False)
class Slot:
    """A place in the queue; before it is used, somebody is on their way."""

    since: float  #: When it was taken, by the event loop's clock.
    coming: bool = True


@dataclass(eq=False)
class _Item:
    key: Hashable
    payload: Any
    size: int
    since: float
    future: asyncio.Future[Done] = field(repr=False)


class _FailedError(RuntimeError):
    """In place of an exception that a future cannot hold, or that would end the event loop."""


class Batcher:
    """Runs what is submitted, in order, together with what else has the same key.

    A batch starts when it is full, or nobody is on the way who could join it, or its first item has waited ``delay_s``.
    While it runs, the next one fills. All methods belong to one event loop.

    Args:
        run: Called in a thread with a key and the payloads of a batch; a result for each.
        most: Sizes of a batch together, at most.
        delay_s: Seconds that an item waits for others.
        slots: Items on their way, waiting or running, at most.
        timeout_s: Seconds after its slot was taken after which an item that still waits is given up.
    """

    def __init__(
        self,
        run: Callable[[Any, Sequence[Any]], Sequence[Any]],
        *,
        most: int,
        delay_s: float,
        slots: int,
        timeout_s: float,
    ) -> None:
        self._run, self.most, self.delay_s, self.slots, self.timeout_s = run, most, delay_s, slots, timeout_s
        self._pool = ThreadPoolExecutor(1, "network")
        self._waiting: deque[_Item] = deque()
        self._taken: set[Slot] = set()
        self._changed = asyncio.Event()
        self._each_s = 0.05  # seconds of one item, a moving mean
        self._since: float | None = None  # when the batch that runs was started

    @property
    def taken(self) -> int:
        """Slots in use."""
        return len(self._taken)

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    @property
    def stuck(self) -> bool:
        """Whether a batch has run for so long that it will hardly end."""
        return self._since is not None and asyncio.get_running_loop().time() - self._since > STUCK_S

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """A place for one item, kept until the block ends; BusyError where there is none."""
        if len(self._taken) >= self.slots:
            raise BusyError("queue", self._each_s * len(self._taken))
        slot = Slot(asyncio.get_running_loop().time())
        self._taken.add(slot)
        try:
            yield slot
        finally:
            self._taken.discard(slot)
            self._changed.set()

    async def submit(self, slot: Slot, key: Hashable, payload: Any, size: int = 1) -> Done:
        """Wait for the result of an item; what ``run`` raised on it is raised here, BusyError where it waited too long.

        Args:
            slot: Its place, from :meth:`slot`.
            key: Only items of equal keys run together.
            payload: What ``run`` gets.
            size: What it counts in a batch; one that is larger than ``most`` runs alone.
        """
        loop = asyncio.get_running_loop()
        item = _Item(key, payload, size, loop.time(), loop.create_future())
        self._waiting.append(item)
        slot.coming = False
        self._changed.set()
        timer = loop.call_at(slot.since + self.timeout_s, self._give_up, item)
        try:
            return await item.future
        finally:
            timer.cancel()
            if item in self._waiting:  # the caller was cancelled
                self._waiting.remove(item)

    def _give_up(self, item: _Item) -> None:
        if item in self._waiting and not item.future.done():
            self._waiting.remove(item)
            item.future.set_exception(BusyError("timeout", self._each_s * len(self._taken)))

    async def work(self) -> None:
        """Run batches, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                await self._fill()
                items = self._take()
                if not items:
                    continue
                self._since = started = loop.time()
                payloads = [item.payload for item in items]
                values = await loop.run_in_executor(self._pool, self._run_all, items[0].key, payloads)
                self._since = None
                seconds = loop.time() - started
                self._each_s += 0.1 * (seconds / len(items) - self._each_s)
                for item, value in zip(items, values, strict=True):
                    if item.future.done():
                        continue
                    if isinstance(value, BaseException):
                        item.future.set_exception(value)
                    else:
                        item.future.set_result(Done(value, started - item.since, seconds, len(items)))

    def close(self, *, wait: bool = True) -> None:
        """Let the thread end; nothing may be submitted any more."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    async def _fill(self) -> None:
        """Wait until the first item has company, or there is no point in waiting."""
        loop = asyncio.get_running_loop()
        end = self._waiting[0].since + self.delay_s
        while self._waiting and any(slot.coming for slot in self._taken):
            first = self._waiting[0].key
            together = sum(item.size for item in self._waiting if item.key == first)
            if together >= self.most or loop.time() >= end:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Item]:
        """The next batch: the first item, and those of its key that fit, in order."""
        if not self._waiting:
            return []
        items = [self._waiting.popleft()]
        room = self.most - items[0].size
        for item in list(self._waiting):
            if item.key == items[0].key and item.size <= room:
                self._waiting.remove(item)
                items.append(item)
                room -= item.size
        return items

    def _run_all(self, key: Any, payloads: list[Any]) -> Sequence[Any]:
        """Results; where a batch fails, each item alone, so that one cannot spoil the others."""
        try:
            values = self._run(key, payloads)
            if len(values) != len(payloads):
                raise RuntimeError(f"{len(payloads)} payloads had {len(values)} results")  # noqa: TRY301
        except BaseException as error:  # noqa: BLE001 - raised in whoever submitted; the worker goes on
            if len(payloads) == 1:
                return [
                    error
                    if isinstance(error, Exception) and not isinstance(error, StopIteration)
                    else _FailedError(error)
                ]
        else:
            return values
        return [self._run_all(key, [payload])[0] for payload in payloads]
