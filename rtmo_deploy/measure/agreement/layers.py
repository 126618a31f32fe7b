"""Where two networks part: inner tensors side by side, in the order they are computed.

Both are run on the same picture several times, each time with a few more tensors marked as outputs, so that never more
than a fixed amount of them is in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.agreement.tensors import TensorError
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.agreement.onnx_taps import OnnxTaps
    from rtmo_deploy.measure.agreement.taps import Tap, TapSource

#: Bytes of marked tensors that either network puts out at a time.
BUDGET: Final = 96 << 20
#: Layers that are named as those which lose most.
NAMED: Final = 5
#: Above this, what is left is rounding; losses are counted from here.
CLEAN_DB: Final = 120.0


@dataclass(frozen=True)
class LayerError:
    """One layer.

    Attributes:
        name: Node or module, as the first model calls it.
        op: Its operator or class.
        weighted: Whether it has weights.
        error: How far its outputs are apart; None if they cannot be compared.
        loss_db: By how much its output is worse than the worst of its inputs, decibels; None where that is not known.
        why: Why they cannot be compared.
    """

    name: str
    op: str
    weighted: bool
    error: TensorError | None
    loss_db: float | None = None
    why: str = ""

    def parted(self, threshold_db: float) -> bool:
        """Whether the error is over the threshold; what cannot be compared has not parted."""
        return self.error is not None and not self.error.snr_db >= threshold_db

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "op": self.op,
            "weighted": self.weighted,
            "error": None if self.error is None else self.error.to_dict(),
            "loss_db": self.loss_db,
            "why": self.why,
        }


@dataclass(frozen=True)
class LayerReport:
    """All layers that both networks have, in the order they are computed.

    Attributes:
        layers: One entry a tensor.
        threshold_db: A layer has parted below this.
        picture: Name of the picture they ran on.
        by: What layers were found by: ``tensor names`` or ``modules``.
    """

    layers: tuple[LayerError, ...]
    threshold_db: float
    picture: str
    by: str

    @property
    def first(self) -> LayerError | None:
        """The first layer where they part; None if none does."""
        return next((layer for layer in self.layers if layer.parted(self.threshold_db)), None)

    @property
    def losses(self) -> list[LayerError]:
        """The layers that lose most between their inputs and their output, worst first."""
        losing = [layer for layer in self.layers if layer.loss_db is not None and layer.loss_db > 0]
        return sorted(losing, key=lambda layer: layer.loss_db or 0.0, reverse=True)[:NAMED]

    def told(self) -> str:
        """Which layer is the first below the bound, in a sentence."""
        first, compared = self.first, sum(layer.error is not None for layer in self.layers)
        bound = f"bound {self.threshold_db:g} dB, on {self.picture}"
        if first is None or first.error is None:
            missing = len(self.layers) - compared
            left = f"; {missing} could not be compared" if missing else ""
            return f"None of {compared} compared layers is below the bound ({bound}){left}."
        how = f"{first.error.snr_db:.0f} dB" if math.isfinite(first.error.snr_db) else "not finite"
        return f"The first layer below the bound is {first.name} ({first.op}; {how}, {bound})."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "first": None if self.first is None else self.first.name,
            "threshold_db": self.threshold_db,
            "picture": self.picture,
            "by": self.by,
            "losses": [layer.name for layer in self.losses],
            "layers": [layer.to_dict() for layer in self.layers],
        }


def compare_layers(
    one: Artifact,
    two: Artifact,
    images: NDArray[np.float32],
    *,
    picture: str,
    threshold_db: float,
    devices: tuple[str, str] = ("cpu", "cpu"),
    progress: Callable[[str], None] = lambda _: None,
) -> LayerReport:
    """Find the first layer where two networks part.

    Two graphs that this project made are compared tensor by tensor, by name; with a checkpoint, or a graph of another
    origin, layer by layer: what leaves convolution and activation.

    Args:
        one: The reference; its order counts.
        two: The other.
        images: ``(1, 3, H, W)`` float32, BGR, 0..255.
        picture: Its name.
        threshold_db: A layer has parted if its signal is less than this above its error.
        devices: Where each of them runs.
        progress: Told how far it is.

    Raises:
        UsageError: One of them is neither a checkpoint nor ONNX, they take other batches, or share no layer.
        ModelError: One of them does not run.
    """
    import numpy as np

    batches = {artifact.input.batch for artifact in (one, two) if artifact.input.batch is not None}
    if len(batches) > 1:
        raise UsageError(
            "Their batch sizes are fixed and differ, so their layers have other shapes.",
            remedy="Export one of them with a dynamic batch.",
        )
    images = np.repeat(images, max(batches, default=1), axis=0)
    for artifact in (one, two):
        if artifact.kind not in {Kind.ONNX, Kind.CHECKPOINT}:
            raise UsageError(
                f"One cannot look into {artifact.path.name}: it is an artifact of kind {artifact.kind}.",
                remedy="Compare layers of the ONNX models or checkpoints that they were made of."
                + _by_polygraphy(artifact),
            )
    progress("looking into the models")
    same_origin = all(a.kind is Kind.ONNX and a.producer == "rtmo-deploy" for a in (one, two))
    if same_origin:
        from rtmo_deploy.measure.agreement.onnx_taps import OnnxTaps

        first, second = (
            OnnxTaps(artifact, images.shape, device).by_tensor()
            for artifact, device in zip((one, two), devices, strict=True)
        )
        why = _reordered(first, second, images)
        layers = compare_taps(first, second, images, why=why, progress=progress)
    else:
        left, right = (
            _modules(artifact, images.shape, device) for artifact, device in zip((one, two), devices, strict=True)
        )
        layers = compare_taps(left, right, images, progress=progress)
    if not layers:
        raise UsageError(
            "The two share no layer by name.",
            remedy="Layers are compared of models of one architecture whose nodes still have their exported names.",
        )
    return LayerReport(tuple(layers), threshold_db, picture, "tensor names" if same_origin else "modules")


def compare_taps(
    one: TapSource,
    two: TapSource,
    images: NDArray[np.float32],
    *,
    why: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[LayerError]:
    """Compare the tensors that both sources have.

    Args:
        one: The reference; its order counts.
        two: The other.
        images: ``(B, 3, H, W)``.
        why: Keys that cannot be compared, and the reason.
        progress: Told how far it is.
    """
    common = [key for key in one.taps if key in two.taps]
    errors: dict[str, TensorError] = {}
    reasons = dict(why or {})
    wanted = [key for key in common if key not in reasons]
    feeds = one.feeds(wanted) or two.feeds(wanted)
    for chunk in _chunks(wanted, one.taps):
        progress(Count("comparing layers", len(errors) + len(chunk), len(wanted)))
        a, b = one.read(chunk, images), two.read(chunk, images)
        for key in chunk:
            if a[key].shape == b[key].shape:
                errors[key] = TensorError.between(a[key], b[key])
            else:
                reasons[key] = f"shapes {list(a[key].shape)} and {list(b[key].shape)}"
    return [
        LayerError(
            name=tap.name,
            op=tap.op,
            weighted=tap.weighted,
            error=errors.get(key),
            loss_db=_loss(key, errors, feeds.get(key, ())),
            why=reasons.get(key, ""),
        )
        for key, tap in ((key, one.taps[key]) for key in common)
    ]


def _loss(key: str, errors: Mapping[str, TensorError], before: Sequence[str]) -> float | None:
    inputs = [errors[name].snr_db for name in before if name in errors]
    if key not in errors or not inputs:
        return None
    loss = min(*inputs, CLEAN_DB) - min(errors[key].snr_db, CLEAN_DB)
    return loss if math.isfinite(loss) else None


def _chunks(keys: Sequence[str], taps: Mapping[str, Tap]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for key in keys:
        if chunk and size + taps[key].size > BUDGET:
            yield chunk
            chunk, size = [], 0
        chunk.append(key)
        size += taps[key].size
    if chunk:
        yield chunk


def _reordered(one: OnnxTaps, two: OnnxTaps, images: NDArray[np.float32]) -> dict[str, str]:
    """What cannot be compared because the two graphs chose other rows."""
    import numpy as np

    a, b = one.choices(images), two.choices(images)
    changed = {name for name in a if name in b and not np.array_equal(a[name], b[name])}
    reason = "the two chose other candidates, or in another order"
    return dict.fromkeys((name for name in one.after(changed) if name in one.taps), reason) if changed else {}


def _by_polygraphy(artifact: Artifact) -> str:
    """How to look into an engine: its layers can be marked only while it is built, on the GPU that runs it."""
    if artifact.kind is not Kind.ENGINE:
        return ""
    source = next((parent.name for parent in artifact.parents if parent.name.endswith(".onnx")), "MODEL.onnx")
    height, width = artifact.input.height, artifact.input.width
    return (
        f" On its GPU, Polygraphy builds it again with its layers marked: polygraphy run {source} --trt --onnxrt "
        "--strongly-typed --trt-outputs mark all --onnx-outputs mark all "
        f"--input-shapes 'input:[1,3,{height},{width}]' --val-range 'input:[0,255]'"
    )


def _modules(artifact: Artifact, shape: tuple[int, ...], device: str) -> TapSource:
    if artifact.kind is Kind.CHECKPOINT:
        from rtmo_deploy.measure.agreement.torch_taps import TorchTaps

        return TorchTaps(artifact, shape, device)
    from rtmo_deploy.measure.agreement.onnx_taps import OnnxTaps

    return OnnxTaps(artifact, shape, device).by_module()
