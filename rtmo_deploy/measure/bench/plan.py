"""What is measured: the contenders, the reference among them, and the images. Nothing is run here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import InputDataError, UsageError
from rtmo_deploy.measure.bench.options import Contender, unique_labels
from rtmo_deploy.runtime.backends import BACKENDS, parse_device
from rtmo_deploy.runtime.estimator import is_checkpoint, read_artifact
from rtmo_deploy.runtime.model_files import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rtmo_deploy.artifact import Artifact
    from rtmo_deploy.measure.bench.options import BenchOptions

SEED = 20231212
JPEG_QUALITY = 90
#: Images that are made at most for each that has the right number of people.
TRIES = 40
#: People in a synthetic image where no number was asked for.
DEFAULT_PEOPLE = (1, 12)


def plan_contenders(options: BenchOptions) -> tuple[tuple[Contender, ...], tuple[int, ...], list[str]]:
    """Read the models' metadata (checkpoints aside, which their workers read), and find the reference.

    Returns:
        The contenders without batch size and threads, the reference first; the batch sizes; notes for the reader.
    """
    parse_device(options.device)
    checkpoints = [path for path in options.models if is_checkpoint(path)]
    exported = {path: read_artifact(path) for path in options.models if path not in checkpoints}
    base = Contender("", "", device=options.device, input_hw=options.input_hw, spinning=options.spinning)
    first, notes = next(iter(exported.values()), None), list[str]()
    contenders = [
        replace(base, label=f"{path.name} ({name})", model=str(path), backend=name)
        for path, artifact in exported.items()
        for name in _backends(options, path, artifact)
    ]
    if first is not None:  # so that PyTorch does the same work
        thresholds = (first.decode.score_thr, first.decode.nms_thr)
        base = replace(base, thresholds=thresholds, placement=first.input.placement)
    contenders = _pytorch(options, checkpoints, exported.values(), base, notes) + contenders
    if options.input_hw is None and first is not None:
        size = (first.input.height, first.input.width)
        contenders = [replace(one, input_hw=size) for one in contenders]
    idle = [name for name in options.backends if name not in {one.backend for one in contenders}]
    if idle:
        known = "; ".join(f"{record.name} runs {', '.join(record.kinds)}" for record in BACKENDS)
        raise UsageError(f"No model here runs with '{idle[0]}'.", remedy=f"There are: {known}.", where="--backend")
    labels = unique_labels([one.label for one in contenders])
    named = [replace(one, label=label) for one, label in zip(contenders, labels, strict=True)]
    named[0] = replace(named[0], reference=len(named) > 1)
    fixed = None if first is None else first.input.batch
    return tuple(named), options.batches or (fixed or 1,), notes


def _pytorch(
    options: BenchOptions, checkpoints: list[Path], exported: Iterable[Artifact], base: Contender, notes: list[str]
) -> list[Contender]:
    """Checkpoints that were named, and the reference if it is none of them."""
    if options.reference is not None:
        if options.reference not in checkpoints:
            checkpoints = [options.reference, *checkpoints]
    elif not checkpoints and not options.no_reference:
        found = next(filter(None, map(find_checkpoint, exported)), None)
        checkpoints = [] if found is None else [found]
        if found is None:
            notes.append(
                "PyTorch is not among them: the checkpoint that the model was made from is neither beside it nor among "
                "the downloaded ones (--reference FILE names it)."
            )
    made = []
    for path in checkpoints:
        if not is_checkpoint(path):
            raise UsageError(f"{path.name} is no checkpoint.", remedy="--reference takes a .pth or .safetensors file.")
        if not path.is_file():
            read_artifact(path)  # raises the error of a missing file
        one = replace(base, label=f"PyTorch ({path.name})", model=str(path), backend="torch")
        made.append(one)
        if options.compiled:
            made.append(replace(one, label=f"PyTorch compiled ({path.name})", compiled=True))
    return made


def _backends(options: BenchOptions, path: Path, artifact: Artifact) -> list[str]:
    fitting = [record.name for record in BACKENDS if artifact.kind in record.kinds]
    if not fitting:
        raise UsageError(
            f"There is no runtime for a model of kind {artifact.kind}.", remedy="Measure another.", where=path
        )
    return [name for name in options.backends if name in fitting] if options.backends else fitting[:1]


@dataclass(frozen=True)
class ImageSet:
    """Images of one case, as files: reading one is a stage."""

    #: In each of them; None where it is not the same, or not known.
    people: int | None
    paths: tuple[Path, ...]
    what: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"people": self.people, "count": len(self.paths), "what": self.what}


def image_sets(options: BenchOptions, folder: Path) -> list[ImageSet]:
    """Images for each number of people that is asked for; one set where none is. Synthetic ones go to ``folder``."""
    if options.images is None:
        return [_synthetic(options, folder, count) for count in (options.people or (None,))]
    from rtmo_deploy.data.images import find_images, read_image

    paths = find_images([options.images])
    for path in paths:
        read_image(path)  # before anything is measured, not in the middle of it
    return [ImageSet(None, tuple(path.resolve() for path in paths), f"{len(paths)} images of {options.images}")]


def _synthetic(options: BenchOptions, folder: Path, people: int | None) -> ImageSet:
    """JPEG of quality 90 with halved colours, as cameras write."""
    import cv2

    from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

    height, width = options.picture_hw
    asked = DEFAULT_PEOPLE if people is None else (people, people)
    drawing = SyntheticOptions(size=(height, width), people=asked, truncated=0.0)
    source = SyntheticPeople(options.pictures * TRIES, seed=SEED, options=drawing)
    paths: list[Path] = []
    for index in range(len(source)):
        sample = source[index]
        if people is not None and len(sample.people.boxes) != people:
            continue  # there was no room for everybody
        path = folder / f"{'some' if people is None else people}-{len(paths):02d}.jpg"
        encoded = cv2.imencode(".jpg", sample.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        path.write_bytes(encoded.tobytes())
        paths.append(path)
        if len(paths) == options.pictures:
            break
    if not paths:
        raise InputDataError(
            f"{people} people found no room in an image of {width}x{height} pixels.", remedy="Ask for fewer people."
        )
    count = {None: "1 to 12 people", 1: "1 person"}.get(people, f"{people} people")
    return ImageSet(people, tuple(paths), f"{len(paths)} synthetic images of {width}x{height} with {count} each")
