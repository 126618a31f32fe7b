"""The pictures that are measured with: somebody's own, or drawn ones with a known number of people, as files.

They are files because reading one is a stage. Drawn ones are JPEG of quality 90 with halved colours, as cameras write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtmo_deploy.errors import InputDataError

if TYPE_CHECKING:
    from pathlib import Path

    from rtmo_deploy.measure.bench.options import BenchOptions

SEED = 20231212
JPEG_QUALITY = 90
#: Pictures that are drawn at most for each that has the right number of people.
TRIES = 40
#: People in a drawn picture where no number was asked for.
USUAL_PEOPLE = (1, 12)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one case.

    Attributes:
        people: People in each of them; None where it is not the same, or not known.
        paths: The files.
        what: What they are, for the reader.
    """

    people: int | None
    paths: tuple[Path, ...]
    what: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"people": self.people, "count": len(self.paths), "what": self.what}


def picture_sets(options: BenchOptions, folder: Path) -> list[PictureSet]:
    """Pictures for each number of people that is asked for; one set where none is.

    Args:
        options: What is asked for.
        folder: Where drawn ones are written.

    Raises:
        InputDataError: There is no picture in the folder that was named, or one cannot be read.
    """
    if options.images is not None:
        return [_own(options.images)]
    return [_drawn(options, folder, count) for count in (options.people or (None,))]


def _own(folder: Path) -> PictureSet:
    from rtmo_deploy.data.images import find_images, read_image

    paths = find_images([folder])
    for path in paths:
        read_image(path)  # before anything is measured, not in the middle of it
    return PictureSet(None, tuple(path.resolve() for path in paths), f"{len(paths)} pictures of {folder}")


def _drawn(options: BenchOptions, folder: Path, people: int | None) -> PictureSet:
    import cv2

    from rtmo_deploy.data.synthetic import SyntheticOptions, SyntheticPeople

    wanted = options.pictures
    asked = USUAL_PEOPLE if people is None else (people, people)
    source = SyntheticPeople(
        wanted * TRIES, seed=SEED, options=SyntheticOptions(size=options.picture_hw, people=asked, truncated=0.0)
    )
    paths: list[Path] = []
    for index in range(len(source)):
        sample = source[index]
        if people is not None and len(sample.people.boxes) != people:
            continue  # there was no room for everybody
        path = folder / f"{'some' if people is None else people}-{len(paths):02d}.jpg"
        encoded = cv2.imencode(".jpg", sample.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        path.write_bytes(encoded.tobytes())
        paths.append(path)
        if len(paths) == wanted:
            break
    if not paths:
        raise InputDataError(
            f"{people} people found no room in a picture of {options.picture_hw[1]}x{options.picture_hw[0]} pixels.",
            remedy="Ask for fewer people.",
        )
    height, width = options.picture_hw
    count = {None: "1 to 12 people", 1: "1 person"}.get(people, f"{people} people")
    return PictureSet(people, tuple(paths), f"{len(paths)} drawn pictures of {width}x{height} with {count} each")
