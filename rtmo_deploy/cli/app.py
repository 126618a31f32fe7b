"""The Typer application: one command a file, errors turned into exit codes in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rtmo_deploy.cli.bench import bench
from rtmo_deploy.cli.build_trt import build_trt
from rtmo_deploy.cli.calibrate import calibrate
from rtmo_deploy.cli.cast import cast
from rtmo_deploy.cli.data import data_app
from rtmo_deploy.cli.doctor import doctor
from rtmo_deploy.cli.eval import evaluate
from rtmo_deploy.cli.export import export
from rtmo_deploy.cli.inspect import inspect
from rtmo_deploy.cli.models import models_app
from rtmo_deploy.cli.parity import parity
from rtmo_deploy.cli.predict import predict
from rtmo_deploy.cli.quantize import quantize
from rtmo_deploy.cli.release import release, verify
from rtmo_deploy.cli.train import train
from rtmo_deploy.cli.validate import validate
from rtmo_deploy.errors import RtmoDeployError

if TYPE_CHECKING:
    from typer._click import Context

__all__ = ["app"]

_EPILOG = "Exit codes: 0 ok, 1 failure, 2 usage, 3 input data, 4 model or artifact, 5 environment, 6 gate failed."


class _ErrorsToExitCodes(TyperGroup):
    """Prints the project's own errors as a paragraph and exits with their code; anything else is a bug."""

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except RtmoDeployError as error:
            from rtmo_deploy.cli.console import print_error

            print_error(error)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="rtmo-deploy",
    cls=_ErrorsToExitCodes,
    help="Turn an RTMO pose checkpoint into something a team can ship, and prove.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from rtmo_deploy._version import __version__

        typer.echo(f"rtmo-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


app.command()(export)
app.command()(cast)
app.command()(calibrate)
app.command()(quantize)
app.command(name="build-trt")(build_trt)
app.command()(predict)
app.command()(parity)
app.command()(bench)
app.command()(release)
app.command()(verify)
app.command()(train)
app.command()(inspect)
app.command()(validate)
app.command(name="eval")(evaluate)
app.command()(doctor)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
