"""The files that a model consists of, and the checkpoint that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.address import is_remote, local_path
from rtmo_deploy.errors import ArtifactError, RtmoDeployError
from rtmo_deploy.file_kind import FORMATS, Kind, kind_of_suffix
from rtmo_deploy.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

#: An engine, of a quantised model, of a cast one, of an export, of a checkpoint; and some.
GENERATIONS = 8


def files_of(*inputs: str | Path | None) -> Iterator[Path]:
    """The files of some inputs: each itself, and of a model its external data, weights, record and companion.

    A published name or a file that cannot be read stands for itself, a file on another computer for nothing.
    """
    from rtmo_deploy.runtime.estimator import read_artifact
    from rtmo_deploy.runtime.onnx_check import external_files
    from rtmo_deploy.runtime.onnx_file import read_graph

    for one in inputs:
        if one is None or is_remote(one):
            continue
        path = local_path(one)
        yield path
        known = FORMATS.get(kind_of_suffix(path))
        if known is None:
            continue
        yield from known.files_beside(path)
        if known is FORMATS[Kind.ENGINE]:
            continue
        try:
            if known is FORMATS[Kind.ONNX]:
                yield from (path.parent / name for name in external_files(read_graph(path)))
            companion = read_artifact(path).companion
        except (RtmoDeployError, OSError, ValueError):
            continue
        if companion is not None:
            yield path.with_name(companion.name)


def find_checkpoint(artifact: Artifact, generations: int = GENERATIONS) -> Path | None:
    """The checkpoint that a model comes from: beside it, downloaded, or embedded. By its hash, never by its name.

    Args:
        artifact: The model.
        generations: How far back to look.
    """
    from rtmo_deploy.file_kind import Kind
    from rtmo_deploy.runtime.estimator import is_checkpoint, read_artifact
    from rtmo_deploy.zoo.cache import cached_path, identify_published
    from rtmo_deploy.zoo.records import EMBEDDED

    if artifact.kind is Kind.CHECKPOINT:
        return artifact.path
    for parent in artifact.parents:
        variant = identify_published(parent.sha256)
        places = [artifact.path.with_name(parent.name), *([] if variant is None else [cached_path(variant)])]
        places += [model.path for model in EMBEDDED.values() if model.path.name == parent.name]
        found = next((place for place in places if place.is_file() and sha256_of(place) == parent.sha256), None)
        if found is None:
            continue
        if is_checkpoint(found):
            return found
        if generations > 1:
            try:
                older = find_checkpoint(read_artifact(found), generations - 1)
            except ArtifactError:
                continue
            if older is not None:
                return older
    return None
