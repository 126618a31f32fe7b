"""What a recipe says of artifacts and pictures; :mod:`.judging` has what it says of bounds."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  pydantic reads the annotations at run time
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"

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


class Section(BaseModel):
    """Base of all: unknown fields are refused, a section cannot be changed, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SyntheticSection(Section):
    """Drawn people.

    Attributes:
        images: How many pictures.
        seed: Their seed. 1000 to 3999 are what the sample model was trained, chosen and calibrated with.
        people: Least and greatest number of people in one.
    """

    images: int = Field(60, gt=0, le=100_000)
    seed: int = Field(4000, ge=0, lt=2**31)
    people: tuple[Annotated[int, Field(ge=0, le=60)], Annotated[int, Field(ge=0, le=60)]] = (1, 6)

    @model_validator(mode="after")
    def _ordered(self) -> SyntheticSection:
        if self.people[0] > self.people[1]:
            raise ValueError("'people' is the least and the greatest number, in this order")
        return self


class DataSection(Section):
    """Annotated pictures: drawn ones, or a file in COCO's format.

    Attributes:
        synthetic: Drawn people.
        annotations: The JSON file; a relative path is looked up from the recipe's folder.
        images: The folder of its pictures; likewise.
        max_images: Only the first so many.
    """

    synthetic: SyntheticSection | None = None
    annotations: Path | None = None
    images: Path | None = None
    max_images: Count | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> DataSection:
        files = self.annotations is not None and self.images is not None
        any_file = self.annotations is not None or self.images is not None
        if (self.synthetic is not None) == any_file or any_file != files:
            raise ValueError("give either 'synthetic', or 'annotations' and 'images'")
        if self.synthetic is not None and self.max_images is not None:
            raise ValueError("'max_images' is for annotated files; 'synthetic.images' says how many are drawn")
        return self


class _Made(Section):
    origin: str = Field("source", alias="from", description="What it is made of: 'source' or another artifact.")


class ExportArtifact(_Made):
    """``export``: the checkpoint becomes an ONNX model; fields are the command's options."""

    make: Literal["export"]
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
    """``cast``: a float32 ONNX model becomes a half one."""

    make: Literal["cast"]
    precision: Literal["fp16", "bf16"] = "fp16"


class QuantizeArtifact(_Made):
    """``quantize``: a float32 ONNX model becomes an INT8 one.

    Attributes:
        calibration: A named set of drawn pictures, or a folder of pictures.
        count: How many of them.
        method: How ranges are chosen.
        max_ap_drop: AP that may be lost, 0 to 0.2; layers revert to FP32 until it is kept.
        bias_correction: Take back the mean shift that 8 bits cause in a layer.
        judge: Pictures that the budget is kept on; needed for ``max_ap_drop``.
    """

    make: Literal["quantize"]
    calibration: str = Field("synthetic", min_length=1)
    count: Count | None = None
    method: Literal["entropy", "percentile", "minmax", "mse"] = "mse"
    max_ap_drop: Drop | None = None
    bias_correction: bool = True
    judge: DataSection | None = None

    @model_validator(mode="after")
    def _judged(self) -> QuantizeArtifact:
        if self.max_ap_drop is not None and self.judge is None:
            raise ValueError("'max_ap_drop' needs 'judge', the pictures it is kept on")
        return self


class EngineArtifact(_Made):
    """``engine``: an ONNX model becomes a TensorRT engine. Its precision is the model's.

    Attributes:
        backend: What builds.
        plugin: Put the decode plugin in first (from a ``fixed`` model; tensorrt only).
        min, opt, max: Sizes, as in ``8x640x640``.
        compute_capability: GPUs to build for (tensorrt-rtx).
        version_compatible, hardware_compatible, opt_level, timeout: As the command's options.
    """

    make: Literal["engine"]
    backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"
    plugin: bool = False
    min: str | None = Field(None, pattern=SIZE)
    opt: str | None = Field(None, pattern=SIZE)
    max: str | None = Field(None, pattern=SIZE)
    compute_capability: tuple[Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")], ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    opt_level: int | None = Field(None, ge=0, le=5)
    timeout: float | None = Field(None, gt=0)


class OpenvinoArtifact(_Made):
    """``openvino``: an ONNX model becomes OpenVINO's .xml and .bin.

    Attributes:
        compress_fp16: Keep the weights in 16 bits.
    """

    make: Literal["openvino"]
    compress_fp16: bool = False


Artifact = Annotated[
    ExportArtifact | CastArtifact | QuantizeArtifact | EngineArtifact | OpenvinoArtifact, Field(discriminator="make")
]
