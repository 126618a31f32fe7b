"""From a checkpoint file to a network, and back: the model is recognised from its tensors alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import Artifact, DecodeContract, DecodeMode, InputContract, Kind
from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.model.dcc import DCC
from rtmo_deploy.model.head import KeypointSigmas
from rtmo_deploy.model.layers import SinePositionalEncoding
from rtmo_deploy.model.reader import CheckpointContents, read_checkpoint, write_checkpoint
from rtmo_deploy.model.rtmo import RTMO
from rtmo_deploy.model.spec import NetworkSpec, UnrecognisedStateDictError, recognise
from rtmo_deploy.poses import Skeleton
from rtmo_deploy.zoo import skeleton_for
from rtmo_deploy.zoo.download import identify_published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.zoo import Variant

__all__ = ["LoadedCheckpoint", "load_checkpoint", "save_checkpoint"]

#: Input size of a network whose shape is nobody's published one.
DEFAULT_INPUT_HW = (640, 640)


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A network with the weights of a checkpoint, and what is known of it.

    Attributes:
        path: The file.
        sha256: Its hash.
        model: The network, in eval mode, float32, on the CPU.
        skeleton: Its keypoints: those stored in the file, else the convention with as many.
        input_hw: Height and width in pixels it was made for.
        variant: The published checkpoint that the file is, by its hash; None otherwise.
        contents: What else was read from the file.
    """

    path: Path
    sha256: str
    model: RTMO
    skeleton: Skeleton
    input_hw: tuple[int, int]
    variant: Variant | None
    contents: CheckpointContents

    @property
    def spec(self) -> NetworkSpec:
        """Shape of the network."""
        return self.model.spec

    @property
    def architecture(self) -> str:
        """The zoo's name of the shape, or the factors of one that it does not have."""
        known = self.spec.architecture
        if known is not None:
            return known.name
        return f"deepen={self.spec.deepen:g} widen={self.spec.widen:g} hidden_dim={self.spec.hidden_dim}"

    @property
    def untrained(self) -> bool:
        """Whether the file says that its weights are an initialisation."""
        return _own(self.contents.meta).get("trained") is False

    @property
    def domain(self) -> str | None:
        """What kind of images the file says it was trained on; see :class:`~rtmo_deploy.artifact.Artifact`."""
        domain = _own(self.contents.meta).get("domain")
        return domain if isinstance(domain, str) else None

    def artifact(self) -> Artifact:
        """The checkpoint as an artifact."""
        decode = DecodeContract(DecodeMode.RAW)
        if self.variant is not None:
            decode = replace(decode, score_thr=self.variant.score_thr, nms_thr=self.variant.nms_thr)
        return Artifact(
            path=self.path,
            kind=Kind.CHECKPOINT,
            architecture=self.architecture,
            skeleton=self.skeleton,
            input=InputContract(*self.input_hw),
            decode=decode,
            precision="fp32",
            variant=self.variant.name if self.variant else None,
            producer="checkpoint",
            domain=self.domain,
            untrained=self.untrained,
        )


def load_checkpoint(path: Path, *, ema: bool = False) -> LoadedCheckpoint:
    """Read a checkpoint and build the network it belongs to. No code in the file is run.

    Args:
        path: ``.pth`` (official, mmengine training, or plain state dict) or ``.safetensors``.
        ema: Take ``ema_state_dict`` instead of ``state_dict``. See :func:`rtmo_deploy.model.reader.read_checkpoint`
            on which of the two holds the averaged weights.

    Raises:
        CheckpointError: The file is damaged, unsafe, incomplete, or of another model.
    """
    contents = read_checkpoint(path, ema=ema)
    model = _build(path, contents.tensors)
    if contents.stored_dtype in {"float16", "bfloat16"}:
        _restore_constants(model)
    sha256 = sha256_of(path)
    spec = model.spec
    known = spec.architecture
    loaded = LoadedCheckpoint(
        path=path,
        sha256=sha256,
        model=model.eval(),
        skeleton=_skeleton(contents.meta, spec.num_keypoints),
        input_hw=_input_hw(contents.meta) or (known.input_hw if known else DEFAULT_INPUT_HW),
        variant=identify_published(sha256),
        contents=contents,
    )
    loaded.artifact().log_note()
    return loaded


def save_checkpoint(
    path: Path,
    model: RTMO,
    *,
    skeleton: Skeleton,
    input_hw: tuple[int, int] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a network in the official state-dict layout, with its keypoints and input size in ``meta``.

    Args:
        path: ``.pth`` or ``.safetensors``; appears whole or not at all.
        model: The network.
        skeleton: Its keypoints.
        input_hw: Height and width in pixels it is made for; its architecture's if not given.
        meta: More facts, of plain JSON types.

    Raises:
        UsageError: Another suffix.
        SetupError: The file cannot be written.
    """
    known = model.spec.architecture
    size = input_hw or (known.input_hw if known else DEFAULT_INPUT_HW)
    own = {"version": __version__, "skeleton": skeleton.to_dict(), "input_hw": list(size), **(meta or {})}
    write_checkpoint(path, model.state_dict(), {"rtmo_deploy": own})


def _build(path: Path, tensors: Mapping[str, torch.Tensor]) -> RTMO:
    try:
        spec = recognise({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    except UnrecognisedStateDictError as error:
        raise CheckpointError(
            f"These are not the weights of an RTMO model: {error}.",
            remedy="Give a checkpoint of rtmo-t, -s, -m or -l, or one that was trained from them.",
            where=path,
        ) from error
    with torch.device("meta"):
        model = RTMO(spec)
    expected = model.state_dict()
    missing = [key for key in expected if key not in tensors]
    extra = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} is {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if missing or extra or misshapen:
        findings = [
            _listing("missing", missing),
            _listing("unknown", extra),
            _listing("of the wrong shape", misshapen),
        ]
        raise CheckpointError(
            f"It looks like RTMO with deepen={spec.deepen:g}, widen={spec.widen:g}, {spec.num_keypoints} "
            f"keypoints, but {'; '.join(text for text in findings if text)}.",
            remedy="The file is incomplete or of a modified network; take it from where it was trained again.",
            where=path,
        )
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    return model


def _restore_constants(model: RTMO) -> None:
    """Compute frequencies, bins and sigmas anew: stored in half precision they would shift keypoints by pixels."""
    spec = model.spec
    model.neck.sincos_pos_enc = SinePositionalEncoding(spec.hidden_dim // 2, temperature=10000.0)
    fresh = DCC(spec)
    model.head.dcc.spe = fresh.spe
    model.head.dcc.x_bins, model.head.dcc.y_bins = fresh.x_bins, fresh.y_bins
    model.head.loss_oks = KeypointSigmas(spec.num_keypoints)


def _listing(what: str, items: list[str]) -> str:
    if not items:
        return ""
    shown = ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
    return f"{len(items)} tensor{'s are' if len(items) > 1 else ' is'} {what}: {shown}"


def _own(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """This project's record in a checkpoint's ``meta``."""
    stored = meta.get("rtmo_deploy")
    return stored if isinstance(stored, dict) else {}


def _skeleton(meta: Mapping[str, Any], num_keypoints: int) -> Skeleton:
    stored = meta.get("rtmo_deploy")
    if isinstance(stored, dict) and isinstance(stored.get("skeleton"), dict):
        try:
            skeleton = Skeleton.from_dict(stored["skeleton"])
        except (KeyError, TypeError, ValueError):
            return skeleton_for(num_keypoints)
        if len(skeleton) == num_keypoints:
            return skeleton
    return skeleton_for(num_keypoints)


def _input_hw(meta: Mapping[str, Any]) -> tuple[int, int] | None:
    stored = meta.get("rtmo_deploy")
    size = stored.get("input_hw") if isinstance(stored, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
        return (size[0], size[1])
    return None
