"""Progress on stderr: a bar with count and time left on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from rtmo_deploy.cli.console import stderr
from rtmo_deploy.plain import visible
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtmo_deploy.zoo.transfer import ProgressCallback

#: Seconds between two lines of one count in a log.
EVERY_S = 5.0


class _Left:
    """Estimates the time left of the newest count."""

    def __init__(self) -> None:
        self.what = ""
        self._first, self._started = 0, 0.0

    def restarts(self, message: Count) -> bool:
        """Whether this is the first message of another count."""
        if message.what == self.what:
            return False
        self.what, self._first, self._started = message.what, message.done, time.monotonic()
        return True

    def text(self, message: Count) -> str:
        """Count and time left, such as '3 of 10, 12 s left'."""
        if message.total is None:
            return message.show(message.done)
        text = f"{message.show(message.done)} of {message.show(message.total)}"
        advanced = message.done - self._first
        if advanced > 0 and message.done < message.total:
            left = (time.monotonic() - self._started) * (message.total - message.done) / advanced
            text += f", {_duration(left)} left"
        return text


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextlib.contextmanager
def status(first: str = "") -> Iterator[Callable[[str], None]]:
    """Show what is being done; gives a function that takes the next message, which may be a :class:`Count`.

    On a terminal it is one line that disappears at the end. Elsewhere each message is a line, and of a count one at the
    start and one every few seconds.
    """
    terminal = sys.stderr.isatty() and not stderr().is_dumb_terminal
    with _bar() if terminal else contextlib.nullcontext(_log()) as say:
        if first:
            say(first)
        yield say


def _log() -> Callable[[str], None]:
    left, said = _Left(), 0.0

    def say(message: str) -> None:
        nonlocal said
        text = message
        if isinstance(message, Count):
            if not left.restarts(message) and time.monotonic() - said < EVERY_S:
                return
            said = time.monotonic()
            text = f"{message.what}: {left.text(message)}" + (f" ({message.detail})" if message.detail else "")
        stderr().print(f"{text} ...")

    return say


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    def texts(field: str) -> TextColumn:
        column = Column(no_wrap=True, overflow="ellipsis")
        return TextColumn(f"{{task.{field}}}", markup=False, table_column=column)

    class CountedBar(BarColumn):
        def render(self, task: Task) -> Any:
            return Text() if task.total is None else super().render(task)

    columns = (SpinnerColumn(), texts("description"), CountedBar(20), texts("fields[count]"), texts("fields[detail]"))
    left = _Left()
    with Progress(*columns, console=stderr(), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, count="", detail="")

        def say(message: str) -> None:
            nonlocal task
            if not isinstance(message, Count):
                message = Count(visible(message), 0, None, show=lambda _: "")
            if left.restarts(message):
                bar.remove_task(task)
                task = bar.add_task(visible(message.what), total=message.total, count="", detail="")
            bar.update(
                task,
                completed=message.done,
                total=message.total,
                count=left.text(message),
                detail=visible(message.detail),
            )

        yield say


@contextlib.contextmanager
def download_bar(name: str) -> Iterator[ProgressCallback]:
    """Progress of a download, from its first byte on."""
    from rtmo_deploy.files import human_size

    with contextlib.ExitStack() as stack:
        say: Callable[[str], None] | None = None

        def advance(done: int, total: int | None) -> None:
            nonlocal say
            say = say or stack.enter_context(status())
            say(Count(f"downloading {name}", done, total, show=human_size))

        yield advance
