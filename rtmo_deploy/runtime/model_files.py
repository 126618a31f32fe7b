"""Lists the files that a model consists of, so that no command writes over one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtmo_deploy.errors import RtmoDeployError
from rtmo_deploy.file_kind import FORMATS, FileKind, kind_of_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


def files_of(*inputs: str | Path | None) -> Iterator[Path]:
    """The files of some inputs: each itself, and of a model its external data, weights, record and companion.

    A published name or a file that cannot be read stands for itself.
    """
    from rtmo_deploy.runtime.estimator import read_artifact
    from rtmo_deploy.runtime.onnx_file import read_graph

    for one in inputs:
        if one is None:
            continue
        path = Path(one)
        yield path
        known = FORMATS.get(kind_of_suffix(path))
        if known is None:
            continue
        yield from known.files_beside(path)
        if known is FORMATS[FileKind.ENGINE]:
            continue
        try:
            if known is FORMATS[FileKind.ONNX]:
                yield from (path.parent / name for name in _external(read_graph(path).graph))
            companion = read_artifact(path).companion
        except (RtmoDeployError, OSError):
            continue
        if companion is not None:
            yield path.with_name(companion.name)


def _external(graph: onnx.GraphProto) -> Iterator[str]:
    """Locations of the external data of a graph and of the graphs in its nodes."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(attribute.t for attribute in attributes)]
    for tensor in tensors:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
    for attribute in attributes:
        for inner in (attribute.g, *attribute.graphs):
            if inner.node:
                yield from _external(inner)
