"""From a checkpoint file to a network, and back: the model is recognised from its tensors alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rtmo_deploy._version import __version__
from rtmo_deploy.artifact import MODEL_LOG, Artifact, DecodeContract, DecodeMode, InputContract
from rtmo_deploy.errors import CheckpointError, UsageError, located
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.model.dcc import DCC
from rtmo_deploy.model.facts import skeleton_of
from rtmo_deploy.model.files import write_checkpoint
from rtmo_deploy.model.head import KeypointSigmas
from rtmo_deploy.model.layers import SinePositionalEncoding
from rtmo_deploy.model.pickled import quoted
from rtmo_deploy.model.reader import CheckpointContents, read_checkpoint, read_training
from rtmo_deploy.model.rtmo import RTMO, initialise
from rtmo_deploy.model.spec import NetworkSpec, recognise
from rtmo_deploy.model.taken import DEFAULT_INPUT_HW, Taken, take
from rtmo_deploy.model.unpickle import SAVE_STATE
from rtmo_deploy.plain import shorten
from rtmo_deploy.zoo.cache import identify_published
from rtmo_deploy.zoo.locate import cfg_is_ignored
from rtmo_deploy.zoo.records import Architecture, require_input_size
from rtmo_deploy.zoo.skeletons import UNKNOWN_SIGMA

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.zoo import Variant

_SIGMAS = "head.loss_oks.sigmas"
_STEM = "backbone.stem.conv.conv.weight"
_COUNTER = ".num_batches_tracked"
_TRAINING_ONLY = (_SIGMAS, "head.head_module.out_kpt_reg.", "head.dcc.sigma_fc.")


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A network with the weights of a checkpoint, and what is known of it."""

    path: Path
    sha256: str
    #: In eval mode, float32, on the CPU.
    model: RTMO = field(repr=False)
    #: As the file, its ``dataset_meta`` or its hash say; a generic skeleton where none does.
    skeleton: Skeleton
    #: The published checkpoint that the file is, by its hash; None otherwise.
    variant: Variant | None
    #: Settings, input size and thresholds, and where each was taken from.
    taken: Taken
    #: What else was read from the file.
    contents: CheckpointContents = field(repr=False)
    #: Tensors that only training uses and the file lacks; they are those of an untrained network.
    absent: tuple[str, ...] = ()

    @property
    def spec(self) -> NetworkSpec:
        """Shape of the network."""
        return self.model.spec

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width in pixels it was made for."""
        return self.taken.input_hw

    @property
    def architecture(self) -> str:
        """The zoo's name of the shape, or the factors of one that it does not have."""
        spec = self.spec
        if spec.architecture is not None:
            return spec.architecture.name
        own = ("neck_deepen", "neck_widen", "head_widen", "ffn_dim", "pose_vec_dim")
        more = "".join(f" {name}={getattr(spec, name):g}" for name in own if getattr(spec, name) is not None)
        return f"deepen={spec.deepen:g} widen={spec.widen:g} hidden_dim={spec.hidden_dim}{more}"

    @property
    def untrained(self) -> bool:
        """Whether the file says that its weights are an initialisation."""
        return self.contents.record.get("trained") is False

    @property
    def domain(self) -> str | None:
        """What kind of images the file says it was trained on; see :class:`~rtmo_deploy.artifact.Artifact`."""
        domain = self.contents.record.get("domain")
        return domain if isinstance(domain, str) else None

    def artifact(self) -> Artifact:
        """The checkpoint as an artifact."""
        taken = self.taken
        return Artifact(
            path=self.path,
            kind=Kind.CHECKPOINT,
            architecture=self.architecture,
            skeleton=self.skeleton,
            input=InputContract(*self.input_hw),
            decode=DecodeContract(DecodeMode.RAW, taken.score_thr, taken.nms_thr, pre_topk=taken.pre_topk),
            precision="fp32",
            variant=self.variant.name if self.variant else None,
            producer="checkpoint",
            domain=self.domain,
            untrained=self.untrained,
        )


def load_checkpoint(
    path: str | os.PathLike[str], *, ema: bool = False, ignore_cfg: bool | None = None, tell: bool = True
) -> LoadedCheckpoint:
    """Read a checkpoint and build the network it belongs to. No code in the file is run.

    Args:
        path: ``.pth`` (official, mmengine training, or plain state dict) or ``.safetensors``.
        ema: Take ``ema_state_dict`` instead of ``state_dict``. See :func:`rtmo_deploy.model.reader.read_checkpoint`
            on which of the two holds the averaged weights.
        ignore_cfg: Do not follow the config in the file's ``meta``: the published models' settings are taken. By
            default, what the environment variable ``RTMO_DEPLOY_IGNORE_CFG`` says (1: yes).
        tell: Log what a user must know of the model; False for a file that was read before.

    Raises:
        CheckpointError: The file is damaged, unsafe, incomplete, of another model, or its config asks for what the
            network here cannot do.
    """
    path = Path(path)
    with located(path):
        return _built(path, read_checkpoint(path, ema=ema), sha256_of(path), ignore_cfg, tell=tell)


def load_training(path: Path, names: tuple[str, ...]) -> tuple[LoadedCheckpoint, LoadedCheckpoint, dict[str, Any]]:
    """Of a training checkpoint the raw weights (``ema_state_dict``), the averaged ones, and other entries by name.

    Raises:
        CheckpointError: As :func:`load_checkpoint` and :func:`rtmo_deploy.model.reader.read_training`.
    """
    with located(path):
        raw, averaged, entries = read_training(path, names)
        sha256 = sha256_of(path)
        return _built(path, raw, sha256, None), _built(path, averaged, sha256, None), entries


def _built(
    path: Path, contents: CheckpointContents, sha256: str, ignore_cfg: bool | None, *, tell: bool = True
) -> LoadedCheckpoint:
    contents = replace(contents, tensors=_unwrapped(contents.tensors))
    spec = recognise({key: tuple(tensor.shape) for key, tensor in contents.tensors.items()})
    variant = identify_published(sha256)
    ignored = cfg_is_ignored() if ignore_cfg is None else ignore_cfg
    taken = take(contents, spec, variant, ignore_cfg=ignored)
    with torch.device("meta"):
        model = RTMO(replace(spec, settings=taken.settings))
    absent = _fit(model, contents.tensors)
    if contents.stored_dtype not in {"float32", "float64"}:
        _restore_constants(model)
    skeleton = _skeleton(contents, variant, model, known=_SIGMAS not in absent)
    if absent and tell:
        MODEL_LOG.warning(
            f"{path}: {len(absent)} tensors that only training uses are absent, {absent[0]} the first. "
            "Inference does not need them; a training that starts from this file starts them untrained."
        )
    loaded = LoadedCheckpoint(path, sha256, model.eval(), skeleton, variant, taken, contents, tuple(absent))
    if tell:
        loaded.artifact().log_note()
    return loaded


def save_checkpoint(
    path: str | os.PathLike[str],
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
        skeleton: What its keypoints mean.
        input_hw: Height and width in pixels it is made for; its architecture's if not given.
        thresholds: ``score_thr`` and ``nms_thr`` to decode it with; the published ones if not given.
        meta: More facts, of plain JSON types.

    Raises:
        UsageError: Another suffix, a height or width that is no multiple of 32, or a skeleton of other keypoints.
        SetupError: The file cannot be written.
    """
    given: object = model
    if not isinstance(given, RTMO):
        raise UsageError(
            f"A {type(given).__name__} is not a network.", remedy="Give load_checkpoint(path).model, or another RTMO."
        )
    if len(skeleton) != model.spec.num_keypoints:
        raise UsageError(
            f"The skeleton {skeleton.name} has {len(skeleton)} keypoints, and the network {model.spec.num_keypoints}.",
            remedy="Give the skeleton that it was trained with.",
        )
    path = Path(path)
    known = model.spec.architecture
    size = input_hw or (known.input_hw if known else DEFAULT_INPUT_HW)
    require_input_size(size)
    own = _record(model.spec, skeleton, size) | {**(thresholds or {}), **(meta or {})}
    write_checkpoint(path, model.state_dict(), {"rtmo_deploy": own})


def pack_checkpoint(
    checkpoint: LoadedCheckpoint, output: Path, *, half: bool = False, input_hw: tuple[int, int] | None = None
) -> None:
    """Write the weights of a checkpoint without optimiser, raw weights and the training's state.

    Args:
        checkpoint: The loaded checkpoint; what was loaded (averaged or raw weights) is what is written. What it
            lacks is not written.
        output: ``.pth`` or ``.safetensors``; appears whole or not at all.
        half: Store matrices and convolution kernels as float16. Vectors (biases, the norms' statistics and gains)
            stay float32: they are a hundredth of the file, and a variance may lie outside float16's range.
            Reading restores float32, and computes frequencies and bins anew.
        input_hw: Height and width in pixels that the file says it is made for; the checkpoint's if not given. A
            network is not bound to the size it was trained at, and may be best at another.

    Raises:
        UsageError: Height or width is no multiple of 32.
        CheckpointError: A weight is too large for float16.
        SetupError: The file cannot be written.
    """
    if input_hw is not None:
        require_input_size(input_hw)
    state = {key: value for key, value in checkpoint.model.state_dict().items() if key not in checkpoint.absent}
    for key, tensor in state.items():
        if not half or not tensor.is_floating_point() or tensor.ndim < 2:
            continue
        largest = float(tensor.abs().max())
        if largest > torch.finfo(torch.float16).max:
            raise CheckpointError(
                f"A weight of '{key}' is {largest:.3g}, more than float16 holds.",
                remedy="Leave --half away.",
                where=checkpoint.path,
            )
        state[key] = tensor.half()
    facts = {key: value for key, value in checkpoint.contents.meta.items() if key in {"epoch", "iter"}}
    own = _record(checkpoint.spec, checkpoint.skeleton, input_hw or checkpoint.input_hw)
    own |= {"trained": not checkpoint.untrained, "domain": checkpoint.domain, **checkpoint.taken.thresholds()}
    write_checkpoint(output, state, {"rtmo_deploy": own, **facts})


def _record(spec: NetworkSpec, skeleton: Skeleton, input_hw: tuple[int, int]) -> dict[str, Any]:
    record = {"version": __version__, "skeleton": skeleton.to_dict(), "input_hw": list(input_hw)}
    settings = spec.settings.to_dict()
    return record | ({"settings": settings} if settings else {})


# -- a checkpoint's tensors, made those of a network


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take off what a wrapper puts before every name, such as Lightning's ``model.``."""
    prefixes = [key.removesuffix(_STEM) for key in tensors if key.endswith(f".{_STEM}")]
    if _STEM in tensors or not prefixes:
        return tensors
    others = [key for key in tensors if not key.startswith(prefixes[0])]
    if others:
        more = ", ".join(map(quoted, prefixes[1:4]))
        beside = f"also under {more}" if more else f"beside {quoted(others[0])}"
        raise CheckpointError(
            f"The weights of an RTMO model are there under the prefix {quoted(prefixes[0])}, {beside}.",
            remedy=f"Save the one model's weights alone, without the prefix: {SAVE_STATE}.",
        )
    return {key.removeprefix(prefixes[0]): value for key, value in tensors.items()}


def _fit(model: RTMO, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Give a network on the meta device the tensors of a checkpoint.

    Those that only training uses may be absent: they start as a training from scratch starts them (seed 0).
    """
    expected, found = model.state_dict(), dict(tensors)
    _check(found, expected, model.spec)
    absent = [key for key in expected if key not in found]
    if absent:
        fresh = RTMO(model.spec)
        initialise(fresh, 0)
        state = fresh.state_dict()
        found |= {key: state[key] for key in absent}
    for key in expected:
        if key.endswith(_COUNTER):
            found[key] = found[key].to(torch.int64)
    model.load_state_dict(found, strict=True, assign=True)
    return [key for key in absent if not key.endswith(_COUNTER)]


def _check(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], spec: NetworkSpec) -> None:
    """Refuse tensors that are missing, unknown, or of another shape or type, by name."""
    known = [key for key in expected if key in tensors]
    for key in known:
        stored = tensors[key].dtype
        counts = key.endswith(_COUNTER) and stored != torch.bool and not stored.is_complex
        if not (stored.is_floating_point or counts):
            raise CheckpointError(
                f"The tensor {quoted(key)} is of type {str(stored).removeprefix('torch.')}; a floating-point type is "
                "wanted.",
                remedy="Save the weights as float32 or float16, as they were before they were quantized or converted.",
            )
    training_only = {key for key in expected if key.startswith(_TRAINING_ONLY) or key.endswith(_COUNTER)}
    wrong = {
        "missing": [key for key in expected if key not in tensors and key not in training_only],
        "unknown": [key for key in tensors if key not in expected],
        "of the wrong shape": [
            f"{key} is {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in known
            if tensors[key].shape != expected[key].shape
        ],
    }
    findings = [
        f"{len(items)} tensor{'s are' if len(items) > 1 else ' is'} {what}: {shorten(items)}"
        for what, items in wrong.items()
        if items
    ]
    if findings:
        raise CheckpointError(
            f"It looks like RTMO with deepen={spec.deepen:g}, widen={spec.widen:g}, {spec.num_keypoints} "
            f"keypoints, but {'; '.join(findings)}.",
            remedy="The file is incomplete or of a modified network; take it from where it was trained again.",
        )


def _skeleton(contents: CheckpointContents, variant: Variant | None, model: RTMO, *, known: bool) -> Skeleton:
    """What the keypoints mean; where the file has no sigmas (``known``), the model gets those of the meaning."""
    sigmas = model.head.loss_oks.sigmas
    if not known:
        sigmas.fill_(UNKNOWN_SIGMA)
    skeleton = skeleton_of(contents.meta, contents.record, variant, sigmas.tolist())
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


def initial_checkpoint(
    path: str | os.PathLike[str], architecture: Architecture, *, skeleton: Skeleton, seed: int
) -> Path:
    """Write a seeded, untrained checkpoint in the official layout, for trying things and for training from.

    ``path``, a ``.pth`` or ``.safetensors`` file, is what comes back; errors as of :func:`save_checkpoint`.
    """
    path = Path(path)
    model = RTMO(NetworkSpec.of(architecture, len(skeleton)))
    initialise(model, seed)
    save_checkpoint(path, model, skeleton=skeleton, meta={"seed": seed, "trained": False})
    return path
