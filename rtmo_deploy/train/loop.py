"""The training loop: batches in, checkpoints and a log out; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import torch
from torch import nn

from rtmo_deploy.errors import TrainingError, UsageError
from rtmo_deploy.model.checkpoint import save_checkpoint
from rtmo_deploy.train.augment import random_size
from rtmo_deploy.train.criterion import TERMS, Criterion, LossOptions, LossResult
from rtmo_deploy.train.distributed import Group, synchronise_norms
from rtmo_deploy.train.feed import Batches, build_feed, loader, open_source
from rtmo_deploy.train.log import Log
from rtmo_deploy.train.optimize import ModelAverage, Schedule, build_optimizer
from rtmo_deploy.train.start import starting_model
from rtmo_deploy.train.state import load_state, save_state
from rtmo_deploy.train.targets import Targets, resize
from rtmo_deploy.train.validate import validate_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from rtmo_deploy.measure.accuracy import AccuracyReport
    from rtmo_deploy.model import RTMO
    from rtmo_deploy.train.recipe import Recipe

__all__ = ["Progress", "RunOptions", "Trainer"]


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run; nothing here changes what comes out, apart from rounding.

    Attributes:
        out: Folder of the run.
        workers: Processes that prepare batches.
        resume: Go on from ``last.pth`` in ``out`` if it is there.
        save_every: Seconds from one ``last.pth`` to the next; it is also written after every validation.
        log_every: Steps from one row of the log to the next.
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
    """Where a run is, for whoever shows it.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        epoch: Epoch the next step belongs to.
        terms: Mean of each weighted loss term over the last steps.
        pictures_per_second: Of all processes together, since the run was started.
        report: The newest validation, if this step had one.
    """

    step: int
    steps: int
    epoch: int
    terms: dict[str, float]
    pictures_per_second: float
    report: AccuracyReport | None = None


class _Step(nn.Module):
    """Network and loss in one module, as ``DistributedDataParallel`` needs them."""

    def __init__(self, model: RTMO, criterion: Criterion, autocast: Callable[[], Any]) -> None:
        super().__init__()
        self.model, self.criterion, self.autocast = model, criterion, autocast
        self.result: LossResult | None = None

    def forward(self, images: Tensor, targets: Targets) -> Tensor:
        with self.autocast():
            outputs = self.model(images, proxy=True)
        self.result = self.criterion(outputs, targets)
        return self.result.total


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
        # The far tails of the heatmaps are denormal numbers, a hundred times slower on x86, and mean nothing.
        torch.set_flush_denormal(True)
        feed = build_feed(recipe)
        self.skeleton = feed.skeleton
        if not options.workers:
            cv2.setNumThreads(1)
        self.batches = Batches(recipe, feed, rank=group.rank, world=group.world)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = recipe.epochs * self.steps_per_epoch
        self.val = open_source(recipe.data.val, skeleton=feed.skeleton, everything=True) if recipe.data.val else None
        self.model = starting_model(recipe, len(self.skeleton)).to(group.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = ModelAverage(self.model, recipe.ema)
        if group.world > 1 and recipe.sync_norms:
            synchronise_norms(self.model)
        self.optimizer = build_optimizer(self.model, recipe, group.device)
        self.schedule = Schedule(recipe, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
        self.step, self.best = 0, -1.0
        self.history: list[dict[str, Any]] = []
        if options.resume and (options.out / "last.pth").is_file():
            self._restore(options.out / "last.pth")
        joint = {"average": group.mean} if group.world > 1 else {}
        self.criterion = Criterion(self.model.head, self._loss_options(0), **joint)
        self._module = _Step(self.model, self.criterion, self._autocast)
        self.module: nn.Module = self._module
        if group.world > 1:
            self.module = nn.parallel.DistributedDataParallel(self._module, broadcast_buffers=False)

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> bool:
        """Train to the end, or until ``stop_after``.

        Args:
            report: Called after every row of the log.

        Returns:
            Whether the recipe is finished: ``final.pth`` holds the result.

        Raises:
            TrainingError: The loss is not finite.
        """
        begin, saved, first = time.monotonic(), time.monotonic(), self.step
        accumulate = self.recipe.accumulate
        log = (
            Log(self.options.out, TERMS, step=self.step, tensorboard=self.options.tensorboard)
            if self.group.main
            else None
        )
        stream = iter(loader(self.batches, start=self.step * accumulate, workers=self.options.workers))
        sums: dict[str, Tensor] = {}
        since = 0
        with contextlib.closing(log) if log else contextlib.nullcontext():
            while self.step < self.steps:
                epoch = self.step // self.steps_per_epoch
                self.criterion.options = self._loss_options(epoch)
                for name, value in self._train_step(stream).items():
                    sums[name] = sums.get(name, value.new_zeros(())) + value
                since += 1
                self.step += 1
                ends = self.step % self.steps_per_epoch == 0
                judged = self._validate(epoch) if ends and self._is_due(epoch) else None
                if since == self.options.log_every or judged or self.step == self.steps:
                    terms = {name: self.group.mean(float(value) / since) for name, value in sums.items()}
                    self._check(terms)
                    sums, since = {}, 0
                    rate = (self.step - first) * self.recipe.batch / (time.monotonic() - begin)
                    if log:
                        log.write(self.step, epoch, self.schedule.rate(self.step - 1), terms, rate, judged)
                        report(Progress(self.step, self.steps, epoch, terms, rate, judged))
                stop = self._time_is_up(begin)
                if judged or stop or self.step == self.steps or time.monotonic() - saved > self.options.save_every:
                    self._save()
                    saved = time.monotonic()
                if stop and self.step < self.steps:
                    return False
        if self.group.main:
            self._write_model(self.options.out / "final.pth")
        self.group.barrier()
        return True

    def _open_log(self) -> Log:
        return Log(self.options.out, TERMS, step=self.step, tensorboard=self.options.tensorboard)

    def _train_step(self, stream: Any) -> dict[str, Tensor]:
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
            result = self._module.result
            for name, value in (result.terms if result else {}).items():
                terms[name] = terms.get(name, value.new_zeros(())) + value / parts
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
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

    def _loss_options(self, epoch: int) -> LossOptions:
        recipe = self.recipe
        weights = recipe.loss.model_dump()
        if epoch < recipe.epochs - recipe.augment.plain_epochs:
            weights["bbox_aux"] = 0.0
        if recipe.schedule.switch is not None and epoch >= recipe.schedule.switch:
            second = recipe.second_stage.model_dump(exclude_none=True)
            weights |= {**second, "proxy_target_cc": True}
        return LossOptions(**weights)

    def _is_due(self, epoch: int) -> bool:
        done = epoch + 1
        plain = done > self.recipe.epochs - self.recipe.augment.plain_epochs
        return plain or done % self.recipe.val_interval == 0 or done == self.recipe.epochs

    def _validate(self, epoch: int) -> AccuracyReport | None:
        if self.val is None:
            return None
        report = None
        if self.group.main:
            protocol = self.recipe.data.metric
            report = validate_model(self.average.model, self.val, self.skeleton, self.recipe.input, protocol=protocol)
            row = {"epoch": epoch + 1, "step": self.step, "pictures": self.step * self.recipe.batch}
            self.history.append(row | {"metrics": dict(report.metrics)})
            if not math.isnan(report.ap) and report.ap > self.best:
                self.best = report.ap
                self._write_model(self.options.out / "best.pth")
        self.group.barrier()
        return report

    def _check(self, terms: dict[str, float]) -> None:
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"The loss is no longer finite at step {self.step}: {', '.join(broken)}.",
                remedy="Lower the learning rate, or train without fp16; the last good state is in last.pth.",
            )

    def _time_is_up(self, begin: float) -> bool:
        limit = self.options.stop_after
        if limit is None:
            return False
        return self.group.mean(float(time.monotonic() - begin > limit)) > 0

    def _save(self) -> None:
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
                    "recipe": self.recipe.model_dump(mode="json"),
                },
                scaler=self.scaler.state_dict() if self.scaler.is_enabled() else None,
            )
        self.group.barrier()

    def _restore(self, path: Path) -> None:
        state = load_state(path)
        _check_same_recipe(state["progress"]["recipe"], self.recipe, path)
        self.model.load_state_dict(state["ema_state_dict"])
        self.average.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        progress = state["progress"]
        self.step, self.best, self.history = progress["step"], progress["best"], progress["history"]

    def _write_model(self, path: Path) -> None:
        facts = {
            "trained": True,
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "step": self.step,
            "pictures": self.step * self.recipe.batch,
            "metrics": self.history[-1]["metrics"] if self.history else None,
        }
        save_checkpoint(path, self.average.model, skeleton=self.skeleton, input_hw=self.recipe.input, meta=facts)


def _check_same_recipe(stored: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Refuse to go on with another recipe; only a longer interval of judging may differ."""
    mine = recipe.model_dump(mode="json")
    differing = sorted(key for key in stored.keys() | mine.keys() if stored.get(key) != mine.get(key))
    differing = [key for key in differing if key != "val_interval"]
    if differing:
        raise UsageError(
            f"The run was begun with another recipe: {', '.join(differing)} differ.",
            remedy="Go on with the recipe.yaml in its folder, or start a new run in another folder.",
            where=path,
        )
