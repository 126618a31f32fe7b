"""What is known of a TensorRT engine without loading it: the record beside it, ``<engine>.json``.

An engine is executable code and says nothing of itself before it is loaded. So the build writes beside it what it is,
its SHA-256 included, and nothing is loaded whose record is missing or belongs to other bytes, unless the caller says
that it is trusted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Kind
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.files import UnreadableError, sha256_of
from rtmo_deploy.plain import read_json
from rtmo_deploy.runtime.contract import TensorSpec
from rtmo_deploy.runtime.onnx_file import DEFAULT_SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = 1
#: Bytes of a record; ours have some thousand.
MAX_RECORD = 2**22
#: What stands for the GPU of an engine that was built where there was none.
AHEAD_OF_TIME = "none: built ahead of time"
_TRUSTED = "trusted"


@dataclass(frozen=True)
class Shape:
    """Size of a network input: pictures, and pixels down and across. Written ``BxHxW``."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``BxHxW``.

        Raises:
            UsageError: It is not written so.
        """
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and part.isascii() for part in parts):
            raise UsageError(f"'{text}' is no size.", remedy="Write batch x height x width, as in 8x640x640.")
        return cls(*(int(part) for part in parts))

    def sides(self) -> tuple[int, int, int]:
        """Batch, height, width."""
        return self.batch, self.height, self.width


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine takes, and the one that it is tuned for."""

    least: Shape
    usual: Shape
    most: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether a size lies in it."""
        bounds = zip(self.least.sides(), shape.sides(), self.most.sides(), strict=True)
        return all(low <= side <= high for low, side, high in bounds)

    def __str__(self) -> str:
        return str(self.usual) if self.least == self.most else f"{self.least} to {self.most}, tuned for {self.usual}"


@dataclass(frozen=True)
class EngineRecord:
    """What stands beside an engine.

    Attributes:
        artifact: What it is.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Version of that package.
        gpu: Name of the GPU it was built on, or :data:`AHEAD_OF_TIME`.
        compute_capability: Of that GPU; None without one.
        targets: Compute capabilities it was built for; empty for those that the backend takes by itself.
        profiles: Sizes it takes.
        inputs, outputs: Its tensors; -1 where dynamic.
        precision: ``asked``, ``how`` it was audited, and what was found.
        layers: How many layers of which kind compute in which type, ``{kind: {dtype: count}}``.
        plugin: ``name``, ``version``, ``namespace``, ``form`` and ``kernel_sha256`` of the plugin in it; None without
            one.
        onnx_sha256: Of the model it was built from.
        sha256: Of its own bytes.
        size: Bytes.
        options: What the build was asked for.
        seconds: Time that the build took.
        notes: What the reader should know.
    """

    artifact: Artifact
    backend: str
    version: str
    gpu: str
    compute_capability: str | None
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, int]]
    plugin: Mapping[str, str] | None
    onnx_sha256: str
    sha256: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "artifact": self.artifact.to_dict(),
            "backend": {"name": self.backend, "version": self.version},
            "gpu": {"name": self.gpu, "compute_capability": self.compute_capability, "targets": list(self.targets)},
            "profiles": [{"min": str(p.least), "opt": str(p.usual), "max": str(p.most)} for p in self.profiles],
            "inputs": [_tensor_dict(spec) for spec in self.inputs],
            "outputs": [_tensor_dict(spec) for spec in self.outputs],
            "precision": dict(self.precision),
            "layers": {kind: dict(counts) for kind, counts in self.layers.items()},
            "plugin": None if self.plugin is None else dict(self.plugin),
            "onnx": {"sha256": self.onnx_sha256},
            "engine": {"sha256": self.sha256, "size": self.size},
            "options": dict(self.options),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, path: Path, data: Mapping[str, Any]) -> EngineRecord:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArtifactError: It is of a newer release.
            KeyError, TypeError, ValueError, UsageError: It is damaged.
        """
        if type(data["schema_version"]) is not int:
            raise ValueError("schema_version is no number")
        if data["schema_version"] > SCHEMA_VERSION:
            raise ArtifactError(
                f"Its record has schema version {data['schema_version']}; this release knows up to {SCHEMA_VERSION}.",
                remedy="Upgrade rtmo-deploy.",
                where=path,
            )
        # Artifact reads itself from an ONNX file's metadata: one JSON text a field.
        metadata = {f"rtmo_deploy.{key}": json.dumps(value) for key, value in data["artifact"].items()}
        artifact = Artifact.from_metadata(path, metadata)
        if artifact is None or artifact.kind is not Kind.ENGINE:
            raise ValueError("its artifact is no engine")
        return cls(
            artifact=artifact,
            backend=str(data["backend"]["name"]),
            version=str(data["backend"]["version"]),
            gpu=str(data["gpu"]["name"]),
            compute_capability=data["gpu"]["compute_capability"],
            targets=tuple(str(target) for target in data["gpu"]["targets"]),
            profiles=tuple(
                Profile(Shape.parse(entry["min"]), Shape.parse(entry["opt"]), Shape.parse(entry["max"]))
                for entry in data["profiles"]
            ),
            inputs=tuple(_tensor_spec(entry) for entry in data["inputs"]),
            outputs=tuple(_tensor_spec(entry) for entry in data["outputs"]),
            precision=dict(data["precision"]),
            layers={kind: dict(counts) for kind, counts in data["layers"].items()},
            plugin=None if data["plugin"] is None else dict(data["plugin"]),
            onnx_sha256=str(data["onnx"]["sha256"]),
            sha256=str(data["engine"]["sha256"]),
            size=int(data["engine"]["size"]),
            options=dict(data["options"]),
            seconds=float(data["seconds"]),
            notes=tuple(data["notes"]),
        )


def _tensor_dict(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _tensor_spec(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(entry["name"]), str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))


def sidecar_path(engine: Path) -> Path:
    """Where an engine's record is: ``<engine>.json``."""
    return engine.with_name(f"{engine.name}.json")


def read_record(engine: Path) -> EngineRecord:
    """An engine's record; whether it belongs to these bytes is not looked at.

    Raises:
        ArtifactError: There is no such engine, no record, or the record is damaged.
    """
    if not engine.is_file():
        finding = "It is not a regular file." if engine.exists() else "There is no such engine."
        raise ArtifactError(finding, remedy="Check the path.", where=engine)
    sidecar = sidecar_path(engine)
    try:
        return EngineRecord.from_dict(engine, read_json(sidecar, max_bytes=MAX_RECORD))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"Its record {sidecar.name} is missing, and an engine is executable code: nothing tells what this one is.",
            remedy="Copy both files, or build it again with 'rtmo-deploy build-trt'; --trust loads it anyway.",
            where=engine,
        ) from error
    except UnreadableError as error:
        raise _damaged(sidecar, error) from error
    except OSError as error:
        raise ArtifactError(
            f"Its record cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=sidecar
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise _damaged(sidecar, error) from error


def _damaged(sidecar: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"The engine's record is damaged ({type(error).__name__}: {str(error)[:300]}).",
        remedy="Copy both files again, or build the engine again with 'rtmo-deploy build-trt'.",
        where=sidecar,
    )


def engine_artifact(path: Path, *, trust: bool = False) -> Artifact:
    """What an engine is, by its record.

    Args:
        path: The engine.
        trust: Take it even if its record is missing or belongs to other bytes. Without a record the 17 COCO keypoints,
            640x640 pixels and the output contract of ``fixed`` are assumed.

    Raises:
        ArtifactError: There is no such engine, or it cannot be trusted.
    """
    try:
        record = read_record(path)
    except ArtifactError:
        if not trust or not path.is_file() or sidecar_path(path).exists():
            raise
        return _unknown(path)
    verified = {key: value for key, value in (record.artifact.verified or {}).items() if key != _TRUSTED}
    if trust:
        return replace(record.artifact, verified={**verified, _TRUSTED: True})
    require_same_bytes(path, record)
    return replace(record.artifact, verified=verified or None)


def require_same_bytes(path: Path, record: EngineRecord) -> None:
    """Check that a record belongs to an engine.

    Raises:
        ArtifactError: It belongs to other bytes.
    """
    found = sha256_of(path)
    if found != record.sha256:
        raise ArtifactError(
            f"It is not the engine that its record {sidecar_path(path).name} describes: its SHA-256 begins with "
            f"{found[:12]}, the record says {record.sha256[:12]}. An engine is executable code, so it is not loaded.",
            remedy="Copy both files again, or build it again with 'rtmo-deploy build-trt'; --trust loads it anyway.",
            where=path,
        )


def is_trusted(artifact: Artifact) -> bool:
    """Whether the caller vouched for an engine, so that its record is not compared with its bytes."""
    return bool((artifact.verified or {}).get(_TRUSTED))


def _unknown(path: Path) -> Artifact:
    from rtmo_deploy.zoo.skeletons import guessed_from_count

    return Artifact(
        path=path,
        kind=Kind.ENGINE,
        architecture="unknown",
        skeleton=guessed_from_count(17),
        input=InputContract(DEFAULT_SIDE, DEFAULT_SIDE),
        decode=DecodeContract(DecodeMode.FIXED),
        precision="unknown",
        verified={_TRUSTED: True},
        producer="unknown",
    )
