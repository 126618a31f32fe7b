"""``rtmo-deploy models``: what is published, fetching it, and writing untrained checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtmo_deploy.cli.console import print_json, print_table, stderr, stdout
from rtmo_deploy.cli.given import find_model
from rtmo_deploy.cli.help import HelpCommand
from rtmo_deploy.cli.options import SIZE, JsonOption, Size, parse_input_size
from rtmo_deploy.cli.progress import download_bar
from rtmo_deploy.errors import UsageError
from rtmo_deploy.file_kind import CHECKPOINT
from rtmo_deploy.files import human_size, sha256_of
from rtmo_deploy.outputs import require_free, require_suffix
from rtmo_deploy.report.table import Table
from rtmo_deploy.runtime.model_files import files_of

if TYPE_CHECKING:
    from rtmo_deploy.poses import Skeleton
    from rtmo_deploy.zoo import EmbeddedModel, Variant

models_app = typer.Typer(
    help="List the published models, download their checkpoints, write untrained ones.",
    rich_markup_mode=None,
)


def _names() -> list[str]:
    from rtmo_deploy.zoo import EMBEDDED, VARIANTS

    return [*EMBEDDED, *VARIANTS]


_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|ADDRESS",
        help="A published model, which 'rtmo-deploy models' lists; or https://, hf://OWNER/REPOSITORY/PATH[@REVISION].",
        autocompletion=_names,
    ),
]

_NOTE = (
    "V100 ms: as published, for one V100, ONNX Runtime, batch 1; what it includes was never stated.\n"
    "Cached: the file is there. At each use it is checked for damage, not for forgery (8 hex digits of its\n"
    "SHA-256 are published), and against the whole SHA-256 of its first download."
)
#: Heading in the listing -> field of the published accuracy.
_FIGURES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AR": "ar",
    "AP (E)": "ap_easy",
    "AP (M)": "ap_medium",
    "AP (H)": "ap_hard",
}


@models_app.callback(invoke_without_command=True)
def _models(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_models(as_json)
    elif as_json:
        raise UsageError(
            "--json stands before the subcommand.",
            remedy=f"Write: rtmo-deploy models {context.invoked_subcommand} --json",
        )


@models_app.command("list", cls=HelpCommand, short_help="List the published models.")
def list_models(as_json: JsonOption = False) -> None:
    """List the published models with their published figures."""
    from rtmo_deploy.zoo import EMBEDDED, VARIANTS
    from rtmo_deploy.zoo.cache import cache_dir

    records = list(VARIANTS.values())
    if as_json:
        embedded = [_embedded_dict(record) for record in EMBEDDED.values()]
        models = [_as_dict(record) for record in records]
        print_json("models list", cache_dir=str(cache_dir()), embedded=embedded, models=models)
        return
    console = stdout()
    for dataset in dict.fromkeys(record.accuracy.dataset for record in records):
        print_table(_table([record for record in records if record.accuracy.dataset == dataset]))
    console.print()
    for record in EMBEDDED.values():
        size = "{1}x{0}".format(*record.architecture.input_hw)
        console.print(
            f"With the package: {record.name}, {size}, {len(record.skeleton)} keypoints, "
            f"trained on {record.train_set}; AP {record.ap:.3f} there. See {record.card}",
            soft_wrap=False,
            overflow="fold",
        )
    console.print(_NOTE, soft_wrap=False)


@models_app.command(cls=HelpCommand, short_help="Download a model into the cache, and check it.")
def download(
    name: _Name,
    force: Annotated[bool, typer.Option("--force", help="Download it even if it is there already.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download a published checkpoint, or the model at an address, into the cache, and print its path.

    A published one is checked for damage, not for forgery: 8 hex digits of its SHA-256 are published. The whole SHA-256
    of the first download is recorded beside the file, and a file that differs from it is refused later. An address may
    end in #sha256= and the 64 hex digits that are expected.
    """
    from rtmo_deploy.address import is_address, without_credentials
    from rtmo_deploy.zoo.cache import record_of
    from rtmo_deploy.zoo.download import fetch, fetch_address
    from rtmo_deploy.zoo.records import published

    record = None if is_address(name) else published(name)
    shown = record.name if record else without_credentials(name)
    with download_bar(shown) as progress:
        if record:
            path = fetch(record, progress=progress, force=force)
        else:
            path = fetch_address(name, progress=progress, force=force)
    known = record_of(path)
    if as_json:
        facts = {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
        print_json(
            "models download",
            name=shown,
            path=str(path),
            **facts,
            url=known.get("url"),
            commit=known.get("commit"),
        )
    else:
        typer.echo(path)
        if "url" in known:
            stderr().print(f"From {known['url']}.", soft_wrap=True)


@models_app.command(cls=HelpCommand, short_help="Print where a model is kept.")
def path(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|ADDRESS]", help="A published model, or an address; else the cache folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print where a model is kept, whether it is there yet or not."""
    from rtmo_deploy.address import is_remote
    from rtmo_deploy.zoo import EMBEDDED
    from rtmo_deploy.zoo.cache import cache_dir, cached_path
    from rtmo_deploy.zoo.download import cached_address
    from rtmo_deploy.zoo.records import published

    if name is None:
        where = cache_dir()
    elif name.lower() in EMBEDDED:
        where = EMBEDDED[name.lower()].path
    elif is_remote(name):
        where = cached_address(name)
    else:
        where = cached_path(published(name))
    if as_json:
        print_json("models path", path=str(where), exists=where.exists())
    else:
        typer.echo(where)


@models_app.command(cls=HelpCommand, short_help="Write an untrained checkpoint.")
def init(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="An architecture (rtmo-n, rtmo-t, ...) or a published model."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write: .pth or .safetensors.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    keypoints: Annotated[
        int | None, typer.Option(min=1, help="How many keypoints; 17 is COCO, 14 is CrowdPose.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an untrained checkpoint with seeded random weights, for training and for tests."""
    from rtmo_deploy.zoo import architecture

    require_suffix(output, ".pth", ".safetensors", what="OUT")
    arch, skeleton = architecture(name), _skeleton(name, keypoints)
    require_free([output], force=force)
    from rtmo_deploy.model import initial_checkpoint

    written = initial_checkpoint(output, arch, skeleton=skeleton, seed=seed)
    if as_json:
        print_json(
            "models init",
            architecture=arch.name,
            skeleton=skeleton.name,
            keypoints=len(skeleton),
            seed=seed,
            path=str(written),
            sha256=sha256_of(written),
        )
    else:
        typer.echo(written)
        stderr().print(f"An untrained checkpoint of {arch.name} with {len(skeleton)} keypoints was written.")


@models_app.command(cls=HelpCommand, short_help="Write a checkpoint's weights alone, to share.")
def pack(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help="A checkpoint; of a training, its last.pth or best.pth.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write: .pth or .safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="Store matrices and kernels as float16: half the size.")] = False,
    ema: Annotated[
        bool, typer.Option("--ema", help="Take ema_state_dict: mmengine's raw weights; see 'export --help'.")
    ] = False,
    imgsz: Annotated[
        Size | None,
        typer.Option(parser=parse_input_size, metavar=SIZE, help="Input size that OUT is made for. [default: CKPT's]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint's weights alone, to hand out: no optimiser, no state of the training."""
    require_suffix(output, ".pth", ".safetensors", what="OUT")
    require_free([output], files_of(checkpoint), force=force)
    path = find_model(checkpoint, "models pack", CHECKPOINT)
    if output.exists() and output.samefile(path):
        raise UsageError("OUT is the checkpoint itself.", remedy="Name another file.", where=output)
    from rtmo_deploy.model import load_checkpoint
    from rtmo_deploy.model.checkpoint import pack_checkpoint

    pack_checkpoint(load_checkpoint(path, ema=ema), output, half=half, input_hw=imgsz)
    size = output.stat().st_size
    if as_json:
        print_json("models pack", source=str(path), path=str(output), size=size, sha256=sha256_of(output), half=half)
    else:
        typer.echo(f"{output} ({human_size(size)})")


def _embedded_dict(record: EmbeddedModel) -> dict[str, Any]:
    return {
        "name": record.name,
        "architecture": record.architecture.name,
        "input_hw": list(record.architecture.input_hw),
        "keypoints": len(record.skeleton),
        "skeleton": record.skeleton.name,
        "train_set": record.train_set,
        "domain": record.domain,
        "ap": record.ap,
        "ap50": record.ap50,
        "path": str(record.path),
        "card": str(record.card),
    }


def _as_dict(record: Variant) -> dict[str, Any]:
    from rtmo_deploy.zoo.cache import cached_path
    from rtmo_deploy.zoo.sources import published_sources

    where = cached_path(record)
    return {
        "name": record.name,
        "aliases": list(record.aliases),
        "architecture": record.architecture.name,
        "input_hw": list(record.input_hw),
        "keypoints": len(record.skeleton),
        "skeleton": record.skeleton.name,
        "train_set": record.train_set,
        "accuracy": asdict(record.accuracy),
        "latency_v100_ms": record.latency_v100_ms,
        "score_thr": record.score_thr,
        "nms_thr": record.nms_thr,
        "url": record.url,
        "sources": [source.shown for source in published_sources(record.url)],
        "file_name": record.file_name,
        "sha256_prefix": record.sha256_prefix,
        "cached": where.is_file(),
        "path": str(where),
    }


def _table(records: list[Variant]) -> Table:
    """The records of one data set, without the columns in which it has nothing."""
    from rtmo_deploy.zoo.cache import cached_path

    columns: dict[str, list[str]] = {
        "Name": [record.name for record in records],
        "Alias": [", ".join(record.aliases) for record in records],
        "Input": ["{1}x{0}".format(*record.input_hw) for record in records],
        "Keypoints": [str(len(record.skeleton)) for record in records],
        "Train set": [record.train_set for record in records],
    }
    for heading, figure in _FIGURES.items():
        columns[heading] = [_figure(getattr(record.accuracy, figure), 3) for record in records]
    columns["V100 ms"] = [_figure(record.latency_v100_ms, 1) for record in records]
    columns["Cached"] = ["yes" if cached_path(record).is_file() else "no" for record in records]

    shown = {heading: cells for heading, cells in columns.items() if any(cell.strip("-") for cell in cells)}
    rows = list(zip(*shown.values(), strict=True))
    return Table(f"Published accuracy on {records[0].accuracy.dataset}", tuple(shown), rows, numbers=False)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _skeleton(name: str, keypoints: int | None) -> Skeleton:
    """The keypoints asked for; those of the published model called ``name``; else COCO's."""
    from rtmo_deploy.zoo import ARCHITECTURES, COCO_17, architecture, skeleton_for, variant

    published = None if name.lower() in ARCHITECTURES else variant(name).skeleton
    if keypoints is None:
        return published or COCO_17
    if published is not None and keypoints != len(published):
        raise UsageError(
            f"'{name}' has {len(published)} keypoints, but --keypoints says {keypoints}.",
            remedy=f"Leave --keypoints out, or name the architecture alone: {architecture(name).name}.",
        )
    return skeleton_for(keypoints)
