"""The training loop: batches in, checkpoints and a log out; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from rtmo_deploy.data.coco import CocoKeypoints
from rtmo_deploy.errors import UsageError
from rtmo_deploy.measure.accuracy import evaluate_poses
from rtmo_deploy.measure.accuracy.judge import require_people
from rtmo_deploy.model.checkpoint import save_checkpoint
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.letterbox import letterbox, to_tensor
from rtmo_deploy.train.assign import resize
from rtmo_deploy.train.augment import random_size
from rtmo_deploy.train.criterion import TERMS, Criterion, KeypointHeatmaps, LossModule
from rtmo_deploy.train.distributed import Group, Meter, synchronise_norms
from rtmo_deploy.train.feed import Batches, build_feed, in_order, loader, open_source
from rtmo_deploy.train.log import Log, check_packages, read_log
from rtmo_deploy.train.optimize import ModelAverage, Schedule, build_optimizer
from rtmo_deploy.train.stages import is_judged, loss_options
from rtmo_deploy.train.start import initial_skeleton, starting_model
from rtmo_deploy.train.state import (
    check_network,
    check_optimizer,
    check_progress,
    check_same_recipe,
    check_scaler,
    check_tensors,
    clear_folder,
    load_state,
    save_state,
    unusable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from rtmo_deploy.data import PoseDataset
    from rtmo_deploy.measure.accuracy import AccuracyReport
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.train.assign import Targets
    from rtmo_deploy.train.recipe import Recipe
    from rtmo_deploy.train.state import State


def find_poses(
    model: RTMO,
    dataset: PoseDataset,
    skeleton: Skeleton,
    input_hw: tuple[int, int],
    *,
    batch: int = 16,
    score_thr: float = 0.1,
    nms_thr: float = 0.65,
) -> list[Poses]:
    """People that a network in eval mode finds in every image, in pixels of the image."""
    device = next(model.parameters()).device
    found = []
    for first in range(0, len(dataset), batch):
        rows = [dataset[index].image for index in range(first, min(first + batch, len(dataset)))]
        pairs = [letterbox(image, input_hw) for image in rows]
        tensor = torch.from_numpy(to_tensor([image for image, _ in pairs])).to(device)
        tensor = tensor.contiguous(memory_format=torch.channels_last)
        for people, (_, transform) in zip(
            model.predict(tensor, score_thr=score_thr, nms_thr=nms_thr), pairs, strict=True
        ):
            boxes, scores, keypoints, visibility = (
                value.float().cpu().numpy()
                for value in (people.boxes, people.scores, people.keypoints, people.keypoint_scores)
            )
            found.append(
                Poses(
                    np.asarray(transform.boxes_to_original(boxes), np.float32),
                    scores,
                    np.asarray(transform.to_original(keypoints), np.float32),
                    visibility,
                    skeleton,
                )
            )
    return found


def validate_model(
    model: RTMO, dataset: PoseDataset, skeleton: Skeleton, input_hw: tuple[int, int], *, protocol: str
) -> AccuracyReport:
    """AP and its kin of a network in eval mode; score above 0.1 and NMS at 0.65, as the reference validates.

    Where nobody has measured OKS sigmas for the keypoints, those the loss is computed with are taken.
    """
    sigmas = skeleton.sigmas or tuple(model.head.loss_oks.sigmas.tolist())
    poses = find_poses(model, dataset, skeleton, input_hw)
    return evaluate_poses(dataset, poses, protocol=protocol, sigmas=sigmas)


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run; nothing here changes what comes out, apart from rounding.

    Without ``resume``, files of an earlier run in ``out`` are removed when the training begins.

    Attributes:
        out: Folder of the run.
        workers: Processes that prepare batches.
        resume: Go on from ``last.pth`` in ``out`` if it is there.
        save_every: Seconds from one ``last.pth`` to the next; it is also written after every validation.
        log_every: A row of the log is written after each step that is a multiple of this, and after validations.
        stop_after: Seconds after which the run writes its state and ends; None for never.
        tensorboard: Write TensorBoard events too.
    """

    out: Path
    workers: int = 1
    resume: bool = False
    save_every: float = 300.0
    log_every: int = 50
    stop_after: float | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a run is: terms are means over the last steps, images per second those of all processes since the start."""

    step: int
    steps: int
    epoch: int
    terms: dict[str, float]
    pictures_per_second: float
    report: AccuracyReport | None = None


@contextlib.contextmanager
def _without_denormals() -> Iterator[None]:
    """Flush denormals: the far tails of the heatmaps are, cost a hundred times as much on x86, and mean nothing."""
    before = bool(torch.tensor(1e-40) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class Trainer:
    """One run of a recipe.

    Args:
        recipe: What is trained.
        options: How it is run.
        group: The processes that run it.

    Raises:
        InputDataError: The data is unusable.
        CheckpointError: ``model.init`` or ``last.pth`` is unusable.
        UsageError: The parts of the recipe do not fit together.
    """

    def __init__(self, recipe: Recipe, options: RunOptions, group: Group) -> None:
        self.recipe, self.options, self.group = recipe, options, group
        if group.main:
            check_packages(tensorboard=options.tensorboard)
        last = options.out / "last.pth"
        resumed = load_state(last) if options.resume and os.path.lexists(last) else None
        feed = build_feed(recipe, initial_skeleton(recipe) if resumed is None else resumed.skeleton)
        self.skeleton = feed.skeleton
        self.batches = Batches(recipe, feed, rank=group.rank, world=group.world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = recipe.epochs * self.steps_per_epoch
        self.val = _open_val(recipe, feed.skeleton)
        model = starting_model(recipe, self.skeleton) if resumed is None else resumed.model.train()
        self.model = model.to(group.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = ModelAverage(self.model, recipe.ema)
        if group.world > 1 and recipe.sync_norms:
            synchronise_norms(self.model)
        self.auxiliary = KeypointHeatmaps(self.model, recipe.seed).to(group.device) if recipe.loss.heatmap else None
        self.optimizer = build_optimizer(self.model, recipe, group.device, auxiliary=self.auxiliary)
        self.schedule = Schedule(recipe, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
        self.meter = Meter(group)
        self.step, self.best = 0, -1.0
        self.history: list[dict[str, Any]] = []
        if resumed is not None:
            self._restore(resumed, last)
        joint = {"divisor": group.divisor} if group.world > 1 else {}
        self.criterion = Criterion(self.model.head, loss_options(recipe, 0), **joint)
        self._module = LossModule(self.model, self.criterion, self._autocast, self.auxiliary)
        self.module: nn.Module = self._module
        if group.world > 1:
            self.module = nn.parallel.DistributedDataParallel(self._module, broadcast_buffers=False)
        self._interrupted = False

    def interrupt(self) -> None:
        """Write the state after this step, and end; from a signal handler or another thread."""
        self._interrupted = True

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> bool:
        """Train to the end (True: ``final.pth`` holds the result), or until ``stop_after`` or :meth:`interrupt`.

        ``report`` is called after every row of the log.
        """
        log = self._open_log() if self.group.main else None
        with contextlib.closing(log) if log else contextlib.nullcontext(), _without_denormals():
            finished = self._run(log, report)
            if log:
                log.draw()
        if finished and self.group.main:
            self._write_model(self.options.out / "final.pth")
        self.group.barrier()
        return finished

    def _open_log(self) -> Log:
        clear_folder(self.options.out, keep_run=self.options.resume)
        return Log(self.options.out, (*TERMS, "heatmap"), step=self.step, tensorboard=self.options.tensorboard)

    def _run(self, log: Log | None, report: Callable[[Progress], None]) -> bool:
        begin, saved, first = time.monotonic(), time.monotonic(), self.step
        recipe, options = self.recipe, self.options
        if self.step == 0 and recipe.model.init is not None and self.val is not None:
            # What the checkpoint is worth on these data: best.pth is never worse than it.
            started = self._validate(-1)
            if log:
                report(Progress(0, self.steps, 0, {}, 0.0, started))
        stream = iter(loader(self.batches, start=self.step * recipe.accumulate, workers=options.workers))
        while self.step < self.steps:
            epoch = self.step // self.steps_per_epoch
            self.criterion.options = loss_options(recipe, epoch)
            self.meter.add(self._train_step(stream))
            self.step += 1
            ends, finished = self.step % self.steps_per_epoch == 0, self.step == self.steps
            due = ends and is_judged(recipe, epoch)
            if due or finished or self.step % options.log_every == 0:
                terms = self.meter.means(self.step)
                self.meter.clear()
                judged = self._validate(epoch) if due else None
                speed = (self.step - first) * recipe.batch / (time.monotonic() - begin)
                if log:
                    log.write(self.step, epoch, self.schedule.rate(self.step - 1), terms, speed, judged)
                    report(Progress(self.step, self.steps, epoch, terms, speed, judged))
            now = time.monotonic()
            stop, save = self.group.any(
                self._interrupted or (options.stop_after is not None and now - begin > options.stop_after),
                now - saved > options.save_every,
            )
            if due or finished or stop or save:
                self._save()
                saved = time.monotonic()
            if stop and not finished:
                return False
        return True

    def _train_step(self, stream: Iterator[tuple[Tensor, Targets]]) -> dict[str, Tensor]:
        """One step of the optimiser, its gradient from ``accumulate`` parts; the weighted loss terms."""
        self.schedule.apply(self.optimizer, self.step)
        self.module.train()
        terms: dict[str, Tensor] = {}
        parts = self.recipe.accumulate
        for part in range(parts):
            pixels, targets = next(stream)
            images = pixels.to(self.group.device, non_blocking=True).float()
            images, targets = self._resize(images, targets.to(self.group.device))
            last = part == parts - 1
            alone = isinstance(self.module, nn.parallel.DistributedDataParallel) and not last
            with self.module.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                loss = self.module(images, targets) / parts
                self.scaler.scale(loss).backward()
            for name, value in self._module.terms.items():
                terms[name] = terms.get(name, value.new_zeros(())) + value / parts
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._module.parameters(), self.recipe.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        return terms

    def _resize(self, images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        span = self.recipe.augment.multi_scale
        hw = (int(images.shape[-2]), int(images.shape[-1]))
        if span is not None:
            hw = random_size(hw, self.recipe.seed, self.step, span=span)
        images, targets = resize(images, targets, hw)
        return images.contiguous(memory_format=torch.channels_last), targets

    def _autocast(self) -> Any:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.group.device.type, dtype)

    def _validate(self, epoch: int) -> AccuracyReport | None:
        report = None
        if self.group.main and self.val is not None:
            protocol = self.recipe.data.metric
            report = validate_model(self.average.model, self.val, self.skeleton, self.recipe.input, protocol=protocol)
            row = {"epoch": epoch + 1, "step": self.step, "pictures": self.step * self.recipe.batch}
            self.history.append(row | {"metrics": dict(report.metrics)})
            if not math.isnan(report.ap) and report.ap > self.best:
                self.best = report.ap
                self._write_model(self.options.out / "best.pth")
        self.group.barrier()
        return report

    def _save(self) -> None:
        """Write ``last.pth``, unless the state is broken; every process must do so together."""
        if self.meter.count:
            self.meter.means(self.step)
        pending = self.meter.state()
        if self.group.main:
            save_state(
                self.options.out / "last.pth",
                model=self.model,
                average=self.average.model,
                optimizer=self.optimizer,
                skeleton=self.skeleton,
                input_hw=self.recipe.input,
                progress={
                    "step": self.step,
                    "epoch": self.step // self.steps_per_epoch,
                    "best": self.best,
                    "history": self.history,
                    "pending": pending,
                    "recipe": self.recipe.model_dump(mode="json"),
                },
                scaler=self.scaler.state_dict() if self.scaler.is_enabled() else None,
                auxiliary=self.auxiliary.state_dict() if self.auxiliary else None,
                domain=self.batches.feed.domain,
            )
        self.group.barrier()

    def _restore(self, state: State, path: Path) -> None:
        """Go on from a state; nothing is changed unless all of it fits this run."""
        try:
            progress = check_progress(state.progress, self.steps, self.steps_per_epoch)
            check_same_recipe(progress["recipe"], self.recipe, path)
            check_network(state.model.spec, self.recipe, self.skeleton)
            moments = check_optimizer(state.parts.get("optimizer"), self.optimizer, skipped=self.scaler.is_enabled())
            scale = check_scaler(state.parts.get("scaler"), self.scaler)
            auxiliary: Any = state.parts.get("auxiliary")
            if self.auxiliary is not None:
                check_tensors(auxiliary, self.auxiliary.state_dict(), "auxiliary layers")
            read_log(path.with_name("log.csv"))
        except ValueError as error:
            raise unusable(path, str(error)) from error
        self.average.model.load_state_dict(state.average.state_dict())
        self.optimizer.load_state_dict(moments)
        self.scaler.load_state_dict(scale)
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(auxiliary)
        self.step, self.best, self.history = progress["step"], progress["best"], progress["history"]
        self.meter.restore(progress["pending"])

    def _write_model(self, path: Path) -> None:
        facts = {
            "trained": True,
            "domain": self.batches.feed.domain,
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "step": self.step,
            "pictures": self.step * self.recipe.batch,
            "metrics": self.history[-1]["metrics"] if self.history else None,
        }
        save_checkpoint(path, self.average.model, skeleton=self.skeleton, input_hw=self.recipe.input, meta=facts)


def _open_val(recipe: Recipe, skeleton: Skeleton) -> PoseDataset | None:
    if recipe.data.val is None:
        return None
    dataset = open_source(recipe.data.val, everything=True)
    if len(dataset.skeleton) != len(skeleton):
        raise UsageError(
            f"The validation set has {len(dataset.skeleton)} keypoints, the model {len(skeleton)}.",
            remedy="Judge with annotations of the model's keypoints.",
        )
    told = recipe.data.skeleton is not None
    dataset = in_order(recipe.data.val, dataset, skeleton, told=told, everything=True)
    if isinstance(dataset, CocoKeypoints):
        require_people(dataset.ground_truth())
    return dataset
