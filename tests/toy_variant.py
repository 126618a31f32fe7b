"""A published model that nobody published and an ONNX model, for downloads from servers of the tests."""

from __future__ import annotations

import onnx

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


def toy_onnx(payload: bytes) -> bytes:
    """A file that is an ONNX model; its only weights are these bytes."""
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[len(payload)], raw_data=payload)
    graph = onnx.helper.make_graph([], "toy", [], [], [weights])
    return onnx.helper.make_model(graph).SerializeToString()
