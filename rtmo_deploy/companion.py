"""The second file of a ``raw`` model: its coordinate classifier, an ONNX model in the same folder.

Whoever makes another model of it reads this file first, checked, and writes it beside the new one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError, UsageError
from rtmo_deploy.files import atomic_write, sha256_of
from rtmo_deploy.guarded import read_bounded

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

#: A coordinate classifier has some ten MiB.
MAX_BYTES = 2**28


def read_companion(artifact: Artifact) -> bytes | None:
    """Content of a model's second file; None where it has none.

    Raises:
        ArtifactError: It cannot be read, or is not the file the model was exported with.
    """
    if artifact.companion is None:
        return None
    path = artifact.path.with_name(artifact.companion.name)
    try:
        content = read_bounded(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise ArtifactError(
            f"It needs {path.name} beside it, which cannot be read: {error.strerror or error}.",
            remedy="Copy both files, or export again.",
            where=artifact.path,
        ) from error
    if hashlib.sha256(content).hexdigest() != artifact.companion.sha256:
        raise ArtifactError(
            f"{path.name} beside it is not the file it was exported with.",
            remedy="Copy both files from the same export, or export again.",
            where=artifact.path,
        )
    return content


def refuse_companion(artifact: Artifact, output: Path) -> None:
    """Keep another model's second file from being overwritten.

    Args:
        artifact: The model.
        output: The file that is to be made of it; its second file goes beside it under its old name.

    Raises:
        UsageError: Another file of that name is there, or the output itself has that name.
    """
    if artifact.companion is None:
        return
    path = output.with_name(artifact.companion.name)
    if output.name == path.name:
        raise UsageError(f"{output.name} is the name of its companion file.", remedy="Give another name with -o.")
    if path.exists() and (not path.is_file() or sha256_of(path) != artifact.companion.sha256):
        raise UsageError(
            f"{path} is there already and belongs to another model.",
            remedy="Write into another folder, or remove it. Nothing was written.",
        )


def write_companion(artifact: Artifact, content: bytes | None, output: Path) -> None:
    """Put a model's second file beside what was made of it, unless it is there already.

    Raises:
        UsageError: As :func:`refuse_companion`.
        SetupError: It cannot be written.
    """
    if artifact.companion is None or content is None:
        return
    refuse_companion(artifact, output)
    path = output.with_name(artifact.companion.name)
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
