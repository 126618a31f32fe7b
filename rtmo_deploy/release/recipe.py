"""What a release recipe may say; checks within one section are here, those across sections in :mod:`.schema`.

AP runs from 0 to 1, times are in milliseconds, lengths in pixels of the network input. The docstrings are part of the
recipe's JSON schema.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  pydantic reads the annotations at run time
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

#: What the checkpoint is called among the artifacts.
SOURCE = "source"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"

#: Addresses that are links in Markdown and valid in CycloneDX as they stand.
URL = r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/([A-Za-z0-9._~:/?#@!$&'*+,;=-]|%[0-9A-Fa-f]{2})*)?$"

#: Largest loss of AP that is a bound. A larger number was meant as points of 100, and would let everything pass.
LARGEST_DROP = 0.2


def _fraction(value: float, most: float) -> float:
    if value > most:
        raise ValueError(f"AP runs from 0 to 1, so this is 0 to {most:g} at most; {value:g} points are {value / 100:g}")
    return value


Ap = Annotated[float, Field(ge=0), AfterValidator(lambda value: _fraction(value, 1.0))]
Drop = Annotated[float, Field(ge=0), AfterValidator(lambda value: _fraction(value, LARGEST_DROP))]
Side = Annotated[int, Field(ge=32, multiple_of=32)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Text = Annotated[str, Field(max_length=200, pattern=r"\S")]
LongText = Annotated[str, Field(max_length=5000, pattern=r"\S")]


class Section(BaseModel):
    """Base of all: unknown fields are refused, a section cannot be changed, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SyntheticSection(Section):
    """Synthetic people."""

    images: int = Field(60, gt=0, le=100_000)  #: Number of images.
    seed: int = Field(4000, ge=0, lt=2**31)  #: Seed of the images.
    #: Least and greatest number of people in an image.
    people: tuple[Annotated[int, Field(ge=0, le=60)], Annotated[int, Field(ge=0, le=60)]] = (1, 6)

    @model_validator(mode="after")
    def _ordered(self) -> SyntheticSection:
        if self.people[0] > self.people[1]:
            raise ValueError("'people' is the least and the greatest number, in this order")
        return self


class DataSection(Section):
    """Annotated images: synthetic ones, or a file in COCO's format."""

    synthetic: SyntheticSection | None = None  #: Synthetic people, instead of files.
    annotations: Path | None = None  #: Annotation file in COCO's format.
    images: Path | None = None  #: Folder of its images.
    max_images: Count | None = None  #: Take only the first so many images; null for all.

    @model_validator(mode="after")
    def _one_kind(self) -> DataSection:
        files = self.annotations is not None and self.images is not None
        any_file = self.annotations is not None or self.images is not None
        if (self.synthetic is not None) == any_file or any_file != files:
            raise ValueError("give either 'synthetic', or 'annotations' and 'images'")
        if self.synthetic is not None and self.max_images is not None:
            raise ValueError(
                "'max_images' is for annotated files; 'synthetic.images' sets the number of synthetic ones"
            )
        return self


class _Made(Section):
    origin: str = Field("source", alias="from", description="What it is made of: 'source' or another artifact.")


class ExportArtifact(_Made):
    """``export``: the checkpoint becomes an ONNX model; fields are the command's options."""

    make: Literal["export"]  #: The step.
    decode: Literal["onnx", "fixed", "raw"] = "onnx"
    imgsz: tuple[Side, Side] | None = None
    static: bool = False
    batch: int | None = Field(None, gt=0, le=4096)
    opset: int = Field(17, ge=17, le=20)
    score_thr: float | None = Field(None, ge=0.0001, le=1)
    nms_thr: float | None = Field(None, ge=0, le=1)
    max_dets: Count | None = None
    pre_topk: Count | None = None
    min_rows: int | None = Field(None, ge=0, le=1_000_000)
    letterbox: Literal["center", "top-left"] = "center"

    @model_validator(mode="after")
    def _applies(self) -> ExportArtifact:
        foreign = {"raw": ("max_dets", "pre_topk", "min_rows"), "fixed": ("min_rows",)}.get(self.decode, ())
        for name in foreign:
            if getattr(self, name) is not None:
                raise ValueError(f"'{name}' does not apply to decode: {self.decode}")
        return self


class CastArtifact(_Made):
    """``cast``: a float32 ONNX model becomes FP16 or BF16."""

    make: Literal["cast"]  #: The step.
    precision: Literal["fp16", "bf16"] = "fp16"  #: Precision of the result.


class QuantizeArtifact(_Made):
    """``quantize``: a float32 ONNX model becomes an INT8 one."""

    make: Literal["quantize"]  #: The step.
    target: Literal["tensorrt", "openvino", "onnxruntime"] | None = None
    #: Images that the ranges come from: a folder, a named set, or a calibration file.
    calibration: str = Field("synthetic", min_length=1)
    count: Count | None = None
    method: Literal["entropy", "percentile", "minmax", "mse"] = "mse"
    max_ap_drop: Drop | None = None  #: Revert layers to FP32 until the loss of AP on `judge` is at most this, 0 to 0.2.
    bias_correction: bool = True  #: Correct each channel's bias by the mean error of its 8-bit form.
    judge: DataSection | None = None  #: Annotated images for `max_ap_drop`.

    @model_validator(mode="after")
    def _judged(self) -> QuantizeArtifact:
        if self.max_ap_drop is not None and self.judge is None:
            raise ValueError("'max_ap_drop' needs 'judge', the images it is kept on")
        return self


class EngineArtifact(_Made):
    """``engine``: an ONNX model becomes a TensorRT engine. Its precision is the model's."""

    make: Literal["engine"]  #: The step.
    backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"
    plugin: bool = False  #: Decode with the plugin RTMODecode.
    min: str | None = Field(None, pattern=SIZE)
    opt: str | None = Field(None, pattern=SIZE)
    max: str | None = Field(None, pattern=SIZE)
    #: Compute capabilities that the engine is built for; empty for the backend's default.
    compute_capability: tuple[Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")], ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    opt_level: int | None = Field(None, ge=0, le=5)
    timeout: float | None = Field(None, gt=0)  #: Most seconds of the build.


class OpenvinoArtifact(_Made):
    """``openvino``: an ONNX model becomes OpenVINO's .xml and .bin."""

    make: Literal["openvino"]  #: The step.
    compress_fp16: bool = False  #: Store weights in FP16.


Artifact = Annotated[
    ExportArtifact | CastArtifact | QuantizeArtifact | EngineArtifact | OpenvinoArtifact, Field(discriminator="make")
]


class AccuracyGate(Section):
    """A bound on AP, which runs from 0 to 1: one point of 100 is 0.01."""

    artifact: str  #: What is judged.
    ap_min: Ap | None = None  #: Least AP, 0 to 1.
    ap_drop_max: Drop | None = None  #: Largest loss of AP, 0 to 0.2.
    #: What the loss is measured against: `source` (the default), an artifact, or `published`.
    against: str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> AccuracyGate:
        if self.ap_min is None and self.ap_drop_max is None:
            raise ValueError("give 'ap_min' or 'ap_drop_max'")
        if self.against is not None and self.ap_drop_max is None:
            raise ValueError("'against' goes with 'ap_drop_max'")
        return self


class AccuracySection(Section):
    """AP of the source and of artifacts."""

    data: DataSection  #: What AP is measured on.
    measure: tuple[str, ...] | None = ()  #: Artifacts to judge besides those in gates; null judges all.
    device: str = "cpu"  #: Device, such as `cpu` or `cuda:0`.
    batch: int = Field(8, gt=0, le=4096)  #: Images in one run of the network.
    score_thr: float = Field(0.1, ge=0, le=1)  #: Detections below this score do not count.
    gates: tuple[AccuracyGate, ...] = ()  #: The bounds.


class ParityBounds(Section):
    """Bounds instead of those that follow from the precisions; null keeps those."""

    keypoint_p99_px: float | None = Field(None, ge=0)  #: Largest 99th percentile of the distance of keypoints.
    keypoint_max_px: float | None = Field(None, ge=0)  #: Largest distance of a keypoint.
    oks_mean: float | None = Field(None, ge=0, le=1)  #: Least mean OKS.
    box_px: float | None = Field(None, ge=0)  #: Largest distance of a box's side.
    score: float | None = Field(None, ge=0, le=1)  #: Largest difference of a score.
    unmatched: float | None = Field(None, ge=0, le=1)  #: Largest share of people in one model only.
    score_thr: float | None = Field(None, ge=0, le=1)  #: People above this score count.


class ParitySection(Section):
    """Two models that must find the same people; a gate of its own."""

    a: str = "source"  #: The reference.
    b: str  #: What is compared with it.
    images: Path | None = None  #: Folder of images.
    synthetic: int | None = Field(None, gt=0, le=10_000)  #: Number of synthetic images, instead of a folder.
    bounds: ParityBounds = ParityBounds()  #: Bounds that replace the defaults.
    device_a: str = "cpu"  #: Where the reference runs.
    device_b: str = "cpu"  #: Where the other one runs.

    @model_validator(mode="after")
    def _sensible(self) -> ParitySection:
        if self.a == self.b:
            raise ValueError("'a' and 'b' are the same")
        if (self.images is None) == (self.synthetic is None):
            raise ValueError("give either 'images' or 'synthetic'")
        return self


class LatencyGate(Section):
    """A bound on latency.

    Attributes:
        artifact: What is judged.
        against: Another contender that the ratio is to.
        baseline: A file that an earlier release wrote, ``latency/<name>.json``; looked up from the recipe's folder.
        max_ratio: Largest ratio of medians to it; a ratio whose interval still reaches below it passes.
        p95_ms: Largest 95th percentile, milliseconds.
    """

    artifact: str
    against: str | None = None
    baseline: Path | None = None
    max_ratio: float | None = Field(None, gt=0)
    p95_ms: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> LatencyGate:
        if self.max_ratio is None and self.p95_ms is None:
            raise ValueError("give 'max_ratio' or 'p95_ms'")
        if (self.max_ratio is not None) != (self.against is not None or self.baseline is not None):
            raise ValueError("'max_ratio' and one of 'against' and 'baseline' go together")
        if self.against is not None and self.baseline is not None:
            raise ValueError("give 'against' or 'baseline', and a second gate for the other")
        return self


class LatencySection(Section):
    """One benchmark: contenders on one device.

    Attributes:
        name: What it is called in reports and file names.
        contenders: Artifacts and ``source`` (PyTorch).
        protocol: ``e2e`` from file to people, or ``v100``, as MMDeploy's profiler measured.
        device: Device, such as ``cpu`` or ``cuda:0``.
        threads: Of a CPU runtime.
        people: The sweep; empty for images with any number.
        batch: The sweep of batches.
        duration: Measured seconds for each contender in each case.
        gates: The bounds.
    """

    name: str = Field("latency", pattern=PLAIN_NAME, max_length=40)
    contenders: tuple[str, ...] = Field(min_length=1)
    protocol: Literal["e2e", "v100"] = "e2e"
    device: str = "cpu"
    threads: int | None = Field(None, gt=0, le=1024)
    people: tuple[Annotated[int, Field(ge=0, le=60)], ...] = ()
    batch: tuple[Annotated[int, Field(gt=0, le=4096)], ...] = (1,)
    duration: float = Field(5.0, gt=0, le=3600)
    gates: tuple[LatencyGate, ...] = ()

    @model_validator(mode="after")
    def _as_published(self) -> LatencySection:
        if self.protocol == "v100" and (self.people or self.batch != (1,)):
            raise ValueError("protocol: v100 is at batch 1 and does not sweep people")
        return self


class ReportSection(Section):
    """The report."""

    title: str | None = None  #: Title of the report; null for the recipe's name.
    pictures: int = Field(2, ge=0, le=20)  #: Number of compared images that it shows for each parity.


class CardSection(Section):
    """What the model card and the bill of materials say that no step measures. All of it is plain text.

    Attributes:
        license: Licence of the weights: an SPDX identifier or expression, or the name of another licence.
        authors: Names of people.
        organization: Who supplies the release.
        training_data: What the checkpoint was trained on.
        intended_use: What the models are for.
        base_model: The model that the checkpoint was fine-tuned from, as on the Hugging Face Hub: organization/name.
        links: Title to address.
    """

    license: Text | None = None
    authors: tuple[Text, ...] = Field((), max_length=100)
    organization: Text | None = None
    training_data: LongText | None = None
    intended_use: LongText | None = None
    base_model: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", max_length=200)
    links: dict[Text, Annotated[str, Field(pattern=URL, max_length=1000)]] = Field({}, max_length=50)


class ReleaseRecipe(Section):
    """Everything a release depends on.

    Attributes:
        schema_version: 2. AP ran from 0 to 100 in version 1: a recipe of version 1 is taken only without bounds on AP.
        name: What files are called: letters, digits, ``.``, ``_``, ``-``.
        source: A checkpoint (a relative path is looked up from the recipe's folder), its address (``https://``,
            ``hf://``, ``file://``), or a model's name.
        ignore_cfg: Do not follow the config inside the checkpoint: take the published models' settings.
        artifacts: What is made, by name.
        accuracy: AP and bounds on it.
        parity: Pairs of models that must find the same people.
        latency: Benchmarks and bounds on them.
        report: What the report shows.
        card: What the model card and the bill of materials say that no step measures.
    """

    schema_version: Literal[1, 2] = 2
    name: str = Field(pattern=PLAIN_NAME, max_length=60)
    source: str = Field(min_length=1)
    ignore_cfg: bool = False
    artifacts: dict[str, Artifact] = Field(min_length=1, max_length=100)
    accuracy: AccuracySection | None = None
    parity: tuple[ParitySection, ...] = ()
    latency: tuple[LatencySection, ...] = ()
    report: ReportSection = ReportSection()
    card: CardSection = CardSection()

    def order(self) -> list[str]:
        """Names of the artifacts, each after the one it is made of."""
        done: list[str] = []
        left = list(self.artifacts)
        while left:
            ready = [name for name in left if self.artifacts[name].origin in (SOURCE, *done)]
            done += ready
            left = [name for name in left if name not in ready]
        return done
