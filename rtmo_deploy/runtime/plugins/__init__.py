"""RTMODecode, the decode plugin, as far as a running engine needs it: PTX, launch, TensorRT's classes.

The graph rewrite that inserts it and the kernel's source are in :mod:`rtmo_deploy.convert.plugins`. Importing this
needs neither TensorRT nor CUDA nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtmo_deploy.lazy import lazy_exports

if TYPE_CHECKING:
    from rtmo_deploy.runtime.plugins.registration import PluginForm, network_flags, register_plugin

__all__ = ["PluginForm", "network_flags", "register_plugin"]

__getattr__ = lazy_exports(__name__, {"registration": __all__})
