"""What a checkpoint's keypoints mean, as the file says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rtmo_deploy.poses import Skeleton, mirror_of
from rtmo_deploy.zoo.skeletons import COCO_17, convention_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rtmo_deploy.zoo import Variant

#: What :class:`rtmo_deploy.model.head.KeypointSigmas` holds for keypoints that nobody has measured.
UNKNOWN_SIGMA = 0.079


def skeleton_of(meta: Mapping[str, Any], variant: Variant | None, trained_with: Sequence[float]) -> Skeleton:
    """What the keypoints mean: as stored by this project, as the dataset's metadata says, or as the file's hash says.

    The sigmas are those in the state dict, which the model was trained with. Without names, COCO's are concluded from
    COCO's sigmas.

    Args:
        meta: Facts of the file.
        variant: The published checkpoint that the file is, if it is one.
        trained_with: ``head.loss_oks.sigmas``, one for each keypoint.
    """
    num_keypoints = len(trained_with)
    sigmas = tuple(round(value, 6) for value in trained_with)
    if not all(0 < value < 1 for value in sigmas) or set(sigmas) == {UNKNOWN_SIGMA}:
        sigmas = ()
    stored = meta.get("rtmo_deploy")
    if isinstance(stored, dict) and isinstance(stored.get("skeleton"), dict):
        try:
            skeleton = Skeleton.from_dict(stored["skeleton"])
        except (KeyError, TypeError, ValueError, AttributeError):
            skeleton = Skeleton.generic(num_keypoints)
        if len(skeleton) == num_keypoints:
            return skeleton
    facts = meta.get("dataset_meta")
    if isinstance(facts, dict) and len(facts.get("keypoint_names", ())) == num_keypoints:
        return _from_dataset(facts, sigmas)
    if variant is not None:
        return variant.skeleton
    if len(sigmas) == num_keypoints == len(COCO_17) and np.allclose(COCO_17.sigmas, sigmas, atol=1e-4):
        return replace(COCO_17, source="guessed from its sigmas")
    return replace(Skeleton.generic(num_keypoints), sigmas=sigmas, source="head.loss_oks.sigmas" if sigmas else "")


def _from_dataset(facts: Mapping[str, Any], sigmas: tuple[float, ...]) -> Skeleton:
    names = tuple(facts["keypoint_names"])
    known = convention_of(names)
    links, pairs = facts.get("skeleton_links", ()), facts.get("flip_pairs", ())
    try:
        return Skeleton(
            name=known.name if known else f"{facts.get('dataset_name', 'custom')}-{len(names)}",
            keypoints=names,
            edges=tuple((first, second) for first, second in links) or (known.edges if known else ()),
            flip_pairs=tuple((first, second) for first, second in pairs) or mirror_of(names).pairs,
            sigmas=sigmas or tuple(facts.get("sigmas", ())),
            keypoint_colours=_hex(facts.get("keypoint_colors", ())),
            edge_colours=_hex(facts.get("skeleton_link_colors", ())) if links else (),
            source="dataset_meta",
        )
    except (TypeError, ValueError):
        return replace(Skeleton.generic(len(names)), keypoints=names, sigmas=sigmas)


def _hex(rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple("#" + "".join(f"{part:02x}" for part in row) for row in rows)
