"""What a build can be asked for, and the sizes that an engine takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - settle reads the types
from typing import TYPE_CHECKING, Any, Literal

from rtmo_deploy.errors import UsageError
from rtmo_deploy.option import option, settle
from rtmo_deploy.plain import plain

if TYPE_CHECKING:
    from rtmo_deploy.artifact import InputContract
    from rtmo_deploy.runtime.engine_file import Profile, Shape
    from rtmo_deploy.runtime.trt_api import TrtVariant

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
#: The default profile: batches, and pixels of a side.
BATCHES = (1, 8)
SIDES = (320, 1280)


def _parse_shape(text: str) -> Shape:
    from rtmo_deploy.runtime.engine_file import Shape  # loads NumPy, which help pages do without

    return Shape.parse(text)


def _parse_mib(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise UsageError(f"'{text}' is no whole number of MiB.", remedy="Write it as in 4096.", where="--workspace")
    return int(text) * 2**20


def _sizes(help_text: str, name: str) -> Any:
    return option((), help_text, name, several=True, metavar="BxHxW", show_default=False, parser=_parse_shape)


@dataclass(frozen=True)
class BuildOptions:
    """How an ONNX model becomes a TensorRT engine.

    Each field with a help text is an option of ``rtmo-deploy build-trt``.

    Attributes:
        precision: What the model must be and the engine is audited for: ``fp32``, ``fp16``, ``bf16`` or ``int8``; None
            for whatever the model is.
        min, opt, max: Sizes, one a profile, each a :class:`~rtmo_deploy.runtime.engine_file.Shape` of batch, height and
            width; empty for the default ones.
        targets: Compute capabilities, such as ``8.6``; empty for the backend's default.
        workspace: Bytes of scratch memory that a kernel may use; None for all there is.
        timeout: Seconds after which the build is given up; None for never.

    Raises:
        UsageError: A value makes no sense.
    """

    precision: str | None = None
    min: tuple[Shape, ...] = _sizes("Smallest input. [default: 1x320x320]", "--min")
    opt: tuple[Shape, ...] = _sizes("Input to tune for. [default: 1 x its own]", "--opt")
    max: tuple[Shape, ...] = _sizes("Largest input. [default: 8x1280x1280]", "--max")
    backend: Literal["auto", "tensorrt", "tensorrt-rtx"] = option(
        "auto", "auto takes tensorrt where both are installed."
    )
    targets: tuple[str, ...] = option(
        (),
        "GPUs to build for (tensorrt-rtx). [default: 8.0 and up]",
        "--compute-capability",
        several=True,
        metavar="X.Y",
        show_default=False,
    )
    timing_cache: Path | None = option(None, "Read if it exists, and written (tensorrt).", metavar="FILE")
    version_compatible: bool = option(False, "Runs with later TensorRT of the same major version.")
    hardware_compatible: bool = option(False, "Runs on every GPU from Ampere on.")
    opt_level: int | None = option(None, "0 to 5: how long to look for fast kernels.")
    workspace: int | None = option(None, "Scratch memory of a kernel.", metavar="MIB", parser=_parse_mib)
    timeout: float | None = option(None, "Give up after this long.", metavar="SECONDS")

    def __post_init__(self) -> None:
        from rtmo_deploy.runtime.engine_file import Shape

        settle(self, Shape=Shape)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(f"There is no precision '{self.precision}'.", remedy=f"Choose {', '.join(PRECISIONS)}.")
        for target in self.targets:
            if not re.fullmatch(r"[0-9]{1,2}\.[0-9]", target):
                raise UsageError(f"'{target}' is no compute capability.", remedy="Write it as in 8.6 or 12.0.")
        object.__setattr__(self, "targets", tuple(dict.fromkeys(self.targets)))
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise UsageError(f"There is no optimisation level {self.opt_level}.", remedy="Choose 0 to 5.")
        for name, value in {"workspace": self.workspace, "timeout": self.timeout}.items():
            if value is not None and value <= 0:
                raise UsageError(f"The {name} is {value:g}.", remedy="It must be positive.")

    def check(self, variant: TrtVariant) -> None:
        """Refuse what a backend cannot do.

        Raises:
            UsageError: An option does not apply to it.
        """
        for target in self.targets:
            if target in variant.no_targets:
                raise UsageError(
                    f"{variant.name} cannot build for compute capability {target}: {variant.no_targets[target]}"
                )
        if self.targets and not variant.builds_without_gpu:
            raise UsageError(
                f"--compute-capability does not apply to {variant.name}: it builds for the GPU of this machine.",
                remedy="Leave it away; --hardware-compatible makes an engine for every GPU from Ampere on.",
            )
        for name in ("version_compatible", "hardware_compatible"):
            if getattr(self, name) and not variant.portable:
                raise UsageError(
                    f"--{name.replace('_', '-')} does not apply to {variant.name}.",
                    remedy="Leave it away: its engines run on every GPU of their compute capabilities already; "
                    "--compute-capability chooses others.",
                )

    def to_dict(self) -> dict[str, Any]:
        """What the engine's record keeps of it."""
        kept = ("precision", "version_compatible", "hardware_compatible", "opt_level", "workspace")
        return {
            **{name: getattr(self, name) for name in kept},
            "compute_capabilities": plain(self.targets),
            "timing_cache": None if self.timing_cache is None else self.timing_cache.name,
        }


def make_profiles(options: BuildOptions, contract: InputContract) -> tuple[Profile, ...]:
    """The profiles of an engine, checked against the model that it is made of.

    By default one: batches of 1 to 8 and sides of 320 (the model's own if that is smaller) to 1280 (its own if that is
    larger), tuned for one image of its own size. What the model has fixed stays fixed.
    """
    given = {"--min": options.min, "--opt": options.opt, "--max": options.max}
    count = max([1, *(len(shapes) for shapes in given.values())])
    for name, shapes in given.items():
        if shapes and len(shapes) != count:
            raise UsageError(
                f"{name} is given {len(shapes)} times and another size {count} times.",
                remedy="Give --min, --opt and --max once a profile each, or leave one of them away altogether.",
            )
        for shape in shapes:
            _check_shape(name, shape, contract)
    rows: list[list[Shape | None]] = [list(shapes) or [None] * count for shapes in given.values()]
    return tuple(_profile(low, opt, high, contract) for low, opt, high in zip(*rows, strict=True))


def _check_shape(name: str, shape: Shape, contract: InputContract) -> None:
    from rtmo_deploy.runtime.engine_file import Shape

    own = Shape(contract.batch or shape.batch, contract.height, contract.width)
    if shape.batch < 1 or any(side < 1 or side % contract.multiple for side in (shape.height, shape.width)):
        raise UsageError(
            f"{name} {shape} is not possible.",
            remedy=f"Height and width must be positive multiples of {contract.multiple}, and the batch at least 1.",
        )
    if contract.batch is not None and shape.batch != contract.batch:
        raise UsageError(
            f"{name} {shape} is outside the model: its batch is {contract.batch} only.",
            remedy=f"Give {own}, or export the model without --batch and --static.",
        )
    if not contract.dynamic_hw and (shape.height, shape.width) != (contract.height, contract.width):
        raise UsageError(
            f"{name} {shape} is outside the model: it takes images of {contract.height}x{contract.width} only.",
            remedy=f"Give {own}, or export the model without --static.",
        )


def _profile(low: Shape | None, opt: Shape | None, high: Shape | None, contract: InputContract) -> Profile:
    """A profile of what was given; defaults bend to it."""
    from rtmo_deploy.runtime.engine_file import Profile, Shape

    own = (contract.height, contract.width)
    batches = (contract.batch, contract.batch) if contract.batch else BATCHES
    smallest, largest = own, own
    if contract.dynamic_hw:
        smallest = (min(own[0], SIDES[0]), min(own[1], SIDES[0]))
        largest = (max(own[0], SIDES[1]), max(own[1], SIDES[1]))
    given = [shape for shape in (low, opt, high) if shape is not None]
    low = low or Shape(*map(min, zip((batches[0], *smallest), *given, strict=True)))
    high = high or Shape(*map(max, zip((batches[1], *largest), *given, strict=True)))
    if opt is None:
        bounds = zip(low, (batches[0], *own), high, strict=True)
        opt = Shape(*(min(max(lower, side), upper) for lower, side, upper in bounds))
    for smaller, larger, names in ((low, opt, ("--min", "--opt")), (opt, high, ("--opt", "--max"))):
        if any(a > b for a, b in zip(smaller, larger, strict=True)):
            raise UsageError(
                f"{names[0]} {smaller} is larger than {names[1]} {larger}.",
                remedy="Batch, height and width must each grow from --min over --opt to --max.",
            )
    return Profile(low, opt, high)
