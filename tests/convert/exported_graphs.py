"""An exported file as the tests look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from rtmo_deploy.convert import ExportResult


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported file, parsed."""

    path: Path
    graph: onnx.ModelProto
    result: ExportResult

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.graph.graph.node)

    @property
    def ops(self) -> set[str]:
        return {node.op_type for node in self.graph.graph.node}
