"""``rtmo-deploy train``: a recipe becomes a checkpoint; a killed run goes on where it was."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_facts, print_json, stderr
from rtmo_deploy.cli.given import find_model, require_data, require_device
from rtmo_deploy.cli.options import IgnoreCfgOption, JsonOption, MaxPixelsOption, options_of
from rtmo_deploy.cli.progress import status
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.option import option
from rtmo_deploy.outputs import require_free
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rtmo_deploy.train.log import Progress
    from rtmo_deploy.train.loop import Trainer
    from rtmo_deploy.train.recipe import Recipe

#: torchrun passes a terminal's Ctrl-C on to processes that got it themselves: seconds in which it is the same one.
ECHO = 2.0


@dataclass(frozen=True)
class TrainOptions:
    """What is trained; the fields up to ``val_images`` make a recipe where none is given."""

    out: Path | None = option(None, "Folder of the run. [default: runs/<the recipe's name>]", "-o", "--out")
    model: str | None = option(
        None, "Without a recipe or --init: architecture (rtmo-t, rtmo-s, …) trained as published."
    )
    ann: Path | None = option(None, "Without a recipe: annotations to learn from, COCO format.")
    images: Path | None = option(None, "Without a recipe: folder of their images.")
    val_ann: Path | None = option(None, "Without a recipe: annotations to judge with.")
    val_images: Path | None = option(None, "Without a recipe: folder of their images.")
    init: str | None = option(
        None, "Checkpoint to start from: a file or a model's name. Without a recipe, fine-tune it."
    )
    epochs: int | None = option(
        None, "Length; the stages of the schedule are scaled with it. [default: recipe's; --init, 30]", min=1
    )
    batch_size: int | None = option(
        None, "Images in a step. [default: recipe's; without one, what the data set can fill]", min=1
    )
    settings: tuple[str, ...] = option(
        (),
        "Change a field of the recipe, as in --set optimizer.lr=0.001.",
        "--set",
        several=True,
        metavar="FIELD=VALUE",
    )
    device: str = option("cpu", "cpu, cuda or cuda:N; under torchrun each process takes its GPU.")
    threads: int | None = option(None, "CPU threads. [default: all cores]", min=1)
    workers: int = option(1, "Processes that prepare batches.", min=0)
    resume: bool = option(False, "Go on from last.pth in the run's folder, if there is one.")
    force: bool = option(False, "Begin anew in a folder that holds a run.")
    save_every: float = option(300.0, "Seconds from one last.pth to the next.", min=1)
    log_every: int = option(50, "Steps from one row of log.csv to the next.", min=1)
    stop_after: float | None = option(
        None, "Seconds after which to write the state and end; go on with --resume.", min=0
    )
    tensorboard: bool = option(False, "Write TensorBoard events too.")

    @property
    def data(self) -> dict[str, Path | None]:
        """Files and folders to make a recipe of."""
        return {name: getattr(self, name) for name in ("ann", "images", "val_ann", "val_images")}


@options_of(TrainOptions)
def train(
    *,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML recipe, as in recipes/train; or use the flags.")
    ] = None,
    options: TrainOptions,
    max_pixels: MaxPixelsOption = None,  # noqa: ARG001 - its callback has acted
    ignore_cfg: IgnoreCfgOption = False,  # noqa: ARG001 - its callback has acted
    as_json: JsonOption = False,
) -> None:
    """Train a model by a recipe; writes last.pth, best.pth, final.pth, log.csv and curves.png.

    Ctrl-C and SIGTERM end it after the step it is at, with its state written (exit code 130 and 143).
    """
    require_device(options.device)
    if options.init is not None:
        find_model(options.init, "train --init", CHECKPOINT)
    from rtmo_deploy.train.log import check_packages
    from rtmo_deploy.train.sections import CocoSource

    plan = _plan(recipe, _with_length(options, recipe))
    folder = options.out or Path("runs") / plan.name
    coco = [one for one in (*plan.data.train, plan.data.val) if isinstance(one, CocoSource)]
    require_data("train", ann=[one.annotations for one in coco], images=[one.images for one in coco])
    check_packages(tensorboard=options.tensorboard)
    own_recipe = _check_folder(folder, plan, recipe, options)

    import torch

    from rtmo_deploy.train.distributed import join_group
    from rtmo_deploy.train.loop import RunOptions, Trainer

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    group = join_group(options.device)
    names = ("workers", "resume", "save_every", "log_every", "stop_after", "tensorboard")
    run = RunOptions(folder, **{name: getattr(options, name) for name in names})
    try:
        trainer = Trainer(plan, run, group)  # says what is wrong before anything is written
        if group.main:
            from rtmo_deploy.train.finetune import schedule_lines
            from rtmo_deploy.train.recipe import save_recipe

            if not own_recipe:
                save_recipe(folder / "recipe.yaml", plan)
            for line in schedule_lines(trainer.recipe, trainer.steps_per_epoch):
                stderr().print(f"Schedule: {line}")
        finished, caught = _run(trainer)
    finally:
        group.leave()
    if group.main:
        _print_result(trainer, folder, finished=finished, as_json=as_json)
        if not finished:
            stderr().print(
                f"Stopped at step {trainer.step} of {trainer.steps}; go on with the same command and --resume."
            )
    if caught is not None and not finished:
        raise typer.Exit(128 + caught)


def _with_length(options: TrainOptions, recipe: Path | None) -> TrainOptions:
    """The options with epochs and batch size from --set, where a recipe is made to fit them."""
    found = {"epochs": options.epochs, "batch": options.batch_size}
    rest = []
    for entry in options.settings:
        name, _, text = (part.strip() for part in entry.partition("="))
        if name in found and found[name] is not None:
            flag = "--epochs" if name == "epochs" else "--batch-size"
            raise UsageError(f"{flag} and --set {entry} were given.", remedy=f"Leave one of them out: {flag}.")
        if name in found and recipe is None and text.isdecimal() and int(text):
            found[name] = int(text)
        else:
            rest.append(entry)
    return replace(options, epochs=found["epochs"], batch_size=found["batch"], settings=tuple(rest))


def _plan(path: Path | None, options: TrainOptions) -> Recipe:
    from rtmo_deploy.train.recipe import load_recipe, with_init, with_settings

    batch = [] if options.batch_size is None else [f"batch={options.batch_size}"]
    if path is None:
        plan = _made_plan(options, batch)
    else:
        flags = {"model": options.model, **options.data}
        given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None]
        if given:
            raise UsageError(
                f"A recipe and {', '.join(given)} were given.", remedy="Use --set to change fields of a recipe."
            )
        plan = with_settings(load_recipe(path), batch)
    if options.epochs is not None:
        from rtmo_deploy.train.finetune import with_epochs

        plan = with_epochs(plan, options.epochs)
    plan = with_settings(plan, options.settings)
    return plan if options.init is None else with_init(plan, options.init)


def _made_plan(options: TrainOptions, batch: list[str]) -> Recipe:
    """A recipe from the options: a checkpoint is fine-tuned; without one, the published training."""
    model, init, ann, images = options.model, options.init, options.ann, options.images
    needed = [name for name, value in (("--model", model or init), ("--ann", ann), ("--images", images)) if not value]
    if ann is None or images is None or needed:
        raise UsageError(
            f"There is no recipe, and {', '.join(needed)} {'are' if len(needed) > 1 else 'is'} missing.",
            remedy="To fine-tune, give --init CKPT, --ann FILE and --images DIR; otherwise a recipe, or --model, --ann "
            "and --images.",
        )
    if options.val_images is not None and options.val_ann is None:
        raise UsageError("--val-images was given without --val-ann.", remedy="Give both, or --val-ann alone.")
    data: dict[str, Any] = options.data
    if init is None:
        from rtmo_deploy.train.recipe import published_recipe, with_settings

        return with_settings(published_recipe(str(model), **data), batch)
    require_data("train", ann=[ann, options.val_ann], images=[images, options.val_images])
    from rtmo_deploy.train.finetune import DEFAULT_EPOCHS, finetune_recipe

    plan = finetune_recipe(init, **data, epochs=options.epochs or DEFAULT_EPOCHS, batch=options.batch_size)
    if model not in {None, plan.model.architecture}:
        raise UsageError(
            f"--model is {model}, and --init is {plan.model.architecture or 'another network'}.",
            remedy="Leave --model out: the checkpoint says what it is.",
        )
    return plan


def _check_folder(folder: Path, plan: Recipe, recipe: Path | None, options: TrainOptions) -> bool:
    """Refuse to write over a run or over what the run reads; whether the recipe given is the folder's own already."""
    from rtmo_deploy.train.recipe import load_recipe
    from rtmo_deploy.train.start import RUN_FILES

    stored = folder / "recipe.yaml"
    own = recipe is not None and stored.exists() and stored.samefile(recipe)
    if own and not options.resume and load_recipe(stored) != plan:
        raise UsageError(
            "The recipe is in the run's folder, and options change it.",
            remedy="Choose another folder with --out, or change the recipe.",
            where=stored,
        )
    outputs = [folder / name for name in RUN_FILES] + ([] if own else [stored])
    held = any(path.is_file() for path in outputs)
    if held and not options.resume and not options.force:
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
    print_facts(facts)
