"""Artifact: a file and its description; the one place where that is written to a file and read from it.

In an ONNX file it lies in ``metadata_props``: one key for each field, prefixed ``rtmo_deploy.``, each value JSON. The
keys that Ultralytics' readers know (``task``, ``kpt_shape``, ``imgsz`` and so on) stand beside them. A file made by
MMDeploy has no such keys; it is recognised by its inputs and outputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import re
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import PurePath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from rtmo_deploy._version import __version__
from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.file_kind import FORMATS, Kind
from rtmo_deploy.files import UnreadableError, read_bounded, sha256_of, write_whole
from rtmo_deploy.packages import installed
from rtmo_deploy.plain import parse_json
from rtmo_deploy.poses import Skeleton

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


SCHEMA_VERSION = 1
#: Characters of one metadata value; ours have some thousand.
MAX_VALUE = 2**20
#: What no model comes near, and no reader needs to allocate for.
MAX_SIDE, MAX_BATCH, MAX_AREA, MAX_ROWS, MAX_KEYPOINTS, MAX_TEXT = 2**14, 2**12, 2**26, 2**20, 1024, 1000
#: Pixels of one input; 8 times those of the largest that RTMO was trained for are 2**22.
MAX_PIXELS = 2**23
#: The least and the greatest of each whole number.
_COUNTS = {
    "schema_version": (1, MAX_ROWS),
    "height": (1, MAX_SIDE),
    "width": (1, MAX_SIDE),
    "multiple": (1, 1024),
    "pad": (0, 255),
    "batch": (1, MAX_BATCH),
    "min_rows": (0, MAX_ROWS),
    **dict.fromkeys(("max_dets", "pre_topk", "nms_rounds"), (1, MAX_ROWS)),
}
#: Of the keys that are ours.
PREFIX = "rtmo_deploy."
_SURROGATE = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

#: What is wrong with a model for most uses is logged here when it is opened; the command line prints it once.
MODEL_LOG = logging.getLogger("rtmo_deploy.model_notes")

_UNTRAINED = (
    "The model is untrained: its weights are random, and it finds nobody. Train it, or take one that "
    "'rtmo-deploy models' lists."
)
_DOMAINS = {"synthetic": "The model was trained on synthetic people only. It is not meant for photographs."}


class Target(StrEnum):
    """The runtime that 8-bit numbers were chosen for; each has other kernels.

    ``tensorrt`` takes signed activations without a zero point. ``openvino`` takes unsigned ones with a zero point.
    ``onnxruntime`` takes these too, and activation functions and sums in 8 bits.
    """

    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


class DecodeMode(StrEnum):
    """Where the head outputs are decoded to detections, and so what the graph puts out.

    * ``onnx``: in the graph, by the standard NonMaxSuppression operator; the number of rows is dynamic.
    * ``fixed``: in the graph, by plain tensor operators; always ``max_dets`` rows, unused ones zero.
    * ``plugin``: in the graph, by one RTMODecode node for TensorRT; rows as in ``fixed``.
    * ``raw``: nowhere; the graph puts out head tensors.
    """

    ONNX = "onnx"
    FIXED = "fixed"
    PLUGIN = "plugin"
    RAW = "raw"


@dataclass(frozen=True)
class InputContract:
    """What the network takes: ``input`` (B, 3, H, W) float32, BGR, 0..255, letterboxed."""

    height: int  #: Pixels that an image is letterboxed to unless asked otherwise.
    width: int
    batch: int | None = None  #: Images at a time, None when dynamic.
    dynamic_hw: bool = True  #: Any height and width that are multiples of ``multiple`` will do.
    #: Where the letterbox puts the image: ``center`` (the reference) or ``top-left`` (rtmlib).
    placement: str = "center"
    pad: int = 114  #: Grey level around it.
    multiple: int = 32  #: Height and width must be multiples of this.


@dataclass(frozen=True)
class DecodeContract:
    """How head outputs are decoded to detections."""

    mode: DecodeMode  #: See :class:`DecodeMode`.
    score_thr: float = 0.1  #: Scores must be above this.
    nms_thr: float = 0.65  #: Overlaps above this IoU are suppressed.
    max_dets: int | None = None  #: Most detections in one image, None for no limit.
    pre_topk: int | None = None  #: Candidates that enter the suppression, best scores first; None for all.
    nms_rounds: int | None = None  #: Rounds of the unrolled suppression (``fixed`` only).
    min_rows: int = 0  #: Rows of output there are at least; unused ones are zero.
    #: The graph may append rows that are no detections (MMDeploy's does); they are under the score threshold.
    junk_rows: bool = False


@dataclass(frozen=True)
class Parent:
    """Another file, by name and SHA-256: one that an artifact was made from, or that it needs."""

    name: str
    sha256: str

    @classmethod
    def of(cls, name: str, sha256: str) -> Parent:
        """A file that an artifact is made from; what metadata does not take in a name becomes ``_``."""
        if is_file_name(name):
            return cls(name, sha256)
        name = "".join(one if one.isprintable() and one not in "/:\\" else "_" for one in name)
        return cls(name if is_file_name(name) else f"_{name}", sha256)


@dataclass(frozen=True)
class Artifact:
    """A file and its description."""

    path: Path
    kind: Kind
    architecture: str  #: Name in the zoo, or a description such as ``deepen=0.5 widen=0.5``.
    skeleton: Skeleton  #: Its keypoints.
    input: InputContract  #: What it takes.
    decode: DecodeContract  #: How it decodes.
    precision: str = "fp32"  #: ``fp32``, ``fp16`` and so on.
    target: Target | None = None  #: Runtime that its 8-bit numbers are for; None where it has none.
    variant: str | None = None  #: Name of the published checkpoint it comes from, if it does.
    #: A second file it needs: of a ``raw`` graph the one that turns pose vectors into keypoints; it lies in the same
    #: folder.
    companion: Parent | None = None
    parents: tuple[Parent, ...] = ()  #: Files it was made from.
    versions: Mapping[str, str] = field(default_factory=dict)  #: Versions of the packages it was made with.
    verified: Mapping[str, Any] | None = None  #: What was checked after it was made, None if nothing was.
    producer: str = "rtmo-deploy"  #: Who wrote it: ``rtmo-deploy``, or ``mmdeploy`` by its shape.
    #: What kind of images it was trained on: ``synthetic``, or None where nothing is recorded.
    domain: str | None = None
    untrained: bool = False  #: Its weights are an initialisation.
    #: What its metadata said otherwise than its graph, whose values stand here; not written to files.
    corrected: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What a user must know before using it, one or two sentences; None for nothing."""
        return model_note(untrained=self.untrained, domain=self.domain)

    def log_note(self) -> None:
        """Log :attr:`note` as a warning, if there is one."""
        if self.note is not None:
            MODEL_LOG.warning(self.note)

    def log_emulation(self, runtime: str) -> None:
        """Log as a warning that a runtime computes this INT8 model in float32, which was quantised for another one."""
        MODEL_LOG.warning(
            "%s was quantised for %s: %s computes it in float32, rounded as in 8 bits. For INT8 there use 'quantize "
            "--target %s'.",
            *(self.path.name, self.target, runtime, runtime.lower().replace(" ", "")),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form of everything but the path and ``corrected``."""
        data = asdict(replace(self, versions=dict(self.versions)))
        del data["path"], data["corrected"]
        data["skeleton"] = self.skeleton.to_dict()
        data["schema_version"] = SCHEMA_VERSION
        return data

    def to_metadata(self) -> dict[str, str]:
        """Keys and values for an ONNX file's ``metadata_props``."""
        own = {PREFIX + key: json.dumps(value) for key, value in self.to_dict().items()}
        shared = {
            "task": "pose",
            "author": "rtmo-deploy",
            "version": __version__,
            "description": f"{self.architecture} multi-person pose estimator",
            "stride": str(self.input.multiple),
            "batch": str(self.input.batch or 1),
            "imgsz": json.dumps([self.input.height, self.input.width]),
            "names": "{0: 'person'}",
            "kpt_shape": json.dumps([len(self.skeleton), 3]),
            "kpt_names": json.dumps({0: list(self.skeleton.keypoints)}).replace('"0"', "0"),
            "channels": "3",
        }
        return own | shared

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, str]) -> Artifact | None:
        """Read what :meth:`to_metadata` wrote; None where its keys are missing, ArtifactError if damaged."""
        if PREFIX + "schema_version" not in metadata:
            return None
        try:
            data = {key[len(PREFIX) :]: _parse(value) for key, value in metadata.items() if key.startswith(PREFIX)}
            _check_counts({"schema_version": data["schema_version"]})
            if data["schema_version"] > SCHEMA_VERSION:
                raise ArtifactError(
                    f"Its metadata has schema version {data['schema_version']}; this release knows up to "
                    f"{SCHEMA_VERSION}.",
                    remedy="Upgrade rtmo-deploy.",
                    where=path,
                )
            artifact = cls(
                path=path,
                kind=Kind(data["kind"]),
                architecture=data["architecture"],
                skeleton=Skeleton.from_dict(data["skeleton"]),
                input=InputContract(**data["input"]),
                decode=DecodeContract(**{**data["decode"], "mode": DecodeMode(data["decode"]["mode"])}),
                precision=data["precision"],
                # Files of earlier releases do not say; they were made for TensorRT.
                target=_target(data),
                variant=data["variant"],
                companion=Parent(**data["companion"]) if data["companion"] else None,
                parents=tuple(Parent(**parent) for parent in data["parents"]),
                versions=dict(data["versions"]),
                verified=None if data["verified"] is None else dict(data["verified"]),
                producer=data["producer"],
                # Files of earlier releases do not say.
                domain=data.get("domain"),
                untrained=data.get("untrained", False),
            )
            _check(artifact)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ArtifactError(
                f"Its rtmo-deploy metadata is damaged ({type(error).__name__}: {str(error)[:300]}).",
                remedy="Export the model again.",
                where=path,
            ) from error
        artifact.log_note()
        return artifact


def model_note(*, untrained: bool, domain: str | None) -> str | None:
    """What a user must know before using such a model, one or two sentences; None for nothing."""
    return _UNTRAINED if untrained else _DOMAINS.get(domain or "")


def made_with(*packages: str) -> dict[str, str]:
    """What an artifact that is made now records as its versions: this project, Python, and of the packages each one."""
    return {"rtmo-deploy": __version__, "python": platform.python_version(), **installed(packages)}


def _target(data: Mapping[str, Any]) -> Target | None:
    named = data.get("target", Target.TENSORRT if data["precision"].startswith("int8") else None)
    return None if named is None else Target(named)


def _parse(value: str) -> Any:
    if len(value) > MAX_VALUE:
        raise UnreadableError(f"a value has {len(value):,} characters; at most {MAX_VALUE:,} are read")
    return parse_json(value)


def _check(artifact: Artifact) -> None:
    """Refuse, with a ValueError, values that nothing could be done with."""
    check_contracts(artifact.input, artifact.decode)
    if artifact.kind is not Kind.CHECKPOINT and artifact.kind not in FORMATS:
        raise ValueError(f"kind is {artifact.kind}")
    if type(artifact.untrained) is not bool:
        raise ValueError(f"untrained is {artifact.untrained!r}")
    skeleton = artifact.skeleton
    if not 1 <= len(skeleton) <= MAX_KEYPOINTS:
        raise ValueError(f"there are {len(skeleton)} keypoints")
    if len(skeleton.edges) > MAX_KEYPOINTS**2 or len(skeleton.flip_pairs) > MAX_KEYPOINTS:
        raise ValueError("there are more edges or pairs than keypoints could have")
    names = ("architecture", "precision", "producer", "variant", "domain")
    texts = [(name, getattr(artifact, name)) for name in names] + [*artifact.versions.items()]
    texts += [("a keypoint's name", name) for name in (skeleton.name, *skeleton.keypoints)]
    for parent in (*artifact.parents, *([artifact.companion] if artifact.companion else [])):
        texts += [("a parent's name", parent.name), ("a parent's hash", parent.sha256)]
        if not is_file_name(parent.name):
            raise ValueError(f"{parent.name!r} is no file name")
    for name, text in texts:
        optional = text is None and name in {"variant", "domain"}
        if not optional and (not isinstance(text, str) or len(text) > MAX_TEXT or _SURROGATE.search(text)):
            raise ValueError(f"{name} is no short text: {text!r}")


def is_file_name(name: str) -> bool:
    """Whether metadata may name such a file.

    It is looked for beside the file: a path could lead anywhere. A device's name leads elsewhere on Windows.
    """
    if not name or not name.isprintable() or len(name.encode()) > 255 or name in {".", ".."}:
        return False
    return PurePath(name).name == PureWindowsPath(name).name == name and not _RESERVED.match(name)


def check_contracts(contract: InputContract, decode: DecodeContract) -> None:
    """Refuse, with a ValueError, sizes and settings that nothing could be done with."""
    values = {**vars(contract), **vars(decode)}
    _check_counts(values)
    pixels = contract.height * contract.width
    if pixels > MAX_PIXELS or pixels * (contract.batch or 1) > MAX_AREA:
        raise ValueError(f"{contract.batch or 1}x{contract.height}x{contract.width} pixels are too many")
    if contract.multiple % 32:
        raise ValueError(f"multiple is {contract.multiple}, and the network's strides need multiples of 32")
    wrong = [name for name in ("dynamic_hw", "junk_rows") if type(values[name]) is not bool]
    thresholds = {"score_thr": decode.score_thr, "nms_thr": decode.nms_thr}
    wrong += [name for name, one in thresholds.items() if type(one) not in (int, float) or not 0 <= one <= 1]
    if contract.placement not in ("center", "top-left"):
        wrong.append("placement")
    if wrong:
        raise ValueError(f"{wrong[0]} is {values[wrong[0]]!r}")


def _check_counts(values: Mapping[str, Any]) -> None:
    for name in _COUNTS.keys() & values.keys():
        (least, most), value = _COUNTS[name], values[name]
        optional = value is None and name in {"batch", "max_dets", "pre_topk", "nms_rounds"}
        if not optional and (type(value) is not int or not least <= value <= most):
            raise ValueError(f"{name} is {value!r}")


#: A coordinate classifier has some ten MiB.
MAX_BYTES = 2**28


def read_companion(artifact: Artifact) -> bytes | None:
    """Content of a model's second file, None where it has none; ArtifactError where it is another one."""
    if artifact.companion is None:
        return None
    path = artifact.path.with_name(artifact.companion.name)
    try:
        content = read_bounded(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise ArtifactError(
            f"It needs {path.name} beside it, which cannot be read: {error.strerror or error}.",
            remedy="Copy both files, or export again.",
            where=artifact.path,
        ) from error
    if hashlib.sha256(content).hexdigest() != artifact.companion.sha256:
        raise ArtifactError(
            f"{path.name} beside it is not the file it was exported with.",
            remedy="Copy both files from the same export, or export again.",
            where=artifact.path,
        )
    return content


def refuse_companion(artifact: Artifact, output: Path) -> None:
    """UsageError where writing ``output`` would overwrite another model's second file, or the output has that name."""
    if artifact.companion is None:
        return
    path = output.with_name(artifact.companion.name)
    if output.name == path.name:
        raise UsageError(f"{output.name} is the name of its companion file.", remedy="Give another name with -o.")
    if path.exists() and (not path.is_file() or sha256_of(path) != artifact.companion.sha256):
        raise UsageError(
            f"{path} is there already and belongs to another model.",
            remedy="Write into another folder, or remove it. Nothing was written.",
        )


def write_companion(artifact: Artifact, content: bytes | None, output: Path) -> None:
    """Put a model's second file beside what was made of it, unless it is there already."""
    if artifact.companion is None or content is None:
        return
    refuse_companion(artifact, output)
    path = output.with_name(artifact.companion.name)
    if not path.exists():
        write_whole(path, content)
