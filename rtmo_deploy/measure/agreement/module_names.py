"""One name for a layer, whoever wrote it down: the module's path in the PyTorch network.

An exported node is called after the modules it was traced in, ``/backbone/stage1/stage1.1/conv1/conv/Conv``; each item
of a sequence repeats its parent. BatchNorm is folded into the convolution, and the branches of a block into one, so the
comparable tensor is the one that leaves the module: convolution and activation.
"""

from __future__ import annotations

from typing import Final

#: Where an exported network is built otherwise than the trained one: this project's, and MMDeploy's (the last).
_RENAMED: Final = (
    ("neck.encoder.norms.", "neck.encoder.0.layers.0.norms."),
    ("head.head_module.", "head.head_module."),
    ("head.", "head.head_module."),
    ("head_module.", "head.head_module."),
)
#: Parts of a layer; what leaves the last of them leaves the layer.
_PARTS: Final = frozenset({"conv", "act", "activate", "conv_reparam", "bn", "branch_3x3", "branch_1x1"})


def module_path(node_name: str) -> str | None:
    """Path of the module that a node was traced in; None for a node without a name of that kind.

    ``/head/conv_cls.0/conv_cls.0.1/act/Mul`` gives ``head.head_module.conv_cls.0.1.act``.
    """
    if not node_name.startswith("/"):
        return None
    path: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    joined = ".".join(path)
    for old, new in _RENAMED:
        if joined.startswith(old):
            return new + joined[len(old) :]
    return joined


def layer_of_scope(path: str) -> str:
    """The layer that a module is a part of: ``….conv1.act`` and ``….conv1.conv`` are parts of ``….conv1``."""
    parts = path.split(".")
    while len(parts) > 1 and parts[-1] in _PARTS:
        parts.pop()
    return ".".join(parts)
