"""Runs the probes of :mod:`rtmo_deploy.doctor.probes`, several at a time, none longer than a limit."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rtmo_deploy.child import FAREWELL_S, Child, exit_name, python_command
from rtmo_deploy.doctor.facts import Trouble
from rtmo_deploy.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

#: What a probe runs as: a file, so that it starts whatever else is broken.
COMMAND = python_command(str(Path(__file__).with_name("probes.py")))
_PAUSE_S = 0.02


@dataclass(frozen=True)
class Answer:
    """What a probe gave."""

    facts: dict[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None
    said: str = ""


class Children:
    """Probes that are running or waiting to run.

    Args:
        timeout: Seconds that each may take.
        at_once: How many may run at the same time.
        command: What to run.
    """

    def __init__(self, timeout: float, at_once: int, command: Sequence[str] = COMMAND) -> None:
        self._timeout, self._at_once, self._command = timeout, at_once, tuple(command)
        self._waiting: deque[tuple[str, tuple[str, ...]]] = deque()
        self._running: dict[str, tuple[Child, float]] = {}
        self._not_started: dict[str, Answer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child, _ in self._running.values():
            child.kill()
            child.close()
        self._running.clear()

    @property
    def labels(self) -> tuple[str, ...]:
        """What runs now."""
        return tuple(self._running)

    def add(self, label: str, *arguments: str) -> None:
        """Run a probe as soon as there is room."""
        self._waiting.append((label, arguments))
        self._fill()

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Each answer as it comes, with its label, until nothing is left; more may be added meanwhile."""
        while self._running or self._waiting or self._not_started:
            self._fill()
            if self._not_started:
                yield self._not_started.popitem()
                continue
            now = time.monotonic()
            over = [label for label, (child, end) in self._running.items() if child.ended or now > end]
            for label in over:
                answer = self._answer(*self._running.pop(label))
                self._fill()
                yield label, answer
            if not over:
                time.sleep(_PAUSE_S)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            label, arguments = self._waiting.popleft()
            try:
                self._running[label] = Child([*self._command, *arguments]), time.monotonic() + self._timeout
            except SetupError as error:
                self._not_started[label] = Answer(trouble=Trouble("failed", error.finding))

    def _answer(self, child: Child, deadline: float) -> Answer:
        late = not child.ended and time.monotonic() > deadline
        if late:
            child.kill()
        facts: dict[str, Any] = {}
        with child:
            with contextlib.suppress(TimeoutError):
                for message in child.messages(FAREWELL_S):
                    facts.update(message)
            code, said = child.exit(), child.printed()
        failed, finished = facts.pop("failed", None), facts.pop("ended", False)
        if late:
            text = f"It did not answer within {self._timeout:g} s and was stopped."
            return Answer(facts, Trouble("slow", text), said)
        if failed is not None:
            return Answer(facts, Trouble("failed", _sentence(str(failed))), said)
        if not finished or code:
            last = said.splitlines()[-1:]
            text = f"It crashed ({exit_name(code)})" + (f"; its last output: {last[0]}" if last else "")
            return Answer(facts, Trouble("crashed", _sentence(text)), said)
        return Answer(facts, None, said)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
