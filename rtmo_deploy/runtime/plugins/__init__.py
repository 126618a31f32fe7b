"""RTMODecode, the decode plugin, as far as a running engine needs it: PTX, launch, TensorRT's classes.

The graph rewrite that inserts it and the kernel's source are in :mod:`rtmo_deploy.convert.plugins`. Importing this
needs neither TensorRT nor CUDA.
"""

from rtmo_deploy.runtime.plugins.kernel import (
    PLUGIN_NAME,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    DecodeFields,
    KernelRecord,
    kernel_record,
)
from rtmo_deploy.runtime.plugins.registration import PluginForm, network_flags, register_plugin

__all__ = [
    "PLUGIN_NAME",
    "PLUGIN_NAMESPACE",
    "PLUGIN_VERSION",
    "DecodeFields",
    "KernelRecord",
    "PluginForm",
    "kernel_record",
    "network_flags",
    "register_plugin",
]
