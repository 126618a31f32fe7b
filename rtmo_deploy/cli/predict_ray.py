"""``rtmo-deploy predict --engine ray``: many images with Ray, on one machine or a cluster."""

from __future__ import annotations

import importlib.metadata
import os
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from rtmo_deploy._version import __version__
from rtmo_deploy.cli.console import print_error, print_facts, print_json, stderr
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.interrupt import Interrupts
from rtmo_deploy.cli.options import OpenOptions
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import InputDataError, RtmoDeployError, UsageError
from rtmo_deploy.option import option
from rtmo_deploy.plain import counted
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.bulk.job import Job
    from rtmo_deploy.bulk.run_folder import Found, RunFolder

#: Options of ``predict`` that a bulk run has as well.
_TAKEN = {"score_thr", "max_people", "recursive", "batch", "reduce_jpeg", "parquet", "draw_thr"}
#: Failures that are printed; all are in the results.
_SHOWN = 20


@dataclass(frozen=True)
class EngineOptions(OpenOptions):
    """Who does the work."""

    engine: Literal["process", "ray"] = option(
        "process", "What runs the model: this process, or Ray's workers, for many images on one machine or a cluster."
    )
    ray_address: str | None = option(
        None, "With --engine ray: a cluster to use, or auto. [default: Ray is started here]", metavar="ADDR"
    )
    workers: int | None = option(
        None, "With --engine ray: most processes with a model each. [default: as many as fit]", min=1, metavar="N"
    )
    gpus_per_worker: float | None = option(
        None, "With --engine ray: GPUs of each worker, 0.5 for two on one GPU. [default: 1]", min=0.01, max=64
    )
    rows_per_file: int | None = option(
        None, "With --engine ray: images in one file of results. [default: 8 to 256]", min=1, metavar="N"
    )


_OWN = {one.name for one in fields(EngineOptions)} - {one.name for one in fields(OpenOptions)}


def require_applying(options: EngineOptions) -> None:
    """UsageError for an option that does not apply with this engine."""
    ray = options.engine == "ray"
    for one in fields(options):
        opening = one.name in OpenOptions.__dataclass_fields__ or one.name == "engine"
        applies = opening or (one.name in _TAKEN | _OWN if ray else one.name not in _OWN)
        if not applies and getattr(options, one.name) != one.default:
            name = one.metadata["names"][0] if one.metadata["names"] else f"--{one.name.replace('_', '-')}"
            remedy = "Leave it away: a bulk run writes Parquet." if ray else "Add --engine ray, or leave it away."
            raise UsageError(f"It does not apply with --engine {options.engine}.", remedy=remedy, where=name)


def predict_ray(
    model: str, sources: Sequence[str], options: Any, draw_thr: float, *, force: bool, as_json: bool
) -> None:
    """Find people in images with Ray's workers; ``options`` are those of ``predict``."""
    from rtmo_deploy.bulk import Job, RunFolder, find_images
    from rtmo_deploy.bulk.cluster import import_ray
    from rtmo_deploy.runtime.backends import parse_device
    from rtmo_deploy.runtime.estimator import read_artifact
    from rtmo_deploy.runtime.thresholds import decode_for

    if options.parquet is None or options.parquet == Path("-"):
        raise UsageError("--engine ray writes a folder.", remedy="Name it: --parquet DIR.", where="--parquet")
    if options.device not in {"auto", "cpu", "cuda"}:
        parse_device(options.device)
        raise UsageError("Ray chooses the GPU.", remedy="Use --device cuda.", where="--device")
    started = time.monotonic()
    import_ray()
    images, failures = find_images(sources, recursive=options.recursive)
    path = find_model(model, "predict", opening=options if options.ray_address is None else None)
    artifact = read_artifact(path, trust=options.trust)
    decode_for(artifact, score_thr=options.score_thr, max_people=options.max_people)
    if not len(images):
        for failure in failures[:-1]:
            print_error(failure)
        raise failures[-1] if failures else InputDataError("It names no image.", where=sources[0])
    skeleton = artifact.skeleton
    if skeleton.guessed:
        stderr().print(f"Note: the keypoints are {skeleton.label}.", soft_wrap=True)
    job = Job.of(
        path,
        opening={name: getattr(options, name) for name in OpenOptions.__dataclass_fields__ if name != "device"},
        device=options.device,
        **{name: getattr(options, name) for name in ("score_thr", "max_people", "batch")},
        reduce=options.reduce_jpeg,
    )
    versions = {name: importlib.metadata.version(name) for name in ("pyarrow", "ray")}
    asked = {**job.asked(), "rtmo_deploy": __version__}
    facts: dict[str, Any] = {"versions": versions, "model": str(job.model), "skeleton": skeleton.to_dict()}
    folder = RunFolder(options.parquet)
    with folder.opened(asked, facts, force=force):
        left = folder.left(images)
        number = 0
        if len(left):
            folder.plan(left)
            number = _run(folder, job, options, left=len(left), total=len(images))
        found = folder.found(draw_thr)
        counts = {"images": found.images, "people": found.people, "failed": len(found.failures)}
        if not number and found.images != len(images):
            finding = f"The results have {found.images} rows for {counted(len(images), 'image')}."
            raise RtmoDeployError(finding, remedy="Start anew with --force, and report this.", where=folder.path)
        if not number:
            folder.finish(asked, {**facts, **counts})
    seconds = time.monotonic() - started
    failed = [{"path": failure.where, "error": str(failure)} for failure in failures]
    failed += [{"path": source, "error": error} for source, error in found.failures]
    if as_json:
        made = {"engine": "ray", "folder": str(folder.path), "files": len(folder.files()), "images": found.images}
        before = {"images_before": len(images) - len(left), "people": found.people, "seconds": round(seconds, 3)}
        print_json("predict", model=str(path), skeleton=skeleton.to_dict(), **made, **before, failed=failed)
    else:
        print_facts(_facts(folder, found, new=found.images - len(images) + len(left), draw_thr=draw_thr))
    _tell(found, len(left), seconds, failed)
    if number:
        raise typer.Exit(128 + number)
    if failed:
        raise typer.Exit(InputDataError.exit_code)


def _run(folder: RunFolder, job: Job, options: Any, *, left: int, total: int) -> int:
    """Run the job; gives the signal that ended it early, 0 for none."""
    from rtmo_deploy.bulk import run
    from rtmo_deploy.bulk.cluster import connected, workers_for

    def note(text: str) -> None:
        stderr().print(f"Note: {text}")

    own, threads = options.ray_address is None, options.threads or 1
    wanted = options.workers or max(1, _cpus() // threads)
    with (
        status("starting Ray" if own else "connecting to Ray") as say,
        Interrupts(),
        connected(options.ray_address, num_cpus=wanted * threads + 1, on_note=note),
        Interrupts() as interrupts,  # in place of Ray's handlers
    ):
        gpus_each = options.gpus_per_worker or 1.0
        workers = workers_for(threads=threads, device=job.device, gpus_each=gpus_each, most=options.workers, own=own)
        if not workers.num_gpus:
            job = replace(job, device="cpu", opening={**job.opening, "threads": threads})

        def progress(done: int) -> None:
            say(Count("detecting", total - left + done, total, f"at most {counted(workers.most, 'worker')}"))

        try:
            run(folder, job, workers, images=left, rows=options.rows_per_file, on_progress=progress)
        except KeyboardInterrupt:
            stderr().print("Interrupted: what was done so far is kept. The same command goes on with the rest.")
    if interrupts.number:
        folder.clean()
    return interrupts.number


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts(folder: RunFolder, found: Found, *, new: int, draw_thr: float) -> dict[str, str]:
    before = f", {found.images - new} of them before" if new < found.images else ""
    return {
        "results": f"{folder.results}{os.sep}*.parquet",
        "images": f"{found.images}{before}",
        "not read": str(len(found.failures)),
        "people": f"{found.people}, {found.strong} with a score above {draw_thr:g}",
    }


def _tell(found: Found, left: int, seconds: float, failed: list[dict[str, Any]]) -> None:
    """Say on stderr how it went."""
    if left:
        stderr().print(f"{counted(found.images, 'image')} in the results after {seconds:.0f} s.")
    else:
        stderr().print("All images are done already: nothing was run.")
    for failure in failed[:_SHOWN]:
        stderr().print("Error:", style="bold red", end=" ")
        stderr().print(failure["error"])
    if failed[_SHOWN:]:
        stderr().print(f"And {counted(len(failed) - _SHOWN, 'error')} more: see the column 'error' of the results.")
