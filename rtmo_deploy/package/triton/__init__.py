"""A model repository for NVIDIA Triton: the network, its pre- and postprocessing, and a pipeline that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.package.triton.options import TritonOptions
    from rtmo_deploy.package.triton.repository import TritonRepository, write_triton

__all__ = ["TritonOptions", "TritonRepository", "write_triton"]

_MODULES = {"options": ("TritonOptions",), "repository": ("TritonRepository", "write_triton")}

__getattr__ = lazy_exports("rtmo_deploy.package.triton", _MODULES)
