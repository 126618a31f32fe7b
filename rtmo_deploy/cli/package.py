"""``rtmo-deploy package``: folders that other programs run a model from."""

from __future__ import annotations

import typer

from rtmo_deploy.cli.help import HelpCommand
from rtmo_deploy.cli.package_cpp import cpp
from rtmo_deploy.cli.package_deepstream import deepstream
from rtmo_deploy.cli.package_triton import triton

package_app = typer.Typer(
    help="Write what Triton, DeepStream or a C++ program needs to run a model.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@package_app.callback()
def _package() -> None:
    pass


package_app.command(cls=HelpCommand, short_help="Write a C++ program that runs a model.")(cpp)
package_app.command(cls=HelpCommand, short_help="Write what NVIDIA DeepStream needs to run a model.")(deepstream)
package_app.command(cls=HelpCommand, short_help="Write a model repository for NVIDIA Triton.")(triton)
