"""Calibration: what was measured on a set of pictures, and what it was measured on, as a JSON file.

The file says which model it is of (SHA-256), which pictures, at which size, by which method and with which version of
this code; and it is sealed with a SHA-256 of its own content. So a calibration is never used for another model, and
never after somebody has edited it.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.convert.quantize.ranges import Method
from rtmo_deploy.errors import ArtifactError, InputDataError
from rtmo_deploy.files import UnreadableError, atomic_write
from rtmo_deploy.plain import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Bytes of a calibration.
MAX_BYTES: Final = 2**26
SCHEMA_VERSION: Final = 1
#: Changes whenever the same model and pictures give other numbers.
CODE_VERSION: Final = 1
_MEASURE_AGAIN: Final = "Make it again with 'rtmo-deploy calibrate'."


@dataclass(frozen=True)
class Source:
    """What a calibration depends on; equal sources give equal calibrations.

    Attributes:
        model_sha256: Of the float32 model's file.
        pictures: Identity of the set.
        input_hw: Height and width that the pictures were letterboxed to.
        placement: Where the letterbox put them.
        method: How ranges were chosen.
        percentile: For ``percentile``; 0 otherwise.
        code_version: :data:`CODE_VERSION`.
    """

    model_sha256: str
    pictures: Mapping[str, Any]
    input_hw: tuple[int, int]
    placement: str
    method: Method
    percentile: float = 0.0
    code_version: int = CODE_VERSION

    def key(self) -> str:
        """SHA-256 of all of it, 64 hex digits."""
        return _digest(json.loads(json.dumps(asdict(self))))


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        source: What on.
        used: Pictures that were.
        skipped: Names of those that could not be read, and why.
        thresholds: For each tensor that may get a Q/DQ pair the magnitude that becomes 127.
        shifts: For each convolution, by name, what 8 bits take from the mean of each of its outputs.
        noise_db: For each convolution, by name, the signal-to-noise ratio that 8 bits leave it alone, in dB.
    """

    source: Source
    used: int
    skipped: tuple[tuple[str, str], ...]
    thresholds: Mapping[str, float]
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    noise_db: Mapping[str, float] = field(default_factory=dict)

    def require_model(self, sha256: str, where: object) -> None:
        """Refuse another model.

        Raises:
            ArtifactError: It was measured on another one, or by another version of the code.
        """
        if self.source.model_sha256 != sha256:
            raise ArtifactError(
                f"This calibration was measured on another model (SHA-256 {self.source.model_sha256[:12]}..., "
                f"this one's is {sha256[:12]}...).",
                remedy=_MEASURE_AGAIN,
                where=where,
            )
        if self.source.code_version != CODE_VERSION:
            raise ArtifactError(
                f"This calibration was measured by version {self.source.code_version} of the method; this release has "
                f"version {CODE_VERSION}.",
                remedy=_MEASURE_AGAIN,
                where=where,
            )

    def save(self, path: Path) -> None:
        """Write it.

        Raises:
            SetupError: It cannot be written.
        """
        document = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, allow_nan=False))
        document["sha256"] = _digest(document)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read it.

        Raises:
            InputDataError: It cannot be read, is no calibration, or is not as it was written.
        """
        try:
            document = read_json(path, max_bytes=MAX_BYTES)
        except UnreadableError as error:
            raise _damaged(str(error), path) from error
        except OSError as error:
            raise InputDataError(
                f"The calibration cannot be opened: {error.strerror or error}.", remedy="Check its name.", where=path
            ) from error
        if not isinstance(document, dict) or "thresholds" not in document or "source" not in document:
            raise _damaged("it is no calibration", path)
        if document.get("schema_version") != SCHEMA_VERSION:
            raise _damaged(f"its schema version is {document.get('schema_version')!r}, not {SCHEMA_VERSION}", path)
        if document.pop("sha256", None) != _digest(document):
            raise _damaged("its content is not what was written: it was edited or cut", path)
        try:
            return _parsed(document)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _damaged(f"{type(error).__name__}: {error}", path) from error


def _parsed(document: dict[str, Any]) -> Calibration:
    source = dict(document["source"])
    height, width = source["input_hw"]
    source |= {"input_hw": (int(height), int(width)), "method": Method(source["method"])}
    thresholds = {str(name): float(value) for name, value in document["thresholds"].items()}
    for name, value in thresholds.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"the range of {name} is {value}")
    return Calibration(
        source=Source(**source),
        used=int(document["used"]),
        skipped=tuple((str(name), str(reason)) for name, reason in document["skipped"]),
        thresholds=thresholds,
        shifts={str(name): tuple(map(float, values)) for name, values in document["shifts"].items()},
        noise_db={str(name): float(value) for name, value in document["noise_db"].items()},
    )


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _damaged(finding: str, path: Path) -> InputDataError:
    return InputDataError(f"This calibration cannot be used: {finding}.", remedy=_MEASURE_AGAIN, where=path)
