"""Connects to a Ray cluster, or starts Ray on this machine for as long as a run lasts."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.bulk.manifest import import_pyarrow
from rtmo_deploy.environment import variable
from rtmo_deploy.errors import MissingDependencyError, SetupError, UsageError
from rtmo_deploy.plain import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Longest folder for Ray's files: the names of its sockets are up to 70 characters longer, and may have 107.
_LONGEST: Final = 35
_STORE_BYTES: Final = 2**28  # blocks of paths and poses are small
_QUIET: Final = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Workers:
    """How many workers a run has at least and at most, and what each takes."""

    least: int
    most: int
    num_cpus: int
    num_gpus: float


def import_ray() -> Any:
    """The package ``ray`` with Ray Data.

    Raises:
        MissingDependencyError: It is not installed.
    """
    import_pyarrow()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reports to its makers by default
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("ray", purpose="A bulk run", extra="ray") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters is raised
    return ray


class _Said(io.TextIOBase):
    """Stands for stdout, on which Ray prints what happens to its processes; what matters is passed on."""

    def __init__(self, on_note: Callable[[str], None]) -> None:
        self._on_note = on_note

    def write(self, text: str) -> int:
        if "worker died" in text:
            self._on_note("A worker died; Ray starts another, which does its images again.")
        return len(text)


@contextlib.contextmanager
def connected(address: str | None, *, num_cpus: int, on_note: Callable[[str], None]) -> Iterator[None]:
    """Within the block Ray is there, and nothing is printed on stdout.

    Args:
        address: Of a cluster, or ``auto``; None starts Ray on this machine and stops it at the end.
        num_cpus: CPUs that a Ray of our own hands out.
        on_note: Told, from another thread, what happens to the workers.

    Raises:
        SetupError: The cluster cannot be reached, or Ray does not start.
        UsageError: The address is none, or one of Ray Client, over which files are not shared.
    """
    ray = import_ray()
    if address is not None and address.startswith("ray://"):
        remedy = "Call on a node of the cluster with its own address, such as auto, or use 'ray job submit'."
        raise UsageError("Ray Client is not used.", remedy=remedy, where="--ray-address")
    if address is not None and address != "auto":
        _require_answer(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with contextlib.redirect_stdout(_Said(on_note)), contextlib.ExitStack() as stack:
        if address is None:
            stack.enter_context(variable("RAY_AUTH_TOKEN", _token()))  # else Ray keeps a token in the home folder
            place = {"_temp_dir": str(stack.enter_context(_temporary())), "_node_ip_address": "127.0.0.1"}
            own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES, **place}
            quiet |= {"address": "local", "num_cpus": num_cpus, **own}
        else:
            quiet["address"] = address
        try:
            with _no_native_messages():
                ray.init(**quiet)
        except Exception as error:  # Ray raises bare ones as well
            where = None if address is None else "--ray-address"
            text = str(error).strip().split("\n")[0].rstrip(".")
            remedy = "See that memory and disk are free."
            if address is not None:
                remedy = "Check that Ray runs there, in the same version, and that RAY_AUTH_MODE and the token fit."
            raise SetupError(f"Ray cannot be used: {text}.", remedy=remedy, where=where) from error
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray would try for minutes, without a word."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"'{address}' is no address.", remedy="Use HOST:PORT, or auto.", where="--ray-address")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, UnicodeError) as error:
        remedy = "Check that Ray's head runs there; 'ray start' prints the address."
        raise SetupError(f"Nothing answers at {address}: {error}.", remedy=remedy, where="--ray-address") from error


@contextlib.contextmanager
def unharmed() -> Iterator[None]:
    """Within the block, the end of Ray's main processes is an error: Ray would wait, and then end this process, too.

    Raises:
        SetupError: A process of the Ray that was started here has ended.
    """
    node, main = import_ray()._private.worker._global_node, threading.main_thread()
    over, ended = threading.Event(), list[str]()

    def watch() -> None:
        while not ended and not over.wait(0.5):
            ended.extend(name for name, _ in node.dead_processes() if name in {"raylet", "gcs_server"})
        if ended and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    if threading.current_thread() is main:
        thread.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not ended:
            raise
        remedy = "See that memory is free. What was done is kept: the same command goes on with the rest."
        raise SetupError(f"Ray's process {ended[0]} has ended.", remedy=remedy) from error
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()


def workers_for(*, threads: int, device: str, gpus_each: float, most: int | None, own: bool) -> Workers:
    """How many workers there are to be on the Ray that is connected.

    Ray lists, reads and writes files in tasks of one CPU each: with workers on every CPU these would wait forever.

    Args:
        threads: CPUs of each.
        device: ``auto``, ``cpu`` or ``cuda``.
        gpus_each: GPUs of each, where they use them.
        most: At most so many; by default as many as there is room for.
        own: Whether Ray is our own: all start at once, where another cluster may have to grow first.

    Raises:
        SetupError: There is no room for one.
    """
    there = import_ray().cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), float(there.get("GPU", 0))
    num_gpus = gpus_each if device == "cuda" or (device == "auto" and gpus >= gpus_each) else 0.0
    room = max(0, cpus - 1) // threads
    if num_gpus:
        room = min(room, math.floor(gpus / num_gpus))
    if room < 1:
        has = f"{counted(cpus, 'CPU')} and {gpus:g} GPUs"
        needs = f"{counted(threads, 'CPU')} and {num_gpus:g} GPUs for a worker, and one CPU for reading and writing"
        remedy = "Use a larger cluster, or fewer --threads or --gpus-per-worker."
        raise SetupError(f"Ray has {has}; a run needs {needs}.", remedy=remedy)
    most = room if most is None else most if not own else min(most, room)
    return Workers(most if own else 1, most, threads, num_gpus)


@cache
def _token() -> str:
    """Of this process: Ray reads its token once, and switches to tokens by itself."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for Ray's files that is removed at the end; its name is short, as sockets need it."""
    above = tempfile.gettempdir()
    if len(os.fsencode(above)) > _LONGEST - len("/rtmo-xxxxxxxx") or not above.isascii():
        above = "/tmp"  # noqa: S108 - where Ray puts it too
    folder = Path(tempfile.mkdtemp(prefix="rtmo-", dir=above))
    try:
        yield folder
    finally:
        for _ in range(100):  # a process of Ray that is about to end, or has just begun, may still write there
            shutil.rmtree(folder, ignore_errors=True)
            if not _is_named(folder) and not folder.exists():
                break
            time.sleep(0.1)


def _is_named(folder: Path) -> bool:
    """Whether the command line of a process names a folder; on Linux only."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(folder) in file.read_bytes():
                return True
    return False


@contextlib.contextmanager
def _no_native_messages() -> Iterator[None]:
    """Within the block, what C++ code prints on stderr is dropped."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
