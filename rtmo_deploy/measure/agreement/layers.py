"""Finds the first layer where two networks differ: intermediate outputs side by side, in the order they are computed.

Both are run on the same image several times, each time with a few more outputs marked, so that never more than a fixed
amount of them is in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.measure.tensors import TensorError
from rtmo_deploy.plain import plain
from rtmo_deploy.progress import Count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.agreement.intermediate import Intermediate, OnnxOutputs
    from rtmo_deploy.measure.agreement.torch_intermediate import TorchOutputs

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


@dataclass(frozen=True)
class LayerReport:
    """All layers that both networks have, in the order they are computed.

    Attributes:
        layers: One entry a tensor.
        threshold_db: A layer differs if its signal is less than this above its error.
        image: Name of the image they ran on.
        by: What layers were found by: ``tensor names`` or ``modules``.
    """

    layers: tuple[LayerError, ...]
    threshold_db: float
    image: str
    by: str

    @property
    def first(self) -> LayerError | None:
        """The first layer where they differ; None if none does."""
        compared = ((layer, layer.error) for layer in self.layers if layer.error is not None)
        return next((layer for layer, error in compared if not error.snr_db >= self.threshold_db), None)

    @property
    def losses(self) -> list[LayerError]:
        """The layers that lose most between their inputs and their output, worst first."""
        losing = [layer for layer in self.layers if layer.loss_db is not None and layer.loss_db > 0]
        return sorted(losing, key=lambda layer: layer.loss_db or 0.0, reverse=True)[:NAMED]

    def told(self) -> str:
        """Which layer is the first below the bound, in a sentence."""
        first, compared = self.first, sum(layer.error is not None for layer in self.layers)
        bound = f"bound {self.threshold_db:g} dB, on {self.image}"
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
            "picture": self.image,
            "by": self.by,
            "losses": [layer.name for layer in self.losses],
            "layers": plain(self.layers),
        }


def compare_layers(
    one: Artifact,
    two: Artifact,
    images: NDArray[np.float32],
    *,
    image: str,
    threshold_db: float,
    devices: tuple[str, str] = ("cpu", "cpu"),
    progress: Callable[[str], None] = lambda _: None,
) -> LayerReport:
    """Find the first layer where two networks differ.

    Two graphs that this project made are compared tensor by tensor, by name; with a checkpoint, or a graph of another
    origin, layer by layer: what leaves convolution and activation.

    Args:
        one: The reference; its order counts.
        two: The other.
        images: ``(1, 3, H, W)`` float32, BGR, 0..255.
        image: Its name.
        threshold_db: A layer differs if its signal is less than this above its error.
        devices: Where each of them runs.
        progress: Told how far it is.

    Raises:
        UsageError: One of them is neither a checkpoint nor ONNX, they take other batches, or share no layer.
        ModelError: One of them does not run.
    """
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
                + (_by_polygraphy(artifact) if artifact.kind is Kind.ENGINE else ""),
            )
    from rtmo_deploy.measure.agreement.intermediate import OnnxOutputs

    progress("looking into the models")
    same_origin = all(a.kind is Kind.ONNX and a.producer == "rtmo-deploy" for a in (one, two))
    first, second = (
        OnnxOutputs(artifact, images.shape, device, by_module=not same_origin)
        if artifact.kind is Kind.ONNX
        else _torch_outputs(artifact, images.shape, device)
        for artifact, device in zip((one, two), devices, strict=True)
    )
    reasons: dict[str, str] = {}
    if same_origin and isinstance(first, OnnxOutputs) and isinstance(second, OnnxOutputs):
        changed = first.after_other_choices(second, images)
        reasons = dict.fromkeys(changed, "the two chose other candidates, or in another order")
    layers = _compare(first, second, images, reasons, progress)
    if not layers:
        raise UsageError(
            "The two share no layer by name.",
            remedy="Layers are compared of models of one architecture whose nodes still have their exported names.",
        )
    return LayerReport(tuple(layers), threshold_db, image, "tensor names" if same_origin else "modules")


def _torch_outputs(artifact: Artifact, shape: tuple[int, ...], device: str) -> TorchOutputs:
    from rtmo_deploy.measure.agreement.torch_intermediate import TorchOutputs  # two graphs need no torch

    return TorchOutputs(artifact, shape, device)


def _compare(
    one: OnnxOutputs | TorchOutputs,
    two: OnnxOutputs | TorchOutputs,
    images: NDArray[np.float32],
    reasons: dict[str, str],
    progress: Callable[[str], None],
) -> list[LayerError]:
    """Compare the outputs that both have, in the first one's order; ``reasons`` has what cannot be, and why."""
    common = {key: output for key, output in one.outputs.items() if key in two.outputs}
    errors: dict[str, TensorError] = {}
    wanted = [key for key in common if key not in reasons]
    inputs = one.inputs_of(wanted) or two.inputs_of(wanted)
    for chunk in _chunks(wanted, common):
        progress(Count("comparing layers", len(errors) + len(chunk), len(wanted)))
        a, b = one.read(chunk, images), two.read(chunk, images)
        for key in chunk:
            if a[key].shape == b[key].shape:
                errors[key] = TensorError.between(a[key], b[key])
            else:
                reasons[key] = f"shapes {list(a[key].shape)} and {list(b[key].shape)}"
    return [
        LayerError(
            output.name,
            output.op,
            output.weighted,
            errors.get(key),
            _loss(key, errors, inputs.get(key, ())),
            reasons.get(key, ""),
        )
        for key, output in common.items()
    ]


def _loss(key: str, errors: Mapping[str, TensorError], inputs: Sequence[str]) -> float | None:
    before = [errors[name].snr_db for name in inputs if name in errors]
    if key not in errors or not before:
        return None
    loss = min(*before, CLEAN_DB) - min(errors[key].snr_db, CLEAN_DB)
    return loss if math.isfinite(loss) else None


def _chunks(keys: Sequence[str], outputs: Mapping[str, Intermediate]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for key in keys:
        if chunk and size + outputs[key].size > BUDGET:
            yield chunk
            chunk, size = [], 0
        chunk.append(key)
        size += outputs[key].size
    if chunk:
        yield chunk


def _by_polygraphy(artifact: Artifact) -> str:
    """How to look into an engine: its layers can be marked only while it is built, on the GPU that runs it."""
    source = next((parent.name for parent in artifact.parents if parent.name.endswith(".onnx")), "MODEL.onnx")
    height, width = artifact.input.height, artifact.input.width
    return (
        f" On its GPU, Polygraphy builds it again with its layers marked: polygraphy run {source} --trt --onnxrt "
        "--strongly-typed --trt-outputs mark all --onnx-outputs mark all "
        f"--input-shapes 'input:[1,3,{height},{width}]' --val-range 'input:[0,255]'"
    )
