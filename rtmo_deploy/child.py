"""Python processes of this package that answer in lines of JSON, for what may crash, hang or print anything.

:class:`Child` is the parent's end; the functions below it are for the child.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rtmo_deploy import errors
from rtmo_deploy.errors import RtmoDeployError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: The folder that holds the package ``rtmo_deploy``, wherever it was imported from.
_PACKAGES = Path(__file__).resolve().parents[1]
#: Seconds that a child has to end after its standard input or output has ended.
GRACE_S = 5.0
_POLL_S = 1.0
#: Bytes of what a child printed that are kept, and lines of it that errors repeat.
_KEPT, _TOLD = 4000, 3


def python_command(*arguments: str) -> tuple[str, ...]:
    """This interpreter with arguments such as ``-m module``; -P keeps the working folder from hiding packages."""
    return (sys.executable, "-P", *arguments)


class Child:
    """A running process. Its standard input ends when this process does, however that ends.

    Args:
        command: What to run, such as :func:`python_command` gives.

    Raises:
        SetupError: It cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise SetupError(f"A process could not be started: {error.strerror or error}.") from error
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._other_lines: deque[str] = deque(maxlen=_TOLD)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.close()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a line of JSON to its standard input; nothing happens when it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next JSON object that it writes; None when there are no more.

        Raises:
            TimeoutError: None came within ``timeout`` seconds; the child still runs.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                message = self._messages.get(timeout=max(min(_POLL_S, deadline - time.monotonic()), 0))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                if not self.ended:
                    continue
                self._reader.join(GRACE_S)  # a process that it started may hold the pipe open
                message = None if self._messages.empty() else self._messages.get()
            if message is None:
                self._messages.put(None)  # for whoever asks again
            return message

    def messages(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Each JSON object that it writes, until it ends.

        Raises:
            TimeoutError: It takes longer than ``timeout`` seconds in all; it still runs.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (message := self.receive(deadline - time.monotonic())) is not None:
            yield message

    def exit(self) -> int:
        """Wait for its end, after its standard output has ended; the exit status, negative for a signal."""
        try:
            return self._process.wait(10 * GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def printed(self) -> str:
        """The end of what it wrote to standard error, without colours and empty lines."""
        if self._stderr.closed:
            return ""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _KEPT))
        text = re.sub(r"\x1b\[[0-9;]*m", "", self._stderr.read().decode(errors="replace"))
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    def last_lines(self, before: Sequence[str] = ()) -> str:
        """`` Its last output: a | b``, for an error; ``before`` is output that it sent in another way."""
        lines = [*before, *self._other_lines, *self.printed().splitlines()][-_TOLD:]
        return f" Its last output: {' | '.join(lines)}" if lines else " It printed nothing."

    def kill(self) -> None:
        """End it at once, and the processes that it started."""
        if not self.ended:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End its standard input and wait for it; kill it if it does not end. May be called more than once."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(GRACE_S)
        self._stderr.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    message = None
                if isinstance(message, dict):
                    self._messages.put(message)
                else:
                    self._other_lines.append(line.decode(errors="replace").strip())
        self._messages.put(None)


def exit_name(code: int) -> str:
    """``exit code 3`` or ``SIGSEGV``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def revived(message: Mapping[str, Any], where: object) -> RtmoDeployError:
    """The error of :func:`error_message`, as the class it was; ``where`` is what it happened to, if it does not say."""
    kind = getattr(errors, str(message.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, RtmoDeployError)):
        kind = RtmoDeployError
    error = RtmoDeployError.__new__(kind)  # some classes have other arguments, and the text is made already
    finding, remedy = str(message.get("finding", "")), str(message.get("remedy", ""))
    RtmoDeployError.__init__(error, finding, remedy=remedy, where=message.get("where") or where)
    return error


def error_message(error: RtmoDeployError) -> dict[str, Any]:
    """An error as a child tells it."""
    name = type(error).__name__
    return {"class": name, "finding": error.finding, "remedy": error.remedy, "where": error.where}


def open_answers() -> Callable[..., None]:
    """In the child: a function that writes its keyword arguments as a line of JSON, from any thread.

    Standard output is kept for these: what libraries print from now on, machine code included, goes to standard error.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(**message: Any) -> None:
        with lock:
            stream.write(json.dumps(message) + "\n")
            stream.flush()

    return tell


def end_with_parent(clean_up: Callable[[], None] = lambda: None) -> None:
    """In the child: end as soon as standard input ends, which it does when the parent is gone."""

    def wait() -> None:
        while os.read(0, 1024):  # not through sys.stdin, whose lock would be in the way of the interpreter's own end
            pass
        clean_up()
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()
