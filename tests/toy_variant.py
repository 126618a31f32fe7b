"""A published model that nobody published, for downloads from servers of the tests."""

from __future__ import annotations

from rtmo_deploy.zoo import COCO_17, VARIANTS, Variant, architecture


def toy_variant(url: str, aliases: tuple[str, ...] = ()) -> Variant:
    """The record of a model at an address; its hash's first digits are in the file's name."""
    return Variant(
        name="toy-body7",
        architecture=architecture("rtmo-n"),
        skeleton=COCO_17,
        train_set="body7",
        accuracy=VARIANTS["rtmo-s-body7"].accuracy,
        latency_v100_ms=None,
        url=url,
        aliases=aliases,
    )
