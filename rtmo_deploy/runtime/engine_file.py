"""What is known of a TensorRT engine without loading it: the record beside it, ``<engine>.json``.

An engine is executable code and describes itself only once it is loaded. So the build writes its record beside it, with
its SHA-256, and an engine whose record is missing or belongs to other bytes is loaded only if the caller trusts it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import UnreadableError, sha256_of
from rtmo_deploy.plain import plain, read_json
from rtmo_deploy.runtime.contract import DEFAULT_SIDE, TensorSpec
from rtmo_deploy.runtime.trt_api import version_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rtmo_deploy.runtime.cuda import Gpu

SCHEMA_VERSION = 1
#: Bytes of a record; ours have some thousand.
MAX_RECORD = 2**22
#: The name of the GPU of an engine that was built where there was none.
AHEAD_OF_TIME = "none: built ahead of time"
_TRUSTED = "trusted"
#: Compute capability from which on a hardware-compatible engine runs, and an RTX engine without explicit targets.
_AMPERE = (8, 0)


class Shape(NamedTuple):
    """Size of a network input: images, and pixels down and across. Written ``BxHxW``."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``BxHxW``; a UsageError where it is not written so."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and part.isascii() for part in parts):
            raise UsageError(f"'{text}' is no size.", remedy="Write batch x height x width, as in 8x640x640.")
        return cls(*(int(part) for part in parts))


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine takes, and the one that it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether a size lies in it."""
        return all(low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True))

    def holds(self, height: int, width: int) -> bool:
        """Whether images of a size lie in it, whatever the batch."""
        return self.takes(Shape(self.opt.batch, height, width))

    def __str__(self) -> str:
        return str(self.opt) if self.min == self.max else f"{self.min} to {self.max}, tuned for {self.opt}"


@dataclass(frozen=True)
class EngineRecord:
    """The record beside an engine."""

    artifact: Artifact
    backend: str  #: ``tensorrt`` or ``tensorrt-rtx``.
    version: str  #: Of that package.
    gpu: str  #: Name of the GPU it was built on, or :data:`AHEAD_OF_TIME`.
    compute_capability: str | None  #: Of that GPU; None without one.
    targets: tuple[str, ...]  #: Compute capabilities it was built for; empty for the backend's default.
    profiles: tuple[Profile, ...]
    inputs: tuple[TensorSpec, ...]  #: Its tensors; a side of -1 is dynamic.
    outputs: tuple[TensorSpec, ...]
    precision: Mapping[str, Any]  #: ``asked``, ``how`` it was audited, and the counts of the audit.
    layers: Mapping[str, Mapping[str, int]]  #: Layers of a kind that compute in a type, ``{kind: {dtype: count}}``.
    #: ``name``, ``version``, ``namespace``, ``form`` and ``kernel_sha256`` of the plugin in it; None without one.
    plugin: Mapping[str, str] | None
    onnx_sha256: str  #: Of the model it was built from.
    sha256: str  #: Of its own bytes.
    size: int  #: Bytes.
    options: Mapping[str, Any] = field(default_factory=dict)  #: What the build was asked for.
    seconds: float = 0.0  #: Time of the build.
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "artifact": self.artifact.to_dict(),
            "backend": {"name": self.backend, "version": self.version},
            "gpu": {"name": self.gpu, "compute_capability": self.compute_capability, "targets": list(self.targets)},
            "profiles": [{"min": str(p.min), "opt": str(p.opt), "max": str(p.max)} for p in self.profiles],
            "inputs": plain(self.inputs),
            "outputs": plain(self.outputs),
            "precision": dict(self.precision),
            "layers": plain(self.layers),
            "plugin": plain(self.plugin),
            "onnx": {"sha256": self.onnx_sha256},
            "engine": {"sha256": self.sha256, "size": self.size},
            "options": dict(self.options),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, path: Path, data: Mapping[str, Any]) -> EngineRecord:
        """Read what :meth:`to_dict` wrote; an ArtifactError for a newer release's, other errors where it is damaged."""
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
        profiles = [[Shape.parse(entry[name]) for name in ("min", "opt", "max")] for entry in data["profiles"]]
        return cls(
            artifact=artifact,
            backend=str(data["backend"]["name"]),
            version=str(data["backend"]["version"]),
            gpu=str(data["gpu"]["name"]),
            compute_capability=data["gpu"]["compute_capability"],
            targets=tuple(str(target) for target in data["gpu"]["targets"]),
            profiles=tuple(Profile(*shapes) for shapes in profiles),
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


def _tensor_spec(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(entry["name"]), str(entry["dtype"]), tuple(int(side) for side in entry["shape"]))


def sidecar_path(engine: Path) -> Path:
    """Where an engine's record is: ``<engine>.json``."""
    return engine.with_name(f"{engine.name}.json")


def read_record(engine: Path) -> EngineRecord:
    """An engine's record, which may belong to other bytes; an ArtifactError where there is none or it is damaged."""
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
    except (UnreadableError, KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError) as error:
        raise ArtifactError(
            f"The engine's record is damaged ({type(error).__name__}: {str(error)[:300]}).",
            remedy="Copy both files again, or build the engine again with 'rtmo-deploy build-trt'.",
            where=sidecar,
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"Its record cannot be read: {error.strerror or error}.", remedy="Check its permissions.", where=sidecar
        ) from error


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


def require_same_bytes(path: Path, record: EngineRecord, plan: bytes | None = None) -> None:
    """Raise an ArtifactError unless a record belongs to an engine: to ``plan``, its content, or else to the file."""
    found = sha256_of(path) if plan is None else hashlib.sha256(plan).hexdigest()
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


def differences(record: EngineRecord, *, version: str, gpu: Gpu) -> list[str]:
    """What of this machine is not as an engine needs it, given the installed backend's version; empty if nothing."""
    found = []
    portable = bool(record.options.get("version_compatible"))
    installed, built = (text.partition(".")[0] if portable else text for text in (version, record.version))
    if installed != built:
        kind = "major version" if portable else "version"
        found.append(f"it was built by {record.backend} {record.version} and needs that {kind}; installed is {version}")
    here = gpu.compute_capability
    if record.targets:
        if here not in record.targets:
            found.append(f"it was built for compute capability {', '.join(record.targets)}; {gpu.name} has {here}")
    elif record.backend == "tensorrt-rtx" or record.options.get("hardware_compatible"):
        if version_numbers(here) < _AMPERE:
            found.append(f"it runs from compute capability 8.0 on; {gpu.name} has {here}")
    elif here != record.compute_capability:
        found.append(
            f"it was built on {record.gpu} with compute capability {record.compute_capability}; {gpu.name} has {here}"
        )
    return found


def choose_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Index of the profile that takes a size; of several the one tuned for the nearest number of pixels."""
    fitting = [index for index, profile in enumerate(profiles) if profile.takes(shape)]
    if not fitting:
        raise ArtifactError(
            f"It does not run on an input of {shape}: it was built for {'; or '.join(map(str, profiles))}.",
            remedy="Use another size, or build it with a profile that holds this one (--min, --max).",
        )
    pixels = shape.height * shape.width
    return min(fitting, key=lambda i: abs(profiles[i].opt.height * profiles[i].opt.width - pixels))


def split_batch(count: int, fewest: int, most: int) -> list[tuple[int, int, int]]:
    """Cut a batch of ``count`` images into runs of ``fewest`` to ``most``.

    Returns:
        ``(start, stop, size)`` of each run: images ``start`` to ``stop``, filled up to ``size``.
    """
    bounds = ((start, min(start + most, count)) for start in range(0, count, most))
    return [(start, stop, max(stop - start, fewest)) for start, stop in bounds]
