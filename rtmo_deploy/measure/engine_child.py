"""Loads an engine in a child process to see whether it can be: ``python -m rtmo_deploy.measure.engine_child FILE``.

TensorRT may end the process that it loads an engine in, so that is never the command's own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.child import Child, end_with_parent, exit_name, open_answers, python_command
from rtmo_deploy.errors import ArtifactError, SetupError
from rtmo_deploy.measure.validate import Check, run_checks
from rtmo_deploy.runtime.cuda import find_gpu
from rtmo_deploy.runtime.engine_file import differences, read_record, require_same_bytes
from rtmo_deploy.runtime.trt_api import TRT_VARIANTS, load_api

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rtmo_deploy.runtime.engine_file import EngineRecord
    from rtmo_deploy.runtime.trt_api import TrtApi

COMMAND = python_command("-m", "rtmo_deploy.measure.engine_child")
#: Seconds after which loading and running is given up.
TIMEOUT = 600.0
#: Bytes at the beginning of an engine that TensorRT-RTX judges it by.
HEADER = 64
#: Bit of its answer that says that it is no engine.
MALFORMED = 32


def checks_in_child(path: Path, loads: str, command: Sequence[str] = COMMAND) -> Iterator[Check]:
    """:func:`child_checks`, in a child process that may crash or hang; what becomes of it is a check too."""
    with Child([*command, str(path)]) as child:
        try:
            yield from (Check(**message) for message in child.messages(TIMEOUT))
        except TimeoutError:
            yield Check(loads, False, f"loading and running it took more than {TIMEOUT:g} seconds")
            child.kill()
            return
        code = child.exit()
        if code:
            how = f"ended with {exit_name(code)}" if code > 0 else f"crashed ({exit_name(code)})"
            yield Check(loads, False, f"the process that loads it {how}.{child.last_lines()}")


def main() -> int:
    """Check the engine that the command line names, and tell."""
    tell = open_answers()
    end_with_parent()
    for check in child_checks(Path(sys.argv[1])):
        tell(**vars(check))
    return 0


def child_checks(path: Path) -> Iterator[Check]:
    """What only TensorRT can tell of an engine, as far as this machine allows."""
    record = read_record(path)
    require_same_bytes(path, record)
    loads = f"{record.backend} loads it"
    try:
        api = load_api(TRT_VARIANTS[record.backend])
    except SetupError as error:
        yield from _not_loaded(loads, error.finding)
        return
    yield from _check_header(api, path)
    gpu = find_gpu()
    if isinstance(gpu, str):
        yield from _not_loaded(loads, f"there is no GPU to load it on: {gpu}")
        return
    found = differences(record, version=api.version, gpu=gpu)
    if found:
        yield from _not_loaded(loads, f"it is not for this machine: {'; '.join(found)}")
        return
    yield from _check_runs(path, record, loads, f"{record.backend} {api.version} on {gpu.name}")


def _not_loaded(loads: str, why: str) -> Iterator[Check]:
    yield Check(loads, None, why)
    yield Check("runs", None, "it was not loaded")


def _check_header(api: TrtApi, path: Path) -> Iterator[Check]:
    """TensorRT-RTX can judge an engine's beginning without a GPU; TensorRT cannot."""
    if not api.has("Runtime.get_engine_validity"):
        return
    runtime = api.trt.Runtime(api.logger(lambda *_: None))
    with path.open("rb") as stream:
        header = stream.read(HEADER)
    _, diagnostics = runtime.get_engine_validity(header)
    known = not int(diagnostics) & MALFORMED
    said = "its beginning is that of an engine" if known else "its beginning is not that of an engine"
    yield Check("header", known, f"{api.variant.name} {api.version}: {said}")


def _check_runs(path: Path, record: EngineRecord, loads: str, what: str) -> Iterator[Check]:
    from rtmo_deploy.runtime.engine_file import engine_artifact
    from rtmo_deploy.runtime.tensorrt_backend import TensorRtBackend

    try:
        backend = TensorRtBackend(engine_artifact(path), 0)
    except ArtifactError as error:
        yield Check(loads, False, error.finding)
        return
    except SetupError as error:
        yield from _not_loaded(loads, error.finding)
        return
    yield Check(loads, True, what)
    names = {spec.name for spec in record.outputs}
    first = record.profiles[0]
    shapes = list(dict.fromkeys((first.opt.sides(), first.min.sides())))
    for check in run_checks(backend, shapes):
        if check.ok and not all(name in check.detail for name in names):
            yield Check(check.name, False, f"its outputs are not those of its record: {check.detail}")
            return
        yield check
    backend.close()


if __name__ == "__main__":
    sys.exit(main())
