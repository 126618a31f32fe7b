"""The Typer application: one command a file, loaded when it is called; errors turned into exit codes in one place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from rtmo_deploy.cli.document import asked_for, collected, model_notes, put, put_error
from rtmo_deploy.cli.help import HelpCommand
from rtmo_deploy.cli.options import join_sizes
from rtmo_deploy.cli.streams import drop_stdout, stdout_failure
from rtmo_deploy.errors import RtmoDeployError, SetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typer._click import Command, Context, HelpFormatter
    from typer._click.shell_completion import CompletionItem

_EPILOG = """Start with 'rtmo-deploy doctor'. Help of a command: 'rtmo-deploy COMMAND --help'.

Exit codes: 0 ok, 1 failure, 2 usage, 3 input data, 4 model or artifact, 5 environment, 6 gate failed."""


#: Commands by heading of the list of commands. Each: its module in this package, what to take of it (a function, or a
#: Typer application with commands of its own), and what it does, in the line that the list has for it.
_SECTIONS: Final = {
    "Export and optimise": {
        "export": ("export", "export", "Export a checkpoint to ONNX or OpenVINO, and verify it."),
        "cast": ("cast", "cast", "Convert an ONNX model to FP16 or BF16 mixed precision."),
        "calibrate": ("calibrate", "calibrate", "Measure the ranges of a model's tensors on images."),
        "quantize": ("quantize", "quantize", "Quantise a float32 ONNX model to INT8."),
        "build-trt": ("build_trt", "build_trt", "Build a TensorRT engine and audit its precision."),
    },
    "Run and measure": {
        "predict": ("predict", "predict", "Detect people and keypoints in images, videos and streams."),
        "eval": ("eval", "evaluate", "Measure average precision (AP)."),
        "bench": ("bench", "bench", "Measure latency, models side by side."),
        "tune": ("tune", "tune", "Find the fastest runtime and precision on this CPU."),
        "parity": ("parity", "parity", "Compare the detections of two models."),
        "inspect": ("inspect", "inspect", "Show what a checkpoint or a model is."),
        "validate": ("validate", "validate", "Check an exported model."),
    },
    "Release": {
        "release": ("release", "release", "Build, measure and judge what a recipe asks for."),
        "sign": ("release", "sign", "Sign a release, with a key or an identity."),
        "verify": ("release", "verify", "Compare a release with its manifest and its signature."),
        "diff": ("diff", "diff", "Compare a release with an earlier one."),
    },
    "Deploy": {
        "serve": ("serve", "serve", "Serve a model over HTTP, with a page for the browser."),
        "package": ("package", "package_app", "Write what Triton, DeepStream or a C++ program needs."),
    },
    "Train": {
        "train": ("train", "train", "Train or fine-tune a model."),
        "data": ("data", "data_app", "Generate and check data sets."),
    },
    "Set up": {
        "doctor": ("doctor", "doctor", "Show what works on this machine, and what does not."),
        "models": ("models", "models_app", "List, download and write checkpoints."),
    },
}
_COMMANDS: Final = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


def _note(text: str) -> None:
    from rtmo_deploy.cli.console import stderr

    stderr().print(text)


class _ErrorsToExitCodes(TyperGroup):
    """Prints the project's own errors as a paragraph, and with ``--json`` as a document; exits with their code."""

    def invoke(self, ctx: Context) -> Any:
        try:
            _require_directory()
            with model_notes(_note):
                return super().invoke(ctx)
        except RtmoDeployError as error:
            raise _told(error) from None
        except (typer.Exit, typer.Abort):
            raise
        except MemoryError as error:
            finding = f"The memory does not suffice{f' ({error})' if str(error) else ''}."
            remedy = "Work with smaller or fewer inputs at a time, or raise the limit of the process or container."
            raise _told(SetupError(finding, remedy=remedy)) from None
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            from rtmo_deploy.doctor.requirements import unfit

            reason = unfit(error)
            if reason is None:
                raise
            raise _told(reason) from None

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, join_sizes(args))
        except (OSError, RuntimeError) as error:  # no home folder, or one that cannot be written to
            code = getattr(error, "exit_code", None)  # of Typer: 0 after help, 1 where it knows no such shell
            if "--install-completion" not in args or code == 0:
                raise
            why = str(getattr(error, "strerror", None) or error).rstrip(".")
            reason = SetupError(
                f"Completion cannot be installed: {'the shell is not supported' if code else why}.",
                remedy=f"{'Call it from bash, zsh or fish' if code else 'Set HOME to a folder of yours'}, or print it: "
                "_RTMO_DEPLOY_COMPLETE=source_bash rtmo-deploy",
                where=getattr(error, "filename", None),
            )
            raise _told(reason) from None

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        """As of the base class; with ``--json`` among the arguments, an error is a JSON document on stdout as well."""
        given = list(sys.argv[1:] if args is None else args)
        main = partial(super().main, args, *more, **settings)
        if not standalone_mode:
            return main(standalone_mode=False)
        try:
            if "--json" not in given:
                return main()
            with collected(given):
                code = _exit_code(main)
        except BrokenPipeError:  # nobody reads the document
            drop_stdout()
            code = 1
        except OSError:
            if (why := stdout_failure()) is None:
                raise
            drop_stdout()
            code = _told(
                SetupError(
                    f"The result could not be written: {why.strerror or why}.",
                    remedy="Free some space, or send it somewhere else; files that were written are complete.",
                    where="stdout",
                )
            ).exit_code
        sys.exit(code)


def _require_directory() -> None:
    """Refuse to work where the working directory was removed: importing PyTorch would end the process."""
    try:
        os.getcwd()  # noqa: PTH109 - the quicker one
    except OSError as error:
        raise SetupError(
            f"The working directory cannot be used: {error.strerror or error}.",
            remedy="It was probably removed; change to one that exists.",
        ) from error


def _told(error: RtmoDeployError) -> typer.Exit:
    """Print an error; the exception that ends the command."""
    from rtmo_deploy.cli.console import print_error

    print_error(error)
    put_error(type(error).__name__, error.exit_code, error.finding, remedy=error.remedy, where=error.where)
    return typer.Exit(error.exit_code)


def _exit_code(main: Callable[..., Any]) -> int:
    """The exit code of a command that is called with ``--json``; puts what it ends with into its document."""
    try:
        code = main(standalone_mode=False) or 0
    except typer.Abort:
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the parser's
            raise
        parsed: Any = error
        parsed.show()
        remedy = f"See: {parsed.ctx.command_path} --help" if getattr(parsed, "ctx", None) else ""
        put_error("UsageError", parsed.exit_code, parsed.format_message(), remedy=remedy)
        return int(parsed.exit_code)
    if code == 130:
        put_error("Interrupted", code, "The command was interrupted.")
    return int(code)


class _LazyCommands(Mapping[str, "Command"]):
    """Commands by name; a command's module is imported when it is asked for."""

    def __getitem__(self, name: str) -> Command:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


@cache
def _command(name: str) -> Command:
    module, attribute, _ = _COMMANDS[name]
    implementation = getattr(import_module(f"rtmo_deploy.cli.{module}"), attribute)
    if isinstance(implementation, typer.Typer):
        group = typer.main.get_group(implementation)
        group.name = name
        return group
    alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    alone.command(name=name, cls=HelpCommand)(implementation)
    return typer.main.get_command(alone)


class _Root(_ErrorsToExitCodes):
    """The program itself: its list of commands is shown without importing any of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _LazyCommands()  # type: ignore[assignment]  # nothing is added to it

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        """The commands' names, without importing any of them, and the options."""
        from typer._click.core import Command as Base
        from typer._click.shell_completion import CompletionItem

        names = [name for name in _COMMANDS if name.startswith(incomplete)]
        options = Base.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=_COMMANDS[name][2]) for name in names), *options]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - of the base class
        longest = max(map(len, _COMMANDS))
        for heading, commands in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(longest), summary) for name, (_, _, summary) in commands.items()])


app = typer.Typer(
    name="rtmo-deploy",
    cls=_Root,
    help="Export, optimise, measure and release RTMO pose models.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(context: typer.Context, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from rtmo_deploy.doctor.about import read_about

    about = read_about()
    if asked_for():
        put("version", about.to_dict())
    else:
        typer.echo("\n".join(about.lines()))
    raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and what a bug report needs, and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: print JSON.")] = False,
) -> None:
    if as_json and not version:
        raise UsageError("--json stands behind the command.", remedy="Write: rtmo-deploy COMMAND --json")
