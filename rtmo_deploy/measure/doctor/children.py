"""Runs the looks of :mod:`rtmo_deploy.measure.doctor.probes`, several at a time, none longer than a limit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from rtmo_deploy.measure.doctor.parts import Trouble, TroubleKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

#: What a look runs as; -P keeps the folder of that file, and the current one, from hiding packages.
COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("probes.py")))
#: The folder that holds the package ``rtmo_deploy``.
_PACKAGES = Path(__file__).resolve().parents[3]
_PAUSE_S = 0.02
#: Characters of what a look printed that are kept.
_KEPT = 4000


@dataclass(frozen=True)
class Answer:
    """What a look gave.

    Attributes:
        facts: As it told them; those of before a crash, if it crashed.
        trouble: It did not come to its end.
        said: The last of what was printed meanwhile.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None
    said: str = ""


@dataclass
class _Look:
    label: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    said: IO[bytes]
    deadline: float


class Children:
    """Looks that are running or waiting to run.

    Args:
        timeout: Seconds that each may take.
        at_once: How many may run at the same time.
        command: What to run.
    """

    def __init__(self, timeout: float, at_once: int, command: Sequence[str] = COMMAND) -> None:
        self._timeout, self._at_once, self._command = timeout, at_once, tuple(command)
        self._waiting: deque[tuple[str, tuple[str, ...]]] = deque()
        self._running: list[_Look] = []
        self._stillborn: deque[tuple[str, Answer]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for look in self._running:
            _end(look.process)
            _close(look)
        self._running.clear()

    @property
    def labels(self) -> tuple[str, ...]:
        """What is being looked at."""
        return tuple(look.label for look in self._running)

    def add(self, label: str, *arguments: str) -> None:
        """Have something looked at as soon as there is room.

        Args:
            label: By which :meth:`answers` gives it back.
            arguments: Name of the look and what it takes.
        """
        self._waiting.append((label, arguments))
        self._fill()

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Each answer as it comes, with its label, until nothing is left; more may be added meanwhile."""
        while self._running or self._waiting or self._stillborn:
            self._fill()
            if self._stillborn:
                yield self._stillborn.popleft()
                continue
            ended = [look for look in self._running if look.process.poll() is not None]
            late = [look for look in self._running if look not in ended and time.monotonic() > look.deadline]
            for look in [*ended, *late]:
                self._running.remove(look)
                answer = self._answer(look, late=look in late)
                self._fill()
                yield look.label, answer
            if not ended and not late:
                time.sleep(_PAUSE_S)

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            label, arguments = self._waiting.popleft()
            out, said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed in _close
            try:
                process = subprocess.Popen(  # noqa: S603 - our own file, by our own interpreter
                    [*self._command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=said,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                out.close()
                said.close()
                text = f"A process could not be started: {error.strerror or error}."
                self._stillborn.append((label, Answer(trouble=Trouble(TroubleKind.FAILED, text))))
            else:
                deadline = time.monotonic() + self._timeout
                self._running.append(_Look(label, arguments, process, out, said, deadline))

    def _answer(self, look: _Look, *, late: bool) -> Answer:
        if late:
            _end(look.process)
        code = look.process.wait()
        facts: dict[str, Any] = {}
        look.out.seek(0)
        for line in look.out.read().decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process that was killed may be half a line
                told = json.loads(line)
                facts.update(told if isinstance(told, dict) else {})
        look.said.seek(0)
        said = _readable(look.said.read()[-_KEPT:])
        _close(look)
        failed, finished = facts.pop("failed", None), facts.pop("ended", False)
        if late:
            text = f"It did not answer within {self._timeout:g} s and was stopped."
            return Answer(facts, Trouble(TroubleKind.SLOW, text), said)
        if failed is not None:
            return Answer(facts, Trouble(TroubleKind.FAILED, _sentence(str(failed))), said)
        if not finished or code:
            last = said.splitlines()[-1:]
            text = f"It crashed ({_name_of(code)})" + (f"; its last words: {last[0]}" if last else "")
            return Answer(facts, Trouble(TroubleKind.CRASHED, _sentence(text)), said)
        return Answer(facts, None, said)


def _environment() -> dict[str, str]:
    """This process's, and the folder that this package lies in, wherever it was imported from."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started here, and those it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


def _close(look: _Look) -> None:
    look.out.close()
    look.said.close()


def _name_of(code: int) -> str:
    """What an exit status says of a death."""
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _readable(raw: bytes) -> str:
    """Text without the codes that colour it, and without empty lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode(errors="replace"))
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
