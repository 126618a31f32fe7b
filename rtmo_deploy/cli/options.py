"""Options that several commands have in common."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass, fields
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from rtmo_deploy.environment import MAX_PIXELS_VARIABLE, variable
from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import Field


_SIZE_OPTIONS = {"--imgsz", "--size"}
#: How sizes can be written, as help pages show it.
SIZE = "S|HxW|H W"


class Size(NamedTuple):
    """Height and width, pixels."""

    height: int
    width: int


def parse_size(text: str) -> Size:
    """``640`` is 640x640; height x width is ``480x640``, ``480,640`` or ``480 640``."""
    found = re.fullmatch(r"\s*(\d{1,6})(?:\s*[xX*,; ]\s*(\d{1,6}))?\s*", text, re.ASCII)
    if found is None or int(found[1]) == 0 or (found[2] and int(found[2]) == 0):
        raise UsageError(
            f"'{text}' is not a size.", remedy="Write 640 for 640x640, or height and width, as in 480x640 or 480 640."
        )
    return Size(int(found[1]), int(found[2] or found[1]))


def parse_input_size(text: str) -> Size:
    """As :func:`parse_size`, of a network's input."""
    from rtmo_deploy.zoo.records import require_input_size

    size = parse_size(text)
    require_input_size(size, where="--imgsz")
    return size


def join_sizes(arguments: Sequence[str]) -> list[str]:
    """Arguments in which the two numbers after a size's option are one argument: ``480 640`` becomes ``480,640``."""
    joined: list[str] = []
    for argument in arguments:
        option, _, value = joined[-1].partition("=") if joined else ("", "", "")
        option = joined[-2] if len(joined) > 1 and not value else option
        if option in _SIZE_OPTIONS and "--" not in joined and _is_number(value or joined[-1]) and _is_number(argument):
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text, re.ASCII) is not None


def _ignore_cfg(context: typer.Context, value: bool) -> bool:
    if value and not context.resilient_parsing:
        from rtmo_deploy.zoo.locate import ignoring_cfg

        context.with_resource(ignoring_cfg())
    return value


def _max_pixels(context: typer.Context, value: int | None) -> int | None:
    if value is not None and not context.resilient_parsing:
        context.with_resource(variable(MAX_PIXELS_VARIABLE, str(value)))
    return value


def options_of(kind: type[Any], **special: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a step; it takes them together, as its parameter ``options``."""
    offered = {one.name: one for one in fields(kind) if "help" in one.metadata}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        options = [_parameter(kind, one, special.get(one.name)) for one in offered.values()]
        own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
        place = [one.name for one in own].index("options")

        @wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in offered}
            known = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            command(options=kind(**{name: value for name, value in known.items() if value is not None}), **given)

        parameters = [*own[:place], *options, *own[place + 1 :]]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameter(kind: type[Any], one: Field[Any], special: Any) -> inspect.Parameter:
    """The parameter of a command for a field of its options."""
    default = None if isinstance(one.default, tuple) else one.default
    names, settings = one.metadata["names"], one.metadata["settings"]
    if default is False and not names:
        names = (f"--{one.name.replace('_', '-')}",)  # a flag has no negative form
    hint: Any = Any
    if one.metadata["several"]:
        hint = list[str] | None
    elif "parser" not in settings and special is None:
        # Of this field alone: the names in other annotations need not be there.
        alone = SimpleNamespace(__annotations__={one.name: one.type})
        hint = get_type_hints(alone, vars(sys.modules[kind.__module__]))[one.name]
    annotation = special or Annotated[hint, typer.Option(*names, help=one.metadata["help"], **settings)]
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


AnyModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint, an exported model, its address (https://, hf://) or a published model's name. [default: "
        "the newest that was made in this directory]",
        show_default=False,
    ),
]
IgnoreCfgOption = Annotated[
    bool,
    typer.Option(
        "--ignore-cfg",
        callback=_ignore_cfg,
        help="Do not follow the config inside a checkpoint: take the published models' settings.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace outputs that exist; inputs never are.")]
InputSizeOption = Annotated[
    Size | None,
    typer.Option(
        "--imgsz",
        parser=parse_input_size,
        metavar=SIZE,
        help="Letterbox images to this size. [default: the model's own]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        callback=_max_pixels,
        help=f"Refuse images with more pixels. [default: {MAX_PIXELS_VARIABLE}, or 67108864]",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: the runtime's choice]")]


@dataclass(frozen=True)
class OpenOptions:
    """How a model is opened, as :meth:`rtmo_deploy.runtime.PoseEstimator.open` takes it."""

    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    backend: str | None = option(None, "Runtime. [default: what fits the file]")
    input_hw: Size | None = option(
        None,
        "Letterbox images to this size. [default: the model's own]",
        "--imgsz",
        parser=parse_input_size,
        metavar=SIZE,
    )
    threads: int | None = option(None, "CPU threads. [default: the runtime's choice]", min=1)
    precision: str | None = option(
        None,
        "What OpenVINO computes in; auto measures once what is fastest on this CPU and finds the same people. "
        "[default: what the file says, floats in fp32]",
        metavar="fp32|bf16|auto",
    )
    trust: bool = option(False, "Load an engine, which is code, without a record or with another's.")
