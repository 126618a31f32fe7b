"""Finding the checkpoint that a model was made from, so that PyTorch can be measured beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.errors import ArtifactError
from rtmo_deploy.file_kind import Kind
from rtmo_deploy.files import sha256_of
from rtmo_deploy.runtime.estimator import is_checkpoint, read_artifact
from rtmo_deploy.zoo.cache import cached_path, identify_published
from rtmo_deploy.zoo.records import EMBEDDED

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact

#: An engine, of a quantised model, of a cast one, of an export, of a checkpoint; and some.
GENERATIONS = 8


def find_checkpoint(artifact: Artifact, generations: int = GENERATIONS) -> Path | None:
    """The checkpoint that a model comes from: beside it, downloaded, or embedded. By its hash, never by its name.

    Args:
        artifact: The model.
        generations: How far back to look.
    """
    if artifact.kind is Kind.CHECKPOINT:
        return artifact.path
    for parent in artifact.parents:
        variant = identify_published(parent.sha256)
        places = [artifact.path.with_name(parent.name)]
        if variant is not None:
            places.append(cached_path(variant))
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
