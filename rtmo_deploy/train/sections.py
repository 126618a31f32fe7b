"""The sections of a recipe; the defaults are those of the published RTMO-s on COCO (MMPose 1.3.2)."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  pydantic reads the annotations at run time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from rtmo_deploy.address import is_address, without_credentials
from rtmo_deploy.zoo import ARCHITECTURES

Side = Annotated[int, Field(gt=0, le=8192)]
Size = tuple[Side, Side]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Count = Annotated[int, Field(ge=0, le=60)]
Hue = Annotated[int, Field(ge=0, le=180)]
Level = Annotated[int, Field(ge=0, le=255)]
Share = Annotated[float, Field(gt=0, le=10)]
Weight = Annotated[float, Field(ge=0)]


def _ordered(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    if pair is not None and pair[0] > pair[1]:
        raise ValueError("the first must not be greater than the second")
    return pair


Mapping = tuple[tuple[int | str, int | str], ...]


class Section(BaseModel):
    """Base of all: unknown fields are refused, and a section cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_switch(cls, values: Any) -> Any:
        """True is no 1 where a number is asked for."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            parts = value if isinstance(value, list | tuple) else [value]
            if field is not None and field.annotation is not bool and any(isinstance(part, bool) for part in parts):
                raise ValueError(f"'{name}' takes no true and no false")
        return values


class ModelSection(Section):
    """The network."""

    architecture: str | None = None  #: Name of an architecture, such as `rtmo-s`; or null with `deepen` and `widen`.
    deepen: float | None = Field(None, gt=0, le=4)  #: Depth of the network as a factor, instead of an architecture.
    widen: float | None = Field(None, ge=1 / 64, le=4)  #: Width of the network as a factor, instead of an architecture.
    hidden_dim: int = Field(256, ge=32, le=2048, multiple_of=32)  #: Channels of the transformer encoder.
    init: str | None = None  #: Checkpoint to begin with: a file or a model's name; null for random weights.
    ignore_cfg: bool = False  #: Do not follow the config inside that checkpoint.
    calm: bool = False  #: Begin with attention weights scaled by 0.2, so that the encoder changes little at first.

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in ARCHITECTURES:
            raise ValueError(f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
        return name

    @field_validator("init")
    @classmethod
    def _no_secret(cls, init: str | None) -> str | None:
        if init is not None and is_address(init) and without_credentials(init) != init:
            raise ValueError("it holds a password or a token, and the recipe is written to the run's folder")
        return init

    @model_validator(mode="after")
    def _one_of_both(self) -> ModelSection:
        factors = self.deepen is not None and self.widen is not None
        if (self.architecture is None) != factors:
            raise ValueError("give either 'architecture', or 'deepen' and 'widen'")
        return self


class SyntheticSource(Section):
    """Synthetic people; see :class:`rtmo_deploy.data.synthetic.SyntheticPeople`."""

    type: Literal["synthetic"]  #: The kind of data set.
    images: int = Field(gt=0, le=10_000_000)  #: Images in an epoch.
    seed: Seed = 0  #: Seed of the images.
    fresh: bool = False  #: Draw new images every epoch.
    size: Size | None = None  #: Height and width of the images; null for sizes as photographs have them.
    people: Annotated[tuple[Count, Count], AfterValidator(_ordered)] = (0, 6)  #: Least and greatest number of people.
    #: Least and greatest height of a figure as a share of the image's.
    height: Annotated[tuple[Share, Share] | None, AfterValidator(_ordered)] = None
    truncated: float = Field(0.2, ge=0, le=1)  #: Share of the people who are cut by the image's border.
    clutter: float = Field(1.0, ge=0, le=10)  #: Density of things that are not people, 1 for the usual, 0 for none.
    occluded: float = Field(0.3, ge=0, le=1)  #: Share of the images in which things are put in front of people.


class CocoSource(Section):
    """An annotation file in COCO's format and the folder of its images."""

    type: Literal["coco"]  #: The kind of data set.
    annotations: Path  #: The JSON file; a relative path is looked up from the recipe's folder.
    images: Path  #: The folder; likewise.
    #: Share of the images that an epoch takes; above 1, images come several times.
    ratio: float | None = Field(None, gt=0, le=10_000)
    #: How its keypoints become the model's: the name of a set of body7, or pairs of index or name.
    mapping: str | Mapping | None = None

    @field_validator("annotations", "images")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        """The recipe is stored with the run, in another folder."""
        return path.absolute()

    @field_validator("mapping", mode="before")
    @classmethod
    def _name_or_pairs(cls, value: Any) -> Any:
        """One complaint instead of one for each form it could have had."""
        if value is None or isinstance(value, str):
            return value
        pairs = value if isinstance(value, list | tuple) else [None]
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(one) in (int, str) for one in pair):
                raise ValueError("give the name of a set of body7, or a list of pairs of index or name")
        return value


Source = Annotated[SyntheticSource | CocoSource, Field(discriminator="type")]


class DataSection(Section):
    """What is learned from and what is judged with."""

    train: tuple[Source, ...] = Field(min_length=1)  #: What is learned from.
    val: Source | None = None  #: What AP is measured on; null for nothing.
    #: What the keypoints are; null for what the first training set says.
    skeleton: Literal["coco-17", "crowdpose-14"] | None = None
    sigmas: tuple[float, ...] | None = None  #: OKS sigma of each keypoint, instead of the skeleton's.
    flip_pairs: Mapping | None = None  #: Pairs of keypoints, by index or name, that swap when an image is mirrored.
    metric: Literal["coco", "crowdpose"] = "coco"  #: Whose rules AP follows.

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is not None and not all(0 < sigma < float("inf") for sigma in sigmas):
            raise ValueError("sigmas must be above 0")
        return sigmas

    @model_validator(mode="after")
    def _judged_whole(self) -> DataSection:
        if isinstance(self.val, CocoSource) and (self.val.ratio is not None or self.val.mapping is not None):
            raise ValueError("'val' is judged whole and as it is annotated: it takes no 'ratio' and no 'mapping'")
        return self


class AugmentSection(Section):
    """Augmentation; see :class:`rtmo_deploy.train.augment.AugmentOptions`."""

    #: ``coco`` and ``crowdpose`` are the published pipelines; ``none`` only letterboxes.
    preset: Literal["coco", "crowdpose", "none"] = "coco"
    mosaic: float | None = Field(None, ge=0, le=1)  #: Probability of a mosaic of four images, instead of the preset's.
    #: Probability that another image is blended in, instead of the preset's.
    mixup: float | None = Field(None, ge=0, le=1)
    flip: float | None = Field(None, ge=0, le=1)  #: Probability that an image is mirrored, instead of the preset's.
    shift: float | None = Field(
        None, ge=0, le=1
    )  #: Furthest move, a share of the input's sides, instead of the preset's.
    rotate: float | None = Field(None, ge=0, le=360)  #: Largest turn either way, degrees, instead of the preset's.
    #: Smallest and largest enlargement, instead of the preset's.
    scale: Annotated[tuple[Share, Share] | None, AfterValidator(_ordered)] = None
    #: Largest change of hue, saturation and value, instead of the preset's.
    hsv: tuple[Hue, Level, Level] | None = None
    #: So many epochs at the end are without mosaic, affine and mixup, and with the auxiliary loss of the boxes; with 0
    #: that loss is on throughout.
    plain_epochs: int = Field(20, ge=0)
    #: In those epochs, also move, turn and resize the image, as rtmo-m and rtmo-l do on COCO.
    plain_window: bool = False
    #: Smallest and largest height of a batch in pixels, in steps of 32; null for the input size.
    multi_scale: Annotated[Size | None, AfterValidator(_ordered)] = (480, 800)


class OptimizerSection(Section):
    """AdamW."""

    #: Learning rate at ``base_batch`` images a step; scaled linearly with the batch, as the others are.
    lr: float = Field(0.004, gt=0)
    base_batch: int = Field(256, gt=0, le=1 << 20)  #: See ``lr``.
    weight_decay: Weight = 0.05  #: Not applied to norms and biases.
    clip: float = Field(0.1, gt=0)  #: Largest norm of the gradient.
    encoder_lr: float = Field(0.05, gt=0)  #: Factor on the learning rate of the transformer encoder.
    #: Factor on that of the coordinate classifier. In a short training from nothing, at a rate that suits the
    #: convolutions, its likelihood hardly falls.
    classifier_lr: float = Field(1.0, gt=0)


class ScheduleSection(Section):
    """Learning rate over epochs: quadratic warm-up, cosine to ``switch``, a second cosine, a constant end."""

    warmup: float = Field(5, ge=0)  #: Epochs of warm-up.
    #: Epoch at which the second stage begins: its loss weights and its learning rate. Null for never; with 0 the whole
    #: training has its loss weights, and one cosine.
    switch: int | None = Field(280, ge=0)
    #: Epoch at which the rate rises for the second stage, ``switch`` if null; one before it for CrowdPose.
    rise: int | None = Field(None, gt=0)
    min_lr: Weight = 2e-4  #: Where both cosines end.
    #: The rate rises by the factor ``second_lr / min_lr`` (to ``second_lr`` if ``min_lr`` is 0).
    second_lr: Weight = 5e-4
    constant: int = Field(20, ge=0)  #: Epochs at the end in which the rate stays.


#: Terms of the loss, each with a weight of its name in :class:`LossSection`.
TERMS = ("cls", "bbox", "oks", "vis", "mle", "bbox_aux")


class LossSection(Section):
    """Weights of the loss terms."""

    cls: Weight = 1.0  #: Varifocal classification loss.
    bbox: Weight = 5.0  #: Squared IoU loss.
    oks: Weight = 30.0  #: OKS loss of the proxy regression.
    vis: Weight = 1.0  #: Visibility loss.
    mle: Weight = 1.0  #: Likelihood of the coordinate classifier's heatmaps.
    bbox_aux: Weight = 1.0  #: L1 loss on raw box predictions, in the plain epochs at the end.
    overlaps_power: float = Field(0.5, gt=0, le=10)  #: The classification target is the OKS to this power.
    keypoint_center: bool = True  #: See :func:`rtmo_deploy.train.assign.assign`.
    #: Fewest cells that each person is assigned to; above 1 for a training from random weights.
    least_cells: int = Field(1, ge=1, le=10)
    heatmap: Weight = 0.0  #: Heatmaps of all keypoints, learned along and not shipped.


class SecondStageSection(Section):
    """What the loss changes to at ``schedule.switch``; the coordinate classifier then teaches the proxy."""

    mle: Weight = 5.0  #: Weight of the likelihood.
    oks: Weight = 10.0  #: Weight of the OKS loss.
    cls: Weight | None = None  #: Weight of the classification; null keeps it.
    #: Power of the OKS in the classification target; null keeps it.
    overlaps_power: float | None = Field(None, gt=0, le=10)
