"""What every step of a conversion writes into the ONNX file it makes. Knows no torch: most steps do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from rtmo_deploy._version import __version__

if TYPE_CHECKING:
    from rtmo_deploy.artifact import Artifact


def write_metadata(model: onnx.ModelProto, artifact: Artifact) -> None:
    """Put what an artifact knows of itself into a model, in place, replacing what stood there."""
    model.producer_name, model.producer_version = "rtmo-deploy", __version__
    model.doc_string = ""
    onnx.helper.set_model_props(model, artifact.to_metadata())
