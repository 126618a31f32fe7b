"""ONNX to TensorRT engines: one way for ``tensorrt`` 10.0 to 11.x and ``tensorrt_rtx``.

A build is blind to precision: the network is strongly typed, and its types are those of the graph. What was asked for
is compared with what was built, or the engine is not written. TensorRT itself runs in a child process only, because
its parser can end the process it runs in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.convert.trt.options import BuildOptions
from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.convert.trt.build import BuildResult, build_engine
    from rtmo_deploy.convert.trt.plan import plan_build

__all__ = ["BuildOptions", "BuildResult", "build_engine", "plan_build"]

__getattr__ = lazy_exports(__name__, {"build": __all__})
