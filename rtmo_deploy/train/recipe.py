"""Training recipes: YAML, checked field by field before anything is built.

A recipe says everything a run depends on; there is no inheritance between recipes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import PORTABLE_NAME, is_portable_name, write_whole
from rtmo_deploy.recipe_findings import findings, suggestion
from rtmo_deploy.train.sections import (
    AugmentSection,
    CocoSource,
    DataSection,
    LossSection,
    ModelSection,
    OptimizerSection,
    ScheduleSection,
    SecondStageSection,
    Section,
    Seed,
    Size,
)
from rtmo_deploy.yaml_file import parse_recipe_text, parse_value, read_recipe_text
from rtmo_deploy.zoo import ARCHITECTURES
from rtmo_deploy.zoo.records import INPUT_MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The published model for inputs below this is trained without mixup and at smaller sizes.
SMALL_INPUT = 480
#: The published models as wide as this have other weights in the loss.
LARGE_WIDEN = 0.75


class Recipe(Section):
    """Everything a training depends on."""

    schema_version: Literal[1] = 1  #: 1.
    name: str = Field(max_length=60)  #: What the run is called.
    seed: Seed = 0  #: Seed of weights, order and augmentation.
    epochs: int = Field(600, gt=0, le=1_000_000)  #: Length of the training.
    batch: int = Field(256, gt=0, le=1 << 20)  #: Images a step, over all processes and accumulated parts.
    #: Parts that a process computes the step's gradient in, one after the other.
    accumulate: int = Field(1, gt=0, le=1 << 20)
    input: Size = (640, 640)  #: Height and width the model is made for.
    #: Pairs of epoch and side factor: from that epoch on images are that share of ``input``. Small images first make a
    #: short training longer in images.
    grow: tuple[tuple[int, float], ...] = ()
    ema: float = Field(2e-4, gt=0, le=1)  #: Momentum of the averaged weights, which are what is judged and shipped.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  #: ``bf16`` and ``fp16`` are mixed precision.
    #: With several processes, take the statistics of BatchNorm over all of them: their result is that of one process.
    #: False takes each process's own, which is faster.
    sync_norms: bool = True
    #: Epochs from one AP to the next; in the plain epochs at the end every one is judged.
    val_interval: int = Field(20, gt=0)
    model: ModelSection  #: The network.
    data: DataSection  #: What is learned from and what is judged with.
    augment: AugmentSection = AugmentSection()  #: Augmentation.
    optimizer: OptimizerSection = OptimizerSection()  #: AdamW.
    schedule: ScheduleSection = ScheduleSection()  #: Learning rate over epochs.
    loss: LossSection = LossSection()  #: Weights of the loss terms.
    second_stage: SecondStageSection = SecondStageSection()  #: What the loss changes to at `schedule.switch`.

    @field_validator("name")
    @classmethod
    def _portable(cls, name: str) -> str:
        if not is_portable_name(name):
            raise ValueError(PORTABLE_NAME.format(60))
        return name

    @field_validator("input")
    @classmethod
    def _multiples(cls, size: Size) -> Size:
        if any(side <= 0 or side % INPUT_MULTIPLE for side in size):
            raise ValueError(f"height and width must be positive multiples of {INPUT_MULTIPLE}")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.batch % self.accumulate:
            raise ValueError(f"'batch' {self.batch} is not a multiple of 'accumulate' {self.accumulate}")
        self._check_schedule()
        for epoch, factor in self.grow:
            if epoch < 0 or not 0 < factor <= 1 or any(round(side * factor) % INPUT_MULTIPLE for side in self.input):
                raise ValueError(f"'grow' [{epoch}, {factor}] gives no size that is a multiple of {INPUT_MULTIPLE}")
        return self

    def _check_schedule(self) -> None:
        """Refuse, with a ValueError, stages that do not fit into the epochs and rates that contradict each other."""
        plan, epochs = self.schedule, self.epochs
        scale = f"; the option --epochs {epochs} scales every stage"
        if plan.switch is not None and plan.switch >= epochs:
            raise ValueError(
                f"'schedule.switch' is {plan.switch}, but there are {epochs} epochs; null turns it off{scale}"
            )
        if plan.constant >= epochs or plan.warmup >= epochs:
            raise ValueError(f"'schedule.warmup' and 'schedule.constant' must be below the {epochs} epochs{scale}")
        if plan.warmup + plan.constant >= epochs or (plan.switch or 0) >= epochs - plan.constant:
            raise ValueError(
                f"nothing is left of the {epochs} epochs between 'schedule.warmup' or 'schedule.switch' and "
                f"'schedule.constant'{scale}"
            )
        if plan.switch and plan.warmup > (plan.rise or plan.switch):
            raise ValueError(f"'schedule.warmup' ends after 'schedule.switch' or 'schedule.rise'{scale}")
        if plan.rise is not None and (not plan.switch or plan.rise > plan.switch):
            raise ValueError("'schedule.rise' must not be after 'schedule.switch'")
        if plan.min_lr > self.optimizer.lr:
            raise ValueError(
                f"'schedule.min_lr' {plan.min_lr:g} is above 'optimizer.lr' {self.optimizer.lr:g}: the rate would "
                "rise; lower 'schedule.min_lr' and 'schedule.second_lr' with it"
            )
        if plan.switch and plan.second_lr < plan.min_lr:
            raise ValueError(
                f"'schedule.second_lr' {plan.second_lr:g} is below 'schedule.min_lr' {plan.min_lr:g}, where it ends"
            )

    @property
    def inputs(self) -> list[str | Path]:
        """Files and folders that a run reads, and the initial checkpoint's name."""
        sources = [one for one in (*self.data.train, self.data.val) if isinstance(one, CocoSource)]
        paths = [path for source in sources for path in (source.annotations, source.images)]
        return [*([] if self.model.init is None else [self.model.init]), *paths]

    def is_plain(self, epoch: int) -> bool:
        """Whether an epoch, counted from 0, is one of the plain ones at the end."""
        return epoch >= self.epochs - self.augment.plain_epochs

    def in_second_stage(self, epoch: int) -> bool:
        """Whether the coordinate classifier teaches the proxy in an epoch, counted from 0."""
        return self.schedule.switch is not None and epoch >= self.schedule.switch

    def loss_at(self, epoch: int) -> LossSection:
        """Weights of the loss in an epoch: the auxiliary box loss is on in the plain ones, or always without any."""
        changes: dict[str, Any] = {}
        if self.augment.plain_epochs and not self.is_plain(epoch):
            changes["bbox_aux"] = 0.0
        if self.in_second_stage(epoch):
            changes |= self.second_stage.model_dump(exclude_none=True)
        return self.loss.model_copy(update=changes)

    def is_judged(self, epoch: int) -> bool:
        """Whether AP is measured after an epoch, counted from 0: every ``val_interval``, always in the plain ones."""
        done = epoch + 1
        due = self.is_plain(epoch) or done % self.val_interval == 0 or done == self.epochs
        return self.data.val is not None and due

    def input_at(self, epoch: int) -> Size:
        """Height and width of the images of an epoch."""
        factor = 1.0
        for begin, value in sorted(self.grow):
            factor = value if epoch >= begin else factor
        return (round(self.input[0] * factor), round(self.input[1] * factor))


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative paths in it are meant from its folder.

    Raises:
        UsageError: The file cannot be read, is no YAML, or has a field that is missing, unknown or wrong; the
            message gives line and column, and what an unknown field may have been meant to be.
    """
    return parse_recipe(read_recipe_text(path), where=path)


def parse_recipe(text: str, *, where: Path) -> Recipe:
    """A recipe from YAML text; as :func:`load_recipe`, with ``where`` as its place."""
    root, values = parse_recipe_text(text, where=where, remedy="See recipes/train.")
    _resolve_paths(values, where.parent.absolute())
    return parse_values(values, where, root)


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as YAML, every field of it."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    write_whole(path, text)


def published_recipe(
    model: str, ann: Path, images: Path, val_ann: Path | None = None, val_images: Path | None = None
) -> Recipe:
    """The published way of training an architecture on COCO, on other annotations; UsageError for an unknown one.

    The images of ``val_ann`` are in ``images`` too unless ``val_images`` is given.
    """
    known = ARCHITECTURES.get(model)
    input_hw, widen = ((640, 640), 0.5) if known is None else (known.input_hw, known.widen)
    values = published_values(ann, images, val_ann, val_images, input_hw=input_hw, widen=widen)
    return parse_values({**values, "name": model, "model": {"architecture": model}}, Path(f"--model {model}"))


def published_values(
    ann: Path, images: Path, val_ann: Path | None, val_images: Path | None, *, input_hw: Size, widen: float
) -> dict[str, Any]:
    """Fields of :func:`published_recipe` for a network of some width and input size; without name and model."""
    values: dict[str, Any] = {
        "input": input_hw,
        "data": {"train": [{"type": "coco", "annotations": ann, "images": images}]},
    }
    if val_ann is not None:
        values["data"]["val"] = {"type": "coco", "annotations": val_ann, "images": val_images or images}
    small = max(input_hw) < SMALL_INPUT
    values["augment"] = {"multi_scale": (320, 640) if small else (480, 800), "mixup": 0.0 if small else None}
    if widen >= LARGE_WIDEN:
        values["augment"]["plain_window"] = True
        values["loss"] = {"mle": 1e-2, "keypoint_center": False}
        values["second_stage"] = {"cls": 2.0, "overlaps_power": 1.0}
    return values


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with some fields changed by entries such as ``optimizer.lr=0.001``, whose value is YAML.

    Raises:
        UsageError: An entry is not of that form, or there is no such field.
    """
    values: Any = recipe.model_dump(mode="json")
    for entry in settings:
        name, equals, text = entry.partition("=")
        shown = repr(entry if len(entry) <= 80 else entry[:77] + "...")
        *sections, field = name.strip().split(".")
        target = values
        for section in sections:
            target = _step_into(target, section)
        known = _step_into(target, field) is not None or (isinstance(target, dict) and field in target)
        if not equals or not known:
            meant = suggestion(name.strip(), Recipe)
            raise UsageError(
                f"--set {shown} names no field of the recipe." + (f" Is {meant} meant?" if meant else ""),
                remedy="Write it as in --set optimizer.lr=0.001.",
            )
        try:
            value = parse_value(text)
        except ValueError as error:
            raise UsageError(
                f"The value of --set {shown} is not YAML that a recipe can have: {error}.",
                remedy="Quote it, or mend its brackets.",
            ) from error
        target[int(field) if isinstance(target, list) else field] = value
    if not settings:
        return recipe
    _follow_lr(values, recipe)
    return parse_values(values, Path("--set"))


def with_init(recipe: Recipe, init: str) -> Recipe:
    """A recipe that starts from a checkpoint: a file, or a published name."""
    return with_settings(recipe, [f"model.init={json.dumps(init)}"])


def _step_into(target: Any, part: str) -> Any:
    if isinstance(target, dict):
        return target.get(part)
    if isinstance(target, list) and part.isdecimal() and len(part) < 10 and int(part) < len(target):
        return target[int(part)]
    return None


def _follow_lr(values: dict[str, Any], before: Recipe) -> None:
    """Where ``optimizer.lr`` was changed alone, the rates that it falls to and rises to keep their ratio to it."""
    schedule = values["schedule"]
    try:
        lr = OptimizerSection.model_validate(values["optimizer"]).lr
    except ValidationError:  # said by the check of the whole
        return
    if lr == before.optimizer.lr or not isinstance(schedule, dict):
        return
    rates = {name: getattr(before.schedule, name) for name in ("min_lr", "second_lr")}
    if all(schedule.get(name) == rate for name, rate in rates.items()):
        schedule.update({name: rate * lr / before.optimizer.lr for name, rate in rates.items()})


def parse_values(values: dict[str, Any], where: Path, root: yaml.Node | None = None) -> Recipe:
    """A recipe from the values of its fields."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = "; ".join(findings(error, root, Recipe))
        raise UsageError(f"The recipe is wrong: {found}.", remedy="See recipes/train.", where=where) from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    data, model = values.get("data"), values.get("model")
    if isinstance(model, dict) and isinstance(model.get("init"), str) and _is_file(folder / model["init"]):
        model["init"] = str(folder / model["init"])
    if not isinstance(data, dict):
        return
    train = data.get("train")
    for source in [*(train if isinstance(train, list) else []), data.get("val")]:
        if isinstance(source, dict):
            for key in ("annotations", "images"):
                if isinstance(source.get(key), str) and source.get("type") == "coco":
                    source[key] = str(folder / source[key])
