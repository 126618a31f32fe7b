"""Whether the tensors and the second file of a model are those that it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.contract import compare, differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.runtime.contract import TensorSpec


def contract_findings(artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """Where the tensors in an engine's record are not what its artifact promises; empty if nowhere.

    Args:
        artifact: What the record says of the engine.
        inputs: Its input tensors; a side that is no number, or negative, is dynamic.
        outputs: Its output tensors.
    """
    real, wrong = compare(artifact, inputs, outputs)
    if len(inputs) == 1 and inputs[0].name != "input":
        wrong.append(f"its input is called {inputs[0].name}, not input")
    return [*wrong, *differences(artifact, real)]


def companion_finding(artifact: Artifact) -> str | None:
    """What is wrong with the second file that a model needs; None if nothing is, or it needs none."""
    companion = artifact.companion
    if companion is None:
        return None
    path = artifact.path.with_name(companion.name)
    try:
        found = sha256_of(path)
    except OSError as error:
        return f"{companion.name}, which it needs beside it, cannot be read: {error.strerror or error}"
    if found != companion.sha256:
        return f"{companion.name} beside it is not the file that it was exported with"
    return None
