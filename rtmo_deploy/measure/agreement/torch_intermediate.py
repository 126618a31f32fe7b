"""Reads intermediate outputs of the PyTorch network: forward hooks keep what leaves a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from rtmo_deploy.measure.agreement.intermediate import Intermediate
from rtmo_deploy.model import load_checkpoint
from rtmo_deploy.model.backbone import Focus
from rtmo_deploy.model.layers import ConvModule
from rtmo_deploy.model.neck import RepVGGBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rtmo_deploy.artifact import Artifact

#: Modules that are one layer of an exported graph.
_LAYERS: Final = (ConvModule, RepVGGBlock, Focus, nn.LayerNorm)
_HEAD_OUTPUTS: Final = tuple(f"head.head_module.{name}." for name in ("out_cls", "out_bbox", "out_kpt_vis", "out_pose"))
_PROJECTOR: Final = "neck.projector.convs."


class TorchOutputs:
    """Outputs of the layers of a checkpoint's network; ``outputs`` has them by the paths of modules.

    Where the exported graph has a layer in two halves (the neck's projection) or two layers as one (visibilities and
    pose vectors of a ``raw`` graph), there is a key for that too. Arguments are those of
    :class:`~rtmo_deploy.measure.agreement.intermediate.OnnxOutputs`.
    """

    def __init__(self, artifact: Artifact, shape: tuple[int, ...], device: str) -> None:
        self._device = device
        self._model = load_checkpoint(artifact.path).model.eval().to(device)
        self._layers = dict(_layers(self._model, ""))
        self._parts: dict[str, tuple[str, ...]] = {}
        self.outputs: dict[str, Intermediate] = {}
        sizes: dict[str, int] = {}
        self._run(torch.zeros(shape), self._layers, lambda name, value: sizes.__setitem__(name, value.numel() * 4))
        for name, size in sizes.items():  # in the order they run
            self._add(name, (name,), size)
            if name.startswith(_PROJECTOR):
                for half in ("cls", "pose"):
                    self._add(f"neck.projector.{half}.{name.removeprefix(_PROJECTOR)}", (name,), size)
        for name in [name for name in sizes if ".out_kpt_vis." in name]:
            pose = name.replace(".out_kpt_vis.", ".out_pose.")
            self._add(name.replace(".out_kpt_vis.", ".out_dense."), (name, pose), sizes[name] + sizes[pose])

    def _add(self, key: str, parts: tuple[str, ...], size: int) -> None:
        self._parts[key] = parts
        self.outputs[key] = Intermediate(key, type(self._layers[parts[0]]).__name__, size, weighted=True)

    def read(self, keys: Sequence[str], images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Run the network and keep these; arguments as for an ONNX graph."""
        kept: dict[str, Tensor] = {}
        self._run(torch.from_numpy(images), {part for key in keys for part in self._parts[key]}, kept.__setitem__)
        values = {}
        for key in keys:
            value = torch.cat([kept[part] for part in self._parts[key]], dim=1)
            if key.startswith(("neck.projector.cls.", "neck.projector.pose.")):
                value = value.chunk(2, dim=1)[".pose." in key]
            values[key] = value.cpu().numpy()
        return values

    def inputs_of(self, keys: Collection[str]) -> dict[str, tuple[str, ...]]:  # noqa: ARG002
        """Not known: a network in PyTorch is a program."""
        return {}

    @torch.no_grad()
    def _run(self, images: Tensor, names: Iterable[str], keep: Callable[[str, Tensor], None]) -> None:
        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda _module, _inputs, output: keep(name, output)

        hooks = [self._layers[name].register_forward_hook(hook(name)) for name in names]
        try:
            self._model(images.to(self._device))
        finally:
            for handle in hooks:
                handle.remove()


def _layers(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Layers below a module, by their paths; what is inside a layer is none."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, _LAYERS) or inner.startswith(_HEAD_OUTPUTS):
            found.append((inner, child))
        else:
            found += _layers(child, inner)
    return found
