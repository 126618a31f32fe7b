"""The HTTP server: a model behind KServe's protocol, ``/predict``, a stream for cameras and a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.serve.options import ServeOptions
    from rtmo_deploy.serve.run import serve

__all__ = ["ServeOptions", "serve"]

__getattr__ = lazy_exports(__name__, {"options": ("ServeOptions",), "run": ("serve",)})
