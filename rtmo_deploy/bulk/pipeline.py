"""Runs a model over a table of images with Ray Data; a run that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from rtmo_deploy import errors
from rtmo_deploy.bulk.cluster import Workers, import_ray, unharmed
from rtmo_deploy.bulk.run_folder import not_written
from rtmo_deploy.bulk.worker import Worker
from rtmo_deploy.errors import RtmoDeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rtmo_deploy.bulk.job import Job
    from rtmo_deploy.bulk.run_folder import RunFolder

#: Images in a file of results at most, unless told otherwise.
MOST_ROWS: Final = 256


def rows_per_file(images: int, workers: int) -> int:
    """Images in a file of results: so many that each worker gets several blocks, and few are lost by a kill."""
    return max(8, min(MOST_ROWS, -(-images // (4 * workers))))


def run(
    folder: RunFolder,
    job: Job,
    workers: Workers,
    *,
    images: int,
    rows: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Find the people in the images that ``folder.plan`` has written down; Ray is connected.

    Args:
        folder: Of the run, opened.
        job: What is done.
        workers: How many do it.
        images: How many there are.
        rows: Images in a block, which is one file of results; by default as :func:`rows_per_file`.
        on_progress: Told, from another thread, how many images of these are written.

    Raises:
        SetupError: Results cannot be written.
        RtmoDeployError: A worker failed, or died again and again. What was done is kept.
    """
    ray = import_ray()
    import pyarrow.fs as fs
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.datasource import FilenameProvider

    attempt = uuid4().hex[:12]
    before = folder.files()
    place = fs.SubTreeFileSystem(str(folder.path.absolute()), fs.LocalFileSystem())
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(folder.marks.relative_to(folder.path)),
        override_filesystem=place,
        delete_checkpoint_on_success=False,
    )
    rows = rows or rows_per_file(images, workers.most)
    most = min(workers.most, -(-images // rows))
    how: dict[str, Any] = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus}
    pool = ray.data.ActorPoolStrategy(min_size=min(workers.least, most), max_size=most, max_tasks_in_flight_per_actor=2)
    with ray.data.DataContext.current(context), _watched(folder, on_progress), unharmed(), _errors(folder):
        listed = ray.data.read_parquet(str(folder.todo.relative_to(folder.path)), filesystem=place)
        blocks = listed.repartition(target_num_rows_per_block=rows)
        found = blocks.map_batches(
            Worker,
            fn_constructor_args=(job, folder.attempts),
            batch_size=rows,
            batch_format="pyarrow",
            compute=pool,
            **how,
        )
        names = FilenameProvider(dataset_uuid=attempt, file_format="parquet")
        found.write_parquet(folder.results.name, filesystem=place, filename_provider=names)
    folder.clean(keep=attempt, before=before)


@contextlib.contextmanager
def _watched(folder: RunFolder, on_progress: Callable[[int], None] | None) -> Iterator[None]:
    """Within the block, tell every second how many images are written."""
    import pyarrow.parquet as pq

    over = threading.Event()
    counted: dict[str, int] = {}

    def watch() -> None:
        while not over.wait(1.0):
            for mark in folder.written():
                if mark.name not in counted:
                    counted[mark.name] = pq.read_metadata(mark).num_rows
            if on_progress is not None:
                on_progress(sum(counted.values()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _errors(folder: RunFolder) -> Iterator[None]:
    """Turn what Ray raises into an error of ours: the cause, where that is one, or what the worker said."""
    import pyarrow as pa
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, pa.ArrowException) as error:  # as which Ray raises what a task has raised
        cause = getattr(error, "cause", error)
        raise not_written(folder.path, cause) from error
    except RayError as error:
        text = str(error).partition("\nThe above exception was the direct cause")[0].rstrip()
        kind, _, said = text.splitlines()[-1].strip().partition(": ")
        ours = getattr(errors, kind.rpartition(".")[2], None) if kind.startswith(errors.__name__) else None
        if ours is not None:
            made = ours.__new__(ours)  # some are made from other things than a text
            RtmoDeployError.__init__(made, said)
            raise made from error
        if kind.endswith(("OSError", "PermissionError", "FileNotFoundError")):
            raise not_written(folder.path, OSError(said)) from error
        remedy = "What was done is kept: the same command goes on with the rest."
        raise RtmoDeployError(
            f"A worker failed: {kind}: {said}".rstrip(":. ") + ".", remedy=remedy, where=folder.path
        ) from error
