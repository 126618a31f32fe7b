"""Calibration: what was measured on a set of images, and what it was measured on, as a JSON file.

The file says which model it is of (SHA-256), which images, at which size, by which method and with which version of
this code; and it is sealed with a SHA-256 of its own content. So a calibration is never used for another model, and
never after somebody has edited it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.artifact import Target
from rtmo_deploy.convert.quantize.ranges import Method, Range
from rtmo_deploy.errors import ArtifactError, InputDataError
from rtmo_deploy.files import reading, write_whole
from rtmo_deploy.plain import plain, read_json

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

#: Bytes of a calibration.
MAX_BYTES: Final = 2**26
SCHEMA_VERSION: Final = 2
#: Changes whenever the same model and images give other numbers.
CODE_VERSION: Final = 2
_MEASURE_AGAIN: Final = "Make it again with 'rtmo-deploy calibrate'."


@dataclass(frozen=True)
class Source:
    """What a calibration depends on; equal sources give equal calibrations."""

    model_sha256: str  #: Of the float32 model's file.
    pictures: Mapping[str, Any]  #: Identity of the set of images.
    input_hw: tuple[int, int]  #: Height and width that the images were letterboxed to.
    placement: str  #: Where the letterbox put them.
    method: Method
    target: Target  #: Runtime that the ranges are for.
    percentile: float = 0.0  #: For ``percentile``; 0 otherwise.
    code_version: int = CODE_VERSION

    def key(self) -> str:
        """SHA-256 of all of it, 64 hex digits."""
        return _digest(plain(self))


@dataclass(frozen=True)
class Calibration:
    """What was measured."""

    source: Source
    used: int  #: Images that were.
    skipped: tuple[tuple[str, str], ...]  #: Names of those that could not be read, and why.
    ranges: Mapping[str, Range] = field(repr=False)  #: Of each tensor that may get a Q/DQ pair.
    #: For each convolution, by name, what 8 bits take from the mean of each of its outputs.
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    #: For each convolution, by name, the signal-to-noise ratio that 8 bits leave it alone, in dB.
    noise_db: Mapping[str, float] = field(default_factory=dict, repr=False)

    def require_model(self, sha256: str, target: Target, where: object) -> None:
        """Raise an ArtifactError if it is of another model, for another runtime, or by another version of the code."""
        if self.source.model_sha256 != sha256:
            raise ArtifactError(
                f"This calibration was measured on another model (SHA-256 {self.source.model_sha256[:12]}..., "
                f"this one's is {sha256[:12]}...).",
                remedy=_MEASURE_AGAIN,
                where=where,
            )
        if self.source.target is not target:
            raise ArtifactError(
                f"This calibration is for {self.source.target}, and the model is quantised for {target}.",
                remedy=f"Make it again with 'rtmo-deploy calibrate --target {target}'.",
                where=where,
            )
        if self.source.code_version != CODE_VERSION:
            raise ArtifactError(
                f"This calibration was measured by version {self.source.code_version} of the method; this release has "
                f"version {CODE_VERSION}.",
                remedy=_MEASURE_AGAIN,
                where=where,
            )

    def skipped_dicts(self) -> list[dict[str, str]]:
        """JSON-ready form of the images that could not be read."""
        return [{"name": name, "reason": reason} for name, reason in self.skipped]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it; a SetupError where that cannot be done."""
        path = Path(path)
        document = {"schema_version": SCHEMA_VERSION, **plain(self)}
        document["sha256"] = _digest(document)
        write_whole(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read it.

        Raises:
            InputDataError: It cannot be read, is no calibration, or is not as it was written.
        """
        path = Path(path)
        with reading(path, InputDataError, remedy=_MEASURE_AGAIN, damaged="a calibration that can be used"):
            document = read_json(path, max_bytes=MAX_BYTES)
            if not isinstance(document, dict) or not {"ranges", "source"} <= document.keys():
                raise ValueError("it is no calibration")
            if document.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"its schema version is {document.get('schema_version')!r}, not {SCHEMA_VERSION}")
            if document.pop("sha256", None) != _digest(document):
                raise ValueError("its content is not what was written: it was edited or cut")
            return _parsed(document)


def _parsed(document: dict[str, Any]) -> Calibration:
    source = dict(document["source"])
    height, width = source["input_hw"]
    kinds = {"method": Method(source["method"]), "target": Target(source["target"])}
    source |= {"input_hw": (int(height), int(width)), **kinds}
    ranges = {str(name): Range(float(low), float(high)) for name, (low, high) in document["ranges"].items()}
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
            raise ValueError(f"the range of {name} is {low} to {high}")
    return Calibration(
        source=Source(**source),
        used=int(document["used"]),
        skipped=tuple((str(name), str(reason)) for name, reason in document["skipped"]),
        ranges=ranges,
        shifts={str(name): tuple(map(float, values)) for name, values in document["shifts"].items()},
        noise_db={str(name): float(value) for name, value in document["noise_db"].items()},
    )


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
