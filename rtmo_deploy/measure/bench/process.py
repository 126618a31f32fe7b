"""The parent's end of a worker: ask, wait so long and no longer, and say what went wrong if it went wrong."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from rtmo_deploy import errors
from rtmo_deploy.errors import RtmoDeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from rtmo_deploy.measure.bench.options import Contender

WORKER_COMMAND = (sys.executable, "-P", "-m", "rtmo_deploy.measure.bench.worker")
#: Characters of a dead worker's last words that are told.
LAST_WORDS = 600
#: Seconds that a worker has to end after it was told to.
FAREWELL_S = 5.0


class WorkerLink(Protocol):
    """Something that answers commands."""

    def ask(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        ...

    def close(self) -> None:
        """End it."""
        ...


if TYPE_CHECKING:
    StartWorker = Callable[[Contender], WorkerLink]


def start_worker(contender: Contender) -> WorkerLink:
    """Start a process for a contender; it opens nothing yet."""
    return WorkerProcess(contender.label)


class WorkerProcess:
    """A worker in a process of its own.

    Args:
        label: What errors call it.
        command: What to start.
    """

    def __init__(self, label: str, command: Sequence[str] = WORKER_COMMAND) -> None:
        self.label = label
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(  # noqa: S603 - our own worker
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"reads {label}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ask(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Args:
            command: What to do, JSON-ready.
            timeout_s: Seconds after which the worker counts as hung; it is killed then.

        Raises:
            RtmoDeployError: It ended, hung, or answered with something that is no answer. An error that the worker
                itself raised comes back as the same class.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
        except (BrokenPipeError, ConnectionResetError, ValueError):
            raise self._ended(command) from None
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self._kill()
            raise RtmoDeployError(
                f"It did not answer '{command['command']}' within {timeout_s:.0f} s and was stopped."
                f"{self._last_words()}",
                remedy="Try it alone, with fewer threads or a smaller batch.",
                where=self.label,
            ) from None
        if line is None:
            raise self._ended(command)
        return self._understand(line)

    def close(self) -> None:
        """Tell it to end; a worker that does not is killed. May be called more than once."""
        stdin = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            if stdin is not None:
                stdin.write(b'{"command": "stop"}\n')
                stdin.close()
        try:
            self._process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._kill()
        self._reader.join(FAREWELL_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _understand(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and isinstance(answer.get("ok"), dict):
            found: dict[str, Any] = answer["ok"]
            return found
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise _revived(answer["error"], self.label)
        self._kill()
        raise RtmoDeployError(
            f"Its process wrote something that is no answer: {line[:80]!r}.",
            remedy="Please report it, with the command.",
            where=self.label,
        )

    def _ended(self, command: dict[str, Any]) -> RtmoDeployError:
        try:
            code = self._process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.returncode
        return RtmoDeployError(
            f"Its process ended during '{command['command']}' ({_how(code)}).{self._last_words()}",
            remedy="If it was killed, there was too little memory: try fewer models or a smaller batch at a time.",
            where=self.label,
        )

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f" It had written: {text[-LAST_WORDS:]}" if text else ""


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _revived(data: dict[str, Any], label: str) -> RtmoDeployError:
    """The error that a worker raised, as the class it was."""
    kind = getattr(errors, str(data.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, RtmoDeployError)):
        kind = RtmoDeployError
    error = RtmoDeployError.__new__(kind)  # some classes have other arguments, and the text is made already
    where = data.get("where") or label
    RtmoDeployError.__init__(error, str(data.get("finding", "")), remedy=str(data.get("remedy", "")), where=where)
    return error
