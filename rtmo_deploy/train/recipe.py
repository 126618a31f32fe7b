"""Training recipes: YAML, checked field by field before anything is built.

A recipe says everything a run depends on; there is no inheritance between recipes. The defaults are those of the
published RTMO-s on COCO (MMPose 1.3.2, ``configs/body_2d_keypoint/rtmo``).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rtmo_deploy.errors import UsageError
from rtmo_deploy.files import atomic_write
from rtmo_deploy.model.spec import INPUT_MULTIPLE
from rtmo_deploy.zoo import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CocoSource",
    "DataSection",
    "ModelSection",
    "Recipe",
    "SyntheticSource",
    "load_recipe",
    "parse_recipe",
    "published_recipe",
    "save_recipe",
    "with_settings",
]

Size = tuple[int, int]
#: The published model for inputs below this is trained without mixup and at smaller sizes.
SMALL_INPUT = 480
#: The published models as wide as this have other weights in the loss.
LARGE_WIDEN = 0.75


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """The network.

    Attributes:
        architecture: A name of the zoo; its factors are taken.
        deepen, widen, hidden_dim: Factors of a network that the zoo does not have, instead of ``architecture``.
        init: A checkpoint to start from (file or published name); with another number of keypoints, the layers
            that depend on it start anew. None for seeded weights.
    """

    architecture: str | None = None
    deepen: float | None = Field(None, gt=0)
    widen: float | None = Field(None, gt=0)
    hidden_dim: int = Field(256, ge=32, multiple_of=32)
    init: str | None = None

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in ARCHITECTURES:
            raise ValueError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
        return name

    @model_validator(mode="after")
    def _one_of_both(self) -> ModelSection:
        factors = self.deepen is not None and self.widen is not None
        if (self.architecture is None) != factors:
            raise ValueError("give either 'architecture', or 'deepen' and 'widen'")
        return self


class SyntheticSource(_Section):
    """Drawn people; see :class:`rtmo_deploy.data.synthetic.SyntheticPeople`.

    Attributes:
        images: Pictures in an epoch.
        seed: Seed of the pictures.
        fresh: Draw new pictures every epoch.
        size: Height and width of the pictures; null for sizes as photographs have them.
        people: Least and greatest number of people.
        height: Least and greatest height of a figure as a share of the picture's.
        truncated, clutter, occluded: As in the generator's options.
    """

    type: Literal["synthetic"]
    images: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    fresh: bool = False
    size: Size | None = None
    people: tuple[int, int] = (0, 6)
    height: tuple[float, float] | None = None
    truncated: float = Field(0.2, ge=0, le=1)
    clutter: float = Field(1.0, ge=0, le=10)
    occluded: float = Field(0.3, ge=0, le=1)


class CocoSource(_Section):
    """An annotation file in COCO's format and the folder of its pictures.

    Attributes:
        annotations: The JSON file; a relative path is looked up from the recipe's folder.
        images: The folder; likewise.
        ratio: Share of the pictures that an epoch takes; above 1, pictures come several times.
        mapping: How its keypoints become the model's: the name of a set of body7, or pairs of index or name.
    """

    type: Literal["coco"]
    annotations: Path
    images: Path
    ratio: float | None = Field(None, gt=0)
    mapping: str | tuple[tuple[int | str, int | str], ...] | None = None


Source = SyntheticSource | CocoSource


class DataSection(_Section):
    """What is learned from and what is judged with.

    Attributes:
        train: One set or several, which are put together.
        val: The set that AP is measured on; null for none.
        skeleton: Keypoints of the model where several sets are put together; null for those of the first set.
        metric: How AP is computed.
    """

    train: tuple[Source, ...] = Field(min_length=1)
    val: Source | None = None
    skeleton: Literal["coco-17", "crowdpose-14"] | None = None
    metric: Literal["coco", "crowdpose"] = "coco"


class AugmentSection(_Section):
    """Augmentation; see :class:`rtmo_deploy.train.augment.AugmentOptions`.

    Attributes:
        preset: ``coco`` and ``crowdpose`` are the published pipelines; ``none`` only letterboxes.
        mosaic, mixup, flip: Probabilities, instead of the preset's.
        shift, rotate, scale: Random affine, instead of the preset's.
        hsv: Largest change of hue, saturation and value, instead of the preset's.
        plain_epochs: So many epochs at the end are without mosaic, affine and mixup, and with the auxiliary loss.
        plain_window: In those epochs, also move, turn and resize the picture, as rtmo-m and rtmo-l do on COCO.
        multi_scale: Smallest and largest height of a batch in pixels, in steps of 32; null for the input size.
    """

    preset: Literal["coco", "crowdpose", "none"] = "coco"
    mosaic: float | None = Field(None, ge=0, le=1)
    mixup: float | None = Field(None, ge=0, le=1)
    flip: float | None = Field(None, ge=0, le=1)
    shift: float | None = Field(None, ge=0)
    rotate: float | None = Field(None, ge=0)
    scale: tuple[float, float] | None = None
    hsv: tuple[int, int, int] | None = None
    plain_epochs: int = Field(20, ge=0)
    plain_window: bool = False
    multi_scale: tuple[int, int] | None = (480, 800)


class OptimizerSection(_Section):
    """AdamW.

    Attributes:
        lr: Learning rate at ``base_batch`` pictures a step; scaled linearly with the batch, as the others are.
        base_batch: See ``lr``.
        weight_decay: Not applied to norms and biases.
        clip: Largest norm of the gradient.
        encoder_lr: Factor on the learning rate of the transformer encoder.
    """

    lr: float = Field(0.004, gt=0)
    base_batch: int = Field(256, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(0.1, gt=0)
    encoder_lr: float = Field(0.05, gt=0)


class ScheduleSection(_Section):
    """Learning rate over epochs: quadratic warm-up, cosine to ``switch``, a second cosine, a constant end.

    Attributes:
        warmup: Epochs of warm-up.
        switch: Epoch at which the second stage begins: its loss weights and its learning rate. Null for never.
        min_lr: Where both cosines end.
        second_lr: Where the second cosine begins.
        constant: Epochs at the end with ``min_lr``.
    """

    warmup: float = Field(5, ge=0)
    switch: int | None = Field(280, gt=0)
    min_lr: float = Field(2e-4, ge=0)
    second_lr: float = Field(5e-4, ge=0)
    constant: int = Field(20, ge=0)


class LossSection(_Section):
    """Weights of the loss terms; see :class:`rtmo_deploy.train.criterion.LossOptions`."""

    cls: float = Field(1.0, ge=0)
    bbox: float = Field(5.0, ge=0)
    oks: float = Field(30.0, ge=0)
    vis: float = Field(1.0, ge=0)
    mle: float = Field(1.0, ge=0)
    bbox_aux: float = Field(1.0, ge=0)
    overlaps_power: float = Field(0.5, gt=0)
    keypoint_center: bool = True


class SecondStageSection(_Section):
    """What the loss changes to at ``schedule.switch``; the coordinate classifier then teaches the proxy."""

    mle: float = Field(5.0, ge=0)
    oks: float = Field(10.0, ge=0)
    cls: float | None = Field(None, ge=0)
    overlaps_power: float | None = Field(None, gt=0)


class Recipe(_Section):
    """Everything a training depends on.

    Attributes:
        schema_version: 1.
        name: What the run is called.
        seed: Seed of weights, order and augmentation.
        epochs: Length of the training.
        batch: Pictures a step, over all processes and accumulated parts.
        accumulate: Parts that a process computes the step's gradient in, one after the other.
        input: Height and width the model is made for.
        grow: Pairs of epoch and side factor: from that epoch on pictures are that share of ``input``. Small
            pictures first make a short training longer in pictures.
        ema: Momentum of the averaged weights, which are what is judged and shipped.
        precision: ``bf16`` and ``fp16`` are mixed precision.
        sync_norms: With several processes, take the statistics of BatchNorm over all of them: their result is that
            of one process. False takes each process's own, which is faster.
        val_interval: Epochs from one AP to the next; in the plain epochs at the end every one is judged.
    """

    schema_version: Literal[1] = 1
    name: str
    seed: int = Field(0, ge=0)
    epochs: int = Field(600, gt=0)
    batch: int = Field(256, gt=0)
    accumulate: int = Field(1, gt=0)
    input: Size = (640, 640)
    grow: tuple[tuple[int, float], ...] = ()
    ema: float = Field(2e-4, gt=0, le=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_norms: bool = True
    val_interval: int = Field(20, gt=0)
    model: ModelSection
    data: DataSection
    augment: AugmentSection = AugmentSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    loss: LossSection = LossSection()
    second_stage: SecondStageSection = SecondStageSection()

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
        switch, constant = self.schedule.switch, self.schedule.constant
        if switch is not None and switch >= self.epochs:
            raise ValueError(f"'schedule.switch' is {switch}, but there are {self.epochs} epochs; null turns it off")
        if constant >= self.epochs or self.schedule.warmup >= self.epochs:
            raise ValueError(f"'schedule.warmup' and 'schedule.constant' must be below the {self.epochs} epochs")
        for epoch, factor in self.grow:
            if epoch < 0 or not 0 < factor <= 1 or any(round(side * factor) % INPUT_MULTIPLE for side in self.input):
                raise ValueError(f"'grow' [{epoch}, {factor}] gives no size that is a multiple of {INPUT_MULTIPLE}")
        return self

    def input_at(self, epoch: int) -> Size:
        """Height and width of the pictures of an epoch."""
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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"The recipe cannot be read: {reason}.", remedy="Check the name.", where=path) from error
    return parse_recipe(text, where=path)


def parse_recipe(text: str, *, where: Path) -> Recipe:
    """A recipe from YAML text; as :func:`load_recipe`, with ``where`` as its place."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UsageError(f"This is not YAML: {place}{problem}.", remedy="Mend the line.", where=where) from error
    if not isinstance(values, dict):
        raise UsageError("The recipe is empty or no mapping of fields.", remedy="See recipes/train.", where=where)
    _resolve_paths(values, where.parent)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        findings = [_finding(one, root) for one in error.errors()]
        raise UsageError(
            "The recipe is wrong: " + "; ".join(findings) + ".", remedy="See recipes/train.", where=where
        ) from None


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as YAML, every field of it."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def published_recipe(
    model: str, ann: Path, images: Path, val_ann: Path | None = None, val_images: Path | None = None
) -> Recipe:
    """The published way of training an architecture on COCO, on other annotations.

    Args:
        model: Name of an architecture.
        ann: Annotations to learn from.
        images: Folder of their pictures.
        val_ann: Annotations to judge with.
        val_images: Folder of their pictures; ``images`` if not given.

    Raises:
        UsageError: There is no such architecture.
    """
    known = ARCHITECTURES.get(model)
    values: dict[str, Any] = {
        "name": model,
        "model": {"architecture": model},
        "data": {"train": [{"type": "coco", "annotations": ann, "images": images}]},
    }
    if val_ann is not None:
        values["data"]["val"] = {"type": "coco", "annotations": val_ann, "images": val_images or images}
    if known is not None:
        values["input"] = known.input_hw
        small = max(known.input_hw) < SMALL_INPUT
        values["augment"] = {"multi_scale": (320, 640) if small else (480, 800), "mixup": 0.0 if small else None}
        if known.widen >= LARGE_WIDEN:
            values["augment"]["plain_window"] = True
            values["loss"] = {"mle": 1e-2}
            values["second_stage"] = {"cls": 2.0, "overlaps_power": 1.0}
    return _validated(values, Path(f"--model {model}"))


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """A recipe with some fields changed.

    Args:
        recipe: The recipe.
        settings: Entries such as ``optimizer.lr=0.001``; the value is YAML.

    Raises:
        UsageError: An entry is not of that form, or there is no such field.
    """
    if not settings:
        return recipe
    values = recipe.model_dump()
    for entry in settings:
        name, equals, text = entry.partition("=")
        *sections, field = name.strip().split(".")
        target: Any = values
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not equals or not isinstance(target, dict) or field not in target:
            close = difflib.get_close_matches(field, _field_names(), n=1)
            hint = f" Is '{close[0]}' meant?" if close else ""
            raise UsageError(
                f"--set {entry!r} names no field of the recipe.{hint}",
                remedy="Write it as in --set optimizer.lr=0.001.",
            )
        target[field] = yaml.safe_load(text)
    return _validated(values, Path("--set"))


def _validated(values: dict[str, Any], where: Path) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        findings = "; ".join(_finding(one, None) for one in error.errors())
        raise UsageError(f"The recipe is wrong: {findings}.", remedy="See recipes/train.", where=where) from None


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    data = values.get("data")
    if not isinstance(data, dict):
        return
    train = data.get("train")
    for source in [*(train if isinstance(train, list) else []), data.get("val")]:
        if isinstance(source, dict):
            for key in ("annotations", "images"):
                if isinstance(source.get(key), str):
                    source[key] = str(folder / source[key])


def _finding(error: Any, root: yaml.Node | None) -> str:
    """One of pydantic's findings, with the place in the text."""
    path = [part for part in error["loc"] if part not in ("synthetic", "coco", "SyntheticSource", "CocoSource")]
    node, seen = root, []
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child
        seen.append(part)
    place = ".".join(str(part) for part in path) or "the recipe"
    at = f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}: " if node is not None else ""
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        text = "there is no such field"
        close = difflib.get_close_matches(str(path[-1]), _field_names(), n=1)
        text += f"; is '{close[0]}' meant?" if close else ""
    return f"{at}{place}: {text}"


def _child(node: yaml.Node | None, part: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part) and isinstance(value, yaml.Node):
                return value if not isinstance(value, yaml.ScalarNode) else key
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        child: yaml.Node = node.value[part]
        return child
    return None


def _field_names() -> list[str]:
    sections = [*_Section.__subclasses__()]
    return sorted({name for section in sections for name in section.model_fields})
