"""``rtmo-deploy train``: a recipe becomes a checkpoint; a killed run goes on where it was."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.given import find_model, require_data, require_device
from rtmo_deploy.cli.options import IgnoreCfgOption, MaxPixelsOption
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.outputs import require_free

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.train.log import Progress
    from rtmo_deploy.train.loop import Trainer
    from rtmo_deploy.train.recipe import Recipe

#: torchrun passes a terminal's Ctrl-C on to processes that got it themselves: seconds in which it is the same one.
ECHO = 2.0


def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML recipe, as in recipes/train; or use the flags.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run. [default: runs/<the recipe's name>]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without a recipe or --init: architecture (rtmo-t, rtmo-s, …) trained as published."),
    ] = None,
    ann: Annotated[Path | None, typer.Option(help="Without a recipe: annotations to learn from, COCO format.")] = None,
    images: Annotated[Path | None, typer.Option(help="Without a recipe: folder of their images.")] = None,
    val_ann: Annotated[Path | None, typer.Option(help="Without a recipe: annotations to judge with.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Without a recipe: folder of their images.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Checkpoint to start from: a file or a model's name. Without a recipe, fine-tune it."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length; the stages of the schedule are scaled with it. [default: recipe's; --init, 30]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a step. [default: recipe's; without one, what the data set can fill]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field of the recipe, as in --set optimizer.lr=0.001."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or cuda:N; under torchrun each process takes its GPU.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: all cores]")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from last.pth in the run's folder, if there is one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin anew in a folder that holds a run.")] = False,
    save_every: Annotated[float, typer.Option(min=1, help="Seconds from one last.pth to the next.")] = 300.0,
    log_every: Annotated[int, typer.Option(min=1, help="Steps from one row of log.csv to the next.")] = 50,
    stop_after: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which to write the state and end; go on with --resume.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Train a model by a recipe; writes last.pth, best.pth, final.pth, log.csv and curves.png.

    Ctrl-C and SIGTERM end it after the step it is at, with its state written (exit code 130 and 143).
    """
    require_device(device)
    if init is not None:
        find_model(init, "train --init", CHECKPOINT)
    flags = {"model": model, "ann": ann, "images": images, "val_ann": val_ann, "val_images": val_images}
    from rtmo_deploy.train.log import check_packages
    from rtmo_deploy.train.sections import CocoSource

    length, batch, settings = _length(epochs, batch_size, settings or [], recipe)
    plan = _plan(recipe, flags, init, length, batch, settings)
    folder = out or Path("runs") / plan.name
    coco = [one for one in (*plan.data.train, plan.data.val) if isinstance(one, CocoSource)]
    require_data("train", ann=[one.annotations for one in coco], images=[one.images for one in coco])
    check_packages(tensorboard=tensorboard)
    own_recipe = _check_folder(folder, plan, recipe, resume=resume, force=force)

    import torch

    from rtmo_deploy.train.distributed import join_group
    from rtmo_deploy.train.loop import RunOptions, Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    group = join_group(device)
    options = RunOptions(
        out=folder,
        workers=workers,
        resume=resume,
        save_every=save_every,
        log_every=log_every,
        stop_after=stop_after,
        tensorboard=tensorboard,
    )
    try:
        trainer = Trainer(plan, options, group)  # says what is wrong before anything is written
        if group.main:
            from rtmo_deploy.train.recipe import save_recipe

            if not own_recipe:
                save_recipe(folder / "recipe.yaml", plan)
            _print_schedule(trainer)
        finished, caught = _run(trainer)
    finally:
        group.leave()
    if group.main:
        _print_result(trainer, folder, finished=finished, as_json=as_json)
        if not finished:
            from rtmo_deploy.cli.console import stderr

            stderr().print(
                f"Stopped at step {trainer.step} of {trainer.steps}; go on with the same command and --resume."
            )
    if caught is not None and not finished:
        raise typer.Exit(128 + caught)


def _length(
    epochs: int | None, batch: int | None, settings: list[str], recipe: Path | None
) -> tuple[int | None, int | None, list[str]]:
    """Epochs and batch, also where --set gives them and a recipe is made to fit them; and the other settings."""
    found = {"epochs": epochs, "batch": batch}
    rest = []
    for entry in settings:
        name, _, text = (part.strip() for part in entry.partition("="))
        if name not in found:
            rest.append(entry)
            continue
        option = "--epochs" if name == "epochs" else "--batch-size"
        if found[name] is not None:
            raise UsageError(f"{option} and --set {entry} were given.", remedy=f"Leave one of them out: {option}.")
        if recipe is None and text.isdecimal() and int(text):
            found[name] = int(text)
        else:
            rest.append(entry)
    return found["epochs"], found["batch"], rest


def _plan(
    path: Path | None,
    flags: dict[str, Any],
    init: str | None,
    epochs: int | None,
    batch: int | None,
    settings: list[str],
) -> Recipe:
    from rtmo_deploy.train.recipe import load_recipe, with_init, with_settings

    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None]
    if path is None:
        plan = _made_plan(flags, init, epochs, batch)
    else:
        if given:
            raise UsageError(
                f"A recipe and {', '.join(given)} were given.", remedy="Use --set to change fields of a recipe."
            )
        plan = load_recipe(path)
        if batch is not None:
            plan = with_settings(plan, [f"batch={batch}"])
    if epochs is not None:
        from rtmo_deploy.train.finetune import with_epochs

        plan = with_epochs(plan, epochs)
    plan = with_settings(plan, settings)
    return plan if init is None else with_init(plan, init)


def _made_plan(flags: dict[str, Any], init: str | None, epochs: int | None, batch: int | None) -> Recipe:
    """A recipe from the flags: a checkpoint is fine-tuned; without one, the published training."""
    needed = [f"--{name}" for name in ("model", "ann", "images") if flags[name] is None]
    if init is not None and "--model" in needed:
        needed.remove("--model")
    if needed:
        raise UsageError(
            f"There is no recipe, and {', '.join(needed)} {'are' if len(needed) > 1 else 'is'} missing.",
            remedy="To fine-tune, give --init CKPT, --ann FILE and --images DIR; otherwise a recipe, or --model, --ann "
            "and --images.",
        )
    if flags["val_images"] is not None and flags["val_ann"] is None:
        raise UsageError("--val-images was given without --val-ann.", remedy="Give both, or --val-ann alone.")
    data = {name: flags[name] for name in ("ann", "images", "val_ann", "val_images")}
    if init is None:
        from rtmo_deploy.train.recipe import published_recipe, with_settings

        plan = published_recipe(flags["model"], **data)
        return plan if batch is None else with_settings(plan, [f"batch={batch}"])
    require_data("train", ann=[flags["ann"], flags["val_ann"]], images=[flags["images"], flags["val_images"]])
    from rtmo_deploy.train.finetune import DEFAULT_EPOCHS, finetune_recipe

    plan = finetune_recipe(init, **data, epochs=epochs or DEFAULT_EPOCHS, batch=batch)
    if flags["model"] not in {None, plan.model.architecture}:
        raise UsageError(
            f"--model is {flags['model']}, and --init is {plan.model.architecture or 'another network'}.",
            remedy="Leave --model out: the checkpoint says what it is.",
        )
    return plan


def _print_schedule(trainer: Trainer) -> None:
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.train.finetune import schedule_lines

    for line in schedule_lines(trainer.recipe, trainer.steps_per_epoch):
        stderr().print(f"Schedule: {line}")


def _check_folder(folder: Path, plan: Recipe, recipe: Path | None, *, resume: bool, force: bool) -> bool:
    """Refuse to write over a run or over what the run reads; whether the recipe given is the folder's own already."""
    from rtmo_deploy.train.recipe import load_recipe
    from rtmo_deploy.train.start import RUN_FILES

    stored = folder / "recipe.yaml"
    own = recipe is not None and stored.exists() and stored.samefile(recipe)
    if own and not resume and load_recipe(stored) != plan:
        raise UsageError(
            "The recipe is in the run's folder, and options change it.",
            remedy="Choose another folder with --out, or change the recipe.",
            where=stored,
        )
    outputs = [folder / name for name in RUN_FILES] + ([] if own else [stored])
    held = any(path.is_file() for path in outputs)
    if held and not resume and not force:
        raise UsageError(
            "This folder holds a run already.",
            remedy="Go on with it with --resume, choose another folder with --out, or overwrite it with --force.",
            where=folder,
        )
    require_free(outputs, [recipe, *plan.inputs], force=True)
    return own


@contextlib.contextmanager
def _signals(trainer: Trainer) -> Iterator[list[int]]:
    """SIGINT and SIGTERM end the run after its step, with its state written; Ctrl-C a second time ends it at once.

    Gives a list that the first signal's number is put into.
    """
    caught: list[int] = []
    first = 0.0

    def stop(number: int, _: object) -> None:
        nonlocal first
        if not caught:
            caught.append(number)
            first = time.monotonic()
            trainer.interrupt()
        elif number == signal.SIGINT and time.monotonic() - first > ECHO:
            raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(trainer: Trainer) -> tuple[bool, int | None]:
    """Run, with progress and every validation on stderr; whether it finished, and the signal that ended it."""
    from rtmo_deploy.cli.console import stderr
    from rtmo_deploy.cli.progress import status
    from rtmo_deploy.progress import Count

    with status() if trainer.group.main else contextlib.nullcontext(lambda _: None) as say:

        def report(progress: Progress) -> None:
            facts = f"epoch {progress.epoch}: {_facts(progress)}"
            say(Count("training", progress.step, progress.steps, facts))
            if progress.report is not None:
                stderr().print(f"step {progress.step}/{progress.steps}, {facts}")

        with _signals(trainer) as caught:
            finished = trainer.run(report)
        return finished, caught[0] if caught else None


def _facts(progress: Progress) -> str:
    terms = " ".join(f"{name} {value:.3f}" for name, value in progress.terms.items())
    text = f"{terms} | {progress.images_per_second:.1f} images/s" if progress.step else "before the training"
    if progress.report is not None:
        figures = progress.report.metrics
        shown = (f"{name} {figures[name]:.3f}" for name in ("AP", "AP50") if figures.get(name) is not None)
        text += " | " + " ".join(shown)
    return text


def _print_result(trainer: Trainer, folder: Path, *, finished: bool, as_json: bool) -> None:
    from rtmo_deploy.cli.console import facts_table, print_json, print_table

    metrics = trainer.history[-1]["metrics"] if trainer.history else None
    files = [
        name for name in ("final.pth", "best.pth", "last.pth", "log.csv", "curves.png") if (folder / name).is_file()
    ]
    if as_json:
        print_json(
            "train",
            folder=str(folder),
            finished=finished,
            step=trainer.step,
            steps=trainer.steps,
            best_ap=trainer.best if trainer.best >= 0 else None,
            metrics=metrics,
            files=files,
        )
        return
    facts = {
        "folder": str(folder),
        "state": "finished" if finished else "stopped; go on with --resume",
        "steps": f"{trainer.step} of {trainer.steps}",
        "files": ", ".join(files),
    }
    if metrics:
        facts["last judged"] = ", ".join(f"{k} {v:.3f}" for k, v in metrics.items() if v is not None)
        first = trainer.history[0]
        unbeaten = first["step"] == 0 and first["metrics"]["AP"] == trainer.best
        facts["best AP"] = f"{trainer.best:.3f}" + (
            " (of the initial checkpoint; no epoch was better)" if unbeaten else ""
        )
    print_table(facts_table(facts))
