"""The training loop: batches in, checkpoints and a log out; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rtmo_deploy._version import __version__
from rtmo_deploy.data.coco import CocoKeypoints
from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.measure.accuracy import evaluate_poses
from rtmo_deploy.measure.accuracy.judge import require_people
from rtmo_deploy.model.checkpoint import save_checkpoint
from rtmo_deploy.poses import Poses
from rtmo_deploy.runtime.decode import poses_to_original
from rtmo_deploy.runtime.letterbox import letterbox, to_tensor
from rtmo_deploy.train.assign import resize
from rtmo_deploy.train.augment import random_size
from rtmo_deploy.train.criterion import KeypointHeatmaps, LossModule
from rtmo_deploy.train.distributed import Group, Meter, synchronise_norms
from rtmo_deploy.train.feed import Batches, build_feed, in_order, loader, open_source
from rtmo_deploy.train.log import Log, Progress, check_packages, read_log
from rtmo_deploy.train.optimize import ModelAverage, build_optimizer, learning_rate
from rtmo_deploy.train.start import (
    check_network,
    check_optimizer,
    check_progress,
    check_same_recipe,
    check_scaler,
    check_tensors,
    clear_folder,
    initial_checkpoint,
    load_state,
    starting_model,
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
    from rtmo_deploy.train.start import State


#: Images that are validated together.
VAL_BATCH = 16


def validate_model(
    model: RTMO, dataset: PoseDataset, skeleton: Skeleton, input_hw: tuple[int, int], *, protocol: str
) -> AccuracyReport:
    """AP and its kin of a network in eval mode; score above 0.1 and NMS at 0.65, as the reference validates.

    Where nobody has measured OKS sigmas for the keypoints, those the loss is computed with are taken.
    """
    device = next(model.parameters()).device
    found = []
    for first in range(0, len(dataset), VAL_BATCH):
        images = [dataset[index].image for index in range(first, min(first + VAL_BATCH, len(dataset)))]
        pairs = [letterbox(image, input_hw) for image in images]
        tensor = torch.from_numpy(to_tensor([image for image, _ in pairs])).to(device)
        tensor = tensor.contiguous(memory_format=torch.channels_last)
        instances = model.predict(tensor, score_thr=0.1, nms_thr=0.65)
        for one, (_, transform) in zip(instances, pairs, strict=True):
            values = (one.boxes, one.scores, one.keypoints, one.keypoint_scores)
            boxes, scores, keypoints, visibility = (value.float().cpu().numpy() for value in values)
            found.append(poses_to_original(Poses(boxes, scores, keypoints, visibility, skeleton), transform))
    sigmas = skeleton.sigmas or tuple(model.head.loss_oks.sigmas.tolist())
    return evaluate_poses(dataset, found, protocol=protocol, sigmas=sigmas)


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run; nothing here changes what comes out, apart from rounding.

    Without ``resume``, files of an earlier run in ``out`` are removed when the training begins.
    """

    out: Path
    #: Processes that prepare batches.
    workers: int = 1
    #: Go on from ``last.pth`` in ``out`` if it is there.
    resume: bool = False
    #: Seconds from one ``last.pth`` to the next; it is also written after every validation.
    save_every: float = 300.0
    #: A row of the log is written after each step that is a multiple of this, and after validations.
    log_every: int = 50
    #: Seconds after which the run writes its state and ends; None for never.
    stop_after: float | None = None
    tensorboard: bool = False


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
    """One run of a recipe by a group of processes.

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
        initial = initial_checkpoint(recipe) if resumed is None else None
        feed = build_feed(recipe, resumed.skeleton if resumed else initial.skeleton if initial else None)
        self.skeleton = feed.skeleton
        self.batches = Batches(recipe, feed, rank=group.rank, world=group.world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = recipe.epochs * self.steps_per_epoch
        self.val = _open_val(recipe, feed.skeleton)
        model = resumed.model.train() if resumed else starting_model(recipe, self.skeleton, initial)
        self.model = model.to(group.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = ModelAverage(self.model, recipe.ema)
        if group.world > 1 and recipe.sync_norms:
            synchronise_norms(self.model)
        self.auxiliary = KeypointHeatmaps(self.model, recipe.seed).to(group.device) if recipe.loss.heatmap else None
        self.optimizer = build_optimizer(self.model, recipe, group.device, auxiliary=self.auxiliary)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
        self.meter = Meter(group)
        self.step, self.best = 0, -1.0
        self.history: list[dict[str, Any]] = []
        if resumed is not None:
            self._restore(resumed, last)
        self.losses = LossModule(
            self.model,
            recipe.loss_at(0),
            precision=recipe.precision,
            auxiliary=self.auxiliary,
            divisor=group.divisor,
        )
        self.module: nn.Module = self.losses
        if group.world > 1:
            self.module = nn.parallel.DistributedDataParallel(self.losses, broadcast_buffers=False)
        self._interrupted = False

    def interrupt(self) -> None:
        """Write the state after this step, and end; from a signal handler or another thread."""
        self._interrupted = True

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> bool:
        """Train to the end (True: ``final.pth`` holds the result), or until ``stop_after`` or :meth:`interrupt`.

        ``report`` is called after every row of the log.
        """
        log = None
        if self.group.main:
            clear_folder(self.options.out, keep_run=self.options.resume)
            log = Log(self.options.out, step=self.step, tensorboard=self.options.tensorboard)
        with contextlib.closing(log) if log else contextlib.nullcontext(), _without_denormals():
            finished = self._run(log, report)
            if log:
                log.draw()
        if finished and self.group.main:
            self._write_model(self.options.out / "final.pth")
        self.group.barrier()
        return finished

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
            self.losses.options = recipe.loss_at(epoch)
            self.losses.second_stage = recipe.in_second_stage(epoch)
            self.meter.add(self._train_step(stream))
            self.step += 1
            ends, finished = self.step % self.steps_per_epoch == 0, self.step == self.steps
            due = ends and recipe.is_judged(epoch)
            if due or finished or self.step % options.log_every == 0:
                terms = self.meter.means(self.step)
                self.meter.clear()
                judged = self._validate(epoch) if due else None
                speed = (self.step - first) * recipe.batch / (time.monotonic() - begin)
                if log:
                    progress = Progress(self.step, self.steps, epoch, terms, speed, judged)
                    log.write(progress, learning_rate(recipe, self.steps_per_epoch, self.step - 1))
                    report(progress)
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
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.steps_per_epoch, self.step, group["factor"])
        self.module.train()
        terms: dict[str, Tensor] = {}
        parts = self.recipe.accumulate
        for part in range(parts):
            pixels, targets = next(stream)
            images = pixels.to(self.group.device, non_blocking=True).float()
            hw = (int(images.shape[-2]), int(images.shape[-1]))
            if self.recipe.augment.multi_scale is not None:
                hw = random_size(hw, self.recipe.seed, self.step, span=self.recipe.augment.multi_scale)
            images, targets = resize(images, targets.to(self.group.device), hw)
            images = images.contiguous(memory_format=torch.channels_last)
            last = part == parts - 1
            alone = isinstance(self.module, nn.parallel.DistributedDataParallel) and not last
            with self.module.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                loss = self.module(images, targets) / parts
                self.scaler.scale(loss).backward()
            for name, value in self.losses.terms.items():
                terms[name] = terms.get(name, value.new_zeros(())) + value / parts
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.losses.parameters(), self.recipe.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        return terms

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
        """Write ``last.pth``, whole or not at all, unless the state is broken; every process must do so together.

        The layout is mmengine's: ``state_dict`` holds the averaged weights, ``ema_state_dict`` the raw ones (that is
        how mmengine swaps them). So every command here, and MMPose, can use the file.
        """
        if self.meter.count:
            self.meter.means(self.step)
        pending = self.meter.state()
        if self.group.main:
            progress = {
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "best": self.best,
                "history": self.history,
                "pending": pending,
                "recipe": self.recipe.model_dump(mode="json"),
            }
            facts = {
                "version": __version__,
                "skeleton": self.skeleton.to_dict(),
                "settings": self.model.spec.settings.to_dict(),
                "input_hw": list(self.recipe.input),
                "trained": True,
                "domain": self.batches.feed.domain,
                "progress": progress,
            }
            raw = OrderedDict((f"module.{key}", value) for key, value in self.model.state_dict().items())
            raw["steps"] = torch.tensor(self.step)
            contents = {
                "meta": {"rtmo_deploy": facts, "epoch": progress["epoch"], "iter": self.step},
                "state_dict": self.average.model.state_dict(),
                "ema_state_dict": raw,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
                "auxiliary": self.auxiliary.state_dict() if self.auxiliary else None,
            }
            with atomic_write(self.options.out / "last.pth") as temporary, temporary.open("wb") as stream:
                torch.save(contents, stream)
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
