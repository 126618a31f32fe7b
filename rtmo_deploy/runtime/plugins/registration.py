"""Making TensorRT know RTMODecode: which form of the plugin, once a process.

There are two forms of one contract, and the same PTX in both. A process can have one of them, for TensorRT knows a
plugin by name, version and namespace only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import SetupError
from rtmo_deploy.runtime.plugins.kernel import PLUGIN_NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION, load_ptx

if TYPE_CHECKING:
    from types import ModuleType


class PluginForm(StrEnum):
    """How the plugin gets into an engine.

    * ``aot``: the engine holds PTX and launch parameters; it runs without Python and without this package. Needs
      TensorRT's ahead-of-time Python plugins, which 10.13 and 11 have and 10.5 has not.
    * ``python``: the engine holds the fields; who deserializes it must register the plugin first. From TensorRT 10.0.
    """

    AOT = "aot"
    PYTHON = "python"


#: What is registered, by the name of the TensorRT module. It keeps the creators alive, too.
_registered: dict[str, tuple[PluginForm, Any]] = {}


def default_form(trt: ModuleType) -> PluginForm:
    """The self-contained form where this TensorRT has it."""
    return PluginForm.AOT if hasattr(trt, "QuickPluginCreationRequest") else PluginForm.PYTHON


def register_plugin(trt: ModuleType, form: PluginForm | None = None) -> PluginForm:
    """Register RTMODecode; does nothing when it is registered already.

    Args:
        trt: The module ``tensorrt``, version 10 or later.
        form: Which form; :func:`default_form` if not given. An engine of form ``aot`` needs no registration to run.

    Returns:
        The form that is registered.

    Raises:
        SetupError: This TensorRT has no such plugins, the other form is registered in this process, or the registry
            refuses.
        ArtifactError: The kernel's file is damaged.
    """
    _require_plugins(trt)
    known = _registered.get(trt.__name__)
    if known is not None:
        if form not in (None, known[0]):
            raise SetupError(
                f"The plugin {PLUGIN_NAME} is registered in its form '{known[0]}', and '{form}' was asked for.",
                remedy="One process can have one form: use another process.",
            )
        return known[0]
    form = form or default_form(trt)
    load_ptx()
    if form is PluginForm.AOT:
        if default_form(trt) is not PluginForm.AOT:
            raise SetupError(
                f"TensorRT {getattr(trt, '__version__', '')} has no ahead-of-time plugins.",
                remedy="Use the form 'python', or TensorRT 10.13 or later.",
            )
        from rtmo_deploy.runtime.plugins.aot import register_aot

        creator = register_aot(trt)
    else:
        from rtmo_deploy.runtime.plugins.python_plugin import plugin_classes

        creator = plugin_classes(trt).creator()
        if not trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE):
            raise SetupError(
                f"TensorRT's registry refuses the plugin {PLUGIN_NAMESPACE}::{PLUGIN_NAME} version {PLUGIN_VERSION}.",
                remedy="Another library has registered one of that name: do not load it in the same process.",
            )
    _registered[trt.__name__] = (form, creator)
    return form


def network_flags(trt: ModuleType, form: PluginForm) -> int:
    """Bits that ``Builder.create_network`` wants besides, so that the parser takes the plugin in that form."""
    if form is PluginForm.PYTHON:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)


def _require_plugins(trt: ModuleType) -> None:
    if trt.__name__.startswith("tensorrt_rtx"):
        raise SetupError(
            "TensorRT-RTX has no plugins.", remedy="Export with --decode fixed, which finds the same people without."
        )
    if not hasattr(trt, "IPluginV3OneBuild"):
        raise SetupError(
            f"The package {trt.__name__} {getattr(trt, '__version__', 'without a version')} has no IPluginV3.",
            remedy="Install TensorRT 10.0 or later: pip install 'rtmo-deploy[trt]'",
        )
