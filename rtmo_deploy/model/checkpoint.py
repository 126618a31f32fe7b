"""From a checkpoint file to a network, and back: the model is recognised from its tensors alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import MODEL_LOG, Artifact, DecodeContract, DecodeMode, InputContract, Kind
from rtmo_deploy.errors import CheckpointError
from rtmo_deploy.files import sha256_of
from rtmo_deploy.model._fit import SIGMAS, fit, unwrapped
from rtmo_deploy.model._meaning import UNKNOWN_SIGMA, skeleton_of
from rtmo_deploy.model.dcc import DCC
from rtmo_deploy.model.head import KeypointSigmas
from rtmo_deploy.model.layers import SinePositionalEncoding
from rtmo_deploy.model.reader import CheckpointContents, read_checkpoint
from rtmo_deploy.model.rtmo import RTMO
from rtmo_deploy.model.spec import NetworkSpec, UnrecognisedStateDictError, recognise
from rtmo_deploy.model.taken import DEFAULT_INPUT_HW, Taken, take
from rtmo_deploy.model.writer import write_checkpoint
from rtmo_deploy.zoo.cache import identify_published
from rtmo_deploy.zoo.ignore_cfg import cfg_is_ignored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.zoo import Variant


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A network with the weights of a checkpoint, and what is known of it.

    Attributes:
        path: The file.
        sha256: Its hash.
        model: The network, in eval mode, float32, on the CPU.
        skeleton: Its keypoints, as the file, its ``dataset_meta`` or its hash say; a generic skeleton where none does.
        input_hw: Height and width in pixels it was made for.
        variant: The published checkpoint that the file is, by its hash; None otherwise.
        taken: Settings, input size and thresholds, and where each was taken from.
        contents: What else was read from the file.
        absent: Tensors that only training uses and the file lacks; they are those of an untrained network.
    """

    path: Path
    sha256: str
    model: RTMO
    skeleton: Skeleton
    input_hw: tuple[int, int]
    variant: Variant | None
    taken: Taken
    contents: CheckpointContents
    absent: tuple[str, ...] = ()

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
        spec = self.spec
        own = {
            name: getattr(spec, name) for name in ("neck_deepen", "neck_widen", "head_widen", "ffn_dim", "pose_vec_dim")
        }
        more = "".join(f" {name}={value:g}" for name, value in own.items() if value is not None)
        return f"deepen={spec.deepen:g} widen={spec.widen:g} hidden_dim={spec.hidden_dim}{more}"

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
        taken = self.taken
        decode = DecodeContract(DecodeMode.RAW, taken.score_thr, taken.nms_thr, pre_topk=taken.pre_topk)
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


def load_checkpoint(path: Path, *, ema: bool = False, ignore_cfg: bool | None = None) -> LoadedCheckpoint:
    """Read a checkpoint and build the network it belongs to. No code in the file is run.

    Args:
        path: ``.pth`` (official, mmengine training, or plain state dict) or ``.safetensors``.
        ema: Take ``ema_state_dict`` instead of ``state_dict``. See :func:`rtmo_deploy.model.reader.read_checkpoint`
            on which of the two holds the averaged weights.
        ignore_cfg: Do not follow the config in the file's ``meta``: the published models' settings are taken. By
            default, what the environment variable ``RTMO_DEPLOY_IGNORE_CFG`` says (1: yes).

    Raises:
        CheckpointError: The file is damaged, unsafe, incomplete, of another model, or its config asks for what the
            network here cannot do.
    """
    contents = unwrapped(path, read_checkpoint(path, ema=ema))
    spec = _recognise(path, contents.tensors)
    variant = identify_published(sha256 := sha256_of(path))
    ignored = cfg_is_ignored() if ignore_cfg is None else ignore_cfg
    taken = take(path, contents, spec, variant, ignore_cfg=ignored)
    with torch.device("meta"):
        model = RTMO(replace(spec, settings=taken.settings))
    absent = fit(path, model, contents.tensors)
    if contents.stored_dtype not in {"float32", "float64"}:
        _restore_constants(model)
    skeleton = _skeleton(contents.meta, variant, model, known=SIGMAS not in absent)
    if absent:
        MODEL_LOG.warning(
            f"{path}: {len(absent)} tensors that only training uses are absent, {absent[0]} the first. "
            "Inference does not need them; a training that starts from this file starts them untrained."
        )
    loaded = LoadedCheckpoint(
        path=path,
        sha256=sha256,
        model=model.eval(),
        skeleton=skeleton,
        input_hw=taken.input_hw,
        variant=variant,
        taken=taken,
        contents=contents,
        absent=tuple(absent),
    )
    loaded.artifact().log_note()
    return loaded


def save_checkpoint(
    path: Path,
    model: RTMO,
    *,
    skeleton: Skeleton,
    input_hw: tuple[int, int] | None = None,
    thresholds: Mapping[str, float] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a network in the official state-dict layout, with its keypoints, input size and settings in ``meta``.

    Args:
        path: ``.pth`` or ``.safetensors``; appears whole or not at all.
        model: The network.
        skeleton: Its keypoints.
        input_hw: Height and width in pixels it is made for; its architecture's if not given.
        thresholds: ``score_thr`` and ``nms_thr`` it shall be decoded with; the published ones if not given.
        meta: More facts, of plain JSON types.

    Raises:
        UsageError: Another suffix.
        SetupError: The file cannot be written.
    """
    known = model.spec.architecture
    size = input_hw or (known.input_hw if known else DEFAULT_INPUT_HW)
    own: dict[str, Any] = {"version": __version__, "skeleton": skeleton.to_dict(), "input_hw": list(size)}
    if changed := model.spec.settings.to_dict():
        own["settings"] = changed
    own.update(thresholds or {})
    own.update(meta or {})
    write_checkpoint(path, model.state_dict(), {"rtmo_deploy": own})


def _recognise(path: Path, tensors: Mapping[str, torch.Tensor]) -> NetworkSpec:
    try:
        return recognise({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    except UnrecognisedStateDictError as error:
        raise CheckpointError(
            f"These are not the weights of an RTMO model: {error}.",
            remedy="Give a checkpoint of rtmo-t, -s, -m or -l, or one that was trained from them.",
            where=path,
        ) from error


def _skeleton(meta: Mapping[str, Any], variant: Variant | None, model: RTMO, *, known: bool) -> Skeleton:
    """What the keypoints mean; where the file has no sigmas (``known``), the model gets those of the meaning."""
    sigmas = model.head.loss_oks.sigmas
    if not known:
        sigmas.fill_(UNKNOWN_SIGMA)
    skeleton = skeleton_of(meta, variant, sigmas.tolist())
    if not known and skeleton.sigmas:
        sigmas.copy_(torch.tensor(skeleton.sigmas))
    return skeleton


def _restore_constants(model: RTMO) -> None:
    """Compute frequencies, bins and sigmas anew: stored in half precision they would shift keypoints by pixels."""
    spec = model.spec
    model.neck.sincos_pos_enc = SinePositionalEncoding(spec.hidden_dim // 2, temperature=spec.settings.pe_temperature)
    fresh = DCC(spec)
    model.head.dcc.spe = fresh.spe
    model.head.dcc.x_bins, model.head.dcc.y_bins = fresh.x_bins, fresh.y_bins
    known = KeypointSigmas(spec.num_keypoints)
    if torch.allclose(known.sigmas, model.head.loss_oks.sigmas, rtol=5e-3):
        model.head.loss_oks = known


def _own(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """This project's record in a checkpoint's ``meta``."""
    stored = meta.get("rtmo_deploy")
    return stored if isinstance(stored, dict) else {}
