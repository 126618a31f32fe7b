"""What a recipe says of measurements and bounds.

AP runs from 0 to 1, times are in milliseconds, lengths in pixels of the network input.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  pydantic reads the annotations at run time
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rtmo_deploy.release.sections import Ap, DataSection, Drop, Section

PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class AccuracyGate(Section):
    """A bound on AP, which runs from 0 to 1: one point of 100 is 0.01.

    Attributes:
        artifact: What is judged: an artifact or ``source``.
        ap_min: The floor.
        ap_drop_max: Most AP that may be lost against ``against``.
        against: ``source``, ``published`` or another artifact; ``source`` if not given.
    """

    artifact: str
    ap_min: Ap | None = None
    ap_drop_max: Drop | None = None
    against: str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> AccuracyGate:
        if self.ap_min is None and self.ap_drop_max is None:
            raise ValueError("give 'ap_min' or 'ap_drop_max'")
        if self.against is not None and self.ap_drop_max is None:
            raise ValueError("'against' goes with 'ap_drop_max'")
        return self


class AccuracySection(Section):
    """AP of the source and of artifacts.

    Attributes:
        data: What is judged on.
        measure: What is judged besides what gates name; null for everything.
        device: Where; engines always run on a GPU.
        batch: Pictures at a time.
        score_thr: People with a score not above this do not count.
    """

    data: DataSection
    measure: tuple[str, ...] | None = ()
    device: str = "cpu"
    batch: int = Field(8, gt=0, le=4096)
    score_thr: float = Field(0.1, ge=0, le=1)
    gates: tuple[AccuracyGate, ...] = ()


class ParityBounds(Section):
    """Bounds instead of those that follow from the precisions; null keeps those.

    Attributes:
        keypoint_p99_px, keypoint_max_px: Distance that 99 of 100 keypoints, and all of them, stay under.
        oks_mean: Mean OKS of the people, at least.
        box_px, score: Worst box coordinate and score of a person.
        unmatched: People in one of the two only, as a share.
        score_thr: People count whose score in either model is above this.
    """

    keypoint_p99_px: float | None = Field(None, ge=0)
    keypoint_max_px: float | None = Field(None, ge=0)
    oks_mean: float | None = Field(None, ge=0, le=1)
    box_px: float | None = Field(None, ge=0)
    score: float | None = Field(None, ge=0, le=1)
    unmatched: float | None = Field(None, ge=0, le=1)
    score_thr: float | None = Field(None, ge=0, le=1)


class ParitySection(Section):
    """Two models that must find the same people; a gate of its own.

    Attributes:
        a, b: Artifacts, or ``source``.
        images: Folder of pictures; looked up from the recipe's folder.
        synthetic: Drawn pictures instead, how many.
        bounds: What is the worst that passes.
        device_a, device_b: Where each runs.
    """

    a: str = "source"
    b: str
    images: Path | None = None
    synthetic: int | None = Field(None, gt=0, le=10_000)
    bounds: ParityBounds = ParityBounds()
    device_a: str = "cpu"
    device_b: str = "cpu"

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
        device: Where.
        threads: Of a CPU runtime.
        people: The sweep; empty for pictures with any number.
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
    """The report.

    Attributes:
        title: Heading; the recipe's name if not given.
        pictures: Pictures shown of each parity comparison, the worst first.
    """

    title: str | None = None
    pictures: int = Field(2, ge=0, le=20)
