"""Ctrl-C and SIGTERM between two pieces of work, never within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interrupts:
    """Within the block, both signals raise KeyboardInterrupt, but not before the end of a :meth:`held` block.

    The second signal waits for nothing. A KeyboardInterrupt that leaves the block is SystemExit 143 if SIGTERM came.
    """

    def __init__(self) -> None:
        self.number = 0  #: The signal that came first; 0 for none.
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._take) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        if kind is KeyboardInterrupt and self.number == signal.SIGTERM:
            raise SystemExit(128 + self.number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A piece of work that the first signal does not interrupt."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.number:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """From now on, the first signal interrupts nothing: it is in ``number``."""
        self._held = True

    def _take(self, number: int, _frame: object) -> None:
        first, self.number = not self.number, self.number or number
        if not (first and self._held):
            raise KeyboardInterrupt
